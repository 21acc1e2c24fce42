//! Claims: which sign-up has a phone number, a user name or a token.

use std::time::{Duration, Instant};

use chassis::{
    cql::{Applied, Conditional, Cql, Read},
    id::UserId,
};
use scylla::serialize::value::SerializeValue;
use tokio::time::sleep;

use super::{
    StoreError,
    accounts::{Accounts, Found},
};
use crate::account::Account;

/// How long another's sign-up may stand still before it is stopped. Many times what one
/// takes, and a fraction of the second that a caller waits for one try.
const PATIENCE: Duration = Duration::from_millis(400);

/// When it is looked at first meanwhile; each pause is twice the one before.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// The claims on keys of one kind.
pub(super) struct Claims {
    cql: Cql,
    look: Read,
    claim: Conditional,
    take_over: Conditional,
    release: Conditional,
}

/// What became of the wish to have a key.
pub(super) enum Claim {
    /// It is ours, until we are taken for dead.
    Ours,
    /// An account has it.
    Theirs(Box<Account>),
}

/// What is sent as the key of a claim.
pub(super) trait Key: SerializeValue + Copy + Send + Sync {}
impl<T: SerializeValue + Copy + Send + Sync> Key for T {}

impl Claims {
    pub(super) fn on_phone_numbers(cql: &Cql) -> Self {
        Self::open(
            cql,
            (
                "phone_number_look",
                "SELECT user_id FROM phone_numbers WHERE phone_number = ?",
            ),
            (
                "phone_number_claim",
                "INSERT INTO phone_numbers (phone_number, user_id) VALUES (?, ?) IF NOT EXISTS",
            ),
            (
                "phone_number_take_over",
                "UPDATE phone_numbers SET user_id = ? WHERE phone_number = ? IF user_id = ?",
            ),
            (
                "phone_number_release",
                "DELETE FROM phone_numbers WHERE phone_number = ? IF user_id = ?",
            ),
        )
    }

    pub(super) fn on_usernames(cql: &Cql) -> Self {
        Self::open(
            cql,
            (
                "username_look",
                "SELECT user_id FROM usernames WHERE name_key = ?",
            ),
            (
                "username_claim",
                "INSERT INTO usernames (name_key, user_id) VALUES (?, ?) IF NOT EXISTS",
            ),
            (
                "username_take_over",
                "UPDATE usernames SET user_id = ? WHERE name_key = ? IF user_id = ?",
            ),
            (
                "username_release",
                "DELETE FROM usernames WHERE name_key = ? IF user_id = ?",
            ),
        )
    }

    pub(super) fn on_tokens(cql: &Cql) -> Self {
        Self::open(
            cql,
            (
                "token_claim_look",
                "SELECT user_id FROM tokens WHERE hash = ?",
            ),
            (
                "token_claim",
                "INSERT INTO tokens (hash, user_id, state) VALUES (?, ?, 'claimed') IF NOT EXISTS",
            ),
            (
                "token_take_over",
                "UPDATE tokens SET user_id = ? WHERE hash = ? IF user_id = ?",
            ),
            (
                "token_release",
                "DELETE FROM tokens WHERE hash = ? IF user_id = ?",
            ),
        )
    }

    fn open(
        cql: &Cql,
        look: (&'static str, &str),
        claim: (&'static str, &str),
        take_over: (&'static str, &str),
        release: (&'static str, &str),
    ) -> Self {
        Self {
            cql: cql.clone(),
            look: cql.read(look.0, look.1),
            claim: cql.conditional(claim.0, claim.1),
            take_over: cql.conditional(take_over.0, take_over.1),
            release: cql.conditional(release.0, release.1),
        }
    }

    /// The account that has a key.
    pub(super) async fn holder(
        &self,
        accounts: &Accounts,
        key: impl Key,
    ) -> Result<Option<Account>, StoreError> {
        let Some(id) = self.claimant(key).await? else {
            return Ok(None);
        };
        match accounts.look(id).await? {
            Found::Open(account) => Ok(Some(*account)),
            Found::Void | Found::Nothing => Ok(None),
        }
    }

    /// Claims a key for an account that is to be; stops the sign-up that stands in the way,
    /// when it stands still.
    pub(super) async fn claim(
        &self,
        accounts: &Accounts,
        key: impl Key,
        id: UserId,
    ) -> Result<Claim, StoreError> {
        let mut waits: Option<Wait> = None;
        let mut claimant = None;
        loop {
            let other = match claimant {
                Some(other) => other,
                None => match self.insert(key, id).await? {
                    None => return Ok(Claim::Ours),
                    Some(other) => other,
                },
            };
            if other == id {
                return Ok(Claim::Ours);
            }
            match accounts.look(other).await? {
                Found::Open(account) => return Ok(Claim::Theirs(account)),
                Found::Void => {
                    if self.take_over(key, other, id).await? {
                        return Ok(Claim::Ours);
                    }
                }
                Found::Nothing => {
                    let wait = match &mut waits {
                        Some(wait) if wait.on == other => wait,
                        _ => waits.insert(Wait::begin(other)),
                    };
                    if wait.is_over() {
                        accounts.void(other).await?;
                    } else {
                        wait.pause().await;
                    }
                }
            }
            claimant = self.claimant(key).await?;
        }
    }

    /// Gives a claim up; whether it was ours until now.
    pub(super) async fn release(&self, key: impl Key, id: UserId) -> Result<bool, StoreError> {
        match self.cql.apply(&self.release, (key, id.get())).await? {
            Applied::Yes => Ok(true),
            Applied::No { old, unsure } => Ok(unsure && old.bigint("user_id").is_none()),
        }
    }

    async fn claimant(&self, key: impl Key) -> Result<Option<UserId>, StoreError> {
        match self.cql.row::<(i64,)>(&self.look, (key,)).await? {
            None => Ok(None),
            Some((id,)) => Ok(Some(claimant(id)?)),
        }
    }

    /// Claims a key that nobody claims; who was first, if it was not us.
    async fn insert(&self, key: impl Key, id: UserId) -> Result<Option<UserId>, StoreError> {
        match self.cql.apply(&self.claim, (key, id.get())).await? {
            Applied::Yes => Ok(None),
            Applied::No { old, .. } => {
                let other = old.bigint("user_id").unwrap_or_default();
                Ok(Some(claimant(other)?))
            }
        }
    }

    async fn take_over(&self, key: impl Key, from: UserId, id: UserId) -> Result<bool, StoreError> {
        let values = (id.get(), key, from.get());
        match self.cql.apply(&self.take_over, values).await? {
            Applied::Yes => Ok(true),
            Applied::No { old, .. } => Ok(old.bigint("user_id") == Some(id.get())),
        }
    }
}

/// Waiting for another's sign-up.
struct Wait {
    on: UserId,
    since: Instant,
    next: Duration,
}

impl Wait {
    fn begin(on: UserId) -> Self {
        Self {
            on,
            since: Instant::now(),
            next: FIRST_LOOK,
        }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= PATIENCE
    }

    async fn pause(&mut self) {
        // Not all who wait for the same at the same moment.
        let pause = self.next.mul_f32(rand::random_range(0.75..1.25));
        sleep(pause.min(PATIENCE.saturating_sub(self.since.elapsed()))).await;
        self.next *= 2;
    }
}

fn claimant(id: i64) -> Result<UserId, StoreError> {
    UserId::new(id).ok_or_else(|| StoreError::Damaged(format!("a claim names the user {id}")))
}
