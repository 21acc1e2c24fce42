//! What every measure stands on: a keyspace of its own, logs over it, and pairs.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chassis::{
    call::ActingUser,
    cql::{Cql, CqlUrl, migrations::migrate},
    id::{TopicId, UserId},
};
use message_svc::{
    entry::{Content, Placed},
    error::Error,
    log::{Admission, Announcer, Log, LogConfig, Outgoing},
    store::{
        LogStore,
        scylla::{MIGRATIONS, ScyllaStore},
    },
};

pub(crate) struct Rig {
    pub(crate) cql: Cql,
    next_topic: AtomicI64,
}

/// Lets everybody post, and tells nobody.
pub(crate) struct Everybody;

#[async_trait]
impl Admission for Everybody {
    async fn admit(&self, _: TopicId, _: UserId) -> Result<(), Error> {
        Ok(())
    }
}

impl Announcer for Everybody {
    fn appended(&self, _: &[Placed]) {}
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let server = std::env::var("DRIVERS_BENCH_CQL").unwrap_or_else(|_| {
            panic!("DRIVERS_BENCH_CQL names no server: start one by tests/cassandra/start")
        });
        let name = format!("bench{:x}", rand::random::<u32>());
        let url: CqlUrl = format!(
            "scylla://{server}/{name}?replication=1&single_replica=accept&timeout_ms=10000"
        )
        .parse()
        .unwrap();
        migrate(&url, &[MIGRATIONS]).await.unwrap();
        Self {
            cql: Cql::connect(&url).await.unwrap(),
            next_topic: AtomicI64::new(1),
        }
    }

    pub(crate) async fn end(self) {
        let drop = format!("DROP KEYSPACE {}", self.cql.url().keyspace);
        let drop = self.cql.write("drop", &drop);
        let _slow = self.cql.run(&drop, ()).await;
    }

    /// A topic that nobody has written to.
    pub(crate) fn fresh_topic(&self) -> TopicId {
        TopicId::new(self.next_topic.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    pub(crate) async fn store(&self) -> Arc<ScyllaStore> {
        Arc::new(ScyllaStore::open(&self.cql).await.unwrap())
    }

    pub(crate) async fn log(&self) -> Log {
        log_over(self.store().await)
    }
}

pub(crate) fn log_over(store: Arc<dyn LogStore>) -> Log {
    Log::new(
        store,
        Arc::new(Everybody),
        Arc::new(Everybody),
        LogConfig::default(),
    )
}

/// What the database compacts after a filling is no part of what is measured then.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// A body of 160 bytes, as in the raw rows.
pub(crate) const BODY: &str = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

pub(crate) fn message(owner: i64) -> Outgoing {
    Outgoing {
        owner: ActingUser {
            id: UserId::new(owner).unwrap(),
            username: format!("sender {owner}"),
        },
        stamp: None,
        content: Content {
            body: BODY.to_owned(),
            reply_to: None,
            attrs: None,
            has_media: false,
        },
    }
}

/// Sends one message and waits for its answer; how long that took.
pub(crate) async fn send(log: &Log, topic: TopicId, owner: i64) -> Duration {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(30);
    for answer in log.send(topic, vec![message(owner)], deadline.into()).await {
        answer.unwrap();
    }
    begun.elapsed()
}

/// `senders` people who each send to the topic of their number, one message after the other, for
/// this long; messages a second.
pub(crate) async fn throughput(log: &Log, topics: &[TopicId], senders: i64, span: Duration) -> f64 {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for topic in topics.iter().copied() {
        for owner in 1..=senders {
            let log = log.clone();
            tasks.push(tokio::spawn(async move {
                let mut sent = 0_u32;
                while begun.elapsed() < span {
                    send(&log, topic, owner).await;
                    sent += 1;
                }
                sent
            }));
        }
    }
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap();
    }
    f64::from(sent) / begun.elapsed().as_secs_f64()
}

pub(crate) fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Ratios of pairs that ran one after the other, and what each side measured.
#[derive(Default)]
pub(crate) struct Pairs {
    sides: Mutex<Vec<(f64, f64)>>,
}

impl Pairs {
    pub(crate) fn count() -> u64 {
        number_of("DRIVERS_BENCH_PAIRS", 11)
    }

    pub(crate) fn add(&self, ours: f64, raw: f64) {
        self.sides.lock().unwrap().push((ours, raw));
    }

    /// Prints the medians, and the ratio `ours / raw` beside what it should be.
    pub(crate) fn report(&self, what: &str, unit: &str, target: &str) {
        let sides = self.sides.lock().unwrap();
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (
                values[values.len() / 2],
                values[0],
                values[values.len() - 1],
            )
        };
        let (ours, ..) = median(sides.iter().map(|(ours, _)| *ours).collect());
        let (raw, ..) = median(sides.iter().map(|(_, raw)| *raw).collect());
        let (ratio, least, most) = median(sides.iter().map(|(ours, raw)| ours / raw).collect());
        println!(
            "  {what}: {ours:.2} against {raw:.2} {unit}, ratio {ratio:.2} ({least:.2} to {most:.2}, {} pairs), target {target}",
            sides.len()
        );
    }
}

/// The value below which this share of the values lies.
pub(crate) fn percentile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}
