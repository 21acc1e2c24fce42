//! Many sign-ups for one phone number at once, while processes die or stand still and
//! answers get lost.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use chassis::cql::{faults::Fault, testing::fresh_keyspace};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

use super::*;
use crate::{store::conformance::profile, token::Token};

const RACERS: usize = 20;
const SEEDS: u64 = 20;

/// Of a hundred statements: in front of or behind how many the process dies, how many come
/// when their sign-up was taken for dead, and how many changes are lost or have their answers
/// lost. (The loss of a look ends a sign-up, and shows nothing else.)
const CRASHES: u32 = 2;
const LATE: u32 = 3;
const LOSSES: u32 = 12;

#[derive(Clone)]
struct Racer {
    profile: Profile,
    token: TokenHash,
}

/// Each fourth shares its name with others, each fifth repeats another's request.
fn racers(seed: u64) -> Vec<Racer> {
    let mut racers: Vec<Racer> = Vec::new();
    for number in 0..RACERS {
        let name = match number % 4 {
            0 => format!("seed {seed}"),
            _ => format!("s {seed} r {number}"),
        };
        let racer = match racers.last() {
            Some(last) if number % 5 == 4 => last.clone(),
            _ => Racer {
                profile: profile(&format!("9989{seed:07}"), &name),
                token: Token::random().hash(),
            },
        };
        racers.push(racer);
    }
    racers
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phone_number_has_one_account_whoever_dies_and_whatever_is_lost() {
    let (cql, _keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let mut stores = Vec::new();
    for _ in 0..RACERS {
        stores.push(Arc::new(ScyllaStore::open(&cql).await.unwrap()));
    }
    let survivor = ScyllaStore::open(&cql).await.unwrap();

    for seed in 0..SEEDS {
        let racers = racers(seed);
        let dead = Arc::new(AtomicUsize::new(0));
        let deaths = Arc::clone(&dead);
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        cql.fail(move |name| {
            let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
            let roll = dice.random_range(0..100);
            if roll < CRASHES {
                deaths.fetch_add(1, Ordering::Relaxed);
                if dice.random() {
                    Fault::CrashBefore
                } else {
                    Fault::CrashAfter
                }
            } else if roll < CRASHES + LATE {
                Fault::Late(Duration::from_millis(600))
            } else if roll < CRASHES + LATE + LOSSES && !name.ends_with("_look") {
                if dice.random() {
                    Fault::AnswerLost
                } else {
                    Fault::Lost
                }
            } else {
                Fault::None
            }
        });
        let mut running = JoinSet::new();
        for (racer, store) in racers.iter().zip(&stores) {
            let (racer, store) = (racer.clone(), Arc::clone(store));
            running.spawn(async move {
                let answer = store.open_account(&racer.profile, &racer.token, 7).await;
                (racer, answer)
            });
        }
        // Until all others have an answer; what died never ends, and is ended at the end.
        let mut answers = Vec::new();
        let mut looks = interval(Duration::from_millis(20));
        let racing = async {
            while answers.len() + dead.load(Ordering::Relaxed) < RACERS {
                tokio::select! {
                    Some(answer) = running.join_next() => answers.push(answer.unwrap()),
                    _ = looks.tick() => {}
                }
            }
        };
        timeout(Duration::from_secs(60), racing).await.unwrap();
        cql.heal();
        running.shutdown().await;

        let opened: Vec<&Account> = answers
            .iter()
            .filter_map(|(_, answer)| match answer {
                Ok(Opened::New(account)) => Some(account),
                _ => None,
            })
            .collect();
        assert!(opened.len() <= 1, "seed {seed}: {opened:?}");

        let begun = Instant::now();
        let late = racers.first().unwrap();
        let token = Token::random().hash();
        let last = survivor.open_account(&late.profile, &token, 7).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "seed {seed}");
        let the_one = match last {
            Ok(
                Opened::New(account)
                | Opened::PhoneNumberTaken {
                    holder: account, ..
                },
            ) => account,
            other => panic!("seed {seed}: {other:?}"),
        };
        let mut outcomes = [0; 4];
        for (racer, answer) in &answers {
            match answer {
                Ok(Opened::New(account)) => {
                    outcomes[0] += 1;
                    assert_eq!(account, &the_one, "seed {seed}");
                }
                Ok(Opened::PhoneNumberTaken { holder, .. }) => {
                    outcomes[1] += 1;
                    assert_eq!(holder, &the_one, "seed {seed}");
                }
                // Nobody else wants these numbers: a name is only ever taken by a namesake with
                // the same number, and that is told first.
                Err(StoreError::Unavailable(_)) => outcomes[2] += 1,
                other => panic!("seed {seed}, {racer:?}: {other:?}", racer = racer.profile),
            }
        }
        outcomes[3] = RACERS - answers.len();
        println!(
            "seed {seed}: opened {}, told of it {}, unavailable {}, died {}",
            outcomes[0], outcomes[1], outcomes[2], outcomes[3]
        );
        // A token signs in if and only if it is one of that account.
        let mut holders = HashSet::new();
        for racer in &racers {
            if let Some(account) = survivor.account_of(&racer.token).await.unwrap() {
                assert_eq!(account, the_one, "seed {seed}");
                assert_eq!(account.profile, racer.profile, "seed {seed}");
                holders.insert(racer.token);
            }
        }
        assert!(holders.len() <= 1, "seed {seed}");
        let open = open_accounts_with(&cql, the_one.profile.phone_number.as_str()).await;
        assert_eq!(open, [the_one.id.get()], "seed {seed}");
    }
}

/// Whatever the claims say: the rows themselves.
async fn open_accounts_with(cql: &Cql, phone_number: &str) -> Vec<i64> {
    let all = cql.read(
        "all_accounts",
        "SELECT id, state, phone_number FROM accounts",
    );
    let rows: Vec<(i64, String, Option<String>)> = cql.rows(&all, ()).await.unwrap();
    rows.into_iter()
        .filter(|(_, state, number)| state == "open" && number.as_deref() == Some(phone_number))
        .map(|(id, ..)| id)
        .collect()
}
