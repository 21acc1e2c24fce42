//! The process around the system: its logs, runtime, signals and exit code.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    panic::PanicHookInfo,
    process::{ExitCode, exit},
    time::Duration,
};

use chassis::{
    shutdown::Signals,
    telemetry::{Metrics, init_logs},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Listeners},
    banner::Banner,
    config::Config,
    error::Error,
};

/// How long tasks that nobody waits for any more may hold the process.
const LAST_TASKS: Duration = Duration::from_millis(100);

/// Runs the system until it is asked to end, and says how the process ends.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    match live(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Says in one sentence why the program does not go on.
#[must_use]
pub fn refuse(error: &Error) -> ExitCode {
    // When nobody reads the sentence, the exit code has to do.
    let _ = writeln!(io::stderr(), "drivers: {error}");
    ExitCode::from(error.exit_code())
}

fn live(config: Config) -> Result<(), Error> {
    init_logs(config.log, &config.log_filter)?;
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
    let outcome = runtime.block_on(Box::pin(serve(config, metrics)));
    runtime.shutdown_timeout(LAST_TASKS);
    outcome
}

async fn serve(config: Config, metrics: Metrics) -> Result<(), Error> {
    let mut signals = Signals::take_over().map_err(|source| Error::System {
        what: "taking over signals",
        source,
    })?;
    let listeners = Listeners::bind(&config).await?;
    let banner = Banner::new(&config, listeners.addresses()?);
    let app = tokio::select! {
        app = Box::pin(App::build(config, listeners, metrics)) => app?,
        signal = signals.recv() => {
            tracing::info!(signal, "ended before it served");
            return Ok(());
        }
    };
    let serving = app.serve();
    banner.show();

    let end = CancellationToken::new();
    tokio::select! {
        outcome = Box::pin(serving.until(end.cancelled())) => outcome,
        never = obey(&mut signals, &end) => match never {},
    }
}

/// The first signal asks for the end, the second does not wait for it: nothing
/// that was acknowledged depends on an orderly end.
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
