//! The leases: one row each, changed on conditions only.

use chassis::cql::{Applied, Conditional, Cql, Read};

use super::each;
use crate::{
    clock::Time,
    session::{LeaseId, Term},
    store::{Held, StoreError},
};

/// The partitions of the leases.
const PARTS: i8 = 16;

pub(super) struct Leases {
    cql: Cql,
    one: Read,
    of_part: Read,
    take: Conditional,
    renew: Conditional,
    release: Conditional,
    end: Conditional,
    mark_swept: Conditional,
    forget: Conditional,
}

/// A lease as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    renewed_ms: i64,
    expires_ms: i64,
    ended_ms: Option<i64>,
    /// When a sweep had been through all of its sessions.
    pub(super) swept: Option<Time>,
}

type Row = (Vec<u8>, i64, i64, Option<i64>, Option<i64>);

impl Lease {
    pub(super) fn lives(&self, now: Time) -> bool {
        self.ended_ms.is_none() && now.as_ms() < self.expires_ms
    }

    /// When its sessions were last there, if it does not live.
    pub(super) fn last_there(&self) -> Time {
        Time::from_ms(self.ended_ms.unwrap_or(self.renewed_ms))
    }

    fn decode((id, renewed_ms, expires_ms, ended_ms, swept_ms): Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: lease_id(&id)?,
            renewed_ms,
            expires_ms,
            ended_ms,
            swept: swept_ms.map(Time::from_ms),
        })
    }
}

/// The id of a lease, as it is stored.
pub(super) fn lease_id(bytes: &[u8]) -> Result<LeaseId, StoreError> {
    let bytes = bytes.try_into();
    bytes
        .map(LeaseId::new)
        .map_err(|_| StoreError::Damaged("the id of a lease is not 16 bytes long".to_owned()))
}

/// The id of a lease as a value.
pub(super) fn bytes(lease: &LeaseId) -> &[u8] {
    lease.as_bytes()
}

fn part(lease: &LeaseId) -> i8 {
    let [first, ..] = lease.as_bytes();
    i8::try_from(first % PARTS.unsigned_abs()).unwrap_or_default()
}

impl Leases {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            one: cql
                .read(
                    "lease",
                    "SELECT lease_id, renewed_ms, expires_ms, ended_ms, swept_ms FROM leases WHERE part = ? AND lease_id = ?",
                ),
            of_part: cql
                .read(
                    "leases",
                    "SELECT lease_id, renewed_ms, expires_ms, ended_ms, swept_ms FROM leases WHERE part = ?",
                ),
            take: cql
                .conditional(
                    "lease_take",
                    "INSERT INTO leases (part, lease_id, renewed_ms, expires_ms) VALUES (?, ?, ?, ?) IF NOT EXISTS",
                ),
            // A renewal that was delayed must not shorten what a later one made longer.
            renew: cql
                .conditional(
                    "lease_renew",
                    "UPDATE leases SET renewed_ms = ?, expires_ms = ? WHERE part = ? AND lease_id = ? \
                     IF ended_ms = NULL AND expires_ms > ? AND expires_ms <= ?",
                ),
            release: cql
                .conditional(
                    "lease_release",
                    "UPDATE leases SET ended_ms = ? WHERE part = ? AND lease_id = ? \
                     IF ended_ms = NULL AND expires_ms > ?",
                ),
            end: cql
                .conditional(
                    "lease_end",
                    "UPDATE leases SET ended_ms = ? WHERE part = ? AND lease_id = ? \
                     IF ended_ms = NULL AND renewed_ms = ? AND expires_ms = ?",
                ),
            mark_swept: cql
                .conditional(
                    "lease_mark_swept",
                    "UPDATE leases SET swept_ms = ? WHERE part = ? AND lease_id = ? \
                     IF ended_ms = ? AND swept_ms = NULL",
                ),
            forget: cql
                .conditional(
                    "lease_forget",
                    "DELETE FROM leases WHERE part = ? AND lease_id = ? IF swept_ms = ?",
                ),
        }
    }

    /// A lease that is known.
    pub(super) async fn one(&self, id: LeaseId) -> Result<Option<Lease>, StoreError> {
        let row: Option<Row> = self.cql.row(&self.one, (part(&id), bytes(&id))).await?;
        row.map(Lease::decode).transpose()
    }

    pub(super) async fn lives(&self, id: LeaseId, now: Time) -> Result<bool, StoreError> {
        Ok(self.one(id).await?.is_some_and(|lease| lease.lives(now)))
    }

    /// All that are known: as many as there are gateways, and those that died of late.
    pub(super) async fn all(&self) -> Result<Vec<Lease>, StoreError> {
        let parts = (0..PARTS).map(async |part| {
            let rows: Vec<Row> = self.cql.rows(&self.of_part, (part,)).await?;
            rows.into_iter()
                .map(Lease::decode)
                .collect::<Result<Vec<_>, _>>()
        });
        let parts = each(parts.collect::<Vec<_>>()).await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Takes a lease that is not known; says whether it was taken now.
    pub(super) async fn take(&self, id: LeaseId, term: Term) -> Result<bool, StoreError> {
        let values = (part(&id), bytes(&id), term.from.as_ms(), term.until.as_ms());
        let taken = self.cql.apply(&self.take, values).await?;
        Ok(taken == Applied::Yes)
    }

    pub(super) async fn renew(&self, id: LeaseId, term: Term) -> Result<Held, StoreError> {
        let (from, until) = (term.from.as_ms(), term.until.as_ms());
        let values = (from, until, part(&id), bytes(&id), from, until);
        Ok(match self.cql.apply(&self.renew, values).await? {
            Applied::Yes => Held::Living,
            // It lasts longer already.
            Applied::No { old, .. }
                if old.bigint("ended_ms").is_none()
                    && old.bigint("expires_ms").is_some_and(|ms| ms > until) =>
            {
                Held::Living
            }
            Applied::No { .. } => Held::Lost,
        })
    }

    /// Ends a lease that lives.
    pub(super) async fn release(&self, id: LeaseId, now: Time) -> Result<(), StoreError> {
        let values = (now.as_ms(), part(&id), bytes(&id), now.as_ms());
        self.cql.apply(&self.release, values).await?;
        Ok(())
    }

    /// Ends a lease that does not live by the clock, unless it was renewed meanwhile.
    /// Whether it is certain to have ended.
    pub(super) async fn end(&self, lease: &Lease) -> Result<bool, StoreError> {
        if lease.ended_ms.is_some() {
            return Ok(true);
        }
        let values = (
            lease.renewed_ms,
            part(&lease.id),
            bytes(&lease.id),
            lease.renewed_ms,
            lease.expires_ms,
        );
        let ended = self.cql.apply(&self.end, values).await?;
        Ok(ended == Applied::Yes)
    }

    /// Says that all sessions of a lease that ended were swept.
    pub(super) async fn mark_swept(&self, lease: &Lease, now: Time) -> Result<(), StoreError> {
        let ended_ms = lease.last_there().as_ms();
        let values = (now.as_ms(), part(&lease.id), bytes(&lease.id), ended_ms);
        self.cql.apply(&self.mark_swept, values).await?;
        Ok(())
    }

    /// Forgets a lease that was swept then.
    pub(super) async fn forget(&self, id: LeaseId, swept: Time) -> Result<(), StoreError> {
        let values = (part(&id), bytes(&id), swept.as_ms());
        self.cql.apply(&self.forget, values).await?;
        Ok(())
    }
}
