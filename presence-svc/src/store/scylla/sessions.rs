//! What users have open: a row for each user and lease, and the list of each lease's users.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use chassis::{
    cql::{Applied, Conditional, Cql, Read, Write},
    id::UserId,
};

use super::{
    each,
    leases::{bytes, lease_id},
};
use crate::{
    clock::Time,
    session::{LeaseId, SessionId},
    store::StoreError,
};

/// Some sessions of one user.
pub(super) type Ids = BTreeSet<SessionId>;

/// The partitions of the users of one lease.
pub(super) const SHARDS: i8 = 16;

/// Users of one read of a lease's list.
pub(super) const PAGE: usize = 256;

/// How often a row is changed anew because others changed it meanwhile.
const TRIES: usize = 16;

pub(super) struct Sessions {
    cql: Cql,
    look: Read,
    look_serial: Read,
    of_user: Read,
    first: Conditional,
    change: Conditional,
    empty: Conditional,
    see: Write,
    list: Write,
    tell: Write,
    page: Read,
    count: Read,
    unlist: Write,
}

/// What a user has open by a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) ids: Ids,
    /// `None` as long as there is no row.
    version: Option<i64>,
}

/// What ending sessions did.
pub(super) struct Ended {
    /// How many it ended.
    pub(super) sessions: usize,
    /// How many are left, and the version of that; if any ended.
    left: Option<(usize, i64)>,
}

/// What is known of a user by himself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfUser {
    /// Those by which he has sessions, living or not.
    pub(super) leases: Vec<LeaseId>,
    pub(super) seen: Option<Time>,
}

fn shard(user: UserId) -> i8 {
    i8::try_from(user.get() % i64::from(SHARDS)).unwrap_or_default()
}

fn encode(ids: &Ids) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Result<Ids, StoreError> {
    let (ids, rest) = bytes.as_chunks::<16>();
    if rest.is_empty() {
        Ok(ids.iter().copied().map(SessionId::new).collect())
    } else {
        Err(StoreError::Damaged(
            "the sessions of a user are not 16 bytes each".to_owned(),
        ))
    }
}

impl Sessions {
    pub(super) fn open(cql: &Cql) -> Self {
        const LOOK: &str =
            "SELECT sessions, version FROM sessions_of_users WHERE user_id = ? AND lease_id = ?";
        Self {
            cql: cql.clone(),
            look: cql.read("user_sessions", LOOK),
            look_serial: cql.serial_read("user_sessions_serial", LOOK),
            of_user: cql
                .read(
                    "user_presence",
                    "SELECT lease_id, sessions, seen_ms FROM sessions_of_users WHERE user_id = ?",
                ),
            // No INSERT: the mark it leaves would outlive the columns when they expire.
            first: cql
                .conditional(
                    "user_sessions_first",
                    "UPDATE sessions_of_users SET sessions = ?, version = ? WHERE user_id = ? AND lease_id = ? \
                     IF version = NULL",
                ),
            change: cql
                .conditional(
                    "user_sessions_change",
                    "UPDATE sessions_of_users SET sessions = ?, version = ? WHERE user_id = ? AND lease_id = ? \
                     IF version = ?",
                ),
            // The version stays for an hour: what is still under way by then, and believes to
            // know the row, is not applied.
            empty: cql
                .conditional(
                    "user_sessions_empty",
                    "UPDATE sessions_of_users USING TTL 3600 SET sessions = ?, version = ? WHERE user_id = ? AND lease_id = ? \
                     IF version = ?",
                ),
            see: cql
                .write(
                    "user_seen",
                    "UPDATE sessions_of_users USING TIMESTAMP ? SET seen_ms = ? WHERE user_id = ?",
                ),
            list: cql
                .write(
                    "lease_user",
                    "INSERT INTO users_of_leases (lease_id, shard, user_id) VALUES (?, ?, ?) USING TIMESTAMP ?",
                ),
            tell: cql
                .write(
                    "lease_user_count",
                    "UPDATE users_of_leases USING TIMESTAMP ? SET sessions = ? WHERE lease_id = ? AND shard = ? AND user_id = ?",
                ),
            page: cql
                .read(
                    "lease_users",
                    &format!(
                        "SELECT user_id FROM users_of_leases WHERE lease_id = ? AND shard = ? AND user_id > ? LIMIT {PAGE}"
                    ),
                ),
            count: cql
                .read(
                    "lease_sessions",
                    "SELECT SUM(sessions) FROM users_of_leases WHERE lease_id = ? AND shard = ?",
                ),
            unlist: cql
                .write(
                    "lease_users_delete",
                    "DELETE FROM users_of_leases WHERE lease_id = ? AND shard = ?",
                ),
        }
    }

