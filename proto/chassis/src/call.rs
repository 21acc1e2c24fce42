//! What travels along with every call: how long it may take, for whom it is
//! made, and which trace it belongs to.

use std::time::{Duration, Instant};

use crate::id::UserId;

/// A person for whom a service calls. Only an authenticated service can name one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActingUser {
    /// Who.
    pub id: UserId,
    /// His name at this time.
    pub username: String,
}

/// W3C trace context: the trace that a call belongs to, and its parent span.
/// <https://www.w3.org/TR/trace-context/>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: u128,
    /// The span that made the call.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// What travels along with a call.
///
/// The server layer puts it into the extensions of each request, whether the
/// request came over a socket or from within the process.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// For whom it is made; empty when a service calls for itself.
    pub acting_users: Vec<ActingUser>,
    /// The trace it belongs to.
    pub trace: TraceContext,
}

impl Call {
    /// How long the caller still waits; zero when he no longer does.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
