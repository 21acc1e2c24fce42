//! The port to the store: leases, sessions, and when users were last seen. The
//! rules stand above it; any backend passes `conformance`.

use async_trait::async_trait;
use chassis::id::UserId;

use crate::{
    clock::Time,
    session::{LeaseId, Presence, Session, Term},
};

#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
#[cfg(test)]
pub(crate) mod failing;
pub mod scylla;

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

/// What became of the wish to hold a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It lives for the term asked.
    Living,
    /// It does not live.
    Lost,
}

/// What became of the wish to open sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// All are open.
    All,
    /// None was opened: the lease does not live.
    LeaseLost,
    /// None was opened: the lease would have too many.
    TooMany,
}

/// What one step of a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How many sessions it ended.
    pub sessions: usize,
    /// Whether there was nothing else to sweep.
    pub done: bool,
}

/// Leases, sessions, last seen. All writes may be repeated.
///
/// A lease *lives* while it is known, was not given back, and its term is not
/// over. From the moment that a sweep touched it, it can't be renewed, whatever
/// the clocks of several callers say: some of its sessions are gone by then.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes a lease that lives at `term.from` last for the term. One that is not
    /// known is taken if `take` is set, else it is lost.
    async fn hold_lease(&self, lease: LeaseId, term: Term, take: bool) -> Result<Held, StoreError>;

    /// Ends a lease if it lives: its sessions were there until `now`. They are
    /// left to the sweep, but nobody is online by them any more.
    async fn release_lease(&self, lease: LeaseId, now: Time) -> Result<(), StoreError>;

    /// Opens sessions by a lease that lives at `now`, unless it would have more
    /// than `limit` then; how near to the limit calls at the same time are stopped
    /// is up to the store. Those that are open stay as they are.
    async fn open_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
        limit: u64,
    ) -> Result<Opened, StoreError>;

    /// Ends those of the sessions that are open by this lease, living or not: their
    /// users were seen at `now`.
    async fn close_sessions(
        &self,
        lease: LeaseId,
        sessions: &[Session],
        now: Time,
    ) -> Result<(), StoreError>;

    /// Deletes up to `limit` sessions by leases that do not live at `now`, and the
    /// leases that have none left. Their users were last seen when the lease was
    /// given back, or else last renewed; a later time stays.
    async fn sweep(&self, now: Time, limit: usize) -> Result<Swept, StoreError>;

    /// What is known of users at `now`, in the order asked. The same before and
    /// after a sweep.
    async fn presences(&self, users: &[UserId], now: Time) -> Result<Vec<Presence>, StoreError>;
}
