//! A store that fails on command, for the tests of the rules.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chassis::id::UserId;

use super::{Held, Opened, Store, StoreError, Swept};
use crate::{
    clock::Time,
    session::{LeaseId, Presence, Session, Term},
};

/// How a call to the store goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and nothing happened.
    Before,
    /// It happens, and its answer is lost.
    After,
}

/// Fails the next calls as told, one fault each, and then works.
pub(crate) struct FailingStore {
    inner: Arc<dyn Store>,
    faults: Mutex<VecDeque<Fault>>,
}

impl FailingStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            faults: Mutex::default(),
        }
    }

    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut queue = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(faults);
    }

    /// How many faults are still to come.
    pub(crate) fn faults_left(&self) -> usize {
        let queue = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        queue.len()
    }

    async fn disturb<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        match fault {
            None => return call.await,
            Some(Fault::Before) => {}
            Some(Fault::After) => {
                call.await?;
            }
        }
        Err(StoreError::Unavailable("told to fail".to_owned()))
    }
}

#[async_trait]
impl Store for FailingStore {
    async fn hold_lease(&self, lease: LeaseId, term: Term, take: bool) -> Result<Held, StoreError> {
        self.disturb(self.inner.hold_lease(lease, term, take)).await
    }

    async fn release_lease(&self, lease: LeaseId, now: Time) -> Result<(), StoreError> {
        self.disturb(self.inner.release_lease(lease, now)).await
    }

    async fn open_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
        limit: u64,
    ) -> Result<Opened, StoreError> {
        let call = self.inner.open_sessions(lease, sessions, now, limit);
        self.disturb(call).await
    }

    async fn close_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
    ) -> Result<(), StoreError> {
        let call = self.inner.close_sessions(lease, sessions, now);
        self.disturb(call).await
    }

    async fn sweep(&self, now: Time, limit: usize) -> Result<Swept, StoreError> {
        self.disturb(self.inner.sweep(now, limit)).await
    }

    async fn presences(&self, users: &[UserId], now: Time) -> Result<Vec<Presence>, StoreError> {
        self.disturb(self.inner.presences(users, now)).await
    }
}
