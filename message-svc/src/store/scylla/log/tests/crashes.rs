//! A send that is cut off, or goes unanswered, at each of its requests.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use chassis::cql::faults::Fault;

use super::{call, call_whole, capacity, rules, topic, whole_log};
use crate::{
    log::{
        Outgoing,
        trials::witness::{Ears, Witness, message},
    },
    store::scylla::{
        ScyllaStore,
        replica::{Replica, pair},
    },
};

/// A retry from a full segment, and more new messages than the current one has room for.
fn messages() -> Vec<Outgoing> {
    ["2", "a", "b", "c"]
        .map(|stamp| message(1, stamp, "x"))
        .into()
}

const FAULTS: [Fault; 4] = [
    Fault::CrashBefore,
    Fault::AnswerLost,
    Fault::Lost,
    Fault::Refused,
];

/// How many messages a topic has before that call; segments have four slots.
const BEFORE: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_send_is_stored_once_wherever_it_is_cut_off() {
    let (process, survivor, _keyspace) = pair().await;
    let ears = Arc::new(Ears::default());
    let log = rules(&survivor, capacity(4), &ears);
    let mut topics = (1..).map(topic);
    for fault in FAULTS {
        for at in 0.. {
            let topic = topics.next().unwrap();
            let witness = Witness::default();
            let first: Vec<_> = (0..BEFORE)
                .map(|n| message(1, &n.to_string(), "x"))
                .collect();
            call_whole(&log, topic, first, &witness).await;

            process.cql.heal();
            let fresh = Replica {
                cql: process.cql.clone(),
                store: Arc::new(ScyllaStore::open(&process.cql).await.unwrap()),
            };
            let (requests, died) = fresh.fail_at(at, fault);
            let cut_off = rules(&fresh, capacity(4), &ears);
            tokio::select! {
                () = died.notified() => {}
                _again = call(&cut_off, topic, messages(), &witness) => cut_off.shut_down().await,
            }
            if requests.load(SeqCst) <= at {
                assert!(at > 5, "a cold topic takes more than {at} requests");
                break;
            }

            call_whole(&log, topic, messages(), &witness).await;
            let restarted = rules(&survivor, capacity(8), &ears);
            call_whole(&restarted, topic, messages(), &witness).await;
            let whole = whole_log(&restarted, topic).await;
            assert_eq!(whole.len(), BEFORE + 3, "{fault:?} at {at}");
            witness.check(&whole, &Ears::default());
        }
    }
}
