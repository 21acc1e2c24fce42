//! How many sessions leases have, as far as one replica knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::future::Cache;

use super::sessions::Sessions;
use crate::{session::LeaseId, store::StoreError};

/// How long a count is followed before the sessions are counted again.
const KEPT: Duration = Duration::from_mins(5);

/// A lease is not called full by a count that is older.
const RECENT: Duration = Duration::from_secs(10);

/// Leases whose counts are kept: more than there are gateways.
const LEASES: u64 = 10_000;

/// Counts that were read once, and followed since.
pub(super) struct Counts(Cache<LeaseId, Arc<Count>>);

struct Count {
    since: Instant,
    sessions: AtomicU64,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self(
            Cache::builder()
                .max_capacity(LEASES)
                .time_to_live(KEPT)
                .build(),
        )
    }

    /// Counts sessions that are about to be opened, if there is room for them.
    pub(super) async fn reserve(
        &self,
        sessions: &Sessions,
        lease: LeaseId,
        new: usize,
        limit: u64,
    ) -> Result<bool, StoreError> {
        let new = u64::try_from(new).unwrap_or(u64::MAX);
        let count = self.count(sessions, lease).await?;
        if count.reserve(new, limit) {
            return Ok(true);
        }
        if count.since.elapsed() < RECENT {
            return Ok(false);
        }
        self.forget(lease).await;
        Ok(self.count(sessions, lease).await?.reserve(new, limit))
    }

    async fn count(&self, sessions: &Sessions, lease: LeaseId) -> Result<Arc<Count>, StoreError> {
        let counted = async {
            let since = Instant::now();
            let sessions = AtomicU64::new(sessions.count(lease).await?);
            Ok(Arc::new(Count { since, sessions }))
        };
        let count = self.0.try_get_with(lease, counted).await;
        count.map_err(|error: Arc<StoreError>| StoreError::clone(&error))
    }

    /// Counts sessions that were closed.
    pub(super) async fn closed(&self, lease: LeaseId, sessions: usize) {
        let sessions = u64::try_from(sessions).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get(&lease).await {
            let less = |count: u64| Some(count.saturating_sub(sessions));
            let _ = count
                .sessions
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Has the sessions of a lease counted again.
    pub(super) async fn forget(&self, lease: LeaseId) {
        self.0.invalidate(&lease).await;
    }
}

impl Count {
    fn reserve(&self, new: u64, limit: u64) -> bool {
        let more = |count: u64| count.checked_add(new).filter(|count| *count <= limit);
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}
