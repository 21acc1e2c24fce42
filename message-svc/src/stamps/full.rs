//! Which full segment of a topic may hold a stamp.
//!
//! A topic of a million messages has a thousand filters, each asked in three places of its own:
//! a new message would wait for three thousand places in memory. Filters of one seed and size ask
//! in the same places, and of six in seven the first seed fits that is tried. So these lie side by
//! side, [`WIDTH`] at a time: for each place what all of them have there.

use std::collections::HashMap;

use super::{FullStamps, StampKey};
use crate::entry::Segment;

/// Filters of one block: 161 KB of those of 1,024 stamps.
const WIDTH: usize = 64;

/// The stamps of the full segments of a topic.
#[derive(Debug, Default)]
pub(crate) struct FullSegments {
    /// Of one shape fewer than [`WIDTH`].
    loose: Vec<FullStamps>,
    blocks: Vec<Block>,
}

impl FullSegments {
    /// Adds a segment, in whichever order.
    pub(crate) fn push(&mut self, full: FullStamps) {
        self.loose.push(full);
        self.pack();
    }

    /// Forgets those in which the last message is older than this; some of them later.
    pub(crate) fn forget(&mut self, since_ms: i64) {
        self.loose.retain(|full| full.last_sent_at_ms >= since_ms);
        self.blocks
            .retain(|block| block.last_sent_at_ms >= since_ms);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.loose.is_empty() && self.blocks.is_empty()
    }

    /// When the last message in any of them was sent; 0 without any.
    pub(crate) fn last_sent_at_ms(&self) -> i64 {
        let loose = self.loose.iter().map(|full| full.last_sent_at_ms);
        let blocks = self.blocks.iter().map(|block| block.last_sent_at_ms);
        loose.chain(blocks).max().unwrap_or(0)
    }

    /// The segments that may hold this stamp, newest first; wrongly one of 65,536, and none that
    /// holds it is left out.
    pub(crate) fn may_hold(&self, stamp: StampKey) -> Vec<Segment> {
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("forget_full_stamps") {
            return Vec::new();
        }
        let loose = self.loose.iter().filter(|full| full.may_hold(stamp));
        let mut found: Vec<Segment> = loose.map(|full| full.segment).collect();
        for block in &self.blocks {
            found.extend(block.may_hold(stamp));
        }
        found.sort_unstable_by_key(|segment| std::cmp::Reverse(segment.first_seq));
        found
    }

    /// About how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        let loose: usize = self.loose.iter().map(FullStamps::weight).sum();
        let blocks: usize = self.blocks.iter().map(Block::weight).sum();
        loose + blocks
    }

    /// Lays those of one shape side by side, once there are [`WIDTH`].
    fn pack(&mut self) {
        if self.loose.len() < WIDTH {
            return;
        }
        let mut count = HashMap::new();
        for full in &self.loose {
            *count.entry(Shape::of(full)).or_insert(0_usize) += 1;
        }
        let Some((shape, _)) = count.into_iter().find(|(_, count)| *count >= WIDTH) else {
            return;
        };
        let all = self.loose.drain(..);
        let (packed, loose): (Vec<_>, Vec<_>) = all.partition(|full| Shape::of(full) == shape);
        self.loose = loose;
        self.blocks.push(Block::of(shape, &packed));
    }
}

/// What filters have in common that ask in the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    seed: u64,
    block_length: usize,
}

impl Shape {
    fn of(full: &FullStamps) -> Self {
        let filter = &full.bits.0;
        Self {
            seed: filter.seed,
            block_length: filter.block_length,
        }
    }

    /// The three places of a stamp, and its fingerprint: as `xorf` has them, which gives nobody
    /// else's.
    fn places(self, stamp: StampKey) -> ([usize; 3], u16) {
        let mut hash = stamp.0.wrapping_add(self.seed);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        let place = |third: u32| {
            let low = u64::from(hash.rotate_left(third * 21) as u32);
            third as usize * self.block_length + ((low * self.block_length as u64) >> 32) as usize
        };
        ([place(0), place(1), place(2)], (hash ^ (hash >> 32)) as u16)
    }
}

/// Filters of one shape side by side.
#[derive(Debug)]
struct Block {
    shape: Shape,
    segments: Vec<Segment>,
    /// Of the newest one.
    last_sent_at_ms: i64,
    /// For each place what the filters have there, in the order of their segments.
    rows: Box<[[u16; WIDTH]]>,
}

