//! The log and the directory in one file of the embedded store, so that they
//! share its commits.

use chassis::embedded::{Embedded, EmbeddedError, Options};

use super::StoreError;

mod directory;
mod log;
#[cfg(test)]
mod power_cuts;

/// The log and the directory in an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    db: Embedded,
}

impl EmbeddedStore {
    /// How the file of messages is opened. The schema's number covers the form of
    /// keys; values are protobuf messages and grow by fields.
    #[must_use]
    pub const fn options() -> Options {
        Options::new("messages", 1).with_journal(log::write_again)
    }

    /// The log and the directory in this store; makes the tables that are not there yet.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn new(db: Embedded) -> Result<Self, StoreError> {
        db.write(|txn| {
            log::make_tables(txn)?;
            directory::make_tables(txn)
        })
        .await?;
        Ok(Self { db })
    }
}

/// What a closure answers: an error of the library outside, which ends the
/// transaction for everybody, and what concerns this caller alone inside.
type Answer<T> = Result<Result<T, StoreError>, redb::Error>;

impl From<EmbeddedError> for StoreError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::Damaged(_) => Self::Damaged(error.to_string()),
            EmbeddedError::Busy
            | EmbeddedError::Unavailable(_)
            | EmbeddedError::Misused(_)
            | EmbeddedError::Closed
            | EmbeddedError::Unknown(_) => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    async fn fresh() -> (Arc<EmbeddedStore>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.redb");
        let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
        (Arc::new(EmbeddedStore::new(db).await.unwrap()), folder)
    }

    conformance::log_suite!(fresh);
    conformance::directory_suite!(fresh);
}
