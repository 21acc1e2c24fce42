//! The user service as a program, or as a part of one.

use std::sync::Arc;

use chassis::{
    bus::Bus,
    cql::migrations::Migrations,
    database::{Database, DatabaseError},
    program::service::Service,
};
use proto::user::v1::user_service_server::UserServiceServer;
use tokio_util::sync::CancellationToken;

use crate::{
    App, Config,
    grpc::Api,
    store::{
        Store, StoreError,
        embedded::EmbeddedStore,
        scylla::{MIGRATIONS, ScyllaStore},
    },
};

impl Service for App {
    const NAME: &'static str = "drivers-user";
    const ABOUT: &'static str =
        "The user service: accounts of people, and the tokens they sign in with.";
    const MIGRATIONS: Migrations = MIGRATIONS;
    type Config = Config;
    type Server = UserServiceServer<Api>;

    async fn build(
        config: &Config,
        database: &Database,
        bus: Arc<dyn Bus>,
    ) -> Result<Self, DatabaseError> {
        let store: Arc<dyn Store> = match database {
            Database::Folder(folder) => {
                let file = folder.embedded(EmbeddedStore::options()).await?;
                Arc::new(EmbeddedStore::new(file).await.map_err(failure(database))?)
            }
            Database::Keyspace(cql) => Arc::new(ScyllaStore::open(cql).await?),
        };
        Ok(crate::build(config, store, bus))
    }

    fn server(&self) -> UserServiceServer<Api> {
        self.service()
    }

    async fn run(self, shutdown: CancellationToken) {
        self.run(shutdown).await;
    }
}

/// What it means for the start that the store failed.
fn failure(database: &Database) -> impl Fn(StoreError) -> DatabaseError {
    |error| {
        let why = format!("the store of accounts can't be used: {error}");
        match error {
            StoreError::Unavailable(_) => database.unavailable(why),
            StoreError::Damaged(_) => DatabaseError::Unusable(why),
        }
    }
}
