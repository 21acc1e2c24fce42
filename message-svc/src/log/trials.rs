//! The rules of the log against a store that fails on command.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod memory;
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
fn retries_of_a_batch_read_stamps_and_entries_once() {
    run(async {
        let house = House::new(128);
        let log = house.log();
        let call: Vec<_> = (0..129).map(|n| message(1, &n.to_string(), "x")).collect();
        let first = log.send(topic(), call.clone(), soon()).await;
        let store = &house.store;
        let reads = || {
            (
                store.stamp_reads.load(Relaxed),
                store.entry_reads.load(Relaxed),
            )
        };
        let before = reads();
        let again = log.send(topic(), call, soon()).await;
        for (first, again) in first.iter().zip(&again) {
            let (first, again) = (first.as_ref().unwrap(), again.as_ref().unwrap());
            assert_eq!((first.placed.id, again.duplicate), (again.placed.id, true));
        }
        // The memory's own read of stamps counts as one of entries, too.
        let (stamps, entries) = reads();
        assert_eq!((stamps - before.0, entries - before.1), (1, 3));
    });
}

#[test]
fn retries_are_answered_however_much_slower_a_store_is_than_their_callers_patience() {
    run(async {
        let house = House::new(64);
        let log = house.log();
        let call: Vec<_> = (0..200).map(|n| message(1, &n.to_string(), "x")).collect();
        log.send(topic(), call.clone(), soon()).await;
        house.store.read_ms.store(700, Relaxed);
        let mut tries = 0;
        let again = loop {
            tries += 1;
            assert!(tries <= 10, "no try is answered");
            let sending = log.send(topic(), call.clone(), soon());
            if let Ok(again) = tokio::time::timeout(Duration::from_secs(1), sending).await {
                break again;
            }
        };
        assert!(again.iter().all(|sent| sent.as_ref().unwrap().duplicate));
    });
}

#[test]
fn who_has_gone_does_not_stand_in_front_of_his_own_retry() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        let held = house.store.hold.write().await;
        let under_way = tokio::spawn({
            let log = log.clone();
            async move { send(&log, message(1, "first", "x")).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        // Each gives up while the append in front of him is under way, and comes again.
        let call: Vec<_> = (0..100).map(|n| message(1, &n.to_string(), "x")).collect();
        for _ in 0..20 {
            let sending = log.send(topic(), call.clone(), soon());
            let gone = tokio::time::timeout(Duration::from_millis(5), sending).await;
            assert!(gone.is_err());
        }
        let waiting = log.send(topic(), call.clone(), soon());
        drop(held);
        let sent = waiting.await;
        assert!(sent.iter().all(|sent| !sent.as_ref().unwrap().duplicate));
        under_way.await.unwrap().unwrap();
        assert_eq!(house.store.appends.load(Relaxed), 3);
        assert_eq!(house.store.log(topic()).len(), 102);
    });
}

