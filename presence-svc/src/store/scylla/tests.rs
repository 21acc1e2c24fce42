#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod churn;
mod crashes;
mod expiry;
mod late;
mod races;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chassis::cql::{
    faults::Fault,
    testing::{self, Keyspace},
};
use tokio::{select, sync::Notify, time::timeout};

use super::{
    sessions::{Open, SHARDS},
    sweep::SETTLE,
    *,
};
use crate::{session::SessionId, store::conformance};

async fn fresh() -> (Arc<dyn Store>, Keyspace) {
    let (cql, keyspace) = testing::fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

conformance::suite!(fresh);

#[test]
fn every_migration_is_known() {
    testing::check_folder(&MIGRATIONS, env!("CARGO_MANIFEST_DIR"));
}

const LIMIT: u64 = 1_000;

/// One process, with a connection of its own that can fail alone.
struct Replica {
    cql: Cql,
    store: Arc<ScyllaStore>,
}

async fn replica(keyspace: &Keyspace) -> Replica {
    let cql = Cql::connect(&keyspace.url).await.unwrap();
    let store = Arc::new(ScyllaStore::open(&cql).await.unwrap());
    Replica { cql, store }
}

/// Two processes over one keyspace.
async fn two() -> (Replica, Replica, Keyspace) {
    let (_, keyspace) = testing::fresh_keyspace(&[MIGRATIONS]).await;
    (replica(&keyspace).await, replica(&keyspace).await, keyspace)
}

/// The requests that change nothing: to die in front of one is to die in front of the next.
const READS: [&str; 7] = [
    "lease",
    "leases",
    "user_sessions",
    "user_sessions_serial",
    "user_presence",
    "lease_users",
    "lease_sessions",
];

impl Replica {
    /// Does something and dies in front of its `at`th write; `None` if it died.
    async fn dies<T>(&self, at: usize, work: impl Future<Output = T>) -> Option<T> {
        let died = Arc::new(Notify::new());
        let writes = AtomicUsize::new(0);
        let dying = Arc::clone(&died);
        self.cql.fail(move |name| {
            if READS.contains(&name) || writes.fetch_add(1, Ordering::SeqCst) < at {
                return Fault::None;
            }
            dying.notify_one();
            Fault::CrashBefore
        });
        let done = select! {
            done = work => Some(done),
            () = died.notified() => None,
        };
        self.cql.heal();
        done
    }

    /// Does something of which the `at`th request goes wrong. What comes of it, and which
    /// request that was, if there were so many.
    async fn fails<T>(
        &self,
        at: usize,
        fault: Fault,
        work: impl Future<Output = T>,
    ) -> (T, Option<&'static str>) {
        let requests = AtomicUsize::new(0);
        let failed = Arc::new(Mutex::new(None));
        let failing = Arc::clone(&failed);
        self.cql.fail(move |name| {
            if requests.fetch_add(1, Ordering::SeqCst) == at {
                *failing.lock().unwrap() = Some(name);
                fault
            } else {
                Fault::None
            }
        });
        let done = work.await;
        self.cql.heal();
        let failed = *failed.lock().unwrap();
        (done, failed)
    }

    async fn hold(&self, lease: LeaseId, from: i64, until: i64, take: bool) -> Held {
        let term = Term {
            from: Time::from_ms(from),
            until: Time::from_ms(until),
        };
        self.store.hold_lease(lease, term, take).await.unwrap()
    }

    async fn open(&self, lease: LeaseId, sessions: &[Session], now: i64) -> Opened {
        let now = Time::from_ms(now);
        let opened = self.store.open_sessions(lease, sessions, now, LIMIT);
        opened.await.unwrap()
    }

    async fn close(&self, lease: LeaseId, sessions: &[Session], now: i64) {
        let now = Time::from_ms(now);
        let closed = self.store.close_sessions(lease, sessions, now);
        closed.await.unwrap();
    }

    /// Whether users are online, and when they were last seen.
    async fn presences(&self, users: &[UserId], now: i64) -> Vec<(bool, Option<i64>)> {
        let presences = self.store.presences(users, Time::from_ms(now)).await;
        let tell = |presence: Presence| (presence.online, presence.last_seen.map(Time::as_ms));
        presences.unwrap().into_iter().map(tell).collect()
    }

    /// Sweeps until nothing is left to do, as often as it takes; how many sessions ended.
    async fn sweep(&self, now: i64) -> usize {
        let mut sessions = 0;
        let swept = async {
            loop {
                match self.store.sweep(Time::from_ms(now), 2).await {
                    Ok(swept) => {
                        sessions += swept.sessions;
                        if swept.done {
                            break;
                        }
                    }
                    Err(StoreError::Unavailable(_)) => {}
                    Err(error) => unreachable!("{error}"),
                }
            }
        };
        timeout(Duration::from_mins(2), swept).await.unwrap();
        sessions
    }

    /// Asserts that neither a lease nor what users had by it is anywhere.
    async fn nothing_is_left(&self, lease: LeaseId, users: &[UserId]) {
        assert_eq!(self.store.leases.one(lease).await, Ok(None));
        for user in users {
            let known = self.store.sessions.of_user(*user).await.unwrap();
            assert!(!known.leases.contains(&lease), "{user}: {known:?}");
        }
        for shard in 0..SHARDS {
            let users = self.store.sessions.users(lease, shard, None).await;
            assert_eq!(users, Ok(Vec::new()));
        }
    }
}

/// When the second round of a sweep is due whose first was over at a time.
fn settled(ms: i64) -> i64 {
    Time::from_ms(ms).after(SETTLE).as_ms()
}

fn lease(n: usize) -> LeaseId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    LeaseId::new(bytes)
}

fn user(n: usize) -> UserId {
    UserId::new(i64::try_from(n).unwrap() + 1).unwrap()
}

/// The session of a user that has this number.
fn session(user: UserId, n: usize) -> Session {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    let id = SessionId::new(bytes);
    Session { user, id }
}