    /// What a user has open by a lease.
    pub(super) async fn look(&self, lease: LeaseId, user: UserId) -> Result<Open, StoreError> {
        self.look_by(&self.look, lease, user).await
    }

    /// The same, when what others left half decided was decided.
    pub(super) async fn look_serial(
        &self,
        lease: LeaseId,
        user: UserId,
    ) -> Result<Open, StoreError> {
        self.look_by(&self.look_serial, lease, user).await
    }

    async fn look_by(&self, read: &Read, lease: LeaseId, user: UserId) -> Result<Open, StoreError> {
        let values = (user.get(), bytes(&lease));
        let row: Option<(Vec<u8>, i64)> = self.cql.row(read, values).await?;
        match row {
            None => Ok(Open::default()),
            Some((ids, version)) => Ok(Open {
                ids: decode(&ids)?,
                version: Some(version),
            }),
        }
    }

    /// What is known of a user, by whatever lease.
    pub(super) async fn of_user(&self, user: UserId) -> Result<OfUser, StoreError> {
        type Row = (Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>);
        let rows: Vec<Row> = self.cql.rows(&self.of_user, (user.get(),)).await?;
        let mut known = OfUser::default();
        for (lease, ids, seen_ms) in rows {
            // A user without sessions has one row, with nothing but the time.
            known.seen = seen_ms.map(Time::from_ms);
            if let Some(lease) = lease
                && ids.is_some_and(|ids| !ids.is_empty())
            {
                known.leases.push(lease_id(&lease)?);
            }
        }
        Ok(known)
    }

