//! Requests that go wrong on command, for tests.

use std::{
    fmt,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use scylla::{errors::ExecutionError, response::query_result::QueryResult};
use tokio::time::sleep;

use super::{Cql, CqlError};

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is made, and its answer is lost.
    AnswerLost,
    /// It is never made, and nobody knows.
    Lost,
    /// It is never made, and nothing else ever happens: the process died in front of it.
    CrashBefore,
    /// It is made, and nothing else ever happens: the process died behind it.
    CrashAfter,
    /// It is refused before it is made.
    Refused,
    /// It is made this much later.
    Late(Duration),
}

type Decide = dyn Fn(&'static str) -> Fault + Send + Sync;

/// What is to be done to requests.
#[derive(Clone, Default)]
pub(super) struct Plan(Arc<Mutex<Option<Arc<Decide>>>>);

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan")
    }
}

impl Plan {
    pub(super) async fn around(
        &self,
        name: &'static str,
        request: BoxFuture<'_, Result<QueryResult, ExecutionError>>,
    ) -> Result<QueryResult, CqlError> {
        let decide = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let fault = decide.map_or(Fault::None, |decide| decide(name));
        let lost = || CqlError::Unknown("lost on purpose".to_owned());
        match fault {
            Fault::None => Ok(request.await?),
            Fault::AnswerLost => {
                let _answer = request.await;
                Err(lost())
            }
            Fault::Lost => Err(lost()),
            Fault::CrashBefore => pending().await,
            Fault::CrashAfter => {
                let _answer = request.await;
                pending().await
            }
            Fault::Late(pause) => {
                sleep(pause).await;
                Ok(request.await?)
            }
            Fault::Refused => Err(CqlError::Refused("on purpose".to_owned())),
        }
    }
}

impl Cql {
    /// Asks `decide`, by the name of the statement, what is done to each request from now on.
    pub fn fail(&self, decide: impl Fn(&'static str) -> Fault + Send + Sync + 'static) {
        let mut plan = self
            .0
            .faults
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *plan = Some(Arc::new(decide));
    }

    /// Lets requests succeed again.
    pub fn heal(&self) {
        *self
            .0
            .faults
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}
