//! The accounts in the embedded store.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use chassis::{
    embedded::{Embedded, EmbeddedError, Options},
    id::UserId,
};
use prost::Message;
use redb::{ReadableTable, TableDefinition};

use crate::{
    account::{Account, DeviceType, GcmToken, Profile},
    phone_number::PhoneNumber,
    store::{Added, MAX_TOKENS, Opened, Store, StoreError, Tokens},
    token::TokenHash,
    username::Username,
};

const ACCOUNTS: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("accounts");
const PHONE_NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("phone_numbers");
/// Keyed by the folded name.
const USERNAMES: TableDefinition<'_, &str, i64> = TableDefinition::new("usernames");
/// Keyed by the token's hash.
const TOKENS: TableDefinition<'_, &[u8; 32], i64> = TableDefinition::new("tokens");
const TOKENS_OF_ACCOUNTS: TableDefinition<'_, (i64, &[u8; 32]), ()> =
    TableDefinition::new("tokens_of_accounts");

/// An account as it is stored, under its id.
#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(string, tag = "1")]
    phone_number: String,
    #[prost(string, tag = "2")]
    username: String,
    #[prost(string, tag = "3")]
    gcm_token: String,
    #[prost(string, tag = "4")]
    device_type: String,
    #[prost(string, repeated, tag = "5")]
    roles: Vec<String>,
    #[prost(int64, tag = "6")]
    create_time_ms: i64,
}

/// The accounts in an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    db: Embedded,
}

impl EmbeddedStore {
    /// How the file of accounts is opened.
    #[must_use]
    pub const fn options() -> Options {
        Options::new("users", 1)
    }

    /// The accounts in this store; makes the tables that are not there yet.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn new(db: Embedded) -> Result<Self, StoreError> {
        db.write(|txn| {
            txn.open_table(ACCOUNTS)?;
            txn.open_table(PHONE_NUMBERS)?;
            txn.open_table(USERNAMES)?;
            txn.open_table(TOKENS)?;
            txn.open_table(TOKENS_OF_ACCOUNTS)?;
            Ok(())
        })
        .await?;
        Ok(Self { db })
    }
}

/// What a closure answers: an error of the library outside, which ends the
/// transaction for everybody, and what concerns this caller alone inside.
type Answer<T> = Result<Result<T, StoreError>, redb::Error>;

#[async_trait]
impl Store for EmbeddedStore {
    async fn open_account(
        &self,
        profile: &Profile,
        token: &TokenHash,
        create_time_ms: i64,
    ) -> Result<Opened, StoreError> {
        let (profile, token) = (profile.clone(), *token);
        self.db
            .write(move |txn| -> Answer<Opened> {
                let mut accounts = txn.open_table(ACCOUNTS)?;
                let mut phone_numbers = txn.open_table(PHONE_NUMBERS)?;
                let mut usernames = txn.open_table(USERNAMES)?;
                let mut tokens = txn.open_table(TOKENS)?;

                let phone_number = profile.phone_number.as_str();
                let key = profile.username.key();
                let token_holder = tokens.get(token.as_bytes())?.map(|id| id.value());
                if let Some(id) = phone_numbers.get(phone_number)?.map(|id| id.value()) {
                    return Ok(account(&accounts, id)?.and_then(|holder| {
                        Ok(Opened::PhoneNumberTaken {
                            holder: holder.ok_or_else(|| missing(id))?,
                            holds_token: token_holder == Some(id),
                        })
                    }));
                }
                if usernames.get(key.as_str())?.is_some() {
                    return Ok(Ok(Opened::UsernameTaken));
                }
                if token_holder.is_some() {
                    return Ok(Ok(Opened::TokenTaken));
                }
                let last = accounts.last()?.map_or(0, |(id, _)| id.value());
                let Some(id) = UserId::new(last + 1) else {
                    return Ok(Err(StoreError::Unavailable("out of ids".to_owned())));
                };

                let new = Account {
                    id,
                    profile,
                    roles: Vec::new(),
                    create_time_ms,
                };
                accounts.insert(id.get(), &row(&new).encode_to_vec()[..])?;
                phone_numbers.insert(new.profile.phone_number.as_str(), id.get())?;
                usernames.insert(key.as_str(), id.get())?;
                tokens.insert(token.as_bytes(), id.get())?;
                let mut own = txn.open_table(TOKENS_OF_ACCOUNTS)?;
                own.insert((id.get(), token.as_bytes()), ())?;
                Ok(Ok(Opened::New(new)))
            })
            .await?
    }

    async fn account_of(&self, token: &TokenHash) -> Result<Option<Account>, StoreError> {
        self.db.read_now(|txn| -> Answer<Option<Account>> {
            let tokens = txn.open_table(TOKENS)?;
            let Some(id) = tokens.get(token.as_bytes())?.map(|id| id.value()) else {
                return Ok(Ok(None));
            };
            let holder = account(&txn.open_table(ACCOUNTS)?, id)?;
            Ok(holder.and_then(|holder| holder.ok_or_else(|| missing(id)).map(Some)))
        })?
    }

    async fn live(&self, tokens: &[TokenHash]) -> Result<Vec<bool>, StoreError> {
        let asked = tokens.to_vec();
        let live = self.db.read(move |txn| {
            let tokens = txn.open_table(TOKENS)?;
            asked
                .iter()
                .map(|token| Ok(tokens.get(token.as_bytes())?.is_some()))
                .collect()
        });
        Ok(live.await?)
    }

