//! What dies, or loses its answers, at each of its steps.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod overtaken;
mod sign_ups;
mod tokens;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use chassis::cql::{
    faults::Fault,
    testing::{Keyspace, fresh_keyspace},
};
use tokio::{runtime::Handle, select, sync::Notify, task::block_in_place};

use super::*;
use crate::{store::conformance::profile, token::Token};

/// A keyspace, and the processes that use it one after the other.
struct World {
    cql: Cql,
    _keyspace: Keyspace,
}

async fn world() -> World {
    let (cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    World {
        cql,
        _keyspace: keyspace,
    }
}

impl World {
    /// A process that was just started.
    async fn process(&self) -> ScyllaStore {
        ScyllaStore::open(&self.cql).await.unwrap()
    }

    /// Runs something until its process dies in front of the statement number `step`, of
    /// those that `counts`; what it answered, when it was through before.
    async fn crash<T>(
        &self,
        step: usize,
        counts: impl Fn(&str) -> bool + Send + Sync + 'static,
        doing: impl Future<Output = T>,
    ) -> Option<T> {
        let crashed = Arc::new(Notify::new());
        let (crash, seen) = (Arc::clone(&crashed), AtomicUsize::new(0));
        self.cql.fail(move |name| {
            if counts(name) && seen.fetch_add(1, Ordering::Relaxed) + 1 == step {
                crash.notify_one();
                return Fault::CrashBefore;
            }
            Fault::None
        });
        let answer = select! {
            answer = doing => Some(answer),
            () = crashed.notified() => None,
        };
        self.cql.heal();
        answer
    }

    /// Runs something while the statement number `step` goes wrong; what it was, if there
    /// was one.
    async fn fault<T>(
        &self,
        step: usize,
        fault: Fault,
        doing: impl Future<Output = T>,
    ) -> (T, Option<&'static str>) {
        let failed = Arc::new(Mutex::new(None));
        let (met, seen) = (Arc::clone(&failed), AtomicUsize::new(0));
        self.cql.fail(move |name| {
            if seen.fetch_add(1, Ordering::Relaxed) + 1 == step {
                *met.lock().unwrap() = Some(name);
                return fault;
            }
            Fault::None
        });
        let answer = doing.await;
        self.cql.heal();
        let failed = *failed.lock().unwrap();
        (answer, failed)
    }
}

impl World {
    /// Runs something while all of something else happens in front of its statement number
    /// `step`, of those that `counts`; what it answered, and whether it had so many.
    async fn overtake<T>(
        &self,
        step: usize,
        counts: impl Fn(&str) -> bool + Send + Sync + 'static,
        overtaking: impl Future<Output = ()> + Send + 'static,
        doing: impl Future<Output = T>,
    ) -> (T, bool) {
        let overtaking = Mutex::new(Some(Box::pin(overtaking)));
        let (met, seen) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let meets = Arc::clone(&met);
        self.cql.fail(move |name| {
            if counts(name) && seen.fetch_add(1, Ordering::Relaxed) + 1 == step {
                meets.store(true, Ordering::Relaxed);
                let overtaking = overtaking.lock().unwrap().take();
                block_in_place(|| Handle::current().block_on(overtaking.unwrap()));
            }
            Fault::None
        });
        let answer = doing.await;
        self.cql.heal();
        (answer, met.load(Ordering::Relaxed))
    }
}

fn every(_statement: &str) -> bool {
    true
}

/// Statements that change something: a crash in front of a look leaves what a crash in
/// front of the next of these leaves.
fn changes(statement: &str) -> bool {
    !statement.ends_with("_look")
}

fn fresh_token() -> TokenHash {
    Token::random().hash()
}

/// A person of a trial: somebody with a number and a name of his own.
fn person(trial: usize, number: usize) -> Profile {
    let id = trial * 10 + number;
    profile(&format!("9989{id:07}"), &format!("person {id}"))
}

/// Long enough for three claims in a row to be waited for, and far below a minute.
const SOON: Duration = Duration::from_secs(4);

/// A sign-up that has to be answered soon.
async fn sign_up(store: &ScyllaStore, profile: &Profile, token: &TokenHash) -> Opened {
    let begun = Instant::now();
    let opened = store.open_account(profile, token, 7).await.unwrap();
    assert!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    opened
}
