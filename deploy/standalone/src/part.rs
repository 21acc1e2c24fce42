//! A part of the program: a task that is told to end, and waited for.

use std::future::Future;

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;

/// A running part. Dropping it aborts it.
pub(crate) struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Part {
    /// Runs a part. `any_ended` is cancelled when it ends, in whatever way.
    pub(crate) fn start<F, E>(
        name: &'static str,
        any_ended: &CancellationToken,
        part: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Error> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let running = part(stop.clone());
        let ended: DropGuard = any_ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _ended = ended;
            running.await.map_err(Into::into)
        });
        Self { name, stop, task }
    }

    /// Tells it to end and waits until it has, at most until `deadline`.
    ///
    /// # Errors
    /// When it failed, had ended before, or is late.
    pub(crate) async fn end(mut self, deadline: Instant) -> Result<(), Error> {
        let was_over = self.task.is_finished();
        self.stop.cancel();
        match timeout_at(deadline, &mut self.task).await {
            Ok(Ok(Err(error))) => Err(error),
            Ok(Ok(Ok(()))) if !was_over => Ok(()),
            Ok(_) => Err(Error::Ended(self.name)),
            Err(_) => Err(Error::Late(self.name)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}
