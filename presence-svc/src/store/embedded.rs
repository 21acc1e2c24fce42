//! Leases and sessions in the embedded store.

use std::{collections::BTreeSet, ops::Bound};

use async_trait::async_trait;
use chassis::{
    embedded::{Embedded, EmbeddedError, Options},
    id::UserId,
};
use prost::Message;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::{
    clock::Time,
    session::{LeaseId, Presence, Session, Term},
    store::{Held, Opened, Store, StoreError, Swept},
};

const LEASES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("leases");
/// Keyed by lease, user and session.
const SESSIONS: TableDefinition<'_, (&[u8; 16], i64, &[u8; 16]), ()> =
    TableDefinition::new("sessions");
/// The same, keyed by user, lease and session.
const SESSIONS_OF_USERS: TableDefinition<'_, (i64, &[u8; 16], &[u8; 16]), ()> =
    TableDefinition::new("sessions_of_users");
/// When a user was last seen, in milliseconds.
const LAST_SEEN: TableDefinition<'_, i64, i64> = TableDefinition::new("last_seen");

const FIRST: &[u8; 16] = &[u8::MIN; 16];
const LAST: &[u8; 16] = &[u8::MAX; 16];

/// A lease as it is stored, under its id.
#[derive(Clone, Copy, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    renewed_ms: i64,
    #[prost(int64, tag = "2")]
    expires_ms: i64,
    /// Set once it does not live, whatever the clock says: when its sessions were
    /// last there.
    #[prost(int64, optional, tag = "3")]
    ended_ms: Option<i64>,
    #[prost(uint64, tag = "4")]
    sessions: u64,
}

impl Lease {
    fn lives(&self, now: Time) -> bool {
        self.ended_ms.is_none() && now.as_ms() < self.expires_ms
    }

    /// When its sessions were last there, if it does not live.
    fn last_there(&self) -> i64 {
        self.ended_ms.unwrap_or(self.renewed_ms)
    }
}

/// Leases and sessions in an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    db: Embedded,
}

impl EmbeddedStore {
    /// How the file of leases and sessions is opened.
    #[must_use]
    pub const fn options() -> Options {
        Options::new("presence", 1)
    }

    /// The leases and sessions in this store; makes the tables that are not there yet.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn new(db: Embedded) -> Result<Self, StoreError> {
        db.write(|txn| {
            txn.open_table(LEASES)?;
            txn.open_table(SESSIONS)?;
            txn.open_table(SESSIONS_OF_USERS)?;
            txn.open_table(LAST_SEEN)?;
            Ok(())
        })
        .await?;
        Ok(Self { db })
    }
}

/// What a closure answers: an error of the library outside, which ends the
/// transaction for everybody, and what concerns this caller alone inside.
type Answer<T> = Result<Result<T, StoreError>, redb::Error>;

