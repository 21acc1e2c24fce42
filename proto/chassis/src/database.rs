//! Where the stores of a program are: in a data folder, or in a keyspace of a cluster.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    cql::{Cql, CqlError, migrations::Migrations},
    embedded::{DataFolder, Embedded, OpenError, Options},
};

mod url;

pub use url::{InvalidStoreUrl, StoreUrl};

/// Pauses between attempts to reach a database.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database is away; it may be there at the next attempt.
    #[error("the database is away: {0}")]
    Away(String),
    /// It is there, and what it holds or how it is set is of no use; a whole sentence.
    #[error("{0}")]
    Unusable(String),
    /// The data folder or a store in it can't be opened.
    #[error(transparent)]
    Folder(#[from] OpenError),
}

impl From<CqlError> for DatabaseError {
    fn from(error: CqlError) -> Self {
        match error {
            CqlError::Unavailable(why) | CqlError::Unknown(why) => Self::Away(why),
            CqlError::Refused(why) => Self::Unusable(format!("the database can't be used: {why}")),
            CqlError::Damaged(why) => Self::Unusable(format!("the database is damaged: {why}")),
        }
    }
}

/// An open database.
pub enum Database {
    /// Embedded stores in a data folder.
    Folder(Folder),
    /// Tables in a keyspace.
    Keyspace(Cql),
}

/// A data folder and the stores that are open in it.
#[derive(Debug)]
pub struct Folder {
    folder: Arc<DataFolder>,
    open: Mutex<Vec<Embedded>>,
}

impl Database {
    /// Opens the database of this URL: `folder` is its data folder if that is open
    /// already; in a keyspace these migrations have to have been applied.
    ///
    /// # Errors
    /// [`DatabaseError::Away`] while a cluster does not answer.
    pub async fn open(
        url: &StoreUrl,
        folder: Option<&Arc<DataFolder>>,
        migrations: &[Migrations],
    ) -> Result<Self, DatabaseError> {
        let folder = match (url, folder) {
            (StoreUrl::File(_), Some(folder)) => Arc::clone(folder),
            (StoreUrl::File(path), None) => open_folder(path).await?,
            (StoreUrl::Scylla(url), _) => {
                let cql = Cql::connect(url).await?;
                for service in migrations {
                    service.check(&cql).await?;
                }
                return Ok(Self::Keyspace(cql));
            }
        };
        let open = Mutex::default();
        Ok(Self::Folder(Folder { folder, open }))
    }

    /// What it means that a store in it is unavailable: a cluster comes back by itself.
    #[must_use]
    pub fn unavailable(&self, why: String) -> DatabaseError {
        match self {
            Self::Folder(_) => DatabaseError::Unusable(why),
            Self::Keyspace(_) => DatabaseError::Away(why),
        }
    }

    /// Closes the stores. Requests that come later fail.
    pub async fn close(&self) {
        let Self::Folder(folder) = self else { return };
        let open = std::mem::take(&mut *folder.open.lock().unwrap_or_else(PoisonError::into_inner));
        for store in open {
            store.close().await;
        }
    }
}

impl Folder {
    /// Opens a store in the folder; makes it the first time.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub async fn embedded(&self, options: Options) -> Result<Embedded, DatabaseError> {
        let folder = Arc::clone(&self.folder);
        let opening = spawn_blocking(move || folder.embedded(&options));
        let store = opening
            .await
            .map_err(|_| DatabaseError::Unusable("the opening of a store failed".to_owned()))??;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(store.clone());
        Ok(store)
    }
}

/// Opens a data folder; makes it if there is none.
///
/// # Errors
/// See [`DataFolder::open`].
pub async fn open_folder(path: &Path) -> Result<Arc<DataFolder>, DatabaseError> {
    let path = path.to_owned();
    let opening = spawn_blocking(move || DataFolder::open(&path));
    let folder = opening.await.map_err(|_| {
        DatabaseError::Unusable("the opening of the data folder failed".to_owned())
    })??;
    Ok(Arc::new(folder))
}

/// Attempts it until the database is there, or until the deadline, with pauses of at
/// most a second. That the database is away, and that it is there again, is logged
/// once each.
///
/// # Errors
/// The first that is not [`DatabaseError::Away`]; that one past the deadline.
pub async fn reach<T>(
    deadline: Option<Instant>,
    attempt: impl AsyncFn() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let mut pause = FIRST_PAUSE;
    let mut away = false;
    loop {
        match attempt().await {
            Err(error @ DatabaseError::Away(_))
                if deadline.is_some_and(|at| at <= Instant::now()) =>
            {
                return Err(error);
            }
            Err(DatabaseError::Away(why)) if !away => {
                tracing::warn!(why, "the database is away; it is tried until it is there");
                away = true;
            }
            Err(DatabaseError::Away(why)) => tracing::debug!(why, "the database is still away"),
            outcome => {
                if away && outcome.is_ok() {
                    tracing::info!("the database is there");
                }
                return outcome;
            }
        }
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_is_tried_every_second_until_it_is_there() {
        let tries = Cell::new(0);
        let begun = Instant::now();
        let reached = reach(None, async || {
            tries.set(tries.get() + 1);
            if begun.elapsed() < Duration::from_mins(1) {
                return Err(DatabaseError::Away("connection refused".to_owned()));
            }
            Ok("there")
        });
        assert_eq!(reached.await.unwrap(), "there");
        assert!(begun.elapsed() < Duration::from_secs(61));
        assert!((60..140).contains(&tries.get()), "{}", tries.get());
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_an_error_at_once() {
        let reached = reach::<()>(None, async || {
            Err(DatabaseError::Unusable("replication 1".to_owned()))
        });
        let error = reached.await.unwrap_err().to_string();
        assert_eq!(error, "replication 1");
    }
}
