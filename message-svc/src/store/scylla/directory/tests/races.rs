//! Two processes that change the same users' memberships at once.

use std::collections::BTreeSet;

use futures::future::join;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::{Joined, StoreError};

const TOPICS: i64 = 3;
const OPERATIONS: usize = 12;

/// A change that was told to have been made, and the version that it gave.
#[derive(Clone, Copy, Debug)]
enum Told {
    Joined(i64, i64),
    Left(i64, i64),
    Enrolled(i64),
}

impl Told {
    fn version(self) -> i64 {
        match self {
            Self::Joined(version, _) | Self::Left(version, _) | Self::Enrolled(version) => version,
        }
    }
}

/// Random operations on one user; what was told of them, and whether each had an answer.
async fn operate(store: &ScyllaStore, mut rng: StdRng, of: i64) -> (Vec<Told>, bool) {
    let mut told = Vec::new();
    let mut all_answered = true;
    for _ in 0..OPERATIONS {
        let on = rng.random_range(1..=TOPICS);
        let answer: Result<Option<Told>, StoreError> = match rng.random_range(0..8) {
            0 => {
                let defaults: Vec<_> = (1..=TOPICS).map(|on| membership(on, of)).collect();
                let answer = store.enrol(user(of), &defaults).await;
                answer.map(|version| Some(Told::Enrolled(version)))
            }
            1..=4 => store
                .join(&membership(on, of))
                .await
                .map(|joined| match joined {
                    Joined::New(_, version) => Some(Told::Joined(version, on)),
                    Joined::Already(_) => None,
                    Joined::Full => panic!("full"),
                }),
            _ => {
                let answer = store.leave(topic(on), user(of)).await;
                answer.map(|version| version.map(|version| Told::Left(version, on)))
            }
        };
        match answer {
            Ok(answer) => told.extend(answer),
            Err(StoreError::Unavailable(_)) => all_answered = false,
            Err(error) => panic!("{error}"),
        }
    }
    (told, all_answered)
}

/// What was told agrees with itself and with what is there.
async fn check(store: &ScyllaStore, of: i64, mut told: Vec<Told>, all_answered: bool) {
    let last = version(store, user(of)).await;
    // Who was enrolled before is told the version that there is.
    told.sort_by_key(|told| (told.version(), matches!(told, Told::Enrolled(_))));
    let mut changed = BTreeSet::new();
    for told in &told {
        let is_new = changed.insert(told.version());
        assert!(is_new || matches!(told, Told::Enrolled(_)), "{told:?}");
        assert!((1..=last).contains(&told.version()));
    }
    if !all_answered {
        return;
    }
    assert!(changed.into_iter().eq(1..=last), "every version was told");
    let mut enrolled = false;
    let mut joined = BTreeSet::new();
    for told in told {
        match told {
            Told::Joined(_, on) => assert!(joined.insert(on)),
            Told::Left(_, on) => assert!(joined.remove(&on)),
            Told::Enrolled(_) if enrolled => {}
            Told::Enrolled(_) => {
                enrolled = true;
                joined.extend(1..=TOPICS);
            }
        }
    }
    let now = store.memberships(user(of), None, 10).await.unwrap();
    assert!(now.iter().map(|row| row.topic.get()).eq(joined));
}

/// Lists all the time; who stays is in every listing.
async fn list(store: &ScyllaStore, stays: i64, end: CancellationToken) {
    while !end.is_cancelled() {
        for on in 1..=TOPICS {
            let listed = members(store, topic(on), 2).await;
            assert!(listed.is_sorted_by(|a, b| a.user < b.user));
            assert!(listed.contains(&membership(on, stays)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_changes_of_one_user_are_made_one_after_the_other() {
    let (first, second, keyspace) = pair().await;
    let lister = Replica::of(&keyspace).await;
    let mut users = vec![1];
    for on in 1..=TOPICS {
        first.store.join(&membership(on, 1)).await.unwrap();
    }
    let seeds = std::env::var("DRIVERS_TEST_SEEDS").map_or(20, |text| text.parse().unwrap());
    for seed in 0..seeds {
        println!("seed {seed}");
        let of = 30_000 * (i64::try_from(seed).unwrap() + 1);
        users.push(of);
        for (number, replica) in [&first, &second].into_iter().enumerate() {
            let faults = Mutex::new(StdRng::seed_from_u64(seed * 4 + number as u64));
            // Every other seed loses answers and requests.
            replica
                .cql
                .fail(move |_| match faults.lock().unwrap().random_range(0..20) {
                    0 if seed % 2 == 1 => Fault::AnswerLost,
                    1 if seed % 2 == 1 => Fault::Lost,
                    _ => Fault::None,
                });
        }
        let end = CancellationToken::new();
        let operations = async {
            let rng = |number| StdRng::seed_from_u64(seed * 4 + number);
            let ((mut told, one), (more, other)) = join(
                operate(&first.store, rng(2), of),
                operate(&second.store, rng(3), of),
            )
            .await;
            end.cancel();
            told.extend(more);
            (told, one && other)
        };
        let ((told, all_answered), ()) =
            join(operations, list(&lister.store, 1, end.clone())).await;
        check(&lister.store, of, told, all_answered).await;
    }
    let topics: Vec<_> = (1..=TOPICS).collect();
    check_listings(&lister.store, &topics, &users).await;
}
