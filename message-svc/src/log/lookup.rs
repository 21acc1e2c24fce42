//! What messages turn out to be in the log already: each segment and each entry is read
//! once for as long as a writer has something to write.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use chassis::id::UserId;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Shared, knowledge::whole_stamps, pages::read_whole, writer::place};
use crate::{
    entry::{Placed, Segment, SegmentId, Stamp},
    stamps::CurrentStamps,
    store::StoreError,
};

/// Full segments whose stamps are kept once they are read: what comes again at once
/// was sent at about the same time.
const SEGMENTS: usize = 8;
/// Entries that are kept: those of two full batches.
const ENTRIES: usize = 512;

/// Slots this far apart are read together with those in between: a row more costs less
/// than a request more.
const GAP: u32 = 16;
/// Slots of one read, and reads at a time.
const LONGEST: u32 = 256;
const AT_A_TIME: usize = 4;

/// What was read of a topic: the stamps of full segments, and entries by their stamps. None
/// of it ever changes.
#[derive(Default)]
pub(super) struct LookedUp {
    segments: VecDeque<(SegmentId, CurrentStamps)>,
    entries: HashMap<(UserId, Stamp), Placed>,
}

impl LookedUp {
    /// The slot of a stamp in a full segment.
    pub(super) async fn slot(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        owner: UserId,
        stamp: &Stamp,
    ) -> Result<Option<u32>, StoreError> {
        if let Some((_, known)) = self.segments.iter().find(|(id, _)| *id == segment.id) {
            return Ok(known.slot(owner, stamp));
        }
        let mut stamps = CurrentStamps::default();
        let whole = whole_stamps(shared, segment, 0..segment.capacity).await?;
        for (slot, stamped) in (0..).zip(whole) {
            stamps.insert(stamped, slot);
        }
        let slot = stamps.slot(owner, stamp);
        if self.segments.len() >= SEGMENTS {
            self.segments.pop_front();
        }
        self.segments.push_back((segment.id, stamps));
        Ok(slot)
    }

    /// The entry of this stamp, if it was read.
    pub(super) fn entry(&self, owner: UserId, stamp: &Stamp) -> Option<Placed> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.get(&(owner, stamp.clone())).cloned()
    }

    /// Keeps an entry that will be asked for.
    pub(super) fn keep(&mut self, placed: Placed) {
        if self.entries.len() >= ENTRIES {
            self.entries.clear();
        }
        let stamp = (placed.entry.owner, placed.entry.stamp.clone());
        self.entries.insert(stamp, placed);
    }

    /// Reads the entries in these slots.
    pub(super) async fn read(
        &mut self,
        shared: &Shared,
        mut places: Vec<(Segment, u32)>,
    ) -> Result<(), StoreError> {
        places.sort_unstable_by_key(|(segment, slot)| (segment.id.get(), *slot));
        places.dedup();
        let pages: Vec<Vec<Placed>> = stream::iter(ranges(&places))
            .map(|(segment, slots)| page(shared, segment, slots))
            .buffered(AT_A_TIME)
            .try_collect()
            .await?;
        if self.entries.len() + places.len() > ENTRIES {
            self.entries.clear();
        }
        for placed in pages.into_iter().flatten() {
            self.keep(placed);
        }
        Ok(())
    }
}

async fn page(
    shared: &Shared,
    segment: Segment,
    wanted: Vec<u32>,
) -> Result<Vec<Placed>, StoreError> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
        return Ok(Vec::new());
    };
    let slots: Range<u32> = *first..last + 1;
    let read = |slots| shared.store.read(&segment, slots);
    let entries = read_whole(&segment, slots.clone(), read).await?;
    Ok(slots
        .zip(entries)
        .filter(|(slot, _)| wanted.binary_search(slot).is_ok())
        .filter_map(|(slot, entry)| place(&segment, slot, entry))
        .collect())
}

/// The slots of one read each, of slots in ascending order.
fn ranges(places: &[(Segment, u32)]) -> Vec<(Segment, Vec<u32>)> {
    let mut ranges: Vec<(Segment, Vec<u32>)> = Vec::new();
    for (segment, slot) in places {
        if let Some((of, slots)) = ranges.last_mut()
            && of.id == segment.id
            && let (Some(first), Some(last)) = (slots.first(), slots.last())
            && slot - last <= GAP
            && slot - first < LONGEST
        {
            slots.push(*slot);
            continue;
        }
        ranges.push((*segment, vec![*slot]));
    }
    ranges
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chassis::id::{Seq, TopicId};

    use super::*;

    #[test]
    fn slots_that_lie_together_are_read_at_once() {
        let segment = |id| Segment {
            topic: TopicId::new(1).unwrap(),
            id: SegmentId::new(id).unwrap(),
            first_seq: Seq::new(1),
            capacity: 1_024,
        };
        let (one, two) = (segment(1), segment(2));
        let near: Vec<_> = (0..300).map(|slot| (one, slot)).collect();
        let read: Vec<usize> = (ranges(&near).iter().map(|(_, slots)| slots.len())).collect();
        assert_eq!(read, [256, 44]);
        assert_eq!(
            ranges(&[(one, 3), (one, 3 + GAP), (one, 4 + 2 * GAP), (two, 37)]),
            [
                (one, vec![3, 3 + GAP]),
                (one, vec![4 + 2 * GAP]),
                (two, vec![37])
            ]
        );
        assert_eq!(ranges(&[]), []);
    }
}
