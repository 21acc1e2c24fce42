//! The rules of the log against a store that fails on command.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod faults;
mod memory;
mod retries;
pub(crate) mod witness;

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use chassis::id::{MessageId, Seq, TopicId, UserId};
use futures::future::join_all;
use proptest::prelude::*;
use tokio::time::Instant;

pub(crate) use self::memory::Memory;
use self::{
    memory::Fault,
    witness::{Doorman, Ears, Witness, assert_whole, message, soon},
};
use super::*;

struct House {
    store: Arc<Memory>,
    doorman: Arc<Doorman>,
    ears: Arc<Ears>,
    config: LogConfig,
}

impl House {
    fn new(segment_capacity: u32) -> Self {
        Self {
            store: Memory::new(),
            doorman: Arc::default(),
            ears: Arc::default(),
            config: LogConfig {
                segment_capacity,
                ..LogConfig::default()
            },
        }
    }

    fn log(&self) -> Log {
        Log::new(
            Arc::clone(&self.store) as _,
            Arc::clone(&self.doorman) as _,
            Arc::clone(&self.ears) as _,
            self.config.clone(),
        )
    }
}

fn topic() -> TopicId {
    TopicId::new(1).unwrap()
}

async fn send(log: &Log, message: Outgoing) -> Result<Sent, Error> {
    let mut results = log.send(topic(), vec![message], soon()).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Runs with a clock that jumps whenever everybody waits.
fn run<T>(trial: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(trial)
}

#[test]
fn a_lone_message_costs_one_append_and_no_read() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        let (appends, reads) = (&house.store.appends, &house.store.entry_reads);
        let before = (appends.load(Relaxed), reads.load(Relaxed));
        let sent = send(&log, message(1, "a", "hello")).await.unwrap();
        assert_eq!(sent.placed.seq.get(), 2);
        assert!(!sent.duplicate);
        assert_eq!(
            (appends.load(Relaxed), reads.load(Relaxed)),
            (before.0 + 1, before.1)
        );
    });
}

#[tokio::test]
async fn a_head_that_was_just_read_is_read_again_only_for_who_wants_it_fresh() {
    let house = House::new(1_024);
    let log = house.log();
    let topics = [topic(), TopicId::new(2).unwrap()];
    let none = [Some(Seq::ZERO); 2];
    assert_eq!(log.heads(&topics[..1], MAX_AGE).await.unwrap(), none[..1]);
    send(&log, message(1, "a", "hello")).await.unwrap();
    assert_eq!(log.heads(&topics, MAX_AGE).await.unwrap(), none);
    let now = [Some(Seq::new(1)), Some(Seq::ZERO)];
    assert_eq!(log.heads(&topics, Duration::ZERO).await.unwrap(), now);
    // The first answer is too old by then.
    tokio::time::sleep(MAX_AGE / 4).await;
    assert_eq!(log.heads(&topics, MAX_AGE / 4).await.unwrap(), now);
    assert_eq!(log.heads(&topics, MAX_AGE).await.unwrap(), now);
}

#[test]
fn what_arrives_while_an_append_is_under_way_shares_the_next() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        let stamps: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
        let sends = stamps
            .iter()
            .map(|stamp| send(&log, message(1, stamp, "x")));
        let sent = join_all(sends).await;
        let seqs: Vec<i64> = sent
            .iter()
            .map(|s| s.as_ref().unwrap().placed.seq.get())
            .collect();
        assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
        assert!(house.store.appends.load(Relaxed) <= 2);
    });
}

