//! What travels along with every call: how long it may take, for whom it is
//! made, and which trace it belongs to.

use std::{future::Future, time::Duration};
use tokio::time::Instant;

use crate::id::{TopicId, UserId};

pub(crate) mod metadata;

/// Most people one call may act for.
pub const MAX_ACTING_USERS: usize = 32;

/// How long a call may take when its caller did not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A person for whom a service calls. Only an authenticated service can name one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActingUser {
    /// Who.
    pub id: UserId,
    /// His name at this time.
    pub username: String,
}

tokio::task_local! {
    /// The span of the call that a task works for.
    static CURRENT: TraceContext;
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

impl TraceContext {
    /// A new trace with random ids, recorded.
    #[must_use]
    pub fn fresh() -> Self {
        Self {
            trace_id: rand::random::<u128>().max(1),
            span_id: rand::random::<u64>().max(1),
            sampled: true,
        }
    }

    /// A span of the same trace, one level deeper.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: rand::random::<u64>().max(1),
            ..self
        }
    }

    /// The span of the call that this task answers; `None` outside of calls.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|trace| *trace).ok()
    }

    /// Works on something that belongs to this span.
    pub(crate) fn spanning<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// The text of a `traceparent` header.
    #[must_use]
    pub fn to_traceparent(self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }

    /// Reads a `traceparent` header; `None` when it breaks the format, for then
    /// the specification starts a new trace.
    #[must_use]
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = lower_hex(parts.next()?, 2)?;
        let trace_id = lower_hex(parts.next()?, 32)?;
        let span_id = lower_hex(parts.next()?, 16)?;
        let flags = lower_hex(parts.next()?, 2)?;
        // A later version may add fields behind the flags; version 0 has none.
        let ends_well = version != 0 || parts.next().is_none();
        (version != 0xff && ends_well && trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id: u64::try_from(span_id).ok()?,
            sampled: flags & 1 == 1,
        })
    }
}

fn lower_hex(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if valid {
        u128::from_str_radix(text, 16).ok()
    } else {
        None
    }
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
    /// The topic whose calls one replica of a service had best serve alone. It chooses
    /// the replica and does not travel.
    pub topic: Option<TopicId>,
}

impl Call {
    /// A call that starts a trace, for nobody in particular, and may take this long.
    #[must_use]
    pub fn within(limit: Duration) -> Self {
        Self {
            deadline: deadline_in(limit),
            acting_users: Vec::new(),
            trace: TraceContext::fresh(),
            topic: None,
        }
    }

    /// The same call, to the replica that serves this topic while it is well: its
    /// appends then share the cost of a write, and no other replica contends with them.
    #[must_use]
    pub fn about(mut self, topic: TopicId) -> Self {
        self.topic = Some(topic);
        self
    }

    /// The same call, made for one more person. A server refuses a call for
    /// more than [`MAX_ACTING_USERS`].
    #[must_use]
    pub fn acting_for(mut self, user: ActingUser) -> Self {
        self.acting_users.push(user);
        self
    }

    /// How long the caller still waits; zero when he no longer does.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// A request that takes this call along, for a client over
    /// [`crate::client::Channel`].
    #[must_use]
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.clone());
        request
    }

    /// The call that a request belongs to. A request that passed no server
    /// layer belongs to a new one, for nobody.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::within(DEFAULT_TIMEOUT))
    }

    /// The same, taken out of the request.
    pub(crate) fn take_from<T>(request: &mut tonic::Request<T>) -> Self {
        let call = request.extensions_mut().remove();
        call.unwrap_or_else(|| Self::within(DEFAULT_TIMEOUT))
    }
}

/// The instant after this time; a year from now when it is beyond the clock's range.
fn deadline_in(limit: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(limit.min(YEAR)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_reads_what_it_writes() {
        let trace = TraceContext::fresh();
        assert_eq!(
            TraceContext::from_traceparent(&trace.to_traceparent()),
            Some(trace)
        );
        let child = trace.child();
        assert_eq!(child.trace_id, trace.trace_id);
        assert_ne!(child.span_id, trace.span_id);
    }

    #[test]
    fn traceparent_that_breaks_the_format_is_not_read() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(TraceContext::from_traceparent(valid).is_some());
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(TraceContext::from_traceparent(later).is_some());
        for broken in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::from_traceparent(broken), None, "{broken}");
        }
    }
}
