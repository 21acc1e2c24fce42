//! The message service as a program, or as a part of one.

use std::sync::Arc;

use chassis::{
    bus::Bus,
    cql::migrations::Migrations,
    database::{Database, DatabaseError},
    program::service::Service,
};
use proto::message::v1::message_service_server::MessageServiceServer;
use tokio_util::sync::CancellationToken;

use crate::{
    App,
    config::Config,
    grpc::Api,
    seed::SeedError,
    store::{
        DirectoryStore, LogStore, StoreError,
        embedded::EmbeddedStore,
        scylla::{MIGRATIONS, ScyllaStore},
    },
};

impl Service for App {
    const NAME: &'static str = "drivers-message";
    const ABOUT: &'static str =
        "The message service: rooms, topics, members, and the log of each topic.";
    const MIGRATIONS: Migrations = MIGRATIONS;
    type Config = Config;
    type Server = MessageServiceServer<Api>;

    async fn build(
        config: &Config,
        database: &Database,
        bus: Arc<dyn Bus>,
    ) -> Result<Self, DatabaseError> {
        let (log, directory): (Arc<dyn LogStore>, Arc<dyn DirectoryStore>) = match database {
            Database::Folder(folder) => {
                let file = folder.embedded(EmbeddedStore::options()).await?;
                let store = EmbeddedStore::new(file).await.map_err(failure(database))?;
                let store = Arc::new(store);
                (Arc::clone(&store) as _, store)
            }
            Database::Keyspace(cql) => {
                let store = ScyllaStore::open(cql).await?;
                let store = Arc::new(store);
                (Arc::clone(&store) as _, store)
            }
        };
        let built = crate::build(config.clone(), log, directory, bus).await;
        built.map_err(|error| match error {
            SeedError::Store(error) => failure(database)(error),
            wrong => DatabaseError::Unusable(wrong.to_string()),
        })
    }

    fn server(&self) -> MessageServiceServer<Api> {
        self.service()
    }

    async fn run(self, shutdown: CancellationToken) {
        self.run(shutdown).await;
    }
}

/// What it means for the start that the store failed.
fn failure(database: &Database) -> impl Fn(StoreError) -> DatabaseError {
    |error| {
        let why = format!("the store of messages can't be used: {error}");
        match error {
            StoreError::Unavailable(_) => database.unavailable(why),
            StoreError::Damaged(_) => DatabaseError::Unusable(why),
        }
    }
}
