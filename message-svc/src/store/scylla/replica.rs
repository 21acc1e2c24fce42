//! One process over a keyspace, with connections and faults of its own, for tests.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use chassis::cql::{
    Cql,
    faults::Fault,
    testing::{Keyspace, fresh_keyspace},
};
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::{MIGRATIONS, ScyllaStore};

/// A store of its own for a case of a conformance suite.
pub(super) async fn fresh() -> (Arc<ScyllaStore>, Keyspace) {
    let (cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

pub(super) struct Replica {
    pub(super) cql: Cql,
    pub(super) store: Arc<ScyllaStore>,
}

impl Replica {
    pub(super) fn of(keyspace: &Keyspace) -> BoxFuture<'_, Self> {
        Box::pin(async {
            let cql = Cql::connect(&keyspace.url).await.unwrap();
            let store = Arc::new(ScyllaStore::open(&cql).await.unwrap());
            Self { cql, store }
        })
    }

    /// Does `fault` to the request with this number, from now on; a crash is one of all that
    /// follow too. Counts the requests, and tells of a crash.
    pub(super) fn fail_at(&self, at: usize, fault: Fault) -> (Arc<AtomicUsize>, Arc<Notify>) {
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
    pub(super) fn requests(&self) -> Arc<Mutex<Vec<&'static str>>> {
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
pub(super) fn pair() -> BoxFuture<'static, (Replica, Replica, Keyspace)> {
    Box::pin(async {
        let (_cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
        let first = Replica::of(&keyspace).await;
        (first, Replica::of(&keyspace).await, keyspace)
    })
}
