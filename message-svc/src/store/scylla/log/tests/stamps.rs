//! Retries of old messages, with what makes them cheap lost.

use std::sync::Arc;

use bytes::Bytes;
use chassis::{
    cql::testing::fresh_keyspace,
    id::{Seq, TopicId},
};

use super::{call_whole, capacity, rules, topic, whole_log};
use crate::{
    log::{
        LogConfig, Outgoing,
        trials::witness::{Ears, Witness, message},
    },
    store::{
        FullSegment, LogStore as _, StampFilter,
        scylla::{MIGRATIONS, ScyllaStore, replica::Replica},
    },
};

/// All segments in front of `before`, newest first.
async fn full_segments(store: &ScyllaStore, topic: TopicId, mut before: Seq) -> Vec<FullSegment> {
    let mut all = Vec::new();
    loop {
        let found = store.full_segments(topic, before, 64).await.unwrap();
        let Some(oldest) = found.last() else {
            return all;
        };
        before = oldest.segment.first_seq;
        all.extend(found);
    }
}

fn numbered(owners: usize, numbers: std::ops::Range<usize>) -> Vec<Outgoing> {
    numbers
        .map(|n| message((n % owners) as i64 + 1, &n.to_string(), "x"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_stamps_are_known_after_many_segments_with_their_filters_lost() {
    const MESSAGES: usize = 10_000;
    const CAPACITY: u32 = 40;
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let (ears, witness) = (Arc::new(Ears::default()), Witness::default());
    let calls = || (0..MESSAGES).step_by(250).map(|n| numbered(7, n..n + 250));
    let log = rules(&replica, capacity(CAPACITY), &ears);
    for messages in calls() {
        call_whole(&log, topic(1), messages, &witness).await;
    }
    log.shut_down().await;

    let end = Seq::new(MESSAGES as i64 + 1);
    let kept = full_segments(&replica.store, topic(1), end).await;
    assert_eq!(kept.len(), MESSAGES / CAPACITY as usize);
    assert!(kept.iter().all(|full| full.filter.is_some()));
    let lose = "DELETE FROM topic_stamps WHERE topic_id = ? AND bucket = 0 AND first_seq = ?";
    let lose = replica.cql.write("test_lose_filter", lose);
    for (n, full) in kept.iter().enumerate() {
        let filter = full.filter.as_ref().unwrap();
        // Some, among them a run of them, are deleted, and some are cut short.
        if n % 3 == 0 || (100..200).contains(&n) {
            let values = (1_i64, full.segment.first_seq.get());
            replica.cql.run(&lose, values).await.unwrap();
        } else if n % 3 == 1 {
            let cut = StampFilter {
                bytes: filter.bytes.slice(..filter.bytes.len() - 3),
                ..filter.clone()
            };
            replica.store.put_filter(&full.segment, &cut).await.unwrap();
        }
    }

    let log = rules(&replica, capacity(1_024), &ears);
    let told = witness.told();
    for messages in calls() {
        call_whole(&log, topic(1), messages, &witness).await;
    }
    assert_eq!((told, witness.told()), (MESSAGES, MESSAGES));
    let whole = whole_log(&log, topic(1)).await;
    assert_eq!(whole.len(), MESSAGES);
    witness.check(&whole, &ears);
    let again = full_segments(&replica.store, topic(1), end).await;
    assert_eq!(again, kept, "what was lost is made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_one_topic_costs_reads_and_breaks_no_promise() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let ears = Arc::new(Ears::default());
    let witnesses = [1, 2, 3].map(|id| (topic(id), Witness::default()));
    let log = rules(
        &replica,
        LogConfig {
            knowledge_bytes: 2_048,
            ..capacity(8)
        },
        &ears,
    );
    for n in 0..20 {
        for (topic, witness) in &witnesses {
            // Each message is sent twice, by calls with other topics' between them.
            call_whole(&log, *topic, numbered(2, n..n + 2), witness).await;
        }
    }
    for (topic, witness) in &witnesses {
        let whole = whole_log(&log, *topic).await;
        assert_eq!(whole.len(), 21);
        witness.check(&whole, &Ears::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_segments_are_found_across_the_ends_of_partitions() {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let replica = Replica::of(&keyspace).await;
    let store = &replica.store;
    // Around the seq at which a partition of filters ends, which lies within a segment.
    let first = (1 << 20) / 1_024 - 3;
    let mut segments = Vec::new();
    for n in first..first + 6 {
        let first_seq = Seq::new(n * 1_024 + 1);
        let after = segments.last().map(|last: &crate::entry::Segment| last.id);
        let opened = store.open_segment(topic(1), after, first_seq, 1_024).await;
        segments.push(opened.unwrap().segment);
    }
    let filter = StampFilter {
        last_sent_at_ms: 1,
        bytes: Bytes::from_static(b"filter"),
    };
    for (n, segment) in segments.iter().enumerate() {
        if n != 3 {
            store.put_filter(segment, &filter).await.unwrap();
        }
    }
    let end = segments.last().unwrap().end();
    let expected: Vec<_> = segments
        .iter()
        .enumerate()
        .rev()
        .map(|(n, segment)| FullSegment {
            segment: *segment,
            filter: (n != 3).then(|| filter.clone()),
        })
        .collect();
    assert_eq!(full_segments(store, topic(1), end).await, expected);
    for (n, segment) in segments.iter().enumerate() {
        let below = full_segments(store, topic(1), segment.first_seq).await;
        assert_eq!(below, expected[expected.len() - n..]);
    }
}