#[test]
fn who_has_gone_while_his_message_was_written_is_answered_without_a_read() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        let held = house.store.hold.write().await;
        let sending = send(&log, message(1, "a", "x"));
        let gone = tokio::time::timeout(Duration::from_millis(5), sending).await;
        assert!(gone.is_err());
        let retry = tokio::spawn({
            let log = log.clone();
            async move { send(&log, message(1, "a", "x")).await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let before = house.store.entry_reads.load(Relaxed);
        drop(held);
        let sent = retry.await.unwrap().unwrap();
        assert!(sent.duplicate);
        assert_eq!(sent.placed.seq.get(), 2);
        assert_eq!(house.store.entry_reads.load(Relaxed), before);
    });
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
fn a_retry_is_answered_with_the_original_before_any_other_rule() {
    run(async {
        let house = House::new(4);
        let log = house.log();
        let first = send(&log, message(1, "a", "hello")).await.unwrap();
        for n in 0..20 {
            send(&log, message(2, &n.to_string(), "between"))
                .await
                .unwrap();
        }
        house
            .doorman
            .refuses
            .lock()
            .unwrap()
            .insert(UserId::new(1).unwrap());
        for log in [log, house.log()] {
            let again = send(&log, message(1, "a", "hello")).await.unwrap();
            assert!(again.duplicate);
            assert_eq!(again.placed, first.placed);
            let other = send(&log, message(1, "a", "other")).await;
            assert!(matches!(other, Err(Error::StampReused)), "{other:?}");
            let fresh = send(&log, message(1, "b", "hello")).await;
            assert!(matches!(fresh, Err(Error::NotAMember)), "{fresh:?}");
        }
        assert_eq!(house.store.log(topic()).len(), 21);
    });
}

#[test]
fn a_stamp_twice_in_one_call_is_one_message() {
    run(async {
        let house = House::new(1_024);
        let call = vec![
            message(1, "a", "x"),
            message(1, "b", "y"),
            message(1, "a", "x"),
            message(1, "a", "z"),
            message(2, "a", "x"),
        ];
        let results = house.log().send(topic(), call, soon()).await;
        let ids: Vec<_> = results
            .iter()
            .map(|r| r.as_ref().ok().map(|s| (s.placed.seq.get(), s.duplicate)))
            .collect();
        assert_eq!(
            ids,
            [
                Some((1, false)),
                Some((2, false)),
                Some((1, true)),
                None,
                Some((3, false))
            ]
        );
        assert!(matches!(results[3], Err(Error::StampReused)));
    });
}

#[test]
fn stamps_are_known_after_many_segments_with_their_filters_lost() {
    run(async {
        let house = House::new(8);
        let log = house.log();
        for n in 0..400 {
            send(&log, message(n % 3 + 1, &n.to_string(), "x"))
                .await
                .unwrap();
        }
        log.shut_down().await;
        {
            let mut state = house.store.state.lock().unwrap();
            assert!(state.filters.len() >= 49);
            let ids: Vec<_> = state.filters.keys().copied().collect();
            for (n, id) in ids.into_iter().enumerate() {
                match n % 3 {
                    0 => drop(state.filters.remove(&id)),
                    1 => {
                        let filter = state.filters.get_mut(&id).unwrap();
                        filter.bytes = filter.bytes.slice(..filter.bytes.len() - 3);
                    }
                    _ => {}
                }
            }
        }
        let log = house.log();
        for n in 0..400 {
            let again = send(&log, message(n % 3 + 1, &n.to_string(), "x"))
                .await
                .unwrap();
            assert!(again.duplicate);
            assert_eq!(again.placed.seq.get(), n + 1);
        }
        assert_eq!(house.store.log(topic()).len(), 400);
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
fn a_batch_that_the_store_refuses_for_its_size_goes_in_parts() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        house.store.refused_above.store(10, Relaxed);
        let call: Vec<_> = (0..100).map(|n| message(1, &n.to_string(), "x")).collect();
        let results = log.send(topic(), call.clone(), soon()).await;
        assert!(results.iter().all(Result::is_ok));
        assert_whole(&house.store.log(topic()));
        house.store.refused_above.store(0, Relaxed);
        let refused = send(&log, message(1, "too large alone", "x")).await;
        assert!(matches!(refused, Err(Error::NotStored(_))), "{refused:?}");
        house.store.refused_above.store(usize::MAX, Relaxed);
        send(&log, message(1, "after", "x")).await.unwrap();
        assert_eq!(house.store.log(topic()).len(), 101);
    });
}

#[test]
fn a_batch_that_never_gets_an_answer_is_settled_by_smaller_ones() {
    run(async {
        let house = House::new(1_024);
        house.store.silent_above.store(3, Relaxed);
        let call: Vec<_> = (0..32).map(|n| message(1, &n.to_string(), "x")).collect();
        let results = house.log().send(topic(), call, soon()).await;
        for (n, result) in (1..).zip(&results) {
            assert_eq!(result.as_ref().unwrap().placed.seq.get(), n);
        }
        assert_eq!(house.ears.heard.lock().unwrap().len(), 32);
    });
}

#[test]
fn while_the_store_is_away_the_outcome_is_said_to_be_unknown_and_a_retry_settles_it() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        house.store.fail([Fault::Applied, Fault::Lost, Fault::Lost]);
        house.store.fail(vec![Fault::Lost; 20]);
        let call = vec![message(1, "a", "x"), message(1, "b", "x")];
        let results = log.send(topic(), call.clone(), soon()).await;
        assert!(
            results
                .iter()
                .all(|r| matches!(r, Err(Error::OutcomeUnknown))),
            "{results:?}"
        );
        house.store.state.lock().unwrap().faults.clear();
        let again = log.send(topic(), call, soon()).await;
        assert!(again.iter().all(|r| r.as_ref().unwrap().duplicate));
        assert_whole(&house.store.log(topic()));
        assert_eq!(house.store.log(topic()).len(), 3);
    });
}

#[test]
fn a_store_that_is_away_is_given_up_soon_and_only_what_may_be_stored_is_unknown() {
    run(async {
        let mut house = House::new(1_024);
        house.config.batch_entries = 2;
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        let appends = house.store.appends.load(Relaxed);
        house.store.fail([Fault::Lost, Fault::Away, Fault::Away]);
        house.store.fail(vec![Fault::Away; 3]);
        let call: Vec<_> = (0..4).map(|n| message(1, &n.to_string(), "x")).collect();
        let results = log.send(topic(), call.clone(), soon()).await;
        assert!(
            matches!(
                results[..],
                [
                    Err(Error::OutcomeUnknown),
                    Err(Error::OutcomeUnknown),
                    Err(Error::Store(_)),
                    Err(Error::Store(_))
                ]
            ),
            "{results:?}"
        );
        let tries = house.store.appends.load(Relaxed) - appends;
        assert_eq!(tries, 6, "three for each batch, and no smaller ones");
        let again = log.send(topic(), call, soon()).await;
        assert!(again.iter().all(|sent| sent.is_ok()));
        assert_eq!(house.store.log(topic()).len(), 5);
    });
}

