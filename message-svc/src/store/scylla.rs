//! The log and the directory on a CQL cluster, ScyllaDB or Apache Cassandra.

mod directory;
mod log;
#[cfg(test)]
mod replica;

use chassis::cql::{Cql, CqlError, migrations::Migrations};

use self::{directory::Directory, log::Log};
use super::StoreError;

/// The tables of this service.
pub const MIGRATIONS: Migrations =
    chassis::migrations!("message-svc", "0001_log.cql", "0002_directory.cql");

/// The log and the directory on a CQL cluster.
pub struct ScyllaStore {
    log: Log,
    directory: Directory,
}

impl ScyllaStore {
    /// The log and the directory in this keyspace, whose tables are as this program knows them.
    ///
    /// # Errors
    /// When they are not, or the cluster is away.
    pub async fn open(cql: &Cql) -> Result<Self, CqlError> {
        MIGRATIONS.check(cql).await?;
        let store = Self {
            log: Log::open(cql),
            directory: Directory::open(cql),
        };
        cql.prepared().await?;
        Ok(store)
    }
}

impl From<CqlError> for StoreError {
    fn from(error: CqlError) -> Self {
        match error {
            CqlError::Unavailable(_) | CqlError::Unknown(_) | CqlError::Refused(_) => {
                Self::Unavailable(error.to_string())
            }
            CqlError::Damaged(why) => Self::Damaged(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::cql::testing::check_folder;

    use super::*;

    #[test]
    fn every_migration_is_listed() {
        check_folder(&MIGRATIONS, env!("CARGO_MANIFEST_DIR"));
    }
}
