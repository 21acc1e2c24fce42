//! What the client tells of its connection: counted, and logged sparingly. It may forget
//! an event when many come at once, so these only hint that there is something to look at.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::Event;
use tokio::{sync::Notify, time::Instant};

use crate::bus::lost;

/// Log lines of a kind that come in floods are at least this far apart.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Signs {
    /// Notified at each of them.
    pub(super) changed: Notify,
    error: Mutex<Option<String>>,
    slow: Rarely,
    refused: Rarely,
}

impl Signs {
    pub(super) fn hear(&self, event: &Event) {
        let kind = match event {
            Event::Connected => "connected",
            Event::Disconnected => "disconnected",
            Event::SlowConsumer(_) => {
                lost("slow_subscriber");
                if self.slow.may() {
                    tracing::warn!("a subscriber is too slow, and loses events");
                }
                "slow_subscriber"
            }
            Event::ServerError(error) => {
                self.failed(error.to_string());
                if self.refused.may() {
                    tracing::warn!(%error, "the broker refuses something");
                }
                "server_error"
            }
            Event::ClientError(error) => {
                self.failed(error.to_string());
                "client_error"
            }
            Event::LameDuckMode => "lame_duck",
            Event::Draining | Event::Closed => "closed",
        };
        metrics::counter!("drivers_bus_connection_events_total", "event" => kind).increment(1);
        self.changed.notify_one();
    }

    /// The last thing that went wrong, once.
    pub(super) fn take_error(&self) -> Option<String> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn failed(&self, why: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

#[derive(Default)]
struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    fn may(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| at.elapsed() >= BETWEEN_LINES);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