/// Goes on with the value, or answers the caller's own error.
macro_rules! own {
    ($answer:expr) => {
        match $answer {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn hold_lease(&self, id: LeaseId, term: Term, take: bool) -> Result<Held, StoreError> {
        self.db
            .write(move |txn| -> Answer<Held> {
                let mut leases = txn.open_table(LEASES)?;
                let sessions = match own!(lease(&leases, id)?) {
                    Some(known) if known.lives(term.from) => known.sessions,
                    None if take => 0,
                    _ => return Ok(Ok(Held::Lost)),
                };
                let held = Lease {
                    renewed_ms: term.from.as_ms(),
                    expires_ms: term.until.as_ms(),
                    ended_ms: None,
                    sessions,
                };
                put(&mut leases, id, held)?;
                Ok(Ok(Held::Living))
            })
            .await?
    }

    async fn release_lease(&self, id: LeaseId, now: Time) -> Result<(), StoreError> {
        self.db
            .write(move |txn| -> Answer<()> {
                let mut leases = txn.open_table(LEASES)?;
                if let Some(known) = own!(lease(&leases, id)?)
                    && known.lives(now)
                {
                    let ended = Lease {
                        ended_ms: Some(now.as_ms()),
                        ..known
                    };
                    put(&mut leases, id, ended)?;
                }
                Ok(Ok(()))
            })
            .await?
    }

    async fn open_sessions(
        &self,
        id: LeaseId,
        sessions: &[Session],
        now: Time,
        limit: u64,
    ) -> Result<Opened, StoreError> {
        let asked: BTreeSet<SessionKey> = sessions.iter().map(session_key).collect();
        self.db
            .write(move |txn| -> Answer<Opened> {
                let mut leases = txn.open_table(LEASES)?;
                let Some(mut lease) = own!(lease(&leases, id)?).filter(|l| l.lives(now)) else {
                    return Ok(Ok(Opened::LeaseLost));
                };
                let mut tables = SessionTables::open(txn)?;
                let mut new = Vec::new();
                for session in &asked {
                    if !tables.is_open(id, session)? {
                        new.push(session);
                    }
                }
                lease.sessions += u64::try_from(new.len()).unwrap_or(u64::MAX);
                if new.is_empty() {
                    return Ok(Ok(Opened::All));
                } else if lease.sessions > limit {
                    return Ok(Ok(Opened::TooMany));
                }
                for session in new {
                    tables.open_one(id, session)?;
                }
                put(&mut leases, id, lease)?;
                Ok(Ok(Opened::All))
            })
            .await?
    }

    async fn close_sessions(
        &self,
        id: LeaseId,
        sessions: &[Session],
        now: Time,
    ) -> Result<(), StoreError> {
        let asked: Vec<SessionKey> = sessions.iter().map(session_key).collect();
        self.db
            .write(move |txn| -> Answer<()> {
                let mut leases = txn.open_table(LEASES)?;
                // Without a lease there are no sessions of it.
                let Some(mut lease) = own!(lease(&leases, id)?) else {
                    return Ok(Ok(()));
                };
                let mut tables = SessionTables::open(txn)?;
                for session in asked {
                    if tables.end_one(id, &session, now.as_ms())? {
                        lease.sessions = lease.sessions.saturating_sub(1);
                    }
                }
                put(&mut leases, id, lease)?;
                Ok(Ok(()))
            })
            .await?
    }

    async fn sweep(&self, now: Time, limit: usize) -> Result<Swept, StoreError> {
        // Looked at first without a write transaction, so that a quiet hour costs no fsync.
        let dead = self.db.read(move |txn| dead_lease(txn, now)).await??;
        let Some(id) = dead else {
            return Ok(Swept {
                sessions: 0,
                done: true,
            });
        };
        self.db
            .write(move |txn| -> Answer<Swept> {
                let mut leases = txn.open_table(LEASES)?;
                let nothing = Swept {
                    sessions: 0,
                    done: false,
                };
                // It may have been renewed just before it died.
                let Some(lease) = own!(lease(&leases, id)?).filter(|l| !l.lives(now)) else {
                    return Ok(Ok(nothing));
                };
                let last_there = lease.last_there();
                let mut tables = SessionTables::open(txn)?;
                let sessions = tables.of_lease(id, limit)?;
                for session in &sessions {
                    tables.end_one(id, session, last_there)?;
                }
                if sessions.len() < limit {
                    leases.remove(id.as_bytes())?;
                } else {
                    // A clock that goes back must not revive a lease that was swept in part.
                    let ended = Lease {
                        ended_ms: Some(last_there),
                        ..lease
                    };
                    put(&mut leases, id, ended)?;
                }
                Ok(Ok(Swept {
                    sessions: sessions.len(),
                    done: false,
                }))
            })
            .await?
    }

    async fn presences(&self, users: &[UserId], now: Time) -> Result<Vec<Presence>, StoreError> {
        let users = users.to_vec();
        self.db
            .read(move |txn| -> Answer<Vec<Presence>> {
                users.iter().map(|user| presence(txn, *user, now)).collect()
            })
            .await?
    }
}

/// The tables of sessions and of what is kept when they end.
struct SessionTables<'txn> {
    by_lease: Table<'txn, (&'static [u8; 16], i64, &'static [u8; 16]), ()>,
    by_user: Table<'txn, (i64, &'static [u8; 16], &'static [u8; 16]), ()>,
    last_seen: Table<'txn, i64, i64>,
}

/// A session's user and id, as in the keys.
type SessionKey = (i64, [u8; 16]);

fn session_key(session: &Session) -> SessionKey {
    (session.user.get(), *session.id.as_bytes())
}

impl<'txn> SessionTables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            by_lease: txn.open_table(SESSIONS)?,
            by_user: txn.open_table(SESSIONS_OF_USERS)?,
            last_seen: txn.open_table(LAST_SEEN)?,
        })
    }

    fn is_open(&self, lease: LeaseId, (user, id): &SessionKey) -> Result<bool, redb::Error> {
        Ok(self.by_lease.get((lease.as_bytes(), *user, id))?.is_some())
    }

    fn open_one(&mut self, lease: LeaseId, (user, id): &SessionKey) -> Result<(), redb::Error> {
        let lease = lease.as_bytes();
        self.by_lease.insert((lease, *user, id), ())?;
        self.by_user.insert((*user, lease, id), ())?;
        Ok(())
    }

    /// Deletes a session and keeps when its user was seen; says whether it was there.
    fn end_one(
        &mut self,
        lease: LeaseId,
        (user, id): &SessionKey,
        seen_ms: i64,
    ) -> Result<bool, redb::Error> {
        let lease = lease.as_bytes();
        if self.by_lease.remove((lease, *user, id))?.is_none() {
            return Ok(false);
        }
        self.by_user.remove((*user, lease, id))?;
        let known = self.last_seen.get(user)?.map(|seen| seen.value());
        if known.is_none_or(|known| known < seen_ms) {
            self.last_seen.insert(user, seen_ms)?;
        }
        Ok(true)
    }

    /// Up to `limit` sessions of a lease.
    fn of_lease(&self, lease: LeaseId, limit: usize) -> Result<Vec<SessionKey>, redb::Error> {
        let lease = lease.as_bytes();
        self.by_lease
            .range((lease, i64::MIN, FIRST)..=(lease, i64::MAX, LAST))?
            .take(limit)
            .map(|entry| {
                let entry = entry?;
                let (_, user, id) = entry.0.value();
                Ok((user, *id))
            })
            .collect()
    }
}

