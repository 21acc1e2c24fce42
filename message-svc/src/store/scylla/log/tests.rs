//! The log on a real cluster, below the rules and above them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod crashes;
mod races;
mod requests;
mod rows;
mod stamps;

use std::sync::Arc;

use chassis::id::{Seq, TopicId};

use crate::{
    entry::Placed,
    log::{
        Direction, Log, LogConfig, Outgoing,
        trials::witness::{Doorman, Ears, Witness, soon},
    },
    store::scylla::replica::{Replica, fresh},
};

crate::store::conformance::log_suite!(fresh);

fn topic(id: i64) -> TopicId {
    TopicId::new(id).unwrap()
}

fn capacity(segment_capacity: u32) -> LogConfig {
    LogConfig {
        segment_capacity,
        ..LogConfig::default()
    }
}

/// The rules over a replica, as a process has them that was just started.
fn rules(replica: &Replica, config: LogConfig, ears: &Arc<Ears>) -> Log {
    let store = Arc::clone(&replica.store);
    Log::new(
        store,
        Arc::<Doorman>::default(),
        Arc::clone(ears) as _,
        config,
    )
}

/// Sends a call. Returns what has to be sent again.
async fn call(
    log: &Log,
    topic: TopicId,
    messages: Vec<Outgoing>,
    witness: &Witness,
) -> Vec<Outgoing> {
    let answers = log.send(topic, messages.clone(), soon()).await;
    let fresh = answers.iter().flatten().filter(|sent| !sent.duplicate);
    assert!(
        fresh.map(|sent| sent.placed.seq).is_sorted(),
        "a call's messages are appended in its order"
    );
    witness.hear(messages, answers)
}

/// Sends a call whose messages can all be sent.
async fn call_whole(log: &Log, topic: TopicId, messages: Vec<Outgoing>, witness: &Witness) {
    let again = call(log, topic, messages, witness).await;
    assert!(again.is_empty(), "{} messages were not sent", again.len());
}

/// All of a topic, page by page.
async fn whole_log(log: &Log, topic: TopicId) -> Vec<Placed> {
    let mut whole: Vec<Placed> = Vec::new();
    loop {
        let start = whole.last().map_or(Seq::new(1), |last| last.seq.next());
        let page = log.page(topic, Direction::Forward, Some(start), 500).await;
        let page = page.unwrap();
        if page.is_empty() {
            return whole;
        }
        whole.extend(page);
    }
}
