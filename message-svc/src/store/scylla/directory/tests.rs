#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod crashes;
mod listings;
mod races;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use chassis::{
    cql::{
        Cql,
        faults::Fault,
        testing::{Keyspace, fresh_keyspace},
    },
    id::{Seq, TopicId, UserId},
};
use tokio::sync::Notify;

use crate::store::{
    DirectoryStore as _, Membership,
    scylla::{MIGRATIONS, ScyllaStore},
};

async fn fresh() -> (Arc<ScyllaStore>, Keyspace) {
    let (cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

crate::store::conformance::directory_suite!(fresh);

/// One process over the keyspace, with connections and faults of its own.
struct Replica {
    cql: Cql,
    store: ScyllaStore,
}

impl Replica {
    async fn of(keyspace: &Keyspace) -> Self {
        let cql = Cql::connect(&keyspace.url).await.unwrap();
        let store = ScyllaStore::open(&cql).await.unwrap();
        Self { cql, store }
    }

    /// Does `fault` to the request with this number, from now on; a crash is one of all that
    /// follow too. Counts the requests, and tells of a crash.
    fn fail_at(&self, at: usize, fault: Fault) -> (Arc<AtomicUsize>, Arc<Notify>) {
        let (requests, died) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, dies) = (Arc::clone(&requests), Arc::clone(&died));
        self.cql.fail(move |_| {
            let number = counted.fetch_add(1, SeqCst);
            if fault == Fault::CrashBefore && number >= at {
                dies.notify_one();
                fault
            } else if number == at {
                fault
            } else {
                Fault::None
            }
        });
        (requests, died)
    }

    /// Writes down the names of the requests from now on.
    fn requests(&self) -> Arc<Mutex<Vec<&'static str>>> {
        let names = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&names);
        self.cql.fail(move |name| {
            written.lock().unwrap().push(name);
            Fault::None
        });
        names
    }
}

/// Two replicas over one keyspace: one to which things happen, one that looks on.
async fn pair() -> (Replica, Replica, Keyspace) {
    let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    let first = Replica::of(&keyspace).await;
    (first, Replica::of(&keyspace).await, keyspace)
}

fn topic(id: i64) -> TopicId {
    TopicId::new(id).unwrap()
}

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn membership(of_topic: i64, of_user: i64) -> Membership {
    Membership {
        topic: topic(of_topic),
        user: user(of_user),
        joined_at: Seq::new(of_topic * 7),
        join_time_ms: of_user * 11,
    }
}

/// All members of a topic, page by page.
async fn members(store: &ScyllaStore, of: TopicId, page: usize) -> Vec<Membership> {
    let mut all: Vec<Membership> = Vec::new();
    loop {
        let after = all.last().map(|row| row.user);
        let more = store.members(of, after, page).await.unwrap();
        let is_last = more.len() < page;
        all.extend(more);
        if is_last {
            return all;
        }
    }
}

async fn version(store: &ScyllaStore, of: UserId) -> i64 {
    store.membership_versions(&[of]).await.unwrap()[0]
}

/// The members of each topic are those that these users' memberships say, no more and no less.
async fn check_listings(store: &ScyllaStore, topics: &[i64], users: &[i64]) {
    let mut expected: BTreeMap<TopicId, Vec<Membership>> = BTreeMap::new();
    let mut users = users.to_vec();
    users.sort_unstable();
    for of in users {
        for row in store.memberships(user(of), None, 2_000).await.unwrap() {
            expected.entry(row.topic).or_default().push(row);
        }
    }
    for of in topics {
        let expected = expected.remove(&topic(*of)).unwrap_or_default();
        // The first listing settles what it finds open; the second believes it.
        for page in [3, 1_000] {
            assert_eq!(members(store, topic(*of), page).await, expected);
        }
    }
    assert!(expected.is_empty(), "{expected:?}");
}
