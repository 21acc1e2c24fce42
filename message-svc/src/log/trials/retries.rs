//! The same message again: at once, together with others, and after a long time.

use super::*;

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
