//! A CQL cluster, ScyllaDB or Apache Cassandra, as a store uses it.
//!
//! A statement is prepared once, as what it is: a [`Read`], a [`Write`] or a
//! [`Conditional`]. That decides its consistency, whether the driver may try it again,
//! and what its failure means. All of a store are prepared at the same time, for the driver
//! waits for every node, however slow, each time. Every request has a time limit, and so many of them
//! at most are under way at a time: a cluster that is lost is an error at once, not a queue.

mod answer;
pub mod blocks;
mod connect;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
pub mod migrations;
mod reach;
mod revival;
mod server;
mod silence;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod url;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, try_join_all},
};
use scylla::{
    client::{execution_profile::ExecutionProfileHandle, session::Session},
    deserialize::row::DeserializeRow,
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::{
        Consistency, SerialConsistency,
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinError,
    time::{sleep, timeout},
};

pub use self::{
    answer::{Applied, OldRow},
    error::CqlError,
    reach::ReadsTogether,
    url::{CqlUrl, InvalidCqlUrl},
};

/// How long a request waits for its turn when too many are under way.
const TURN: Duration = Duration::from_millis(50);

/// A connected cluster and a keyspace of it. Clones share the connections.
#[derive(Clone)]
pub struct Cql(Arc<Inner>);

struct Inner {
    session: RwLock<Arc<Session>>,
    revival: Mutex<revival::Revival>,
    url: CqlUrl,
    dc: String,
    in_flight: Semaphore,
    reads: ExecutionProfileHandle,
    writes: ExecutionProfileHandle,
    conditionals: ExecutionProfileHandle,
    preparing: Mutex<Vec<Prepared>>,
    #[cfg(any(test, feature = "testing"))]
    faults: faults::Plan,
}

/// A statement and the name under which it is measured.
#[derive(Clone)]
struct Statement {
    name: &'static str,
    prepared: Prepared,
}

/// A statement that is being prepared, or is.
type Prepared = Shared<BoxFuture<'static, Result<Arc<PreparedStatement>, CqlError>>>;

impl Statement {
    async fn prepared(&self) -> Result<Arc<PreparedStatement>, CqlError> {
        match self.prepared.peek() {
            Some(prepared) => prepared.clone(),
            None => self.prepared.clone().await,
        }
    }
}

/// A statement that reads; tried again and speculatively by the driver.
#[derive(Clone)]
pub struct Read(Statement);

/// A plain, idempotent write; tried again by the driver.
#[derive(Clone)]
pub struct Write(Statement);

/// A write with a condition, decided by consensus of its replicas. Never tried again
/// by the driver: whoever repeats it must know what "not applied" means then.
#[derive(Clone)]
pub struct Conditional(Statement);

/// One statement of a conditional batch.
pub enum Part<'a> {
    /// With a condition; the first of a batch has to be one.
    If(&'a Conditional, &'a dyn Values),
    /// Without one; applied if the batch is.
    Also(&'a Write, &'a dyn Values),
}

/// Values of a statement, in the order of its markers: a tuple, or what derives `SerializeRow`.
pub trait Values: SerializeRow + Sync {}
impl<T: SerializeRow + Sync + ?Sized> Values for T {}

