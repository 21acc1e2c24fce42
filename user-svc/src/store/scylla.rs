//! The accounts on a CQL cluster, ScyllaDB or Apache Cassandra.
//!
//! A sign-up takes an id, claims the phone number, the user name and the token for it, and
//! then makes the row of the account: by that one conditional insert the account exists, with
//! all it has. A claim counts for nobody while the account behind it does not exist, so a
//! sign-up that dies between any two steps leaves nothing that a reader could see.
//!
//! Who meets a claim without an account waits a moment, for its sign-up may be under way, and
//! then makes the row of that account void, by the same condition. Either it is void from then
//! on, and its claims may be taken over, or the account was there first. Nothing of this asks
//! a clock of another machine, and a request that arrives hours late finds its condition gone.
//!
//! An account's row lists its tokens. A token is listed before it is made, and ended before it
//! is struck off: what is live is always listed, and what stands between is mended by the
//! next removal.

mod accounts;
mod claims;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
mod tokens;

use std::time::Duration;

use async_trait::async_trait;
use chassis::{
    cql::{Cql, CqlError, ReadsTogether, blocks::Blocks, migrations::Migrations},
    id::UserId,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

use self::{
    accounts::{Accounts, Found},
    claims::{Claim, Claims},
    tokens::{Look, State, TokenRows},
};
use super::{Added, MAX_TOKENS, Opened, Store, StoreError, Tokens};
use crate::{
    account::{Account, Profile},
    token::TokenHash,
};

/// The tables of this service.
pub const MIGRATIONS: Migrations = chassis::migrations!("user-svc", "0001_accounts.cql");

/// Ids taken from the counter at a time; those that are left when a process ends are lost.
const ID_BLOCK: u16 = 64;

/// Rows asked for at a time by one call.
const AT_ONCE: usize = 16;

/// How often a sign-up begins anew, and how long it takes at most, all in all.
const ROUNDS: usize = 8;
const OPENING: Duration = Duration::from_secs(5);

/// The accounts on a CQL cluster.
pub struct ScyllaStore {
    ids: Blocks,
    accounts: Accounts,
    phone_numbers: Claims,
    usernames: Claims,
    token_claims: Claims,
    tokens: TokenRows,
    live_together: ReadsTogether,
}

impl ScyllaStore {
    /// The accounts in this keyspace, whose tables are as this program knows them.
    ///
    /// # Errors
    /// When they are not, or the cluster is away.
    pub async fn open(cql: &Cql) -> Result<Self, CqlError> {
        MIGRATIONS.check(cql).await?;
        let store = Self {
            ids: Blocks::new(cql, "user_ids", "users", 1, ID_BLOCK),
            accounts: Accounts::open(cql),
            phone_numbers: Claims::on_phone_numbers(cql),
            usernames: Claims::on_usernames(cql),
            token_claims: Claims::on_tokens(cql),
            tokens: TokenRows::open(cql),
            live_together: ReadsTogether::default(),
        };
        cql.prepared().await?;
        Ok(store)
    }

    async fn next_id(&self) -> Result<UserId, StoreError> {
        UserId::new(self.ids.next().await?)
            .ok_or_else(|| StoreError::Unavailable("out of ids".to_owned()))
    }

    /// Who stands in the way of an account, as far as a look tells.
    ///
    /// The order is the reverse of that in which it is answered: a phone number that is free
    /// now was free when its name was seen taken, for accounts never go away.
    async fn in_the_way(
        &self,
        profile: &Profile,
        token: &TokenHash,
    ) -> Result<Option<Opened>, StoreError> {
        let (accounts, hash) = (&self.accounts, token.as_bytes().as_slice());
        let token_holder = self.token_claims.holder(accounts, hash).await?;
        let key = profile.username.key();
        let name_holder = self.usernames.holder(accounts, key.as_str()).await?;
        let phone_number = profile.phone_number.as_str();
        let holder = self.phone_numbers.holder(accounts, phone_number).await?;
        match (holder, name_holder, token_holder) {
            (Some(holder), _, _) => Ok(Some(self.phone_number_taken(holder, token).await?)),
            (None, Some(_), _) => Ok(Some(Opened::UsernameTaken)),
            (None, None, Some(_)) => Ok(Some(Opened::TokenTaken)),
            (None, None, None) => Ok(None),
        }
    }

    async fn phone_number_taken(
        &self,
        holder: Account,
        token: &TokenHash,
    ) -> Result<Opened, StoreError> {
        let token = self.tokens.look(token).await?;
        let holds_token = token.is_some_and(|(id, state)| id == holder.id && state != State::Ended);
        Ok(Opened::PhoneNumberTaken {
            holder,
            holds_token,
        })
    }

    /// One round of a sign-up; `None` when it was taken for dead by another, and has to
    /// begin anew.
    async fn open_once(
        &self,
        profile: &Profile,
        token: &TokenHash,
        create_time_ms: i64,
    ) -> Result<Option<Opened>, StoreError> {
        let id = self.next_id().await?;
        let accounts = &self.accounts;
        let phone_number = profile.phone_number.as_str();
        let claim = self.phone_numbers.claim(accounts, phone_number, id);
        if let Claim::Theirs(holder) = claim.await? {
            return Ok(Some(self.phone_number_taken(*holder, token).await?));
        }
        // A claim that is not ours any more when it is released was taken over by one who may have
        // an account by now: then what was found behind it is no answer.
        let name = profile.username.key();
        let claim = self.usernames.claim(accounts, name.as_str(), id);
        if let Claim::Theirs(_) = claim.await? {
            let ours = self.phone_numbers.release(phone_number, id).await?;
            return Ok(ours.then_some(Opened::UsernameTaken));
        }
        let claim = (self.token_claims).claim(accounts, token.as_bytes().as_slice(), id);
        if let Claim::Theirs(_) = claim.await? {
            let ours = self.usernames.release(name.as_str(), id).await?
                & self.phone_numbers.release(phone_number, id).await?;
            return Ok(ours.then_some(Opened::TokenTaken));
        }
        let account = Account {
            id,
            profile: profile.clone(),
            roles: Vec::new(),
            create_time_ms,
        };
        let opened = accounts.insert(&account, token).await?;
        Ok(opened.then_some(Opened::New(account)))
    }

    async fn is_live(&self, token: &TokenHash) -> Result<bool, StoreError> {
        self.is_live_at(self.tokens.look(token).await?).await
    }

    async fn are_live(&self, tokens: Vec<TokenHash>) -> Result<Vec<bool>, StoreError> {
        let looks = self.tokens.look_at_all(&tokens).await?.into_iter();
        let looks = looks.map(|look| self.is_live_at(look));
        stream::iter(looks).buffered(AT_ONCE).try_collect().await
    }

    async fn is_live_at(&self, look: Option<Look>) -> Result<bool, StoreError> {
        match look {
            None | Some((_, State::Ended)) => Ok(false),
            Some((_, State::Live)) => Ok(true),
            Some((id, State::Claimed)) => {
                Ok(matches!(self.accounts.look(id).await?, Found::Open(_)))
            }
        }
    }
}

#[async_trait]
impl Store for ScyllaStore {
    async fn open_account(
        &self,
        profile: &Profile,
        token: &TokenHash,
        create_time_ms: i64,
    ) -> Result<Opened, StoreError> {
        let opening = async {
            for _ in 0..ROUNDS {
                if let Some(taken) = self.in_the_way(profile, token).await? {
                    return Ok(taken);
                }
                let opened = self.open_once(profile, token, create_time_ms).await?;
                if let Some(opened) = opened {
                    return Ok(opened);
                }
            }
            Err(StoreError::Unavailable(
                "others want the same, and each stops the other".to_owned(),
            ))
        };
        let late = || StoreError::Unavailable(format!("no account within {OPENING:?}"));
        timeout(OPENING, opening)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn account_of(&self, token: &TokenHash) -> Result<Option<Account>, StoreError> {
        let Some((id, state)) = self.tokens.look(token).await? else {
            return Ok(None);
        };
        if state == State::Ended {
            return Ok(None);
        }
        match (self.accounts.look(id).await?, state) {
            (Found::Open(account), State::Claimed) => {
                self.tokens.seal(id, token).await;
                Ok(Some(*account))
            }
            (Found::Open(account), _) => Ok(Some(*account)),
            (Found::Void | Found::Nothing, State::Live) => {
                Err(StoreError::Damaged(format!("account {id} is missing")))
            }
            (Found::Void | Found::Nothing, _) => Ok(None),
        }
    }

    async fn live(&self, tokens: &[TokenHash]) -> Result<Vec<bool>, StoreError> {
        stream::iter(tokens.to_vec())
            .map(|token| async move { self.is_live(&token).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn live_in_reach(&self, tokens: &[TokenHash]) -> Result<Vec<Option<bool>>, StoreError> {
        let together = |tokens| self.are_live(tokens);
        let alone = |token| async move { self.is_live(&token).await };
        let reads = &self.live_together;
        reads
            .read(tokens, AT_ONCE, together, alone, StoreError::is_unavailable)
            .await
    }

    async fn accounts(&self, ids: &[UserId]) -> Result<Vec<Option<Account>>, StoreError> {
        stream::iter(ids.to_vec())
            .map(|id| async move {
                match self.accounts.look(id).await? {
                    Found::Open(account) => Ok(Some(*account)),
                    Found::Void | Found::Nothing => Ok(None),
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn add_token(&self, user: UserId, token: &TokenHash) -> Result<Added, StoreError> {
        let Some(listed) = self.accounts.tokens(user).await? else {
            return Ok(Added::NoAccount);
        };
        if listed.len() >= MAX_TOKENS {
            return Ok(Added::TooMany);
        }
        self.accounts.list(user, token).await?;
        if self.tokens.insert(user, token).await? {
            Ok(Added::Yes)
        } else {
            Err(StoreError::Unavailable(
                "the token was ended before it was made".to_owned(),
            ))
        }
    }

    async fn remove_tokens(
        &self,
        user: UserId,
        tokens: &Tokens,
    ) -> Result<Option<Vec<TokenHash>>, StoreError> {
        let Some(listed) = self.accounts.tokens(user).await? else {
            return Ok(None);
        };
        let doomed: Vec<TokenHash> = match tokens {
            Tokens::All => listed.into_iter().collect(),
            Tokens::These(these) => {
                let mut listed = listed;
                let own = these.iter().filter(|token| listed.remove(token));
                own.copied().collect()
            }
        };
        if doomed.is_empty() {
            return Ok(Some(doomed));
        }
        // One that ended before and is listed still belongs to a removal that was cut off, and
        // nobody was told of it: it counts.
        let ended: Vec<Option<TokenHash>> = stream::iter(doomed.clone())
            .map(|token| async move {
                let ended = self.tokens.end(user, &token).await?;
                Ok::<_, StoreError>(ended.then_some(token))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.accounts.strike_off(user, &doomed).await?;
        Ok(Some(ended.into_iter().flatten().collect()))
    }
}

impl From<CqlError> for StoreError {
    fn from(error: CqlError) -> Self {
        match error {
            CqlError::Unavailable(_) | CqlError::Unknown(_) | CqlError::Refused(_) => {
                Self::Unavailable(error.to_string())
            }
            CqlError::Damaged(why) => Self::Damaged(why),
        }
    }
}
