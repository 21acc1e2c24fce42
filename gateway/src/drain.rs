//! The end of a gateway: its clients are sent away in random batches, so that
//! they do not all knock at the others' doors in the same second.

use std::{sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    outbox::EndReason,
    socket::{Peer, Sockets},
};

/// Between two batches; also how long a client is no longer heard at least, so that what is
/// about to be told to him is told.
const STEP: Duration = Duration::from_millis(100);
/// A batch has at least so many: a few clients are no crowd to be spread.
const MIN_BATCH: usize = 8;
/// How long what a client emitted may take to be answered once he is no longer heard.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A client who is no longer heard.
struct Unheard {
    peer: Arc<Peer>,
    since: Instant,
}

/// Ends all sockets within about `window`; returns when the last one has ended.
pub(crate) async fn drain(sockets: &Sockets, window: Duration) {
    sockets.begin_drain();
    let mut peers = sockets.peers();
    peers.shuffle(&mut rand::rng());
    let steps = window.saturating_sub(ANSWER_TIME).as_millis() / STEP.as_millis();
    let steps = usize::try_from(steps).unwrap_or(usize::MAX).max(1);
    let batch = peers.len().div_ceil(steps).max(MIN_BATCH);
    let mut unheard = Vec::new();
    // By the clock: on a busy machine each pause is longer than was asked for.
    let mut next = Instant::now();
    for batch in peers.chunks(batch) {
        unheard.extend(batch.iter().map(Unheard::from_now_on));
        next += STEP;
        sleep_until(next).await;
        end_answered(&mut unheard);
    }
    while !unheard.is_empty() {
        sleep(STEP).await;
        end_answered(&mut unheard);
    }
    // Whoever came in while the drain began.
    for peer in sockets.peers() {
        peer.outbox.end(EndReason::Shutdown);
    }
    sockets.ended().await;
}

fn end_answered(unheard: &mut Vec<Unheard>) {
    let done = unheard.extract_if(.., |one| one.may_go());
    done.for_each(|one| one.peer.outbox.end(EndReason::Shutdown));
}

impl Unheard {
    fn from_now_on(peer: &Arc<Peer>) -> Self {
        peer.deafen();
        Self {
            peer: Arc::clone(peer),
            since: Instant::now(),
        }
    }

    /// Whether what he emitted is answered, or has taken too long.
    fn may_go(&self) -> bool {
        let unheard = self.since.elapsed();
        unheard >= ANSWER_TIME || unheard >= STEP && self.peer.is_answered()
    }
}
