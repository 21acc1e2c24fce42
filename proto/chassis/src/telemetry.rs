//! Logs and metrics.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::ParseError, util::TryInitError};

/// Upper ends of the buckets of every `…_seconds` histogram: from a cached
/// answer in process to the longest time a call may take.
const SECONDS: [f64; 13] = [
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0,
];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Why logs or metrics can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter breaks the syntax of tracing's `EnvFilter`.
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] ParseError),
    /// Logs were set up before.
    #[error("logs can't be set up: {0}")]
    Logs(#[from] TryInitError),
    /// Metrics were set up before.
    #[error("metrics can't be set up: {0}")]
    Metrics(#[from] BuildError),
}

/// Sends logs for people to the standard error stream, and JSON to the standard
/// output, which then carries nothing else. The filter is for example `info` or
/// `info,message_svc=debug`. The clients of the database and of the broker are silent unless
/// the filter names them, as in `info,scylla=warn` or `info,async_nats=debug`: they repeat
/// at every attempt what is said here once.
///
/// # Errors
/// When the filter is wrong, or logs were set up before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let mut shown = EnvFilter::try_new(filter)?;
    for client in ["scylla", "async_nats"] {
        if !filter.contains(client) {
            shown = shown.add_directive(format!("{client}=off").parse()?);
        }
    }
    let lines = tracing_subscriber::fmt().with_env_filter(shown);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
        LogFormat::Text => lines
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init()?,
    }
    Ok(())
}

/// The metrics of this process.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Collects what the process measures from now on, beside its memory, CPU
    /// and open files, and says which build it is.
    ///
    /// # Errors
    /// When metrics were set up before.
    pub fn install() -> Result<Self, TelemetryError> {
        let metrics = Self(builder()?.install_recorder()?);
        Collector::default().describe();
        metrics::gauge!("drivers_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(metrics)
    }

    /// All of them in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        Collector::default().collect();
        self.0.render()
    }

    /// Brings histograms into their buckets. Has to be called every few seconds,
    /// for samples are kept until then.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }

    /// Metrics that nothing is recorded into, unless the recorder is made the
    /// thread's own.
    #[cfg(test)]
    pub(crate) fn detached() -> (metrics_exporter_prometheus::PrometheusRecorder, Self) {
        let recorder = builder().unwrap_or_default().build_recorder();
        let metrics = Self(recorder.handle());
        (recorder, metrics)
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn seconds_are_counted_in_buckets() {
        let (recorder, metrics) = Metrics::detached();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("drivers_test_seconds", "kind" => "x").record(0.002);
        });
        metrics.upkeep();
        let text = metrics.render();
        assert!(
            text.contains("drivers_test_seconds_bucket{kind=\"x\",le=\"0.0025\"} 1"),
            "{text}"
        );
        assert!(text.contains("le=\"0.001\"} 0"), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        let error = init_logs(LogFormat::Json, "info,chassis=loud").unwrap_err();
        assert!(matches!(error, TelemetryError::Filter(_)), "{error}");
    }
}
