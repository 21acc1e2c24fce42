//! Which stamps a topic has seen: exactly for its current segment, by a filter
//! for each full one.

mod full;

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use chassis::id::UserId;
use xorf::{Filter, Xor16};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

pub(crate) use self::full::FullSegments;
use crate::{
    entry::{Segment, Stamp},
    store::Stamped,
};

/// The stamps of the current segment, each with its slot.
#[derive(Debug, Default)]
pub(crate) struct CurrentStamps {
    slots: HashMap<(UserId, Stamp), u32>,
}

impl CurrentStamps {
    pub(crate) fn insert(&mut self, stamped: Stamped, slot: u32) {
        self.slots
            .entry((stamped.owner, stamped.stamp))
            .or_insert(slot);
    }

    pub(crate) fn slot(&self, owner: UserId, stamp: &Stamp) -> Option<u32> {
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("forget_current_stamps") {
            return None;
        }
        self.slots.get(&(owner, stamp.clone())).copied()
    }

    pub(crate) fn filter(&self) -> FilterBits {
        let keys = self.slots.keys();
        FilterBits::of(keys.map(|(owner, stamp)| StampKey::of(*owner, stamp)))
    }

    /// About how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        self.slots.len() * (size_of::<(UserId, Stamp, u32)>() + 32)
    }
}

/// The stamps of one full segment.
#[derive(Debug)]
pub(crate) struct FullStamps {
    pub(crate) segment: Segment,
    pub(crate) last_sent_at_ms: i64,
    pub(crate) bits: FilterBits,
}

impl FullStamps {
    /// Whether the segment may hold this stamp; wrongly yes once in 65,536 times, never wrongly no.
    fn may_hold(&self, stamp: StampKey) -> bool {
        self.bits.0.contains(&stamp.0)
    }

    /// About how many bytes it takes.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.bits.0.fingerprints.len() * 2
    }
}

/// A xor filter with 16-bit fingerprints (Graf and Lemire, "Xor Filters", 2020):
/// 1.23 fingerprints for each stamp, 2.5 KB for a segment of 1,024.
#[derive(Debug)]
pub(crate) struct FilterBits(Xor16);

const VERSION: u8 = 1;
const CHECKSUM: usize = size_of::<u64>();

impl FilterBits {
    /// A filter that holds these keys.
    pub(crate) fn of(keys: impl Iterator<Item = StampKey>) -> Self {
        let mut keys: Vec<u64> = keys.map(|key| key.0).collect();
        keys.sort_unstable();
        keys.dedup();
        Self(Xor16::from(keys))
    }

    /// The filter of a segment with these entries.
    pub(crate) fn of_stamps(stamps: &[Stamped]) -> Self {
        let keys = stamps.iter();
        Self::of(keys.map(|entry| StampKey::of(entry.owner, &entry.stamp)))
    }

    /// Version, seed, fingerprints, checksum.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.0.fingerprints.len() * 2 + 17);
        out.put_u8(VERSION);
        out.put_u64_le(self.0.seed);
        for fingerprint in &self.0.fingerprints {
            out.put_u16_le(*fingerprint);
        }
        let checksum = xxh3_64(&out);
        out.put_u64_le(checksum);
        out.freeze()
    }

    /// The filter of these bytes; `None` when they are not whole, for a filter
    /// that has lost a bit would deny a stamp it holds.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (data, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if u64::from_le_bytes(*checksum) != xxh3_64(data) {
            return None;
        }
        let (version, data) = data.split_first()?;
        let (seed, data) = data.split_first_chunk::<8>()?;
        let (pairs, rest) = data.as_chunks::<2>();
        if *version != VERSION || !rest.is_empty() || pairs.len() % 3 != 0 {
            return None;
        }
        Some(Self(Xor16 {
            seed: u64::from_le_bytes(*seed),
            block_length: pairs.len() / 3,
            fingerprints: pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect(),
        }))
    }
}

/// Stands for a stamp in filters. Stored ones depend on it: it never changes without a new
/// version. A topic with a long history has a thousand filters, so it is made once for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StampKey(u64);

impl StampKey {
    pub(crate) fn of(owner: UserId, stamp: &Stamp) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&owner.get().to_le_bytes());
        hash.update(&[match stamp {
            Stamp::Given(_) => 0,
            Stamp::MadeUp(_) => 1,
        }]);
        hash.update(stamp.text().as_bytes());
        Self(hash.digest())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    fn stamps(count: usize) -> Vec<(UserId, Stamp)> {
        (0..count)
            .map(|n| {
                let owner = UserId::new(n as i64 % 7 + 1).unwrap();
                let text = format!("stamp-{n}");
                let stamp = if n % 2 == 0 {
                    Stamp::Given(text)
                } else {
                    Stamp::MadeUp(text)
                };
                (owner, stamp)
            })
            .collect()
    }

    #[test]
    fn a_stored_filter_denies_no_stamp_it_was_made_of() {
        for count in [0, 1, 2, 3, 7, 8, 9, 100, 1_024] {
            let stamps = stamps(count);
            let bits = FilterBits::of(stamps.iter().map(|(o, s)| StampKey::of(*o, s)));
            let read = FilterBits::decode(&bits.encode()).unwrap();
            for (owner, stamp) in &stamps {
                assert!(
                    read.0.contains(&StampKey::of(*owner, stamp).0),
                    "{count} {stamp:?}"
                );
            }
        }
    }

    #[test]
    fn a_filter_of_a_full_segment_is_small_and_seldom_wrong() {
        let bits = FilterBits::of(stamps(1_024).iter().map(|(o, s)| StampKey::of(*o, s)));
        assert!(bits.encode().len() < 2_650, "{}", bits.encode().len());
        let stranger = UserId::new(99).unwrap();
        let wrong = (0..200_000)
            .filter(|n| {
                bits.0
                    .contains(&StampKey::of(stranger, &Stamp::Given(n.to_string())).0)
            })
            .count();
        assert!(wrong < 20, "{wrong} of 200,000, expected about 3");
    }

    #[test]
    fn a_key_never_changes() {
        let owner = UserId::new(15).unwrap();
        assert_eq!(
            StampKey::of(owner, &Stamp::Given("6D0F4Z15".into())),
            KNOWN_KEY
        );
        assert_ne!(
            StampKey::of(owner, &Stamp::MadeUp("6D0F4Z15".into())),
            KNOWN_KEY
        );
    }

    /// Computed once; a change would make stored filters lie.
    const KNOWN_KEY: StampKey = StampKey(11_740_558_770_786_601_484);

    proptest! {
        #[test]
        fn a_filter_that_lost_a_bit_is_no_filter(byte in 0_usize..2_000, bit in 0_u32..8) {
            let bits = FilterBits::of(stamps(1_024).iter().map(|(o, s)| StampKey::of(*o, s)));
            let mut bytes = bits.encode().to_vec();
            bytes[byte] ^= 1 << bit;
            prop_assert!(FilterBits::decode(&bytes).is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(FilterBits::decode(&bytes).is_none());
        }
    }
}
