//! The sweep of what dead leases left behind.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    store::{Store, StoreError, Swept},
};

/// Sessions in one step: small enough not to hold up the writes of the living.
const STEP: usize = 256;

/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Ends the sessions of leases that ran out or were given back.
pub(crate) struct Sweeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) every: Duration,
}

impl Sweeper {
    /// Sweeps now and then until shutdown. A step under way is left as it is, for the next
    /// sweep: with a database that hangs it would outlast the end of the program.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let swept = shutdown.run_until_cancelled(self.sweep()).await;
            if let Some(Err(error)) = swept {
                tracing::warn!(%error, "the sweep of ended leases failed and is tried again");
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let Swept { sessions, done } =
                timeout(STEP_LIMIT, self.store.sweep(self.clock.now(), STEP))
                    .await
                    .unwrap_or_else(|_| Err(StoreError::Unavailable("too slow".to_owned())))?;
            let sessions = u64::try_from(sessions).unwrap_or(u64::MAX);
            metrics::counter!("drivers_presence_sessions_swept_total").increment(sessions);
            if done {
                return Ok(());
            }
        }
    }
}