/// Some lease that does not live. There are as many leases as gateways, and few dead ones.
fn dead_lease(txn: &ReadTransaction, now: Time) -> Answer<Option<LeaseId>> {
    for entry in txn.open_table(LEASES)?.iter()? {
        let (id, bytes) = entry?;
        if !own!(decode(bytes.value())).lives(now) {
            return Ok(Ok(Some(LeaseId::new(*id.value()))));
        }
    }
    Ok(Ok(None))
}

fn presence(txn: &ReadTransaction, user: UserId, now: Time) -> Answer<Presence> {
    let user = user.get();
    let leases = txn.open_table(LEASES)?;
    let by_user = txn.open_table(SESSIONS_OF_USERS)?;
    let mut online = false;
    let mut last_seen = txn
        .open_table(LAST_SEEN)?
        .get(user)?
        .map(|seen| seen.value());
    let mut behind = Bound::Included((user, FIRST, FIRST));
    let mut id;
    // One step for each lease he has sessions by, however many sessions.
    while let Some(entry) = by_user
        .range((behind, Bound::Included((user, LAST, LAST))))?
        .next()
    {
        id = *entry?.0.value().1;
        behind = Bound::Excluded((user, &id, LAST));
        match own!(lease(&leases, LeaseId::new(id))?) {
            Some(lease) if lease.lives(now) => online = true,
            Some(lease) => last_seen = last_seen.max(Some(lease.last_there())),
            None => {}
        }
    }
    Ok(Ok(Presence {
        online,
        last_seen: last_seen.map(Time::from_ms),
    }))
}

fn lease(
    leases: &impl ReadableTable<&'static [u8; 16], &'static [u8]>,
    id: LeaseId,
) -> Answer<Option<Lease>> {
    let row = leases.get(id.as_bytes())?;
    Ok(row.map(|row| decode(row.value())).transpose())
}

fn decode(row: &[u8]) -> Result<Lease, StoreError> {
    Lease::decode(row)
        .map_err(|_| StoreError::Damaged("the row of a lease does not parse".to_owned()))
}

fn put(
    leases: &mut Table<'_, &'static [u8; 16], &'static [u8]>,
    id: LeaseId,
    lease: Lease,
) -> Result<(), redb::Error> {
    leases.insert(id.as_bytes(), &lease.encode_to_vec()[..])?;
    Ok(())
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
        let path = folder.path().join("presence");
        let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
        (Arc::new(EmbeddedStore::new(db).await.unwrap()), folder)
    }

    conformance::suite!(fresh);
}
