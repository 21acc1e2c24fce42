//! Reading a log: pages forward and backward from any seq.

use std::{collections::VecDeque, ops::Range, time::Duration};

use chassis::id::{Seq, TopicId};
use futures::future::BoxFuture;

#[cfg(feature = "sabotage")]
use super::sabotage;
use super::{Log, writer::place};
use crate::{
    entry::{Placed, Segment},
    error::Error,
    store::StoreError,
};

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By ascending seq.
    Forward,
    /// By descending seq.
    Backward,
}

impl Log {
    /// Up to `limit` entries of a topic from `start` on, in the order of the
    /// direction; `None` starts at the first entry forward, at the newest backward.
    /// Fewer come only where the log ends.
    ///
    /// # Errors
    /// `Store`.
    pub async fn page(
        &self,
        topic: TopicId,
        direction: Direction,
        start: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Placed>, Error> {
        let page = match direction {
            Direction::Forward => {
                let start = start.unwrap_or(Seq::ZERO).max(Seq::ZERO.next());
                self.forward(topic, start, limit).await?
            }
            Direction::Backward => self.backward(topic, start, limit).await?,
        };
        #[cfg(feature = "sabotage")]
        let page = sabotage::swapped(page);
        Ok(page)
    }

    async fn forward(
        &self,
        topic: TopicId,
        mut seq: Seq,
        limit: usize,
    ) -> Result<Vec<Placed>, StoreError> {
        let store = self.shared.store.as_ref();
        let mut page = Vec::new();
        while page.len() < limit {
            let Some(segment) = store.segment_at(topic, seq).await? else {
                break;
            };
            let Some(from) = segment.slot(seq) else {
                break;
            };
            let wanted = u32::try_from(limit - page.len()).unwrap_or(u32::MAX);
            let to = from.saturating_add(wanted).min(segment.capacity);
            let entries = store.read(&segment, from..to).await?;
            let whole = entries.len() == (to - from) as usize;
            page.extend(
                (from..)
                    .zip(entries)
                    .filter_map(|(slot, entry)| place(&segment, slot, entry)),
            );
            if !whole {
                break;
            }
            seq = segment.seq(to);
        }
        Ok(page)
    }

    async fn backward(
        &self,
        topic: TopicId,
        start: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Placed>, StoreError> {
        // Entries that are there need no head to say so.
        if let Some(start) = start
            && let Some(page) = self.down_from(topic, start, limit, Sure::No).await?
        {
            return Ok(page);
        }
        let heads = self.shared.store.heads(&[topic]).await?;
        let head = heads.first().copied().unwrap_or(Seq::ZERO);
        let start = start.map_or(head, |start| start.min(head));
        let page = self.down_from(topic, start, limit, Sure::Yes).await?;
        page.ok_or_else(|| {
            StoreError::Damaged(format!(
                "topic {topic} has seq {start} beyond its last segment"
            ))
        })
    }

    /// Up to `limit` entries from `seq` down. `None` if there is no such entry, or none
    /// that is seen yet.
    async fn down_from(
        &self,
        topic: TopicId,
        mut seq: Seq,
        limit: usize,
        mut sure: Sure,
    ) -> Result<Option<Vec<Placed>>, StoreError> {
        let store = self.shared.store.as_ref();
        let mut page = Vec::new();
        while page.len() < limit && seq > Seq::ZERO {
            let Some(segment) = store.segment_at(topic, seq).await? else {
                break;
            };
            let Some(last) = segment.slot(seq) else {
                return Ok(None);
            };
            let wanted = u32::try_from(limit - page.len()).unwrap_or(u32::MAX);
            let from = (last + 1).saturating_sub(wanted);
            let slots = from..last + 1;
            let entries = match sure {
                Sure::Yes => {
                    read_whole(&segment, slots, |slots| store.read(&segment, slots)).await?
                }
                Sure::No => store.read(&segment, slots).await?,
            };
            if entries.len() <= (last - from) as usize {
                return Ok(None);
            }
            let mut placed: VecDeque<Placed> = (from..)
                .zip(entries)
                .filter_map(|(slot, entry)| place(&segment, slot, entry))
                .collect();
            while let Some(entry) = placed.pop_back() {
                page.push(entry);
            }
            seq = Seq::new(segment.seq(from).get() - 1);
            // One entry that is there shows that all before it are.
            sure = Sure::Yes;
        }
        Ok(Some(page))
    }
}

/// Whether an entry is known to be written.
#[derive(Clone, Copy)]
enum Sure {
    Yes,
    No,
}

/// How often slots that must be there are looked for, and how long apart.
const LOOKS: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// What `read` yields of slots that are known to be written.
///
/// A replica of the store may lag behind an answer that was seen elsewhere; a
/// page with a hole is never handed out.
pub(super) async fn read_whole<'a, T>(
    segment: &Segment,
    slots: Range<u32>,
    read: impl Fn(Range<u32>) -> BoxFuture<'a, Result<Vec<T>, StoreError>>,
) -> Result<Vec<T>, StoreError> {
    let expected = slots.len();
    if expected == 0 {
        return Ok(Vec::new());
    }
    let mut found = 0;
    for look in 0..LOOKS {
        if look > 0 {
            metrics::counter!("drivers_message_short_reads_total").increment(1);
            tokio::time::sleep(BETWEEN_LOOKS * look).await;
        }
        let read = read(slots.clone()).await?;
        if read.len() == expected {
            return Ok(read);
        }
        found = read.len();
    }
    Err(StoreError::Damaged(format!(
        "segment {} yields {found} of the {expected} slots from {} on",
        segment.id.get(),
        slots.start
    )))
}
