//! When something that failed may be tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// Grows the pauses with each failure, to at most a second with the jitter.
#[derive(Default)]
pub(super) struct Pace {
    not_before: Option<Instant>,
    pauses: Option<ExponentialBackoff>,
}

impl Pace {
    /// When it may be tried, if that is later than `now`.
    pub(super) fn later_than(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|not_before| now < *not_before)
    }

    /// Notes how a try went.
    pub(super) fn note(&mut self, succeeded: bool) {
        if succeeded {
            *self = Self::default();
            return;
        }
        let pauses = self.pauses.get_or_insert_with(|| pauses().build());
        self.not_before = pauses.next().map(|pause| Instant::now() + pause);
    }
}

fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(25))
        .with_max_delay(Duration::from_millis(500))
        .with_jitter()
        .without_max_times()
}
