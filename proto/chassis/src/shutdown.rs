//! The end of a program: a signal, then a drain window in which its tasks finish.

use std::{fmt, future::Future, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// Told to everything that has to end, and owner of its tasks. Clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: CancellationToken,
    tasks: TaskTracker,
    window: Duration,
}

/// Tasks did not end within the drain window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tasks} tasks did not end within the drain window of {window:?}")]
pub struct StillRunning {
    /// How many.
    pub tasks: usize,
    /// The window they had.
    pub window: Duration,
}

impl Shutdown {
    /// A program whose tasks have this long to end, once [`Self::begin`] was called.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            begun: CancellationToken::new(),
            tasks: TaskTracker::new(),
            window,
        }
    }

    /// Begins the end. Further calls change nothing.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Whether the end has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Ends when the end of the program begins.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let token: WaitForCancellationFutureOwned = self.begun.clone().cancelled_owned();
        token
    }

    /// The same, for who prefers a token. Cancelling a child of it ends nothing else.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// How long tasks have to end.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Runs a task that [`Self::finished`] waits for. It must end by itself once
    /// the end has begun.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits for the end to begin, and then for all tasks to end.
    ///
    /// # Errors
    /// When some still run as the drain window ends.
    pub async fn finished(&self) -> Result<(), StillRunning> {
        self.begun.cancelled().await;
        self.tasks.close();
        timeout_at(Instant::now() + self.window, self.tasks.wait())
            .await
            .map_err(|_| StillRunning {
                tasks: self.tasks.len(),
                window: self.window,
            })
    }
}

/// The signals that ask a program to end: SIGTERM and SIGINT (Ctrl-C).
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals over: from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn take_over() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them and says which. Cancel-safe.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn tasks_end_before_the_program_does() {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let begun = shutdown.begun();
        let task = shutdown.spawn(async move {
            begun.await;
            "flushed"
        });
        assert!(!shutdown.has_begun());
        shutdown.begin();
        shutdown.finished().await.unwrap();
        assert!(task.is_finished());
        assert_eq!(task.await.unwrap(), "flushed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_does_not_hold_the_program_forever() {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let hung = shutdown.spawn(std::future::pending::<()>());
        shutdown.begin();
        let error = shutdown.finished().await.unwrap_err();
        assert_eq!(error.tasks, 1);
        hung.abort();
    }
}
