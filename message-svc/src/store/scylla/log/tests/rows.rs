//! What the server refuses, and what can't be in its rows.

use std::{collections::HashSet, sync::Arc};

use chassis::{
    cql::{faults::Fault, testing::fresh_keyspace},
    id::Seq,
};
use futures::{StreamExt as _, stream};

use super::{call_whole, capacity, rules, topic, whole_log};
use crate::{
    error::Error,
    log::{
        Direction, LogConfig,
        trials::witness::{Ears, Witness, message, soon},
    },
    store::{
        LogStore as _, StoreError,
        scylla::{
            MIGRATIONS,
            replica::{Replica, pair},
        },
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_for_the_server_goes_in_parts() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let (ears, witness) = (Arc::new(Ears::default()), Witness::default());
    let config = LogConfig {
        batch_bytes: usize::MAX,
        ..LogConfig::default()
    };
    let log = rules(&replica, config, &ears);
    // Fifteen megabytes; a node takes half of one of its commit log's files, which are of 16.
    // It takes conditional batches above its bound for batches, and says of what is too
    // large for its log that the write failed: so the outcome is unknown, until a part is decided.
    let body = "x".repeat(60_000);
    let messages: Vec<_> = (0..256)
        .map(|n| message(1, &n.to_string(), &body))
        .collect();
    let requests = replica.requests();
    call_whole(&log, topic(1), messages, &witness).await;
    let appends = (requests.lock().unwrap().iter())
        .filter(|name| **name == "log_append")
        .count();
    assert!((3..50).contains(&appends), "{appends} appends");
    let whole = whole_log(&log, topic(1)).await;
    witness.check(&whole, &ears);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_numbers_whose_taking_went_unanswered_is_never_used() {
    let (first, second, _keyspace) = pair().await;
    for replica in [&first, &second] {
        let mut takes = 0;
        let fault = std::sync::Mutex::new(move || {
            takes += 1;
            match takes % 3 {
                1 => Fault::AnswerLost,
                2 => Fault::Lost,
                _ => Fault::None,
            }
        });
        replica.cql.fail(move |name| match name {
            "block_begin" | "block_take" => fault.lock().unwrap()(),
            _ => Fault::None,
        });
    }
    let opened: Vec<i64> = stream::iter(1..=200)
        .map(|id| {
            let replica = if id % 2 == 0 { &first } else { &second };
            async move {
                loop {
                    // The other one may take every block first, time and again.
                    let opened = replica.store.open_segment(topic(id), None, Seq::new(1), 8);
                    match opened.await {
                        Ok(tail) => return tail.segment.id.get(),
                        Err(StoreError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
        .buffered(8)
        .collect()
        .await;
    let numbers: HashSet<i64> = opened.iter().copied().collect();
    assert_eq!(numbers.len(), 200, "each is used once");
    assert!(
        opened.iter().all(|number| *number > 32),
        "the first block was taken, and nobody was told"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_never_handed_out() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let (ears, witness) = (Arc::new(Ears::default()), Witness::default());
    let log = rules(&replica, capacity(8), &ears);
    let messages: Vec<_> = (0..20).map(|n| message(1, &n.to_string(), "x")).collect();
    call_whole(&log, topic(1), messages.clone(), &witness).await;
    let segment = replica.store.segment_at(topic(1), Seq::new(10)).await;
    let segment = segment.unwrap().unwrap();
    let lose = "DELETE FROM message_log WHERE segment = ? AND slot = 3";
    let lose = replica.cql.write("test_lose_row", lose);
    replica.cql.run(&lose, (segment.id.get(),)).await.unwrap();

    for direction in [Direction::Forward, Direction::Backward] {
        let page = log.page(topic(1), direction, None, 100).await;
        assert!(
            matches!(page, Err(Error::Store(StoreError::Damaged(_)))),
            "{page:?}"
        );
    }
    // What lies elsewhere can be read still.
    let page = log.page(topic(1), Direction::Forward, None, 8).await;
    assert_eq!(page.unwrap().len(), 8);
    let entry = segment.message_id(4).unwrap();
    assert!(replica.store.find(entry).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_listed_in_another_topic_is_not_written_to() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let (ears, witness) = (Arc::new(Ears::default()), Witness::default());
    let log = rules(&replica, capacity(8), &ears);
    call_whole(&log, topic(1), vec![message(1, "a", "x")], &witness).await;
    let segment = replica.store.segment_at(topic(1), Seq::new(1)).await;
    let segment = segment.unwrap().unwrap();
    let lie =
        "INSERT INTO topic_segments (topic_id, first_seq, segment, capacity) VALUES (2, 1, ?, 8)";
    let lie = replica.cql.write("test_lie", lie);
    replica.cql.run(&lie, (segment.id.get(),)).await.unwrap();

    let call = vec![message(1, "b", "x")];
    let refused = log.send(topic(2), call, soon()).await;
    assert!(
        matches!(refused[..], [Err(Error::Store(StoreError::Damaged(_)))]),
        "{refused:?}"
    );
    let loaded = replica.store.load(topic(2)).await;
    assert!(matches!(loaded, Err(StoreError::Damaged(_))), "{loaded:?}");
    assert_eq!(whole_log(&log, topic(1)).await.len(), 1);
}
