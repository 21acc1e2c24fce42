//! The rules of accounts and tokens.

use std::sync::Arc;

use chassis::{clock::now_ms, id::UserId};
use tokio_util::task::TaskTracker;

use crate::{
    account::{Account, Profile},
    error::{Error, FormError},
    revocations::Revocations,
    store::{Added, Opened, Store, StoreError, Tokens},
    token::{RequestId, Token, TokenHash},
};

#[cfg(test)]
mod power_cuts;
#[cfg(test)]
pub(crate) mod tests;

/// The accounts and their tokens.
#[derive(Clone)]
pub struct Users {
    store: Arc<dyn Store>,
    revocations: Arc<Revocations>,
    tasks: TaskTracker,
}

impl Users {
    /// Rules above a store. `tasks` owns what must end although its caller left.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        revocations: Arc<Revocations>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            store,
            revocations,
            tasks,
        }
    }

    /// Opens an account and issues its first token. With the same request again,
    /// the same account and token are answered: the token derives from the
    /// request, so whoever repeats it had the token already.
    ///
    /// # Errors
    /// [`Error::PhoneNumberTaken`], [`Error::UsernameTaken`]: nothing was stored.
    /// [`Error::FieldsInvalid`]: the request id was used for another sign-up.
    /// [`Error::Store`]: the outcome is not known.
    pub async fn sign_up(
        &self,
        profile: Profile,
        request: Option<RequestId>,
    ) -> Result<(Account, Token), Error> {
        let token = match &request {
            Some(request) => Token::of_sign_up(request),
            None => Token::random(),
        };
        let opened = self
            .store
            .open_account(&profile, &token.hash(), now_ms())
            .await?;
        let outcome = match opened {
            Opened::New(account) => Ok((account, token)),
            Opened::PhoneNumberTaken {
                holder,
                holds_token: true,
            } if holder.profile.username == profile.username => Ok((holder, token)),
            Opened::PhoneNumberTaken { .. } => Err(Error::PhoneNumberTaken),
            Opened::UsernameTaken => Err(Error::UsernameTaken),
            Opened::TokenTaken => Err(Error::FieldsInvalid(vec![
                FormError::Breaks("was used for another sign-up").in_field("request_id"),
            ])),
        };
        let label = match &outcome {
            Ok(_) => "ok",
            Err(_) => "refused",
        };
        metrics::counter!("drivers_user_sign_ups_total", "outcome" => label).increment(1);
        outcome
    }

    /// The account whose live token has this text.
    ///
    /// # Errors
    /// [`Error::TokenInvalid`] for any other text; [`Error::Store`].
    pub async fn authenticate(&self, token: &str) -> Result<Account, Error> {
        let token = Token::parse(token).ok_or(Error::TokenInvalid)?;
        let account = self.store.account_of(&token.hash()).await?;
        account.ok_or(Error::TokenInvalid)
    }

    /// Which tokens are live, in the order asked; `None` where that can't be told now.
    ///
    /// # Errors
    /// [`Error::Store`], when it can be told of none.
    pub async fn live_tokens(&self, tokens: &[TokenHash]) -> Result<Vec<Option<bool>>, Error> {
        Ok(self.store.live_in_reach(tokens).await?)
    }

    /// One account.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::Store`].
    pub async fn user(&self, id: UserId) -> Result<Account, Error> {
        let accounts = self.store.accounts(&[id]).await?;
        let account = accounts.into_iter().next().flatten();
        account.ok_or(Error::UserNotFound)
    }

    /// Those of the accounts that exist, in the order asked.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn users(&self, ids: &[UserId]) -> Result<Vec<Account>, Error> {
        let accounts = self.store.accounts(ids).await?;
        Ok(accounts.into_iter().flatten().collect())
    }

    /// Issues one more token; earlier ones stay live.
    ///
    /// # Errors
    /// [`Error::UserNotFound`]; [`Error::TooManyTokens`]; [`Error::Store`]: a token that nobody knows may have been stored.
    pub async fn issue_token(&self, user: UserId) -> Result<Token, Error> {
        let token = Token::random();
        match self.store.add_token(user, &token.hash()).await? {
            Added::Yes => Ok(token),
            Added::NoAccount => Err(Error::UserNotFound),
            Added::TooMany => Err(Error::TooManyTokens),
        }
    }

    /// Ends tokens of an account, and tells who has sockets of theirs; how many ended.
    ///
    /// # Errors
    /// [`Error::UserNotFound`]; [`Error::Store`]: the outcome is not known, and what ended
    /// is not announced: gateways find it when they next check their tokens.
    pub async fn revoke_tokens(&self, user: UserId, tokens: Tokens) -> Result<usize, Error> {
        let Self {
            store, revocations, ..
        } = self.clone();
        // A caller who stops waiting must not cut the announcement off from the removal.
        // As many of these run at a time as the store takes writes.
        let revoking = self.tasks.spawn(async move {
            let ended = store.remove_tokens(user, &tokens).await?;
            let ended = ended.ok_or(Error::UserNotFound)?;
            revocations.announce(user, &ended);
            Ok(ended.len())
        });
        revoking.await.unwrap_or_else(|_| {
            Err(Error::Store(StoreError::Unavailable(
                "the revocation was cut off".to_owned(),
            )))
        })
    }
}