#[test]
fn what_may_be_stored_is_unknown_even_where_a_smaller_batch_is_refused() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        // The whole batch arrives late, and the store refuses everything else meanwhile.
        house.store.fail([Fault::Late(30)]);
        house.store.fail(vec![Fault::Refused; 20]);
        let call = vec![message(1, "a", "x"), message(1, "b", "x")];
        let results = log.send(topic(), call.clone(), soon()).await;
        assert!(
            results
                .iter()
                .all(|r| matches!(r, Err(Error::OutcomeUnknown))),
            "{results:?}"
        );
        assert_eq!(house.store.log(topic()).len(), 3, "it did arrive");
        house.store.state.lock().unwrap().faults.clear();
        let again = log.send(topic(), call, soon()).await;
        assert!(again.iter().all(|r| r.as_ref().unwrap().duplicate));
    });
}

#[test]
fn an_unknown_outcome_that_was_applied_is_found_and_announced() {
    run(async {
        let house = House::new(1_024);
        let log = house.log();
        house.store.fail([Fault::Applied]);
        let sent = send(&log, message(1, "a", "x")).await.unwrap();
        assert_eq!((sent.placed.seq.get(), sent.duplicate), (1, false));
        assert_eq!(*house.ears.heard.lock().unwrap(), [sent.placed]);
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
fn an_append_that_goes_on_for_long_stops_when_its_sender_is_removed() {
    run(async {
        let house = House::new(8);
        let log = house.log();
        send(&log, message(1, "warm", "up")).await.unwrap();
        let appends = &house.store.appends;
        let before = appends.load(Relaxed);
        house.store.fail([Fault::Lost; 64]);
        house.store.append_ms.store(1_500, Relaxed);
        let removal = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let removed = UserId::new(1).unwrap();
            house.doorman.refuses.lock().unwrap().insert(removed);
        };
        let sending = send(&log, message(1, "late", "x"));
        let (sent, ()) = futures::future::join(sending, removal).await;
        assert!(matches!(sent, Err(Error::OutcomeUnknown)), "{sent:?}");
        // A third would begin after three seconds.
        assert_eq!(appends.load(Relaxed) - before, 2);
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

/// One call of a client in a trial.
#[derive(Clone, Debug)]
struct CallPlan {
    writer: usize,
    messages: Vec<(i64, u8, u8)>,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Away),
        2 => Just(Fault::Applied),
        2 => Just(Fault::Lost),
        2 => (0_usize..12).prop_map(Fault::Late),
    ]
}

fn call_plan() -> impl Strategy<Value = CallPlan> {
    (
        0_usize..2,
        prop::collection::vec((1_i64..4, 0_u8..24, 0_u8..10), 1..6),
    )
        .prop_map(|(writer, messages)| CallPlan {
            writer,
            // One in ten differs in its content.
            messages: messages
                .into_iter()
                .map(|(o, s, b)| (o, s, u8::from(b == 0)))
                .collect(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any mixture of conflict, time-out with the write applied, not applied, or
    /// applied late, restart, and two writers: no stamp twice, no hole, no loss.
    #[test]
    fn no_stamp_twice_no_hole_no_loss(
        capacity in 1_u32..12,
        faults in prop::collection::vec(fault(), 0..120),
        rounds in prop::collection::vec(
            (prop::collection::vec(call_plan(), 1..5), any::<bool>(), any::<bool>()),
            1..10,
        ),
    ) {
        run(async {
            let house = House::new(capacity);
            house.store.fail(faults);
            let mut logs = [house.log(), house.log()];
            let witness = Witness::default();
            for (calls, restart_first, restart_second) in rounds {
                let under_way = calls.iter().map(|call| {
                    let log = &logs[call.writer];
                    let messages: Vec<_> = call
                        .messages
                        .iter()
                        .map(|(owner, stamp, body)| message(*owner, &stamp.to_string(), &body.to_string()))
                        .collect();
                    async move {
                        let answers = log.send(topic(), messages.clone(), soon()).await;
                        (messages, answers)
                    }
                });
                for (call, answers) in join_all(under_way).await {
                    witness.hear(call, answers);
                }
                if restart_first {
                    logs[0] = house.log();
                }
                if restart_second {
                    logs[1] = house.log();
                }
            }
            witness.check(&house.store.log(topic()), &house.ears);
        });
    }
}
