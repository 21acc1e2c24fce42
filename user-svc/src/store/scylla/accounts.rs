//! The rows of accounts.

use std::collections::BTreeSet;

use chassis::{
    cql::{Applied, Conditional, Cql, Read},
    id::UserId,
};
use scylla::{DeserializeRow, value::MaybeUnset};

use super::StoreError;
use crate::{
    account::{Account, DeviceType, GcmToken, Profile},
    phone_number::PhoneNumber,
    token::TokenHash,
    username::Username,
};

const OPEN: &str = "open";
const VOID: &str = "void";

/// The table of accounts.
pub(super) struct Accounts {
    cql: Cql,
    look: Read,
    insert: Conditional,
    void: Conditional,
    look_at_tokens: Read,
    list: Conditional,
    strike_off: Conditional,
}

/// What stands under an id.
pub(super) enum Found {
    /// An account.
    Open(Box<Account>),
    /// A sign-up that was stopped: there will never be an account.
    Void,
    /// Nothing yet.
    Nothing,
}

#[derive(DeserializeRow)]
struct Row {
    state: Option<String>,
    phone_number: Option<String>,
    username: Option<String>,
    gcm_token: Option<String>,
    device_type: Option<String>,
    roles: Option<Vec<String>>,
    created_at_ms: Option<i64>,
}

#[derive(DeserializeRow)]
struct TokensRow {
    state: Option<String>,
    tokens: Option<Vec<Vec<u8>>>,
}

impl Accounts {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            look: cql
                .read(
                    "account_look",
                    "SELECT state, phone_number, username, gcm_token, device_type, roles, created_at_ms FROM accounts WHERE id = ?",
                ),
            insert: cql
                .conditional(
                    "account_open",
                    "INSERT INTO accounts (id, state, phone_number, username, gcm_token, device_type, roles, created_at_ms, tokens) \
                     VALUES (?, 'open', ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS",
                ),
            void: cql
                .conditional(
                    "account_void",
                    "INSERT INTO accounts (id, state) VALUES (?, 'void') IF NOT EXISTS",
                ),
            look_at_tokens: cql
                .read(
                    "account_tokens_look",
                    "SELECT state, tokens FROM accounts WHERE id = ?",
                ),
            list: cql
                .conditional(
                    "account_tokens_list",
                    "UPDATE accounts SET tokens = tokens + ? WHERE id = ? IF state = 'open'",
                ),
            strike_off: cql
                .conditional(
                    "account_tokens_strike_off",
                    "UPDATE accounts SET tokens = tokens - ? WHERE id = ? IF state = 'open'",
                ),
        }
    }

    pub(super) async fn look(&self, id: UserId) -> Result<Found, StoreError> {
        let row: Option<Row> = self.cql.row(&self.look, (id.get(),)).await?;
        let Some(row) = row else {
            return Ok(Found::Nothing);
        };
        match row.state.as_deref() {
            Some(VOID) => Ok(Found::Void),
            Some(OPEN) => {
                let account = account(id, row).ok_or_else(|| damaged(id))?;
                Ok(Found::Open(Box::new(account)))
            }
            _ => Err(damaged(id)),
        }
    }

    /// Makes the account, which nobody sees before; `false` when it was made void instead.
    pub(super) async fn insert(
        &self,
        account: &Account,
        token: &TokenHash,
    ) -> Result<bool, StoreError> {
        let profile = &account.profile;
        let roles = match &account.roles[..] {
            [] => MaybeUnset::Unset,
            roles => MaybeUnset::Set(roles),
        };
        let values = (
            account.id.get(),
            profile.phone_number.as_str(),
            profile.username.as_str(),
            profile.gcm_token.reveal(),
            profile.device_type.as_str(),
            roles,
            account.create_time_ms,
            set_of(std::slice::from_ref(token)),
        );
        match self.cql.apply(&self.insert, values).await? {
            Applied::Yes => Ok(true),
            // Nobody else makes an account of this id: an open one is ours.
            Applied::No { old, .. } => match old.text("state") {
                Some(OPEN) => Ok(true),
                Some(VOID) => Ok(false),
                _ => Err(damaged(account.id)),
            },
        }
    }

    /// Sees to it that a sign-up comes to nothing, unless its account is there already.
    pub(super) async fn void(&self, id: UserId) -> Result<(), StoreError> {
        if self.cql.apply(&self.void, (id.get(),)).await? == Applied::Yes {
            metrics::counter!("drivers_user_sign_ups_stopped_total").increment(1);
        }
        Ok(())
    }

    /// The tokens that an account lists; `None` when there is no account.
    pub(super) async fn tokens(
        &self,
        id: UserId,
    ) -> Result<Option<BTreeSet<TokenHash>>, StoreError> {
        let row: Option<TokensRow> = self.cql.row(&self.look_at_tokens, (id.get(),)).await?;
        match row {
            Some(TokensRow {
                state: Some(state),
                tokens,
            }) if state == OPEN => {
                let hashes = tokens.unwrap_or_default().into_iter();
                let hashes = hashes.map(|hash| Some(TokenHash::new(hash.try_into().ok()?)));
                let hashes: Option<BTreeSet<_>> = hashes.collect();
                Ok(Some(hashes.ok_or_else(|| damaged(id))?))
            }
            _ => Ok(None),
        }
    }

    /// Lists a token of an account that is there.
    pub(super) async fn list(&self, id: UserId, token: &TokenHash) -> Result<(), StoreError> {
        self.change(&self.list, id, std::slice::from_ref(token))
            .await
    }

    /// Strikes tokens off the list of an account that is there.
    pub(super) async fn strike_off(
        &self,
        id: UserId,
        tokens: &[TokenHash],
    ) -> Result<(), StoreError> {
        self.change(&self.strike_off, id, tokens).await
    }

    async fn change(
        &self,
        change: &Conditional,
        id: UserId,
        tokens: &[TokenHash],
    ) -> Result<(), StoreError> {
        match self.cql.apply(change, (set_of(tokens), id.get())).await? {
            Applied::Yes => Ok(()),
            Applied::No { .. } => Err(StoreError::Damaged(format!("account {id} went away"))),
        }
    }
}

fn set_of(tokens: &[TokenHash]) -> BTreeSet<&[u8]> {
    tokens
        .iter()
        .map(|token| token.as_bytes().as_slice())
        .collect()
}

fn account(id: UserId, row: Row) -> Option<Account> {
    Some(Account {
        id,
        profile: Profile {
            phone_number: PhoneNumber::from_stored(row.phone_number?),
            username: Username::from_stored(row.username?),
            gcm_token: GcmToken::from_stored(row.gcm_token?),
            device_type: DeviceType::from_stored(row.device_type?),
        },
        roles: row.roles.unwrap_or_default(),
        create_time_ms: row.created_at_ms?,
    })
}

fn damaged(id: UserId) -> StoreError {
    StoreError::Damaged(format!("the row of account {id} can't be"))
}
