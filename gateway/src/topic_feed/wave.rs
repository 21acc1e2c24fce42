//! Entries for many sockets go out in waves, one at a time: what comes while the sockets are
//! still being written to goes out with the next, so each of them is written to once for all
//! of it. What one call to message-svc has brought waits for the next one, too, if there is
//! one already. Where nothing comes meanwhile, nothing waits.

use std::time::Duration;

use tokio::time::Instant;

use crate::outbox::Outbox;

/// Listeners from which on there are waves.
const CROWD: usize = 64;
/// Sockets that are looked at, evenly among them all.
const PROBES: usize = 8;
/// Those of them that may still be to be written to when a wave is over. Some may be slow.
const SLOW: usize = 2;
/// How long a wave is waited for at most.
const LONGEST: Duration = Duration::from_millis(20);
/// How long what a call has brought waits for the next call, which is under way already.
pub(super) const JOIN: Duration = Duration::from_millis(4);
/// How often it is looked.
const CHECK: Duration = Duration::from_millis(1);

/// Whether so many listeners are worth waiting with.
pub(super) fn is_crowd(listeners: usize) -> bool {
    listeners >= CROWD
}

/// The sockets that tell whether a wave is over.
pub(super) struct Wave {
    probes: Vec<Outbox>,
    ends: Instant,
}

impl Wave {
    /// Which listeners are to be probed of so many: each that many apart. None where there is
    /// no crowd.
    pub(super) fn stride(listeners: usize) -> Option<usize> {
        is_crowd(listeners).then_some(listeners / PROBES)
    }

    /// A wave that has just gone out to these and others.
    pub(super) fn new(probes: Vec<Outbox>, now: Instant) -> Self {
        Self {
            probes,
            ends: now + LONGEST,
        }
    }

    /// When to look again; nothing once it is over.
    pub(super) fn lasts_until(&self, now: Instant) -> Option<Instant> {
        let to_write = self.probes.iter().filter(|probe| probe.backlog() > 0);
        (now < self.ends && to_write.count() > SLOW).then_some(now + CHECK)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        frame::{Frame, Generation},
        outbox::OutboxLimits,
    };

    #[test]
    fn a_wave_lasts_until_most_sockets_have_taken_it_but_not_for_ever() {
        let now = Instant::now();
        let (probes, taken): (Vec<_>, Vec<_>) = (0..PROBES)
            .map(|_| {
                let (wire, taken) = mpsc::channel(1);
                let outbox = Outbox::new(Generation::Eio4, OutboxLimits::default(), wire);
                outbox.push(&Frame::event("taken by the wire", &1));
                outbox.push(&Frame::event("waits for it", &2));
                (outbox, taken)
            })
            .unzip();
        let wave = Wave::new(probes.clone(), now);
        assert!(wave.lasts_until(now).is_some());
        assert!(wave.lasts_until(now + LONGEST).is_none());
        for (probe, mut taken) in probes.iter().zip(taken).skip(SLOW) {
            assert!(wave.lasts_until(now).is_some());
            assert!(taken.try_recv().is_ok());
            probe.pump();
        }
        assert!(wave.lasts_until(now).is_none());
    }

    #[test]
    fn a_few_sockets_are_no_crowd() {
        assert_eq!(Wave::stride(CROWD - 1), None);
        assert_eq!(Wave::stride(CROWD), Some(CROWD / PROBES));
    }
}
