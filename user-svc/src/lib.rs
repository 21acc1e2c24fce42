//! The user service: accounts of people, and the tokens they sign in with.

use std::{sync::Arc, time::Duration};

use chassis::bus::Bus;
use proto::user::v1::user_service_server::UserServiceServer;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod account;
pub mod error;
pub mod grpc;
pub mod phone_number;
mod program;
mod revocations;
pub mod service;
pub mod store;
pub mod token;
pub mod username;

use crate::{grpc::Api, revocations::Revocations, service::Users, store::Store};

/// What can be set of the user service: nothing so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// How long running revocations are waited for at shutdown; longer than any call has.
const LAST_REVOCATIONS: Duration = Duration::from_secs(5);

/// The user service, built and not yet running.
pub struct App {
    users: Users,
    revocations: Arc<Revocations>,
    tasks: TaskTracker,
}

/// Builds the service above a store and a bus.
#[must_use]
pub fn build(_config: &Config, store: Arc<dyn Store>, bus: Arc<dyn Bus>) -> App {
    let revocations = Arc::new(Revocations::new(bus));
    let tasks = TaskTracker::new();
    App {
        users: Users::new(store, Arc::clone(&revocations), tasks.clone()),
        revocations,
        tasks,
    }
}

impl App {
    /// The service as tonic serves it.
    #[must_use]
    pub fn service(&self) -> UserServiceServer<Api> {
        UserServiceServer::new(Api::new(self.users.clone()))
    }

    /// Runs what the service does on its own, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        self.revocations.run(shutdown).await;
        self.tasks.close();
        if timeout(LAST_REVOCATIONS, self.tasks.wait()).await.is_err() {
            tracing::warn!("the store did not answer the last revocations");
        }
    }
}
