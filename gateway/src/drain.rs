//! The end of a gateway: its clients are sent away in random batches, so that
//! they do not all knock at the others' doors in the same second.

use std::{sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep_until};

use crate::{
    outbox::EndReason,
    socket::{Peer, Sockets},
};

/// Between two batches.
const STEP: Duration = Duration::from_millis(100);
/// A batch has at least so many: a few clients are no crowd to be spread.
const MIN_BATCH: usize = 8;
/// How long what a client emitted may take to be answered once it is no longer heard.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Ends all sockets within about `window`; returns when the last one has ended.
pub(crate) async fn drain(sockets: &Sockets, window: Duration) {
    sockets.begin_drain();
    let mut peers = sockets.peers();
    peers.shuffle(&mut rand::rng());
    let steps = window.saturating_sub(ANSWER_TIME).as_millis() / STEP.as_millis();
    let steps = usize::try_from(steps).unwrap_or(usize::MAX).max(1);
    let batch = peers.len().div_ceil(steps).max(MIN_BATCH);
    let mut silent: Vec<(Instant, Vec<Arc<Peer>>)> = Vec::new();
    // By the clock: on a busy machine each pause is longer than was asked for.
    let mut next = Instant::now();
    for batch in peers.chunks(batch) {
        for peer in batch {
            peer.deafen();
        }
        silent.push((Instant::now() + ANSWER_TIME, batch.to_vec()));
        end_answered(&mut silent);
        next += STEP;
        sleep_until(next).await;
    }
    for (at, batch) in silent {
        sleep_until(at).await;
        end(&batch);
    }
    // Whoever came in while the drain began.
    end(&sockets.peers());
    sockets.ended().await;
}

fn end_answered(silent: &mut Vec<(Instant, Vec<Arc<Peer>>)>) {
    silent.retain(|(at, batch)| {
        let waits = *at > Instant::now();
        if !waits {
            end(batch);
        }
        waits
    });
}

fn end(peers: &[Arc<Peer>]) {
    for peer in peers {
        peer.outbox.end(EndReason::Shutdown);
    }
}
