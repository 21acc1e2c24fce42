//! Several replicas of the rules that write to one topic.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chassis::{
    cql::{
        faults::Fault,
        testing::{Keyspace, fresh_keyspace},
    },
    id::TopicId,
};
use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{call, capacity, rules, topic, whole_log};
use crate::{
    log::{
        Log, Outgoing,
        trials::witness::{Ears, Witness, message},
    },
    store::scylla::{MIGRATIONS, replica::Replica},
};

const REPLICAS: usize = 4;
const CLIENTS: i64 = 4;
const CALLS: usize = 40;
const MOST_OF_A_CALL: usize = 20;

/// A new replica of the rules makes segments of one of these sizes.
const CAPACITIES: [u32; 4] = [8, 8, 16, 1_024];

fn fault(random: &mut StdRng, statement: &str) -> Fault {
    let (answer_lost, lost) = match statement {
        "log_append" | "log_open_segment" | "block_begin" | "block_take" => (0.08, 0.04),
        _ => (0.01, 0.01),
    };
    let drawn: f64 = random.random();
    if drawn < answer_lost {
        Fault::AnswerLost
    } else if drawn < answer_lost + lost {
        Fault::Lost
    } else {
        Fault::None
    }
}

/// A replica whose rules are started anew now and then.
struct Process {
    replica: Replica,
    log: Mutex<Log>,
}

impl Process {
    fn log(&self) -> Log {
        self.log.lock().unwrap().clone()
    }

    fn restart(&self, capacity_of_segments: u32, ears: &Arc<Ears>) {
        *self.log.lock().unwrap() = rules(&self.replica, capacity(capacity_of_segments), ears);
    }
}

/// Sends calls one after the other, each to a replica of its choice, until all their
/// messages are sent; now and then with a message that it knows to be sent.
async fn client(
    owner: i64,
    topic: TopicId,
    mut random: StdRng,
    processes: &[Process],
    witness: &Witness,
    ears: &Arc<Ears>,
) -> usize {
    let mut sent: Vec<Outgoing> = Vec::new();
    for _ in 0..CALLS {
        let count = random.random_range(1..=MOST_OF_A_CALL);
        let fresh: Vec<_> = (sent.len()..sent.len() + count)
            .map(|n| message(owner, &n.to_string(), &format!("{owner} says {n}")))
            .collect();
        let mut waiting = fresh.clone();
        if !sent.is_empty() && random.random_bool(0.3) {
            waiting.insert(0, sent[random.random_range(0..sent.len())].clone());
        }
        sent.extend(fresh);
        while !waiting.is_empty() {
            let process = &processes[random.random_range(0..processes.len())];
            if random.random_bool(0.03) {
                process.restart(CAPACITIES[random.random_range(0..CAPACITIES.len())], ears);
            }
            waiting = call(&process.log(), topic, waiting, witness).await;
        }
    }
    sent.len()
}

async fn race(keyspace: &Keyspace, topic: TopicId, seed: u64) {
    let ears = Arc::new(Ears::default());
    let witness = Witness::default();
    let mut random = StdRng::seed_from_u64(seed);
    let mut processes = Vec::new();
    for _ in 0..REPLICAS {
        let replica = Replica::of(keyspace).await;
        let faults = Mutex::new(StdRng::seed_from_u64(random.random()));
        replica
            .cql
            .fail(move |statement| fault(&mut faults.lock().unwrap(), statement));
        let size = CAPACITIES[random.random_range(0..CAPACITIES.len())];
        processes.push(Process {
            log: Mutex::new(rules(&replica, capacity(size), &ears)),
            replica,
        });
    }
    let clients = (1..=CLIENTS).map(|owner| {
        let random = StdRng::seed_from_u64(random.random());
        client(owner, topic, random, &processes, &witness, &ears)
    });
    let all = tokio::time::timeout(Duration::from_secs(300), join_all(clients));
    let sent: usize = all.await.unwrap().into_iter().sum();

    let onlooker = Replica::of(keyspace).await;
    let log = whole_log(&rules(&onlooker, capacity(8), &ears), topic).await;
    assert_eq!((witness.told(), log.len()), (sent, sent));
    witness.check(&log, &ears);
}

/// How many seeds are tried; `DRIVERS_TEST_SEED` repeats one.
const SEEDS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn four_replicas_make_one_log_whatever_is_lost_on_the_way() {
    let seeds: Vec<u64> = match std::env::var("DRIVERS_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let count = std::env::var("DRIVERS_TEST_SEEDS");
            let count = count.map_or(SEEDS, |count| count.parse().unwrap());
            (0..count).map(|_| rand::random()).collect()
        }
    };
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    for (n, seed) in (1..).zip(seeds) {
        println!("DRIVERS_TEST_SEED={seed}");
        race(&keyspace, topic(n), seed).await;
    }
}
