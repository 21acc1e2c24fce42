//! The process around the system.

use std::process::ExitCode;

use chassis::program::{self, Error, Process};

use crate::{
    app::{App, Listeners},
    banner::Banner,
    config::Config,
};

const NAME: &str = "drivers";

/// Runs the system until it is asked to end, and says how the process ends.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    let (log, filter) = (config.log, config.log_filter.clone());
    program::run(NAME, log, &filter, async |process| {
        Box::pin(serve(config, process)).await
    })
}

/// Says in one sentence why the program does not go on.
#[must_use]
pub fn refuse(error: &Error) -> ExitCode {
    program::refuse(NAME, error)
}

async fn serve(config: Config, mut process: Process) -> Result<(), Error> {
    config.check_ports()?;
    let listeners = Listeners::bind(&config)?;
    let banner = Banner::new(&config, listeners.addresses()?);
    let metrics = process.metrics.clone();
    let building = Box::pin(App::build(config, listeners, metrics));
    let Some(app) = process.started(building).await else {
        return Ok(());
    };
    let serving = app?.serve();
    banner.show();
    process
        .ended(|end| Box::pin(serving.until(end.cancelled_owned())))
        .await
}