impl Block {
    fn of(shape: Shape, full: &[FullStamps]) -> Self {
        let mut rows = vec![[0; WIDTH]; 3 * shape.block_length].into_boxed_slice();
        for (column, full) in full.iter().enumerate() {
            for (row, fingerprint) in rows.iter_mut().zip(&full.bits.0.fingerprints) {
                if let Some(cell) = row.get_mut(column) {
                    *cell = *fingerprint;
                }
            }
        }
        let last_sent = full.iter().map(|full| full.last_sent_at_ms);
        Self {
            shape,
            segments: full.iter().map(|full| full.segment).collect(),
            last_sent_at_ms: last_sent.max().unwrap_or(0),
            rows,
        }
    }

    fn may_hold(&self, stamp: StampKey) -> impl Iterator<Item = Segment> {
        let ([first, second, third], fingerprint) = self.shape.places(stamp);
        let rows = [first, second, third].map(|place| self.rows.get(place));
        let mut holds = [false; WIDTH];
        if let [Some(first), Some(second), Some(third)] = rows {
            for (holds, ((a, b), c)) in holds.iter_mut().zip(first.iter().zip(second).zip(third)) {
                *holds = a ^ b ^ c == fingerprint;
            }
        }
        let segments = self.segments.iter().copied().zip(holds);
        segments.filter_map(|(segment, holds)| holds.then_some(segment))
    }

    fn weight(&self) -> usize {
        size_of_val(&*self.rows) + self.segments.len() * size_of::<Segment>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chassis::id::{Seq, TopicId};

    use super::*;
    use crate::{entry::SegmentId, stamps::FilterBits};

    /// So many stamps a segment has.
    const CAPACITY: i64 = 20;

    fn key(number: i64) -> StampKey {
        StampKey(xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()))
    }

    fn segment(number: i64) -> Segment {
        Segment {
            topic: TopicId::new(1).unwrap(),
            id: SegmentId::new(number + 1).unwrap(),
            first_seq: Seq::new(number * CAPACITY + 1),
            capacity: CAPACITY as u32,
        }
    }

    /// The segment of this number, with the stamps of its messages; some are shorter.
    fn full(number: i64) -> FullStamps {
        let length = if number % 7 == 3 { 13 } else { CAPACITY };
        let keys = (number * CAPACITY..).take(length as usize).map(key);
        FullStamps {
            segment: segment(number),
            last_sent_at_ms: number,
            bits: FilterBits::of(keys),
        }
    }

    /// That a stamp is found where the filter of each segment finds it, held or not.
    fn agrees(segments: &FullSegments, numbers: std::ops::Range<i64>) {
        let each: Vec<FullStamps> = numbers.rev().map(full).collect();
        for number in -3_000..each.len() as i64 * CAPACITY {
            let holds = each.iter().filter(|full| full.may_hold(key(number)));
            let expected: Vec<Segment> = holds.map(|full| full.segment).collect();
            assert_eq!(segments.may_hold(key(number)), expected, "{number}");
        }
    }

    #[test]
    fn a_stamp_is_found_side_by_side_where_each_filter_finds_it() {
        for count in [0, 1, WIDTH as i64 - 1, 400] {
            let (mut grown, mut read) = (FullSegments::default(), FullSegments::default());
            for number in 0..count {
                grown.push(full(number));
                read.push(full(count - 1 - number));
            }
            for segments in [&grown, &read] {
                assert_eq!(segments.blocks.is_empty(), count < 400, "{count}");
            }
            assert_eq!(grown.is_empty(), count == 0);
            assert_eq!(grown.last_sent_at_ms(), (count - 1).max(0));
            for segments in [grown, read] {
                agrees(&segments, 0..count);
            }
        }
    }

    #[test]
    fn most_filters_of_full_segments_have_one_shape() {
        let of = |number: i64| {
            let keys = (number * 1_024..(number + 1) * 1_024).map(key);
            let bits = FilterBits::of(keys);
            (bits.0.seed, bits.0.block_length)
        };
        let same = (0..100).filter(|number| of(*number) == of(1_000)).count();
        assert!(same > 66, "{same} of 100");
    }

    #[test]
    fn what_is_too_old_goes_with_the_last_of_its_block() {
        let mut segments = FullSegments::default();
        for number in 0..400 {
            segments.push(full(number));
        }
        let (blocks, weight) = (segments.blocks.len(), segments.weight());
        let newest_of_oldest = segments.blocks.first().unwrap().last_sent_at_ms;
        segments.forget(newest_of_oldest);
        assert_eq!(segments.blocks.len(), blocks);
        segments.forget(newest_of_oldest + 1);
        assert_eq!(segments.blocks.len(), blocks - 1);
        assert!(segments.weight() < weight);
        assert_eq!(segments.may_hold(key(0)), []);
        assert_eq!(segments.may_hold(key(399 * CAPACITY)), [segment(399)]);
        segments.forget(400);
        assert!(segments.is_empty());
        assert_eq!(segments.weight(), 0);
    }
}
