//! Announcing ended tokens, several times over, since the bus may lose an event.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chassis::{
    bus::{Bus, Subject},
    id::UserId,
};
use prost::Message;
use proto::event::v1::{TokensRevoked, UserEvent, user_event::Event};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::token::TokenHash;

/// How often each event is repeated, a second apart.
const REPEATS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Hashes in one event: 32 KiB.
const HASHES_PER_EVENT: usize = 1_000;

/// Events kept for repeating at a time, at most 32 MiB. What comes on top is
/// announced once; a gateway that misses it finds out when it next checks its tokens.
const MAX_KEPT: usize = 1_000;

/// Announces ended tokens on the bus.
pub(crate) struct Revocations {
    bus: Arc<dyn Bus>,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    repeats_left: u32,
    subject: Subject,
    event: Bytes,
}

impl Revocations {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            kept: Mutex::default(),
        }
    }

    /// Announces these tokens now, and again by [`Revocations::run`].
    pub(crate) fn announce(&self, user: UserId, tokens: &[TokenHash]) {
        for tokens in tokens.chunks(HASHES_PER_EVENT) {
            let event = UserEvent {
                event: Some(Event::TokensRevoked(TokensRevoked {
                    user_id: user.get(),
                    token_sha256s: tokens
                        .iter()
                        .map(|token| Bytes::copy_from_slice(token.as_bytes()))
                        .collect(),
                })),
            };
            let event = Bytes::from(event.encode_to_vec());
            let subject = Subject::User(user);
            self.bus.publish(subject, event.clone());
            self.keep(Kept {
                repeats_left: REPEATS,
                subject,
                event,
            });
        }
    }

    fn keep(&self, event: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.push_back(event);
        } else {
            metrics::counter!("drivers_user_revocations_announced_once_total").increment(1);
        }
    }

    /// Repeats what was announced, until shutdown.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.repeat();
        }
    }

    fn repeat(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for event in kept.iter_mut() {
            self.bus.publish(event.subject, event.event.clone());
            event.repeats_left -= 1;
        }
        kept.retain(|event| event.repeats_left > 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use tokio::{spawn, time::sleep};

    use super::*;
    use crate::service::tests::Recorder;

    #[tokio::test(start_paused = true)]
    async fn what_was_announced_is_repeated_each_second_for_ten_seconds() {
        let bus = Arc::new(Recorder::default());
        let revocations = Arc::new(Revocations::new(bus.clone()));
        let shutdown = CancellationToken::new();
        let runs = spawn({
            let (revocations, shutdown) = (Arc::clone(&revocations), shutdown.clone());
            async move { revocations.run(shutdown).await }
        });
        sleep(Duration::from_millis(500)).await;
        let user = UserId::new(7).unwrap();
        revocations.announce(user, &[TokenHash::new([1; 32])]);
        for times in 1..=11 {
            assert_eq!(bus.revoked().len(), times);
            sleep(PAUSE).await;
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(bus.revoked().len(), 11);
        assert!(bus.revoked().iter().all(|event| event == &bus.revoked()[0]));
        shutdown.cancel();
        runs.await.unwrap();
    }

    #[tokio::test]
    async fn many_tokens_are_announced_in_events_of_bounded_size() {
        let bus = Arc::new(Recorder::default());
        let user = UserId::new(7).unwrap();
        let tokens = vec![TokenHash::new([1; 32]); 2_500];
        Revocations::new(bus.clone()).announce(user, &tokens);
        let sizes: Vec<_> = bus.revoked().iter().map(|(_, _, t)| t.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[tokio::test]
    async fn what_is_kept_for_repeating_is_bounded() {
        let bus = Arc::new(Recorder::default());
        let user = UserId::new(7).unwrap();
        let revocations = Revocations::new(bus.clone());
        for _ in 0..MAX_KEPT + 5 {
            revocations.announce(user, &[TokenHash::new([1; 32])]);
        }
        assert_eq!(bus.revoked().len(), MAX_KEPT + 5);
        revocations.repeat();
        assert_eq!(bus.revoked().len(), 2 * MAX_KEPT + 5);
    }
}
