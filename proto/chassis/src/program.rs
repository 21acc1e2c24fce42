//! The frame of every program: logs, threads, signals, ports, and how it ends.

use std::{
    convert::Infallible,
    fmt::Display,
    future::Future,
    io::{self, Write as _},
    panic::PanicHookInfo,
    path::PathBuf,
    process::{ExitCode, exit},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    identity::Secret,
    secret_file,
    shutdown::Signals,
    telemetry::{LogFormat, Metrics, init_logs},
};

mod error;
pub mod keys;
mod part;
pub mod ports;
pub mod service;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::Error;
pub use part::Part;

/// How long tasks that nobody waits for any more may hold the process.
const LAST_TASKS: Duration = Duration::from_millis(100);

/// What a program is given to live with.
#[derive(Debug)]
pub struct Process {
    /// What it measures.
    pub metrics: Metrics,
    signals: Signals,
}

/// Lives a program's life, and says how its process ends. `name` is that of the
/// program, the log filter is one of [`init_logs`].
pub fn run(
    name: &str,
    log: LogFormat,
    log_filter: &str,
    life: impl AsyncFnOnce(Process) -> Result<(), Error>,
) -> ExitCode {
    match live(log, log_filter, life) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(name, &error),
    }
}

/// Says in one sentence why the program does not go on.
#[must_use]
pub fn refuse(name: &str, error: &Error) -> ExitCode {
    // When nobody reads the sentence, the exit code has to do.
    let _ = writeln!(io::stderr(), "{name}: {error}");
    ExitCode::from(error.exit_code())
}

/// Says what a program does: to a person on the standard output, to a machine in the
/// log line that `line` writes.
pub fn say(log: LogFormat, text: impl Display, line: impl FnOnce()) {
    match log {
        LogFormat::Text => {
            // Who closed the output does not want to know.
            let _ = write!(io::stdout(), "{text}");
        }
        LogFormat::Json => line(),
    }
}

/// The bearer secret of the services in this file; made if there is none.
///
/// # Errors
/// [`Error::Secret`].
pub async fn secret(file: PathBuf) -> Result<Secret, Error> {
    spawn_blocking(move || secret_file::read_or_make(&file))
        .await
        .map_err(|_| Error::Ended("the reading of the secret"))?
        .map_err(Error::Secret)
}

fn live(
    log: LogFormat,
    log_filter: &str,
    life: impl AsyncFnOnce(Process) -> Result<(), Error>,
) -> Result<(), Error> {
    init_logs(log, log_filter)?;
    std::panic::set_hook(Box::new(log_panic));
    raise_descriptor_limit();
    let metrics = Metrics::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            what: "starting threads",
            source,
        })?;
    let outcome = runtime.block_on(async {
        let signals = Signals::take_over().map_err(|source| Error::System {
            what: "taking over signals",
            source,
        })?;
        Box::pin(life(Process { metrics, signals })).await
    });
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

impl Process {
    /// Waits for the start of the program; `None` when a signal asked for the end before.
    pub async fn started<T>(&mut self, start: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = start => Some(started),
            signal = self.signals.recv() => {
                tracing::info!(signal, "ended before it served");
                None
            }
        }
    }

    /// Waits for the program to end; the token tells it to. The first signal asks for
    /// the end, the second does not wait for it: nothing that was acknowledged
    /// depends on an orderly end.
    pub async fn ended<F, T>(mut self, serving: impl FnOnce(CancellationToken) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let end = CancellationToken::new();
        tokio::select! {
            outcome = serving(end.clone()) => outcome,
            never = obey(&mut self.signals, &end) => match never {},
        }
    }
}

async fn obey(signals: &mut Signals, end: &CancellationToken) -> Infallible {
    let signal = signals.recv().await;
    tracing::info!(signal, "ending");
    end.cancel();
    let signal = signals.recv().await;
    tracing::warn!(signal, "ended at once");
    exit(if signal == "SIGINT" { 130 } else { 143 })
}

/// A panic ends its task, never the process. Its text is logged only if it is part of
/// the program: a composed one may quote what a person wrote.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string);
    tracing::error!(
        thread = thread.name(),
        why = panic.payload().downcast_ref::<&'static str>(),
        "panicked at {}",
        place.as_deref().unwrap_or("an unknown place"),
    );
}

/// As many sockets as the system lets a process have; the usual limit of 1,024 is
/// there for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}
