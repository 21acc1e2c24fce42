//! The one order of a topic: whatever comes in, from whichever source, in
//! whichever order, goes out once and without a hole.

use std::collections::BTreeMap;

use chassis::id::Seq;

/// Most entries that are held while an earlier one is missing. What comes beyond
/// is dropped, and read when its turn comes.
pub(super) const MAX_HELD: usize = 1_024;

/// Merges entries of several sources into one order.
#[derive(Debug)]
pub(super) struct Sequence<T> {
    last: Seq,
    /// The newest seq that is known to exist.
    known: Seq,
    held: BTreeMap<Seq, T>,
}

impl<T> Sequence<T> {
    /// A sequence that goes on behind `last`.
    pub(super) fn behind(last: Seq) -> Self {
        Self {
            last,
            known: last,
            held: BTreeMap::new(),
        }
    }

    /// The seq of the entry that went out last.
    pub(super) fn last(&self) -> Seq {
        self.last
    }

    /// Takes an entry in, made by `entry` if it is wanted still.
    pub(super) fn offer(&mut self, seq: Seq, entry: impl FnOnce() -> T) {
        self.exists(seq);
        if seq > self.last
            && !self.held.contains_key(&seq)
            && (self.held.len() < MAX_HELD || seq == self.last.next())
        {
            self.held.insert(seq, entry());
        }
    }

    /// An entry that has not gone out yet.
    pub(super) fn held(&self, seq: Seq) -> Option<&T> {
        self.held.get(&seq)
    }

    /// Notes that an entry with this seq exists.
    pub(super) fn exists(&mut self, seq: Seq) {
        self.known = self.known.max(seq);
    }

    /// The next entry in order, if it is here.
    pub(super) fn next(&mut self) -> Option<(Seq, T)> {
        let entry = self.held.first_entry()?;
        if *entry.key() != self.last.next() {
            return None;
        }
        let (seq, entry) = entry.remove_entry();
        self.last = seq;
        Some((seq, entry))
    }

    /// Whether that is so.
    pub(super) fn has_next(&self) -> bool {
        (self.held.keys().next()).is_some_and(|first| *first == self.last.next())
    }

    /// Goes on behind what is missing.
    #[cfg(feature = "sabotage")]
    pub(super) fn skip_hole(&mut self) {
        self.last = Seq::new(self.last.get() + self.missing().cast_signed() as i64);
    }

    /// How many entries are missing before the first one that is held, or that
    /// exists; 0 when nothing is missing.
    pub(super) fn missing(&self) -> usize {
        let upto = match self.held.first_key_value() {
            Some((first, _)) => first.get() - 1,
            None => self.known.get(),
        };
        usize::try_from(upto - self.last.get()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(sequence: &mut Sequence<i64>) -> Vec<i64> {
        std::iter::from_fn(|| sequence.next())
            .map(|(seq, entry)| {
                assert_eq!(seq.get(), entry);
                entry
            })
            .collect()
    }

    #[test]
    fn a_hole_holds_back_what_is_behind_it() {
        let mut sequence = Sequence::behind(Seq::new(4));
        for seq in [7, 6, 3, 6] {
            sequence.offer(Seq::new(seq), || seq);
        }
        assert_eq!(drain(&mut sequence), [0; 0]);
        assert_eq!(sequence.missing(), 1);
        sequence.offer(Seq::new(5), || 5);
        assert_eq!(drain(&mut sequence), [5, 6, 7]);
        assert_eq!(sequence.missing(), 0);
        sequence.exists(Seq::new(10));
        assert_eq!(sequence.missing(), 3);
    }

    #[test]
    fn what_is_held_is_bounded_and_the_next_one_always_fits() {
        let mut sequence = Sequence::behind(Seq::ZERO);
        for seq in 2..3_000 {
            sequence.offer(Seq::new(seq), || seq);
        }
        assert_eq!(sequence.held.len(), MAX_HELD);
        sequence.offer(Seq::new(1), || 1);
        assert_eq!(drain(&mut sequence).len(), MAX_HELD + 1);
        assert_eq!(sequence.missing(), 2_999 - MAX_HELD - 1);
    }

    proptest! {
        #[test]
        fn any_order_with_doubles_and_losses_comes_out_as_one(
            offers in prop::collection::vec(1_i64..60, 0..300),
        ) {
            let mut sequence = Sequence::behind(Seq::ZERO);
            let mut out = Vec::new();
            for seq in &offers {
                sequence.offer(Seq::new(*seq), || *seq);
                out.extend(drain(&mut sequence));
            }
            // Whatever was lost is read, as the feed does.
            while sequence.missing() > 0 {
                let next = sequence.last().next();
                sequence.offer(next, || next.get());
                out.extend(drain(&mut sequence));
            }
            let newest = offers.iter().copied().max().unwrap_or(0);
            prop_assert_eq!(out, (1..=newest).collect::<Vec<_>>());
        }
    }
}
