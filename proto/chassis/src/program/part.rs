//! A part of the program: a task that is told to end, and waited for.

use std::future::Future;

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;

/// A running part. Dropping it aborts it.
pub struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Part {
    /// Runs a part. `any_ended` is cancelled when it ends, in whatever way.
    pub fn start<F, E>(
        name: &'static str,
        any_ended: &CancellationToken,
        part: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Error> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let (running, told) = (part(stop.clone()), stop.clone());
        let ended: DropGuard = any_ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _ended = ended;
            running.await.map_err(Into::into)?;
            if told.is_cancelled() {
                Ok(())
            } else {
                Err(Error::Ended(name))
            }
        });
        Self { name, stop, task }
    }

    /// Tells it to end and waits until it has, at most until `deadline`.
    ///
    /// # Errors
    /// When it failed, ended before it was told to, or is late.
    pub async fn end(mut self, deadline: Instant) -> Result<(), Error> {
        self.stop.cancel();
        match timeout_at(deadline, &mut self.task).await {
            Ok(Ok(ended)) => ended,
            // It panicked.
            Ok(Err(_)) => Err(Error::Ended(self.name)),
            Err(_) => Err(Error::Late(self.name)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::{future::pending, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_part_ends_when_it_is_told_to() {
        let any_ended = CancellationToken::new();
        let part = Part::start("it", &any_ended, |stop| async move {
            stop.cancelled().await;
            Ok::<_, Error>(())
        });
        assert!(!any_ended.is_cancelled());
        part.end(soon()).await.unwrap();
        assert!(any_ended.is_cancelled());
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_noticed() {
        let (returned, panicked) = (CancellationToken::new(), CancellationToken::new());
        let one = Part::start("one", &returned, |_| async { Ok::<_, Error>(()) });
        let other = Part::start("other", &panicked, async |_| -> Result<(), Error> {
            panic!("on purpose")
        });
        returned.cancelled().await;
        panicked.cancelled().await;
        for (part, name) in [(one, "one"), (other, "other")] {
            let error = part.end(soon()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("{name} ended by itself"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_left_behind() {
        let any_ended = CancellationToken::new();
        let part = Part::start("it", &any_ended, |_| pending::<Result<(), Error>>());
        let error = part.end(soon()).await.unwrap_err();
        assert!(matches!(error, Error::Late("it")));
        any_ended.cancelled().await;
    }
}
