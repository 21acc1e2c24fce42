//! One target under one load for a while, and what came of it.

use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::crowd::{AT_A_TIME, Crowd};
use crate::ledger::Span;
use crate::scenario::{Load, Scenario};
use crate::target::{Running, Target};
use crate::usage::Usage;

/// Longest time until everybody has heard what is under way when a load ends.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// A target that runs, and everybody who is connected to it.
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) running: Running,
    pub(crate) crowd: Rc<Crowd>,
    /// Memory before anybody had connected, in bytes.
    empty: Option<u64>,
    connections: usize,
}

/// What was measured in one span of time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// Sends that were refused, to be tried again.
    pub(crate) failures: u64,
    /// From when a message was due until its sender was told, in microseconds.
    pub(crate) answer_us: Percentiles,
    /// From when a message was due until each of its deliveries, in microseconds.
    pub(crate) delivery_us: Percentiles,
    /// Processor seconds in a second that the load itself took: near 1, it is the limit.
    pub(crate) load_processors: f64,
    /// Of the server; none where it runs elsewhere.
    pub(crate) server: Option<Server>,
    /// Deliveries of each second.
    pub(crate) deliveries_by_second: Vec<u64>,
}

/// What the server used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Server {
    /// Processor seconds in a second.
    pub(crate) processors: f64,
    pub(crate) deliveries_per_cpu_second: f64,
    pub(crate) cpu_us_per_delivery: f64,
    pub(crate) memory_bytes: u64,
    /// What each connection added to the memory of a server without any.
    pub(crate) bytes_per_connection: f64,
}

/// Of a latency, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) longest: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            longest: histogram.max(),
        }
    }
}

impl Side {
    /// Starts a target and connects everybody.
    pub(crate) async fn open(target: &Target, scenario: &Scenario) -> Result<Self, String> {
        let name = target.name();
        let running = target.start().await?;
        let guests = running.prepare(scenario).await?;
        let empty = running.usage()?.map(|usage| usage.memory);
        let crowd = Crowd::gather(guests, scenario, AT_A_TIME).await;
        Ok(Self {
            crowd: crowd.map_err(|why| format!("{name}: {why}"))?,
            connections: scenario.connections,
            name,
            running,
            empty,
        })
    }

    /// Loads it for a while, after a warm-up.
    pub(crate) async fn load(
        &self,
        load: Load,
        warm_up: Duration,
        length: Duration,
    ) -> Result<(Figures, Span), String> {
        self.crowd.start(load);
        tokio::time::sleep(warm_up).await;
        let usage = || Ok::<_, String>((self.running.usage()?, Usage::of(&[std::process::id()])?));
        let (before, load_before) = usage()?;
        self.crowd.begin_span();
        tokio::time::sleep(length).await;
        let span = self.crowd.begin_span();
        let (after, load_after) = usage()?;
        self.settle().await?;
        let server = before.zip(after);
        let server = server.map(|(before, after)| self.server(before, after, &span));
        let load = (load_after.cpu - load_before.cpu).as_secs_f64() / span.length.as_secs_f64();
        Ok((Figures::of(&span, load, server), span))
    }

    /// Ends the load, waits until everybody has heard what is under way, and looks whether
    /// all that was heard was right.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let settled = self.crowd.settle(SETTLE_LIMIT).await;
        settled.map_err(|why| format!("{}: {why}", self.name))?;
        let (violations, count) = self.crowd.violations();
        match count {
            0 => Ok(()),
            _ => Err(format!(
                "{}: {count} violations, so there are no figures:\n  {}",
                self.name,
                violations.join("\n  ")
            )),
        }
    }

    fn server(&self, before: Usage, after: Usage, span: &Span) -> Server {
        let cpu = (after.cpu - before.cpu).as_secs_f64();
        let deliveries = span.deliveries as f64;
        let added = after.memory.saturating_sub(self.empty.unwrap_or_default());
        Server {
            processors: cpu / span.length.as_secs_f64(),
            deliveries_per_cpu_second: deliveries / cpu,
            cpu_us_per_delivery: cpu * 1e6 / deliveries,
            memory_bytes: after.memory,
            bytes_per_connection: added as f64 / self.connections as f64,
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _done = self.crowd.leave();
    }
}

impl Figures {
    fn of(span: &Span, load_processors: f64, server: Option<Server>) -> Self {
        let seconds = span.length.as_secs_f64();
        Self {
            seconds,
            messages_per_second: span.messages as f64 / seconds,
            deliveries_per_second: span.deliveries as f64 / seconds,
            failures: span.failures,
            answer_us: Percentiles::of(&span.answer),
            delivery_us: Percentiles::of(&span.delivery),
            load_processors,
            server,
            deliveries_by_second: span.by_second.clone(),
        }
    }
}
