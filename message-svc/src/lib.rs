//! The message service: rooms, topics, members, and the log of each topic.

mod announce;
pub mod config;
pub mod directory;
pub mod entry;
pub mod error;
pub mod grpc;
pub mod log;
mod program;
pub mod seed;
mod stamps;
pub mod store;

use std::{sync::Arc, time::Duration};

use chassis::{
    bus::Bus,
    server::{Direct, Services},
};
use proto::message::v1::{
    SendMessagesRequest, SendMessagesResponse,
    message_service_server::{MessageService as _, MessageServiceServer},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    announce::Announcements,
    config::Config,
    directory::Directory,
    grpc::Api,
    log::Log,
    seed::{Seed, SeedError},
    store::{DirectoryStore, LogStore},
};

/// Largest request that is read: what is answered repeats what was sent, a little
/// longer, and has to stay below gRPC's 4 MiB.
const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

const SEND_MESSAGES: &str = "/drivers.message.v1.MessageService/SendMessages";

/// How long what is under way may take at the end.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Builds the service over its stores, and makes what is missing of its seed.
///
/// # Errors
/// When the seed file is unreadable or wrong, or the store fails.
pub async fn build(
    config: Config,
    log_store: Arc<dyn LogStore>,
    directory_store: Arc<dyn DirectoryStore>,
    bus: Arc<dyn Bus>,
) -> Result<App, SeedError> {
    let seed = match &config.seed_file {
        Some(path) => Seed::read(path.clone())?,
        None => Seed::of_new_deployment()?,
    };
    seed.apply(directory_store.as_ref()).await?;

    #[cfg(feature = "sabotage")]
    let log_store = log::sabotage::UnsureStore::over(log_store);
    let announcements = Arc::new(Announcements::new(bus));
    let directory = Arc::new(Directory::new(
        directory_store,
        Arc::clone(&log_store),
        Arc::clone(&announcements) as _,
        config.directory(),
    ));
    let log = Log::new(
        log_store,
        Arc::clone(&directory) as _,
        Arc::clone(&announcements) as _,
        config.log(),
    );
    let changes = TaskTracker::new();
    Ok(App {
        api: Arc::new(Api::new(directory, log.clone(), changes.clone())),
        log,
        changes,
        announcements,
    })
}

/// The message service, ready to be served.
pub struct App {
    api: Arc<Api>,
    log: Log,
    changes: TaskTracker,
    announcements: Arc<Announcements>,
}

impl App {
    /// The service, for a server or for a client in the same process.
    #[must_use]
    pub fn service(&self) -> MessageServiceServer<Api> {
        MessageServiceServer::from_arc(Arc::clone(&self.api))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// `SendMessages` alone, for a client in the same process, behind the layers of these
    /// services.
    #[must_use]
    pub fn send_messages(
        &self,
        services: &Services,
    ) -> Direct<SendMessagesRequest, SendMessagesResponse> {
        let api = Arc::clone(&self.api);
        services.direct(SEND_MESSAGES, move |request| {
            let api = Arc::clone(&api);
            Box::pin(async move { api.send_messages(request).await })
        })
    }

    /// Does what has to be done besides answering calls, until `shutdown`; then takes
    /// no more messages and waits for the writes under way. So `shutdown` comes
    /// behind the end of the last call.
    pub async fn run(self, shutdown: CancellationToken) {
        self.announcements.repeat(&shutdown).await;
        let last_writes = async {
            self.log.shut_down().await;
            self.changes.close();
            self.changes.wait().await;
        };
        if tokio::time::timeout(LAST_WRITES, last_writes)
            .await
            .is_err()
        {
            tracing::warn!("writes are still under way at the end; their outcome is not known");
        }
    }
}
