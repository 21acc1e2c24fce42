//! Appends that are refused, lost or never answered.

use super::*;

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
