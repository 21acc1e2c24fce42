//! The port to the store: accounts, who claims which phone number and user
//! name, and tokens. The rules stand above it; any backend passes `conformance`.

use async_trait::async_trait;
use chassis::id::UserId;

use crate::{
    account::{Account, Profile},
    token::TokenHash,
};

#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
#[cfg(test)]
pub(crate) mod failing;
pub mod scylla;

/// How many live tokens an account has at most.
pub const MAX_TOKENS: usize = 1_000;

/// A store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is away, overloaded or too slow. For writes: the outcome is not known.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It holds something that can't be, such as a row that does not parse.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What became of the wish to open an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open, and the token is its.
    New(Account),
    /// An account has this phone number.
    PhoneNumberTaken {
        /// That account.
        holder: Account,
        /// Whether the token is a live one of that account.
        holds_token: bool,
    },
    /// An account has this user name, case aside.
    UsernameTaken,
    /// The token belongs to an account, with another phone number.
    TokenTaken,
}

/// What became of the wish to give an account one more token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It has it.
    Yes,
    /// There is no such account.
    NoAccount,
    /// It has [`MAX_TOKENS`] already.
    TooMany,
}

/// Which tokens of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// All it has.
    All,
    /// Those of these that it has.
    These(Vec<TokenHash>),
}

/// The accounts. All writes are durable before they are answered.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Opens an account with an id of the store's choice, claims its phone number
    /// and its user name, and gives it a token.
    ///
    /// Phone number, user name and token are each claimed on the condition that
    /// nobody has them, looked at in this order; the first that somebody has is
    /// the answer, and then nothing is written. Readers see all of it or nothing.
    /// After [`StoreError::Unavailable`] it may have happened or may yet; asking again with
    /// the same profile and token settles it. A claim without an account, left by
    /// a crash, counts for nobody a minute later at the latest.
    async fn open_account(
        &self,
        profile: &Profile,
        token: &TokenHash,
        create_time_ms: i64,
    ) -> Result<Opened, StoreError>;

    /// The account that has this token.
    async fn account_of(&self, token: &TokenHash) -> Result<Option<Account>, StoreError>;

    /// Which of the tokens some account has, in the order asked.
    async fn live(&self, tokens: &[TokenHash]) -> Result<Vec<bool>, StoreError>;

    /// The same; `None` for a token whose replicas are out of reach now, unless all are.
    async fn live_in_reach(&self, tokens: &[TokenHash]) -> Result<Vec<Option<bool>>, StoreError> {
        let live = self.live(tokens).await?;
        Ok(live.into_iter().map(Some).collect())
    }

    /// The accounts with these ids, in the order asked.
    async fn accounts(&self, ids: &[UserId]) -> Result<Vec<Option<Account>>, StoreError>;

    /// Gives an account one more token, a fresh random one. Those that are added at
    /// the same moment may go past [`MAX_TOKENS`] by their number.
    async fn add_token(&self, user: UserId, token: &TokenHash) -> Result<Added, StoreError>;

    /// Takes tokens away from an account. The ones it had; `None` when there is
    /// no such account.
    async fn remove_tokens(
        &self,
        user: UserId,
        tokens: &Tokens,
    ) -> Result<Option<Vec<TokenHash>>, StoreError>;
}
