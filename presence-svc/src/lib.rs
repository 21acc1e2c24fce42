//! The presence service: who is here, who types, and when somebody was last seen.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
    time::Duration,
};

use chassis::bus::Bus;
use proto::presence::v1::presence_service_server::PresenceServiceServer;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub mod clock;
pub mod error;
pub mod grpc;
mod program;
pub mod service;
pub mod session;
pub mod store;
mod sweeper;

use crate::{clock::Clock, grpc::Api, service::Presences, store::Store, sweeper::Sweeper};

/// What can be set of the presence service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Pause between sweeps of ended leases, in milliseconds.
    pub sweep_interval_ms: NonZeroU32,
    /// How many sessions one lease, so one gateway, can have.
    pub max_sessions_per_lease: NonZeroU64,
}

impl Default for Config {
    fn default() -> Self {
        const SWEEP_INTERVAL_MS: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
        const MAX_SESSIONS: NonZeroU64 = NonZeroU64::new(200_000).unwrap();
        Self {
            sweep_interval_ms: SWEEP_INTERVAL_MS,
            max_sessions_per_lease: MAX_SESSIONS,
        }
    }
}

/// The presence service, built and not yet running.
pub struct App {
    presences: Presences,
    sweeper: Sweeper,
}

/// Builds the service above a store, a bus and a clock.
#[must_use]
pub fn build(
    config: &Config,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
) -> App {
    let max_sessions = config.max_sessions_per_lease.get();
    App {
        presences: Presences::new(Arc::clone(&store), bus, Arc::clone(&clock), max_sessions),
        sweeper: Sweeper {
            store,
            clock,
            every: Duration::from_millis(config.sweep_interval_ms.get().into()),
        },
    }
}

impl App {
    /// The service as tonic serves it.
    #[must_use]
    pub fn service(&self) -> PresenceServiceServer<Api> {
        PresenceServiceServer::new(Api::new(self.presences.clone()))
    }

    /// Runs what the service does on its own, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        self.sweeper.run(shutdown).await;
    }
}
