//! The bus: events between the services and the gateways, delivered at most once.
//!
//! Whoever needs every event heals from the service that owns the data; the bus
//! only makes it fast.

use std::{fmt, pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::poll_fn};
use tokio::sync::{mpsc, watch};

use crate::id::{TopicId, UserId};

#[cfg(test)]
#[macro_use]
mod conformance;
pub mod memory;
pub mod misbehaving;
pub mod nats;
mod url;

pub use url::{InvalidBusUrl, check, connect};

/// Events a subscription holds for a subscriber that is behind. A feed holds as
/// many; past that it reads what it missed.
const QUEUE: usize = 1_024;

/// What an event is about, and so who receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `drivers.event.v1.TopicEvent` of one topic.
    Topic(TopicId),
    /// `drivers.event.v1.UserEvent` of one user.
    User(UserId),
    /// `drivers.event.v1.HeadsAnnounced`.
    Heads,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.under("drivers"))
    }
}

impl Subject {
    /// Its name where another system shares the broker and has another prefix.
    fn under(self, prefix: &str) -> String {
        match self {
            Self::Topic(id) => format!("{prefix}.v1.topic.{id}"),
            Self::User(id) => format!("{prefix}.v1.user.{id}"),
            Self::Heads => format!("{prefix}.v1.heads"),
        }
    }
}

/// A backend of the bus.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands an event over. Never waits: what can't be handed over is lost and counted.
    fn publish(&self, subject: Subject, event: Bytes);

    /// Receives the events of a subject until the subscription is dropped.
    ///
    /// # Errors
    /// When the broker can't be asked at all.
    async fn subscribe(&self, subject: Subject) -> Result<Subscription, BusError>;

    /// Waits until the broker has taken all that was published, and all subscriptions
    /// that were made, before, so that what is published from then on reaches them.
    ///
    /// # Errors
    /// When that did not happen within `limit`.
    async fn flush(&self, limit: Duration) -> Result<(), BusError>;

    /// Whether the broker is there at the moment. A program waits for it at its start, not
    /// ready; that it is lost later makes no program less ready.
    fn connected(&self) -> watch::Receiver<bool>;

    /// Changes each time the connection came back and all subscriptions with it: what was
    /// published meanwhile is lost.
    fn reconnects(&self) -> watch::Receiver<u64>;
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Event(Bytes),
    /// The subscriber was too slow and events were lost here.
    Lost,
}

/// Events of one subject, in a bounded queue.
pub struct Subscription {
    events: Pin<Box<dyn Stream<Item = Received> + Send + Sync>>,
}

impl Subscription {
    /// A subscription that is fed by the sender's other half. The guard is
    /// dropped with it: a backend ends the subscription there.
    #[must_use]
    pub fn new(mut events: mpsc::Receiver<Received>, guard: impl Send + Sync + 'static) -> Self {
        Self::of(poll_fn(move |cx| {
            let _held = &guard;
            events.poll_recv(cx)
        }))
    }

    /// A subscription to these events, which hold whatever has to end with it.
    fn of(events: impl Stream<Item = Received> + Send + Sync + 'static) -> Self {
        Self {
            events: Box::pin(events),
        }
    }

    /// The next event; `None` once the bus has shut down. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Received> {
        self.events.next().await
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// Why the bus could not do it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The broker did not answer in time.
    #[error("the bus did not answer within {0:?}")]
    TimedOut(Duration),
    /// The broker can't be reached, or refused.
    #[error("the bus can't be used: {0}")]
    Unavailable(String),
}

/// Waits until the broker is there.
pub async fn reached(bus: &dyn Bus) {
    // A bus that has shut down is not waited for.
    let _ = bus.connected().wait_for(|is_there| *is_there).await;
}

/// Counts an event that is lost here, and why: `away` (no broker), `full` (more than the
/// broker takes), `too_large` (for the broker), `closed` or `slow_subscriber`.
fn lost(why: &'static str) {
    metrics::counter!("drivers_bus_lost_total", "why" => why).increment(1);
}
