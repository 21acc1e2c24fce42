//! Leases and sessions on a CQL cluster, ScyllaDB or Apache Cassandra.
//!
//! A lease is one row. What a user has open by a lease is one row too, changed as a whole
//! on the condition that nobody changed it meanwhile; a third table lists the users of each
//! lease for the sweep. The tables' own comments say how they are keyed, and why.
//!
//! Several replicas, and the sweep with them, may stop between any two steps:
//! - *Opening* lists the user under the lease, then changes his row, then looks at the
//!   lease again. Listed and nothing else: the sweep looks at him in vain. Changed and
//!   not looked: he is online as long as the lease lives, and the sweep finds him.
//! - *Closing* writes when he was seen, then changes his row. In between he is online
//!   still, and was last seen now.
//! - *Sweeping* ends the lease first, from when on nobody is online by it; then, user by
//!   user, does what closing does, with the end of the lease as the time. Before and
//!   after, an answer about him takes the same time from the lease or from his row.
//!   When all were swept, the lease stays known for `sweep::SETTLE`; then all are
//!   looked at once more, and it goes.
//!
//! Nobody leaves sessions behind a sweep: whoever changed a row when the sweep had been there
//! looks at the lease afterwards. Its end was in a quorum before the sweep read that row, so
//! he sees it, and takes his change back. If he dies before that, the second round does it.

mod counts;
mod leases;
mod sessions;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
};

use async_trait::async_trait;
use chassis::{
    cql::{Cql, CqlError, migrations::Migrations},
    id::UserId,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use self::{
    counts::Counts,
    leases::Leases,
    sessions::{Ids, Sessions},
    sweep::Place,
};
use crate::{
    clock::Time,
    session::{LeaseId, Presence, Session, Term},
    store::{Held, Opened, Store, StoreError, Swept},
};

/// The tables of this service.
pub const MIGRATIONS: Migrations = chassis::migrations!("presence-svc", "0001_presence.cql");

/// How many requests of one call are under way at a time.
const AT_ONCE: usize = 32;

/// Leases and sessions on a CQL cluster.
///
/// How many sessions a lease has is counted at the first opening that a replica sees, and
/// followed from there by what it opens and closes itself; so one replica is exact, and
/// several may together go past the limit by what the others opened within five minutes.
pub struct ScyllaStore {
    leases: Leases,
    sessions: Sessions,
    counts: Counts,
    /// How far the lease that is being swept was swept from here.
    place: Mutex<Option<Place>>,
}

impl ScyllaStore {
    /// The leases and sessions in this keyspace, whose tables are as this program knows them.
    ///
    /// # Errors
    /// When they are not, or the cluster is away.
    pub async fn open(cql: &Cql) -> Result<Self, CqlError> {
        MIGRATIONS.check(cql).await?;
        let store = Self {
            leases: Leases::open(cql),
            sessions: Sessions::open(cql),
            counts: Counts::new(),
            place: Mutex::default(),
        };
        cql.prepared().await?;
        Ok(store)
    }

    /// Takes sessions back that were opened by a lease that was lost meanwhile. Nobody was
    /// seen by them.
    async fn take_back(
        &self,
        lease: LeaseId,
        opened: BTreeMap<UserId, Ids>,
    ) -> Result<(), StoreError> {
        let ends = opened
            .into_iter()
            .map(|(user, ids)| self.sessions.end(lease, user, ids, None));
        each(ends.collect::<Vec<_>>()).await?;
        Ok(())
    }
}

/// Waits for all, so many at a time, in their order; the first error ends it.
async fn each<T>(
    futures: impl IntoIterator<Item = impl Future<Output = Result<T, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    stream::iter(futures).buffered(AT_ONCE).try_collect().await
}

fn by_user(sessions: &[Session]) -> BTreeMap<UserId, Ids> {
    let mut users: BTreeMap<UserId, Ids> = BTreeMap::new();
    for session in sessions {
        users.entry(session.user).or_default().insert(session.id);
    }
    users
}

#[async_trait]
impl Store for ScyllaStore {
    async fn hold_lease(&self, lease: LeaseId, term: Term, take: bool) -> Result<Held, StoreError> {
        if take && self.leases.take(lease, term).await? {
            return Ok(Held::Living);
        }
        self.leases.renew(lease, term).await
    }

    async fn release_lease(&self, lease: LeaseId, now: Time) -> Result<(), StoreError> {
        self.leases.release(lease, now).await
    }

    async fn open_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
        limit: u64,
    ) -> Result<Opened, StoreError> {
        if !self.leases.lives(lease, now).await? {
            return Ok(Opened::LeaseLost);
        }
        let users = by_user(sessions);
        let looks = users.keys().map(|user| self.sessions.look(lease, *user));
        let rows = each(looks.collect::<Vec<_>>()).await?;
        let mut new: BTreeMap<UserId, Ids> = BTreeMap::new();
        let mut opens = Vec::new();
        for ((user, mut ids), row) in users.into_iter().zip(rows) {
            ids.retain(|id| !row.ids.contains(id));
            if !ids.is_empty() {
                new.insert(user, ids.clone());
                opens.push(self.sessions.add(lease, user, row, ids));
            }
        }
        if new.is_empty() {
            return Ok(Opened::All);
        }
        let count = new.values().map(Ids::len).sum();
        let has_room = self.counts.reserve(&self.sessions, lease, count, limit);
        if !has_room.await? {
            return Ok(Opened::TooMany);
        }
        if let Err(error) = each(opens).await {
            self.counts.forget(lease).await;
            return Err(error);
        }
        // Its end was in a quorum before any row of it was swept, so it is seen here.
        if self.leases.lives(lease, now).await? {
            return Ok(Opened::All);
        }
        self.counts.forget(lease).await;
        self.take_back(lease, new).await?;
        Ok(Opened::LeaseLost)
    }

    async fn close_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
    ) -> Result<(), StoreError> {
        let closes = by_user(sessions)
            .into_iter()
            .map(|(user, ids)| self.sessions.close(lease, user, ids, now));
        let closed = each(closes.collect::<Vec<_>>()).await?;
        self.counts.closed(lease, closed.into_iter().sum()).await;
        Ok(())
    }

    async fn sweep(&self, now: Time, limit: usize) -> Result<Swept, StoreError> {
        self.sweep_step(now, limit).await
    }

    async fn presences(&self, users: &[UserId], now: Time) -> Result<Vec<Presence>, StoreError> {
        let distinct: BTreeSet<UserId> = users.iter().copied().collect();
        let reads = distinct.iter().map(|user| self.sessions.of_user(*user));
        let known = each(reads.collect::<Vec<_>>()).await?;
        let ids: BTreeSet<LeaseId> = known
            .iter()
            .flat_map(|user| &user.leases)
            .copied()
            .collect();
        let reads = ids.iter().map(|lease| self.leases.one(*lease));
        let rows = each(reads.collect::<Vec<_>>()).await?;
        let leases: HashMap<_, _> = ids.into_iter().zip(rows).collect();
        let presences: HashMap<_, _> = distinct
            .into_iter()
            .zip(known)
            .map(|(user, known)| {
                let mut presence = Presence {
                    online: false,
                    last_seen: known.seen,
                };
                for lease in known
                    .leases
                    .iter()
                    .filter_map(|id| leases.get(id)?.as_ref())
                {
                    if lease.lives(now) {
                        presence.online = true;
                    } else {
                        presence.last_seen = presence.last_seen.max(Some(lease.last_there()));
                    }
                }
                (user, presence)
            })
            .collect();
        Ok(users
            .iter()
            .filter_map(|user| presences.get(user).copied())
            .collect())
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
