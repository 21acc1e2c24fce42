//! The rows of tokens, once they are somebody's.

use std::collections::HashMap;

use chassis::{
    cql::{Applied, Conditional, Cql, Read},
    id::UserId,
};
use scylla::DeserializeRow;

use super::StoreError;
use crate::token::TokenHash;

/// The table of tokens.
pub(super) struct TokenRows {
    cql: Cql,
    look: Read,
    look_all: Read,
    seal: Conditional,
    insert: Conditional,
    end: Conditional,
    bury: Conditional,
}

/// How far a token has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A sign-up claims it: it is live if there is an account.
    Claimed,
    /// It is live.
    Live,
    /// It was taken away, for ever.
    Ended,
}

/// Whose a token is, or would be, and how far it has come.
pub(super) type Look = (UserId, State);

#[derive(DeserializeRow)]
struct Row {
    user_id: Option<i64>,
    state: Option<String>,
}

impl Row {
    fn decode(self) -> Result<Look, StoreError> {
        let state = match self.state.as_deref() {
            Some("claimed") => State::Claimed,
            Some("live") => State::Live,
            Some("ended") => State::Ended,
            _ => return Err(damaged()),
        };
        let holder = self.user_id.and_then(UserId::new).ok_or_else(damaged)?;
        Ok((holder, state))
    }
}

/// How often a token is met that is made at the same moment.
const TRIES: usize = 3;

impl TokenRows {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            look: cql
                .read(
                    "token_look",
                    "SELECT user_id, state FROM tokens WHERE hash = ?",
                ),
            look_all: cql
                .read(
                    "tokens_look",
                    "SELECT hash, user_id, state FROM tokens WHERE hash IN ?",
                ),
            seal: cql
                .conditional(
                    "token_seal",
                    "UPDATE tokens SET state = 'live' WHERE hash = ? IF user_id = ? AND state = 'claimed'",
                ),
            insert: cql
                .conditional(
                    "token_insert",
                    "INSERT INTO tokens (hash, user_id, state) VALUES (?, ?, 'live') IF NOT EXISTS",
                ),
            end: cql
                .conditional(
                    "token_end",
                    "UPDATE tokens SET state = 'ended' WHERE hash = ? IF user_id = ? AND state IN ('claimed', 'live')",
                ),
            bury: cql
                .conditional(
                    "token_bury",
                    "INSERT INTO tokens (hash, user_id, state) VALUES (?, ?, 'ended') IF NOT EXISTS",
                ),
        }
    }

    /// What is known of a token, if anything is.
    pub(super) async fn look(&self, token: &TokenHash) -> Result<Option<Look>, StoreError> {
        let hash = token.as_bytes().as_slice();
        let row: Option<Row> = self.cql.row(&self.look, (hash,)).await?;
        row.map(Row::decode).transpose()
    }

    /// The same of each, in the order asked.
    pub(super) async fn look_at_all(
        &self,
        tokens: &[TokenHash],
    ) -> Result<Vec<Option<Look>>, StoreError> {
        let hashes: Vec<&[u8]> = tokens
            .iter()
            .map(|token| token.as_bytes().as_slice())
            .collect();
        let rows: Vec<(Vec<u8>, Option<i64>, Option<String>)> =
            self.cql.rows(&self.look_all, (&hashes,)).await?;
        let looks = rows
            .into_iter()
            .map(|(hash, user_id, state)| Ok((hash, Row { user_id, state }.decode()?)));
        let looks: HashMap<Vec<u8>, Look> = looks.collect::<Result<_, StoreError>>()?;
        Ok(hashes
            .into_iter()
            .map(|hash| looks.get(hash).copied())
            .collect())
    }

    /// Spares later looks at the token the look at its account. Tried once: the next sign-in
    /// does it else.
    pub(super) async fn seal(&self, user: UserId, token: &TokenHash) {
        let values = (token.as_bytes().as_slice(), user.get());
        if let Err(error) = self.cql.apply_once(&self.seal, values).await {
            tracing::debug!(%error, "a token was not sealed");
        }
    }

    /// Makes a token of an account that lists it; `false` when it was ended before that.
    pub(super) async fn insert(&self, user: UserId, token: &TokenHash) -> Result<bool, StoreError> {
        let values = (token.as_bytes().as_slice(), user.get());
        match self.cql.apply(&self.insert, values).await? {
            Applied::Yes => Ok(true),
            Applied::No { old, .. } => {
                Ok(old.text("state") == Some("live") && old.bigint("user_id") == Some(user.get()))
            }
        }
    }

    /// Ends a token that an account lists; `false` when it was only listed, and will not be
    /// made any more.
    pub(super) async fn end(&self, user: UserId, token: &TokenHash) -> Result<bool, StoreError> {
        let values = (token.as_bytes().as_slice(), user.get());
        for _ in 0..TRIES {
            match self.cql.apply(&self.end, values).await? {
                Applied::Yes => return Ok(true),
                // It has ended before.
                Applied::No { old, .. } if !old.is_empty() => return Ok(true),
                Applied::No { .. } => {}
            }
            // Whoever makes it died, or is about to make it.
            if self.cql.apply(&self.bury, values).await? == Applied::Yes {
                return Ok(false);
            }
        }
        Err(StoreError::Unavailable(
            "a token is neither there nor away".to_owned(),
        ))
    }
}

fn damaged() -> StoreError {
    StoreError::Damaged("the row of a token can't be".to_owned())
}
