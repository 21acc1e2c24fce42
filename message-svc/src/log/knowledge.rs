//! What a writer knows of its topic: its head, and every stamp that a retry may have.
//!
//! The knowledge is exact at the moment of an append, whoever else writes: the
//! store's condition refuses it otherwise. So it can be thrown away at any time.

use std::sync::Arc;

use chassis::{
    clock::now_ms,
    id::{MessageId, Seq, TopicId, UserId},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Shared, lookup::LookedUp, pages::read_whole};
use crate::{
    entry::{Placed, Segment, SegmentId, Stamp},
    stamps::{CurrentStamps, FilterBits, FullSegments, FullStamps, StampKey},
    store::{FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

/// Full segments that are asked for at first when a topic is loaded; then four times more
/// each time, for a topic with many is likely to have more.
const FIRST_PAGE: u32 = 8;
const LARGEST_PAGE: u32 = 128;

/// Lost filters of a topic that are made again at a time.
const REMADE_AT_A_TIME: usize = 4;

/// What is known of a topic up to the head.
pub(super) struct Knowledge {
    pub(super) segment: Segment,
    pub(super) head: u32,
    pub(super) last_sent_at_ms: i64,
    current: CurrentStamps,
    /// Of the full segments within the memory of stamps.
    full: FullSegments,
}

impl Knowledge {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> u32 {
        let stamps = self.current.weight() + self.full.weight();
        u32::try_from(size_of::<Self>() + stamps).unwrap_or(u32::MAX)
    }

    /// Reads what the store holds of a topic; a topic without a segment gets its first.
    pub(super) async fn load(shared: &Arc<Shared>, topic: TopicId) -> Result<Self, StoreError> {
        let _permit = shared.loads.acquire().await.map_err(closed)?;
        let mut tail = match shared.store.load(topic).await? {
            Some(tail) => tail,
            None => open(shared, topic, None, Seq::ZERO.next()).await?,
        };
        // Of a full segment a filter is read, and not a thousand stamps.
        while tail.head == tail.segment.capacity {
            tail = follow(shared, &tail.segment).await?;
        }
        let full = full_stamps(shared, &tail.segment).await?;
        let mut knowledge = Self {
            segment: tail.segment,
            head: 0,
            last_sent_at_ms: full.last_sent_at_ms(),
            current: CurrentStamps::default(),
            full,
        };
        knowledge.catch_up(shared, tail.head).await?;
        Ok(knowledge)
    }

    /// Whether the next entry needs another segment.
    pub(super) fn is_full(&self) -> bool {
        self.head == self.segment.capacity
    }

    /// Reads what others appended to the segment, up to `head`.
    pub(super) async fn catch_up(
        &mut self,
        shared: &Arc<Shared>,
        head: u32,
    ) -> Result<(), StoreError> {
        if head < self.head || head > self.segment.capacity {
            return Err(StoreError::Damaged(format!(
                "segment {} has its head at {head}, known to be at least {} and at most {}",
                self.segment.id.get(),
                self.head,
                self.segment.capacity
            )));
        }
        let missed = whole_stamps(shared, &self.segment, self.head..head).await?;
        self.append(shared, missed);
        Ok(())
    }

    /// Reads whatever others have appended since, and knows everything then that was
    /// decided before.
    pub(super) async fn refresh(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        loop {
            let tail = (shared.store.load(self.segment.topic).await?).ok_or_else(|| {
                StoreError::Damaged(format!("topic {} lost its log", self.segment.topic))
            })?;
            if tail.segment.id == self.segment.id {
                return self.catch_up(shared, tail.head).await;
            }
            if tail.segment.first_seq < self.segment.first_seq {
                return Err(StoreError::Unavailable(
                    "a replica of the store does not know the newest segment yet".to_owned(),
                ));
            }
            self.catch_up(shared, self.segment.capacity).await?;
            self.turn_over(shared).await?;
        }
    }

    /// Takes note of what stands in the slots from the head on.
    pub(super) fn append(
        &mut self,
        shared: &Arc<Shared>,
        stamps: impl IntoIterator<Item = Stamped>,
    ) {
        let known = self.head;
        for stamped in stamps {
            self.last_sent_at_ms = self.last_sent_at_ms.max(stamped.sent_at_ms);
            self.current.insert(stamped, self.head);
            self.head += 1;
        }
        if self.head > known && self.is_full() {
            keep_filter(shared, &self.full_segment());
        }
    }

    /// The current segment as one that has no free slot any more.
    fn full_segment(&self) -> FullStamps {
        FullStamps {
            segment: self.segment,
            last_sent_at_ms: self.last_sent_at_ms,
            bits: self.current.filter(),
        }
    }

    /// Goes on to the next segment; of the full one's stamps a filter remains.
    pub(super) async fn turn_over(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let next = follow(shared, &self.segment).await?;
        self.full.push(self.full_segment());
        self.full.forget(oldest_remembered(shared));
        self.segment = next.segment;
        self.head = 0;
        self.current = CurrentStamps::default();
        self.catch_up(shared, next.head).await
    }

    /// The entry that has the first of these stamps, if there is one. Those behind it are
    /// read along: what is sent again at once is read at once.
    pub(super) async fn stamped<'a>(
        &self,
        shared: &Shared,
        looked_up: &mut LookedUp,
        mut stamps: impl Iterator<Item = (UserId, &'a Stamp)>,
    ) -> Result<Option<Placed>, StoreError> {
        let Some((owner, stamp)) = stamps.next() else {
            return Ok(None);
        };
        if let Some(entry) = looked_up.entry(owner, stamp) {
            return Ok(Some(entry));
        }
        let Some(place) = self.find(shared, looked_up, owner, stamp).await? else {
            return Ok(None);
        };
        let mut places = vec![place];
        for (owner, stamp) in stamps {
            places.extend(self.find(shared, looked_up, owner, stamp).await?);
        }
        looked_up.read(shared, places).await?;
        Ok(looked_up.entry(owner, stamp))
    }

    /// Where the entry with this stamp lies.
    async fn find(
        &self,
        shared: &Shared,
        looked_up: &mut LookedUp,
        owner: UserId,
        stamp: &Stamp,
    ) -> Result<Option<(Segment, u32)>, StoreError> {
        if let Some(slot) = self.current.slot(owner, stamp) {
            return Ok(Some((self.segment, slot)));
        }
        if self.full.is_empty() {
            return Ok(None);
        }
        let key = StampKey::of(owner, stamp);
        for segment in self.full.may_hold(key) {
            if let Some(slot) = looked_up.slot(shared, &segment, owner, stamp).await? {
                return Ok(Some((segment, slot)));
            }
        }
        Ok(None)
    }

    /// Whether a message of this topic has this id.
    pub(super) async fn holds(
        &self,
        store: &dyn LogStore,
        id: MessageId,
    ) -> Result<bool, StoreError> {
        match SegmentId::of(id) {
            Some((segment, slot)) if segment == self.segment.id => Ok(slot < self.head),
            Some(_) => Ok((store.find(id).await?)
                .is_some_and(|(segment, _)| segment.topic == self.segment.topic)),
            None => Ok(false),
        }
    }
}

async fn open(
    shared: &Shared,
    topic: TopicId,
    after: Option<SegmentId>,
    first_seq: Seq,
) -> Result<Tail, StoreError> {
    let capacity = shared.config.segment_capacity;
    shared
        .store
        .open_segment(topic, after, first_seq, capacity)
        .await
}

/// The segment behind a full one, whoever made it.
async fn follow(shared: &Shared, full: &Segment) -> Result<Tail, StoreError> {
    open(shared, full.topic, Some(full.id), full.end()).await
}

/// The stamps of the full segments in front of this one, newest first, as far back as
/// stamps are remembered.
async fn full_stamps(shared: &Shared, current: &Segment) -> Result<FullSegments, StoreError> {
    let since_ms = oldest_remembered(shared);
    let mut full = FullSegments::default();
    let mut before = current.first_seq;
    let mut limit = FIRST_PAGE;
    while before > Seq::ZERO.next() {
        let found = shared
            .store
            .full_segments(current.topic, before, limit)
            .await?;
        if found.is_empty() {
            return Err(gap(current.topic, before));
        }
        let mut stamps = stream::iter(found)
            .map(|found| stamps_of(shared, found))
            .buffered(REMADE_AT_A_TIME);
        while let Some(next) = stamps.try_next().await? {
            if next.segment.end() != before {
                return Err(gap(current.topic, before));
            }
            before = next.segment.first_seq;
            let remembered = next.last_sent_at_ms >= since_ms;
            full.push(next);
            if !remembered {
                return Ok(full);
            }
        }
        limit = (limit * 4).min(LARGEST_PAGE);
    }
    Ok(full)
}

/// A segment whose stamps are not known: a retry of one of them would be appended again.
fn gap(topic: TopicId, before: Seq) -> StoreError {
    StoreError::Damaged(format!(
        "topic {topic} lacks the segment in front of seq {before}"
    ))
}

/// The stamps of a full segment: from its filter, or from its rows again.
async fn stamps_of(shared: &Shared, found: FullSegment) -> Result<FullStamps, StoreError> {
    let segment = found.segment;
    if let Some(filter) = found.filter
        && let Some(bits) = FilterBits::decode(&filter.bytes)
    {
        return Ok(FullStamps {
            segment,
            last_sent_at_ms: filter.last_sent_at_ms,
            bits,
        });
    }
    let stamps = whole_stamps(shared, &segment, 0..segment.capacity).await?;
    let remade = FullStamps {
        segment,
        last_sent_at_ms: stamps.last().map_or(0, |last| last.sent_at_ms),
        bits: FilterBits::of_stamps(&stamps),
    };
    put_filter(shared.store.as_ref(), &segment, &stored(&remade)).await;
    Ok(remade)
}

fn stored(full: &FullStamps) -> StampFilter {
    StampFilter {
        last_sent_at_ms: full.last_sent_at_ms,
        bytes: full.bits.encode(),
    }
}

/// Keeps the filter of a segment that has just become full, beside the appends that go on.
fn keep_filter(shared: &Arc<Shared>, full: &FullStamps) {
    let (store, segment, filter) = (Arc::clone(&shared.store), full.segment, stored(full));
    shared.appends.spawn(async move {
        put_filter(store.as_ref(), &segment, &filter).await;
    });
}

async fn put_filter(store: &dyn LogStore, segment: &Segment, filter: &StampFilter) {
    if let Err(error) = store.put_filter(segment, filter).await {
        tracing::debug!(%error, "a stamp filter was not kept; it is made again when needed");
    }
}

pub(super) async fn whole_stamps(
    shared: &Shared,
    segment: &Segment,
    slots: std::ops::Range<u32>,
) -> Result<Vec<Stamped>, StoreError> {
    read_whole(segment, slots, |slots| shared.store.stamps(segment, slots)).await
}

fn oldest_remembered(shared: &Shared) -> i64 {
    let memory = i64::try_from(shared.config.stamp_memory.as_millis()).unwrap_or(i64::MAX);
    now_ms().saturating_sub(memory)
}

fn closed(_: tokio::sync::AcquireError) -> StoreError {
    StoreError::Unavailable("the log is shut down".into())
}
