//! What a send costs in requests.

use std::sync::Arc;

use chassis::cql::testing::fresh_keyspace;
use futures::future::join_all;

use super::{call_whole, capacity, rules, topic};
use crate::{
    log::trials::witness::{Ears, Witness, message},
    store::scylla::{MIGRATIONS, replica::Replica},
};

#[tokio::test(flavor = "multi_thread")]
async fn in_an_old_topic_a_group_of_messages_costs_one_append_and_nothing_else() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let (ears, witness) = (Arc::new(Ears::default()), Witness::default());
    let many = |from: usize, to: usize| -> Vec<_> {
        (from..to)
            .map(|n| message(n as i64 % 5 + 1, &n.to_string(), "x"))
            .collect()
    };
    let old = rules(&replica, capacity(8), &ears);
    call_whole(&old, topic(1), many(0, 400), &witness).await;
    old.shut_down().await;

    let log = rules(&replica, capacity(1_024), &ears);
    call_whole(&log, topic(1), many(400, 401), &witness).await;
    let requests = replica.requests();
    for n in 401..451 {
        call_whole(&log, topic(1), many(n, n + 1), &witness).await;
    }
    assert_eq!(*requests.lock().unwrap(), ["log_append"; 50]);

    let requests = replica.requests();
    call_whole(&log, topic(1), many(451, 600), &witness).await;
    assert_eq!(*requests.lock().unwrap(), ["log_append"]);

    let requests = replica.requests();
    let senders = (0..16).map(|sender| {
        let (log, witness) = (&log, &witness);
        async move {
            for n in 0..20 {
                let n = 600 + sender * 20 + n;
                call_whole(log, topic(1), many(n, n + 1), witness).await;
            }
        }
    });
    join_all(senders).await;
    {
        let requests = requests.lock().unwrap();
        assert!(requests.iter().all(|name| *name == "log_append"));
        assert!(requests.len() <= 320 / 4, "{} for 320", requests.len());
    }

    // Over the end of the segment, with the next one's number taken or not.
    let requests = replica.requests();
    call_whole(&log, topic(1), many(920, 920 + 1_024), &witness).await;
    log.shut_down().await;
    let requests = requests.lock().unwrap();
    let count = |name: &str| requests.iter().filter(|found| **found == name).count();
    let blocks = count("block_look") + count("block_begin") + count("block_take");
    assert!(blocks <= 2, "{requests:?}");
    assert_eq!((count("log_open_segment"), count("log_put_filter")), (1, 1));
    assert_eq!(
        count("log_append") + blocks + 2,
        requests.len(),
        "{requests:?}"
    );
    assert!(count("log_append") <= 1_024 / 256 + 2, "{requests:?}");
}