/// How often, and how far apart, a conditional write is sent whose outcome is not known.
const TRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Cql {
    /// Where it is, and how it is used.
    #[must_use]
    pub fn url(&self) -> &CqlUrl {
        &self.0.url
    }

    /// The data centre whose nodes are asked.
    #[must_use]
    pub fn dc(&self) -> &str {
        &self.0.dc
    }

    /// A statement that reads what was decided.
    pub fn read(&self, name: &'static str, text: &str) -> Read {
        let reads = self.0.reads.clone();
        Read(self.prepare(name, text, |statement| {
            statement.set_is_idempotent(true);
            statement.set_execution_profile_handle(Some(reads));
        }))
    }

    /// A statement that reads what was decided, and decides what was left half decided. As
    /// dear as a conditional write.
    pub fn serial_read(&self, name: &'static str, text: &str) -> Read {
        let consistency = match self.0.url.serial_consistency {
            SerialConsistency::Serial => Consistency::Serial,
            SerialConsistency::LocalSerial => Consistency::LocalSerial,
        };
        Read(self.prepare(name, text, move |statement| {
            statement.set_is_idempotent(true);
            statement.set_consistency(consistency);
        }))
    }

    /// A plain write.
    pub fn write(&self, name: &'static str, text: &str) -> Write {
        Write(self.prepare(name, text, |statement| statement.set_is_idempotent(true)))
    }

    /// A write with a condition.
    pub fn conditional(&self, name: &'static str, text: &str) -> Conditional {
        let conditionals = self.0.conditionals.clone();
        Conditional(self.prepare(name, text, |statement| {
            statement.set_execution_profile_handle(Some(conditionals));
        }))
    }

    /// Waits until all statements are prepared that were made since this was asked last.
    ///
    /// # Errors
    /// [`CqlError::Refused`] when one is wrong or a table is missing; [`CqlError::Unavailable`].
    pub async fn prepared(&self) -> Result<(), CqlError> {
        let preparing = std::mem::take(&mut *self.preparing());
        try_join_all(preparing).await?;
        Ok(())
    }

    fn preparing(&self) -> MutexGuard<'_, Vec<Prepared>> {
        (self.0.preparing.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn session(&self) -> Arc<Session> {
        Arc::clone(
            &self
                .0
                .session
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Begins to prepare a statement; whoever uses it before it is prepared waits for that.
    fn prepare(
        &self,
        name: &'static str,
        text: &str,
        set: impl FnOnce(&mut PreparedStatement) + Send + 'static,
    ) -> Statement {
        let (session, text) = (self.session(), text.to_owned());
        let preparing = tokio::spawn(async move {
            let mut prepared = session.prepare(text).await?;
            set(&mut prepared);
            Ok(Arc::new(prepared))
        });
        let prepared = async {
            let died = |error: JoinError| Err(CqlError::Unavailable(error.to_string()));
            preparing.await.unwrap_or_else(died)
        };
        let prepared = prepared.boxed().shared();
        self.preparing().push(prepared.clone());
        Statement { name, prepared }
    }

    /// All rows of a read whose number is bounded by the tables' design.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`], or [`CqlError::Damaged`] for a row that can't be.
    pub async fn rows<R>(&self, read: &Read, values: impl Values) -> Result<Vec<R>, CqlError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let (name, prepared) = (read.0.name, read.0.prepared().await?);
        let session = self.session();
        let run = session.execute_unpaged(&prepared, &values);
        let result = self
            .measured(name, Box::pin(run))
            .await
            .map_err(CqlError::of_plain)?
            .into_rows_result()?;
        Ok(result.rows::<R>()?.collect::<Result<_, _>>()?)
    }

    /// The first row of a read, if there is one.
    ///
    /// # Errors
    /// As [`Cql::rows`].
    pub async fn row<R>(&self, read: &Read, values: impl Values) -> Result<Option<R>, CqlError>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        Ok(self.rows(read, values).await?.into_iter().next())
    }

    /// Runs a plain write.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`]: it may have been done; [`CqlError::Refused`].
    pub async fn run(&self, write: &Write, values: impl Values) -> Result<(), CqlError> {
        let (name, prepared) = (write.0.name, write.0.prepared().await?);
        let session = self.session();
        let run = session.execute_unpaged(&prepared, &values);
        self.measured(name, Box::pin(run))
            .await
            .map_err(CqlError::of_plain)?;
        Ok(())
    }

    /// Sends a conditional write until its outcome is known.
    ///
    /// The identical statement is sent again when the outcome is not known, and it may
    /// then be its own first sending that keeps it from being applied: see [`Applied::No`].
    ///
    /// # Errors
    /// [`CqlError::Unknown`] when no definite answer was to be had; else as [`Cql::apply_once`].
    pub async fn apply(
        &self,
        conditional: &Conditional,
        values: impl Values,
    ) -> Result<Applied, CqlError> {
        self.settle(conditional.0.name, || {
            Box::pin(self.apply_once(conditional, &values))
        })
        .await
    }

    /// Sends a conditional write once.
    ///
    /// # Errors
    /// [`CqlError::Unknown`]: it may have been applied, or may be yet. [`CqlError::Unavailable`],
    /// [`CqlError::Refused`]: it was not and never will be.
    pub async fn apply_once(
        &self,
        conditional: &Conditional,
        values: impl Values,
    ) -> Result<Applied, CqlError> {
        let (name, prepared) = (conditional.0.name, conditional.0.prepared().await?);
        let session = self.session();
        let run = session.execute_unpaged(&prepared, &values);
        answer::decode(name, self.measured(name, Box::pin(run)).await?)
    }

    /// Sends a conditional batch until its outcome is known; all parts belong to one
    /// partition, and are applied together or not at all.
    ///
    /// # Errors
    /// As [`Cql::apply`].
    pub async fn apply_batch(
        &self,
        name: &'static str,
        parts: &[Part<'_>],
    ) -> Result<Applied, CqlError> {
        self.settle(name, || Box::pin(self.apply_batch_once(name, parts)))
            .await
    }

    /// Sends a conditional batch once.
    ///
    /// # Errors
    /// As [`Cql::apply_once`].
    pub async fn apply_batch_once(
        &self,
        name: &'static str,
        parts: &[Part<'_>],
    ) -> Result<Applied, CqlError> {
        let mut batch = Batch::new(BatchType::Unlogged);
        let conditionals = Some(self.0.conditionals.clone());
        batch.set_execution_profile_handle(conditionals);
        let mut values: Vec<&dyn Values> = Vec::with_capacity(parts.len());
        for part in parts {
            let (statement, bound) = match part {
                Part::If(Conditional(statement), bound) | Part::Also(Write(statement), bound) => {
                    (statement, bound)
                }
            };
            batch.append_statement(PreparedStatement::clone(&*statement.prepared().await?));
            values.push(*bound);
        }
        let session = self.session();
        let run = session.batch(&batch, values);
        answer::decode(name, self.measured(name, Box::pin(run)).await?)
    }

    async fn settle<'a>(
        &self,
        name: &'static str,
        send: impl Fn() -> BoxFuture<'a, Result<Applied, CqlError>>,
    ) -> Result<Applied, CqlError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_factor(3.0)
            .with_jitter()
            .with_max_times(TRIES - 1)
            .build();
        let mut unsure = false;
        loop {
            let why = match send().await {
                Ok(Applied::No { old, .. }) => {
                    settled(name, unsure, "not_applied");
                    return Ok(Applied::No { old, unsure });
                }
                Ok(Applied::Yes) => {
                    settled(name, unsure, "applied");
                    return Ok(Applied::Yes);
                }
                Err(CqlError::Unknown(why)) => {
                    unsure = true;
                    CqlError::Unknown(why)
                }
                // Not made this time; an earlier sending may have been, or may still arrive.
                Err(CqlError::Unavailable(why) | CqlError::Refused(why)) if unsure => {
                    CqlError::Unknown(why)
                }
                Err(error) => return Err(error),
            };
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    settled(name, unsure, "open");
                    return Err(why);
                }
            }
        }
    }

    /// Makes a request in its turn, within its time, and measures it.
    async fn measured(
        &self,
        name: &'static str,
        request: BoxFuture<'_, Result<QueryResult, scylla::errors::ExecutionError>>,
    ) -> Result<QueryResult, CqlError> {
        let _turn = self.turn().await.inspect_err(|error| failed(name, error))?;
        let begun = Instant::now();
        #[cfg(any(test, feature = "testing"))]
        let outcome = self.0.faults.around(name, request).await;
        #[cfg(not(any(test, feature = "testing")))]
        let outcome = request.await.map_err(CqlError::from);
        metrics::histogram!("drivers_store_seconds", "statement" => name).record(begun.elapsed());
        if matches!(outcome, Err(CqlError::Unavailable(_))) {
            self.revive();
        }
        outcome.inspect_err(|error| failed(name, error))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, CqlError> {
        match timeout(TURN, self.0.in_flight.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(CqlError::Unavailable(format!(
                "{} requests are under way, and no more are begun",
                self.0.url.in_flight
            ))),
        }
    }
}

fn failed(name: &'static str, error: &CqlError) {
    metrics::counter!("drivers_store_errors_total", "statement" => name, "error" => error.label())
        .increment(1);
}

fn settled(name: &'static str, unsure: bool, decision: &'static str) {
    if unsure {
        metrics::counter!("drivers_store_unknown_outcomes_total", "statement" => name, "decided" => decision)
            .increment(1);
    }
}