#[test]
fn topics_without_end_are_written_to_a_few_at_a_time_and_what_comes_meanwhile_goes_along() {
    run(async {
        let mut house = House::new(1_024);
        house.config.writes = 4;
        house.store.append_ms.store(50, Relaxed);
        let log = house.log();
        let say = |stamp| {
            let topics = (1..=40).filter_map(TopicId::new);
            join_all(topics.map(|topic| {
                let (log, message) = (log.clone(), message(1, stamp, "x"));
                tokio::spawn(async move { log.send(topic, vec![message], soon()).await })
            }))
        };
        let first = say("a");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let second = say("b");
        for results in join_all([first, second]).await.into_iter().flatten() {
            results.unwrap()[0].as_ref().unwrap();
        }
        assert_eq!(house.store.most_under_way.load(Relaxed), 4);
        // Four were under way when there was more to say.
        assert_eq!(house.store.appends.load(Relaxed), 44);
    });
}

#[test]
fn topics_whose_writes_hang_keep_no_other_from_its_turn() {
    run(async {
        let mut house = House::new(1_024);
        house.config.writes = 2;
        let log = house.log();
        house.store.append_ms.store(60_000, Relaxed);
        for topic in [2, 3].map(|id| TopicId::new(id).unwrap()) {
            let log = log.clone();
            tokio::spawn(async move { log.send(topic, vec![message(1, "a", "x")], soon()).await });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        house.store.append_ms.store(2, Relaxed);
        let began = Instant::now();
        send(&log, message(1, "a", "x")).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_reply_names_a_message_of_the_same_topic() {
    run(async {
        let house = House::new(4);
        let log = house.log();
        let first = send(&log, message(1, "first", "x"))
            .await
            .unwrap()
            .placed
            .id;
        let elsewhere = TopicId::new(2).unwrap();
        let other = log
            .send(elsewhere, vec![message(1, "o", "x")], soon())
            .await;
        let other = other[0].as_ref().unwrap().placed.id;
        let reply = |stamp: &str, id: MessageId| {
            let mut message = message(2, stamp, "re");
            message.content.reply_to = Some(id);
            message
        };
        for n in 0..9 {
            let sent = send(&log, reply(&n.to_string(), first)).await.unwrap();
            assert_eq!(sent.placed.seq.get(), n + 2);
        }
        let unborn = MessageId::new(first.get() + 500 * 1_024).unwrap();
        for id in [other, unborn, MessageId::new(1).unwrap()] {
            let refused = send(&log, reply("r", id)).await;
            assert!(
                matches!(refused, Err(Error::ReplyNotFound)),
                "{id}: {refused:?}"
            );
        }
    });
}

#[test]
fn a_full_queue_refuses_and_a_deadline_passes_in_it() {
    run(async {
        let mut house = House::new(1_024);
        house.config.queue_entries = 3;
        let log = house.log();
        let call: Vec<_> = (0..5).map(|n| message(1, &n.to_string(), "x")).collect();
        let results = log.send(topic(), call, soon()).await;
        let stored = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(stored, 3);
        assert!(matches!(results[4], Err(Error::NotStored(_))));
        let late = log
            .send(topic(), vec![message(1, "late", "x")], Instant::now())
            .await;
        assert!(matches!(late[0], Err(Error::NotStored(_))), "{late:?}");
        log.shut_down().await;
        assert_eq!(
            house.store.log(topic()).len(),
            3,
            "what was late in the queue is not stored"
        );
        let after = log
            .send(topic(), vec![message(1, "after", "x")], soon())
            .await;
        assert!(matches!(after[0], Err(Error::NotStored(_))));
    });
}

#[test]
fn what_another_appended_before_its_sender_was_removed_is_no_refusal() {
    run(async {
        let house = House::new(8);
        let (one, other) = (house.log(), house.log());
        for round in 0..20 {
            // The other's knowledge is from before.
            let stamp = format!("other {round}");
            send(&other, message(2, &stamp, "x")).await.unwrap();
            // Up to as many as fill a segment and begin the next.
            let count = round % 10 + 1;
            let call: Vec<_> = (0..count)
                .map(|n| message(1, &format!("{round} {n}"), "x"))
                .collect();
            let first = one.send(topic(), call.clone(), soon()).await;
            let removed = UserId::new(1).unwrap();
            house.doorman.refuses.lock().unwrap().insert(removed);
            let never_sent = message(1, &format!("{round} never"), "x");
            let refused = send(&other, never_sent).await;
            assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
            let again = other.send(topic(), call, soon()).await;
            for (first, again) in first.iter().zip(&again) {
                let (first, again) = (first.as_ref().unwrap(), again.as_ref().unwrap());
                assert_eq!((first.placed.id, again.duplicate), (again.placed.id, true));
            }
            house.doorman.refuses.lock().unwrap().clear();
        }
        assert_whole(&house.store.log(topic()));
    });
}

#[test]
fn who_replies_to_what_another_has_just_appended_is_understood() {
    run(async {
        let house = House::new(8);
        let (one, other) = (house.log(), house.log());
        for round in 0..20 {
            let stamp = format!("other {round}");
            send(&other, message(2, &stamp, "x")).await.unwrap();
            let first = send(&one, message(1, &round.to_string(), "x"))
                .await
                .unwrap();
            let mut reply = message(2, &format!("reply {round}"), "y");
            reply.content.reply_to = Some(first.placed.id);
            send(&other, reply).await.unwrap();
            let mut lost = message(2, &format!("lost {round}"), "y");
            lost.content.reply_to = MessageId::new(first.placed.id.get() + 8);
            let refused = send(&other, lost).await;
            assert!(matches!(refused, Err(Error::ReplyNotFound)), "{refused:?}");
        }
        assert_whole(&house.store.log(topic()));
    });
}

#[test]
fn pages_read_forward_and_backward_across_segments() {
    run(async {
        let house = House::new(8);
        let log = house.log();
        for n in 0..50 {
            send(&log, message(1, &n.to_string(), "x")).await.unwrap();
        }
        let seqs = async |direction, start: Option<i64>, limit| {
            let page = log
                .page(topic(), direction, start.map(Seq::new), limit)
                .await
                .unwrap();
            page.iter().map(|p| p.seq.get()).collect::<Vec<_>>()
        };
        assert_eq!(seqs(Direction::Forward, None, 3).await, [1, 2, 3]);
        assert_eq!(
            seqs(Direction::Forward, Some(7), 20).await,
            (7..27).collect::<Vec<_>>()
        );
        assert_eq!(seqs(Direction::Forward, Some(48), 20).await, [48, 49, 50]);
        assert_eq!(seqs(Direction::Forward, Some(51), 20).await, [0; 0]);
        assert_eq!(seqs(Direction::Backward, None, 3).await, [50, 49, 48]);
        assert_eq!(
            seqs(Direction::Backward, Some(20), 20).await,
            (1..=20).rev().collect::<Vec<_>>()
        );
        assert_eq!(
            house.store.head_reads.load(Relaxed),
            1,
            "only who starts at the newest entry asks for it"
        );
        assert_eq!(seqs(Direction::Backward, Some(999), 2).await, [50, 49]);
        assert_eq!(seqs(Direction::Backward, Some(51), 2).await, [50, 49]);
        assert_eq!(seqs(Direction::Backward, Some(50), 2).await, [50, 49]);
        assert_eq!(seqs(Direction::Backward, Some(0), 2).await, [0; 0]);
        let nowhere = TopicId::new(77).unwrap();
        assert_eq!(
            log.page(nowhere, Direction::Backward, None, 5)
                .await
                .unwrap(),
            []
        );
    });
}

#[test]
fn a_cache_of_nothing_costs_reads_and_breaks_no_promise() {
    run(async {
        let mut house = House::new(8);
        house.config.knowledge_bytes = 1;
        let log = house.log();
        for n in 0..40 {
            let stamp = (n / 2).to_string();
            let sent = send(&log, message(1, &stamp, "x")).await.unwrap();
            assert_eq!(sent.placed.seq.get(), n / 2 + 1);
            assert_eq!(sent.duplicate, n % 2 == 1);
            log.shared.topics.run_pending_tasks();
        }
    });
}