    /// Opens sessions, when what the user has open was last known to be `known`.
    pub(super) async fn add(
        &self,
        lease: LeaseId,
        user: UserId,
        mut known: Open,
        ids: Ids,
    ) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            if ids.is_subset(&known.ids) {
                return Ok(());
            }
            let all: Ids = known.ids.union(&ids).copied().collect();
            let version = next_version(known.version);
            if known.version.is_none() {
                // First of all, so that a sweep can find whatever comes of this.
                self.list(lease, user, version).await?;
            }
            if self.put(lease, user, &known, &all, version).await? == Applied::Yes {
                return self.tell(lease, user, all.len(), version).await;
            }
            known = self.look(lease, user).await?;
        }
        Err(contended())
    }

    /// Ends those of the sessions that are open, of a lease that lives: their user was seen
    /// now. How many it ended.
    pub(super) async fn close(
        &self,
        lease: LeaseId,
        user: UserId,
        ids: Ids,
        now: Time,
    ) -> Result<usize, StoreError> {
        let ended = self.end(lease, user, ids, Some(now)).await?;
        if let Some((left, version)) = ended.left {
            self.tell(lease, user, left, version).await?;
        }
        Ok(ended.sessions)
    }

    /// Ends those of the sessions that are open, and keeps when their user was seen by them.
    /// The list of the lease is not told.
    pub(super) async fn end(
        &self,
        lease: LeaseId,
        user: UserId,
        ids: Ids,
        seen: Option<Time>,
    ) -> Result<Ended, StoreError> {
        let mut known = self.look(lease, user).await?;
        let mut unsure = 0;
        for _ in 0..TRIES {
            if known.ids.is_disjoint(&ids) {
                // Their opening may have been left half decided.
                known = self.look_serial(lease, user).await?;
            }
            let rest: Ids = known.ids.difference(&ids).copied().collect();
            let sessions = known.ids.len() - rest.len();
            if sessions == 0 {
                let left = known.version.map(|version| (rest.len(), version));
                return Ok(Ended {
                    sessions: unsure,
                    left: left.filter(|_| unsure > 0),
                });
            }
            if let Some(seen) = seen {
                self.see(user, seen).await?;
            }
            let version = next_version(known.version);
            match self.put(lease, user, &known, &rest, version).await? {
                Applied::Yes => {
                    let left = Some((rest.len(), version));
                    return Ok(Ended { sessions, left });
                }
                // It may have been this that ended them, or another.
                Applied::No { unsure: true, .. } => unsure = sessions,
                Applied::No { .. } => {}
            }
            known = self.look(lease, user).await?;
        }
        Err(contended())
    }

    async fn put(
        &self,
        lease: LeaseId,
        user: UserId,
        known: &Open,
        ids: &Ids,
        version: i64,
    ) -> Result<Applied, StoreError> {
        let (ids, user, lease, is_empty) = (encode(ids), user.get(), bytes(&lease), ids.is_empty());
        let put = match known.version {
            None => {
                let values = (ids, version, user, lease);
                self.cql.apply(&self.first, values).await?
            }
            Some(old) => {
                let change = if is_empty { &self.empty } else { &self.change };
                let values = (ids, version, user, lease, old);
                self.cql.apply(change, values).await?
            }
        };
        if put != Applied::Yes {
            metrics::counter!("drivers_presence_store_conflicts_total").increment(1);
        }
        Ok(put)
    }

    /// Says that a user was seen; a later time stays.
    async fn see(&self, user: UserId, at: Time) -> Result<(), StoreError> {
        let at_ms = at.as_ms();
        let values = (at_ms.saturating_mul(1_000), at_ms, user.get());
        Ok(self.cql.run(&self.see, values).await?)
    }

    /// Lists a user under a lease, before the first version of his row.
    async fn list(&self, lease: LeaseId, user: UserId, version: i64) -> Result<(), StoreError> {
        let values = (bytes(&lease), shard(user), user.get(), version);
        Ok(self.cql.run(&self.list, values).await?)
    }

    /// Tells the list how many sessions a user has as of a version of his row.
    async fn tell(
        &self,
        lease: LeaseId,
        user: UserId,
        sessions: usize,
        version: i64,
    ) -> Result<(), StoreError> {
        let sessions = i64::try_from(sessions).unwrap_or(i64::MAX);
        let values = (version, sessions, bytes(&lease), shard(user), user.get());
        Ok(self.cql.run(&self.tell, values).await?)
    }

    /// The users of a shard of a lease behind one of them, in their order, up to [`PAGE`].
    pub(super) async fn users(
        &self,
        lease: LeaseId,
        shard: i8,
        behind: Option<UserId>,
    ) -> Result<Vec<UserId>, StoreError> {
        let values = (bytes(&lease), shard, behind.map_or(0, UserId::get));
        let rows: Vec<(i64,)> = self.cql.rows(&self.page, values).await?;
        rows.into_iter()
            .map(|(user,)| {
                UserId::new(user).ok_or_else(|| {
                    StoreError::Damaged("a lease lists a user of no valid number".to_owned())
                })
            })
            .collect()
    }

    /// How many sessions a lease has, about.
    pub(super) async fn count(&self, lease: LeaseId) -> Result<u64, StoreError> {
        let shards = (0..SHARDS).map(async |shard| {
            let sum: Option<(Option<i64>,)> =
                self.cql.row(&self.count, (bytes(&lease), shard)).await?;
            let sum = sum.and_then(|(sum,)| sum).unwrap_or(0);
            Ok(u64::try_from(sum).unwrap_or(0))
        });
        let counts: Vec<u64> = each(shards.collect::<Vec<_>>()).await?;
        Ok(counts.into_iter().sum())
    }

    /// Forgets who had sessions by a lease.
    pub(super) async fn unlist(&self, lease: LeaseId) -> Result<(), StoreError> {
        let shards = (0..SHARDS).map(async |shard| {
            let values = (bytes(&lease), shard);
            Ok(self.cql.run(&self.unlist, values).await?)
        });
        each(shards.collect::<Vec<_>>()).await?;
        Ok(())
    }
}

/// A version that a row never had: above the last one; and, since a row that expired forgot
/// it, above the microseconds of the day, of which an hour passes before a row expires.
fn next_version(last: Option<i64>) -> i64 {
    let now_us = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| {
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        });
    last.map_or(now_us, |last| now_us.max(last.saturating_add(1)))
}

fn contended() -> StoreError {
    StoreError::Unavailable("others changed the sessions of a user all the time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_never_comes_back_although_the_clock_does_or_the_row_was_forgotten() {
        let before = next_version(None);
        assert!(before > 1_700_000_000_000_000, "microseconds of the day");
        assert!(next_version(Some(1)) >= before);
        let clock_went_back = before + 3_600_000_000;
        assert_eq!(next_version(Some(clock_went_back)), clock_went_back + 1);
    }
}