    async fn accounts(&self, ids: &[UserId]) -> Result<Vec<Option<Account>>, StoreError> {
        let ids = ids.to_vec();
        self.db
            .read(move |txn| -> Answer<Vec<Option<Account>>> {
                let accounts = txn.open_table(ACCOUNTS)?;
                ids.iter().map(|id| account(&accounts, id.get())).collect()
            })
            .await?
    }

    async fn add_token(&self, user: UserId, token: &TokenHash) -> Result<Added, StoreError> {
        let token = *token;
        let added = self.db.write(move |txn| {
            let user = user.get();
            if txn.open_table(ACCOUNTS)?.get(user)?.is_none() {
                return Ok(Added::NoAccount);
            }
            let mut own = txn.open_table(TOKENS_OF_ACCOUNTS)?;
            if own.range(all_of(user))?.count() >= MAX_TOKENS {
                return Ok(Added::TooMany);
            }
            own.insert((user, token.as_bytes()), ())?;
            let mut tokens = txn.open_table(TOKENS)?;
            tokens.insert(token.as_bytes(), user)?;
            Ok(Added::Yes)
        });
        Ok(added.await?)
    }

    async fn remove_tokens(
        &self,
        user: UserId,
        tokens: &Tokens,
    ) -> Result<Option<Vec<TokenHash>>, StoreError> {
        let asked = tokens.clone();
        let removed = self.db.write(move |txn| {
            let user = user.get();
            if txn.open_table(ACCOUNTS)?.get(user)?.is_none() {
                return Ok(None);
            }
            let mut tokens = txn.open_table(TOKENS)?;
            let mut own = txn.open_table(TOKENS_OF_ACCOUNTS)?;
            let candidates = match asked {
                Tokens::These(tokens) => tokens,
                Tokens::All => own
                    .range(all_of(user))?
                    .map(|entry| Ok(TokenHash::new(*entry?.0.value().1)))
                    .collect::<Result<_, redb::Error>>()?,
            };
            let mut removed = Vec::new();
            for token in candidates {
                if own.remove((user, token.as_bytes()))?.is_some() {
                    tokens.remove(token.as_bytes())?;
                    removed.push(token);
                }
            }
            Ok(Some(removed))
        });
        Ok(removed.await?)
    }
}

/// The keys of an account's tokens.
fn all_of(user: i64) -> RangeInclusive<(i64, &'static [u8; 32])> {
    (user, &[u8::MIN; 32])..=(user, &[u8::MAX; 32])
}

fn account(accounts: &impl ReadableTable<i64, &'static [u8]>, id: i64) -> Answer<Option<Account>> {
    let Some(bytes) = accounts.get(id)? else {
        return Ok(Ok(None));
    };
    let damaged = || StoreError::Damaged(format!("the row of account {id} does not parse"));
    let account = Row::decode(bytes.value())
        .map_err(|_| damaged())
        .and_then(|row| {
            Ok(Account {
                id: UserId::new(id).ok_or_else(damaged)?,
                profile: Profile {
                    phone_number: PhoneNumber::from_stored(row.phone_number),
                    username: Username::from_stored(row.username),
                    gcm_token: GcmToken::from_stored(row.gcm_token),
                    device_type: DeviceType::from_stored(row.device_type),
                },
                roles: row.roles,
                create_time_ms: row.create_time_ms,
            })
        });
    Ok(account.map(Some))
}

fn row(account: &Account) -> Row {
    let profile = &account.profile;
    Row {
        phone_number: profile.phone_number.as_str().to_owned(),
        username: profile.username.as_str().to_owned(),
        gcm_token: profile.gcm_token.reveal().to_owned(),
        device_type: profile.device_type.as_str().to_owned(),
        roles: account.roles.clone(),
        create_time_ms: account.create_time_ms,
    }
}

fn missing(id: i64) -> StoreError {
    StoreError::Damaged(format!("account {id} is missing"))
}

impl From<EmbeddedError> for StoreError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::Damaged(what) => Self::Damaged(what.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    async fn fresh() -> (Arc<dyn Store>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        (Arc::new(store), folder)
    }

    async fn open(folder: &tempfile::TempDir) -> EmbeddedStore {
        let path = folder.path().join("users");
        let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
        EmbeddedStore::new(db).await.unwrap()
    }

    conformance::suite!(fresh);

    #[tokio::test]
    async fn accounts_and_tokens_are_there_after_a_restart_and_ids_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let first = TokenHash::new([1; 32]);
        let profile = conformance::profile("998901234567", "Sardor");
        let store = open(&folder).await;
        let opened = store.open_account(&profile, &first, 5).await.unwrap();
        store.db.close().await;
        drop(store);

        let store = open(&folder).await;
        let holder = store.account_of(&first).await.unwrap().unwrap();
        assert_eq!(opened, Opened::New(holder.clone()));
        let other = conformance::profile("998907654321", "Aziz");
        let second = store
            .open_account(&other, &TokenHash::new([2; 32]), 5)
            .await
            .unwrap();
        assert!(matches!(second, Opened::New(account) if account.id > holder.id));
    }
}
