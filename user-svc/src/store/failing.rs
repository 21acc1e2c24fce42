//! A store that fails on command, for the tests of the rules.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chassis::id::UserId;

use super::{Added, Opened, Store, StoreError, Tokens};
use crate::{
    account::{Account, Profile},
    token::TokenHash,
};

/// How a call to the store goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and nothing happened.
    Before,
    /// It happens, and its answer is lost.
    After,
    /// It happens, and is never answered.
    Silence,
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

    async fn disturb<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let failed = || Err(StoreError::Unavailable("told to fail".to_owned()));
        match fault {
            None => call.await,
            Some(Fault::Before) => failed(),
            Some(Fault::After) => {
                call.await?;
                failed()
            }
            Some(Fault::Silence) => {
                call.await?;
                pending().await
            }
        }
    }
}

#[async_trait]
impl Store for FailingStore {
    async fn open_account(
        &self,
        profile: &Profile,
        token: &TokenHash,
        create_time_ms: i64,
    ) -> Result<Opened, StoreError> {
        let call = self.inner.open_account(profile, token, create_time_ms);
        self.disturb(call).await
    }

    async fn account_of(&self, token: &TokenHash) -> Result<Option<Account>, StoreError> {
        self.disturb(self.inner.account_of(token)).await
    }

    async fn live(&self, tokens: &[TokenHash]) -> Result<Vec<bool>, StoreError> {
        self.disturb(self.inner.live(tokens)).await
    }

    async fn live_in_reach(&self, tokens: &[TokenHash]) -> Result<Vec<Option<bool>>, StoreError> {
        self.disturb(self.inner.live_in_reach(tokens)).await
    }

    async fn accounts(&self, ids: &[UserId]) -> Result<Vec<Option<Account>>, StoreError> {
        self.disturb(self.inner.accounts(ids)).await
    }

    async fn add_token(&self, user: UserId, token: &TokenHash) -> Result<Added, StoreError> {
        self.disturb(self.inner.add_token(user, token)).await
    }

    async fn remove_tokens(
        &self,
        user: UserId,
        tokens: &Tokens,
    ) -> Result<Option<Vec<TokenHash>>, StoreError> {
        self.disturb(self.inner.remove_tokens(user, tokens)).await
    }
}
