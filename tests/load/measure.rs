//! One target under one load for a while, and what came of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::crowd::{AT_A_TIME, Crowd};
use crate::ledger::Span;
use crate::scenario::{Load, Scenario};
use crate::target::{Running, Target};
use crate::usage::Usage;

/// Longest time until everybody has heard what is under way when a load ends.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

const SECOND: Duration = Duration::from_secs(1);

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
    /// Of each process that was named.
    pub(crate) hops: Vec<HopFigures>,
    /// Deliveries of each second.
    pub(crate) deliveries_by_second: Vec<u64>,
}

/// What one process used.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HopFigures {
    pub(crate) name: String,
    /// Processor seconds in a second.
    pub(crate) processors: f64,
    pub(crate) cpu_us_per_message: f64,
    pub(crate) cpu_us_per_delivery: f64,
    pub(crate) memory_bytes: u64,
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
        let hops_before = self.hops().await?;
        let (before, load_before) = usage()?;
        self.crowd.begin_span();
        self.pass(length).await;
        let span = self.crowd.begin_span();
        let (after, load_after) = usage()?;
        let hops_after = self.hops().await?;
        self.settle().await?;
        let both = hops_before.into_iter().zip(hops_after);
        let hops = both.map(|((name, before), (_, after))| hop(name, before, after, &span));
        let hops = hops.collect();
        let server = before.zip(after);
        let server = server.map(|(before, after)| self.server(before, after, &span));
        let load = (load_after.cpu - load_before.cpu).as_secs_f64() / span.length.as_secs_f64();
        Ok((Figures::of(&span, load, server, hops), span))
    }

    /// Lets that much time pass, and tells once a second how it goes.
    async fn pass(&self, length: Duration) {
        let (began, mut before) = (Instant::now(), (0, 0));
        while let Some(left) = length.checked_sub(began.elapsed()) {
            tokio::time::sleep(left.min(SECOND)).await;
            let (messages, deliveries) = self.crowd.so_far();
            let second = (messages - before.0, deliveries - before.1);
            before = (messages, deliveries);
            if left > SECOND {
                let at = began.elapsed().as_secs();
                eprintln!(
                    "  {at:>4} s: {} messages, {} deliveries",
                    second.0, second.1
                );
            }
        }
    }

    async fn hops(&self) -> Result<Vec<(String, Usage)>, String> {
        let hops = self.running.hops().into_iter();
        let used = hops.map(|hop| async move { Ok((hop.name.clone(), hop.usage().await?)) });
        try_join_all(used).await
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

fn hop(name: String, before: Usage, after: Usage, span: &Span) -> HopFigures {
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    HopFigures {
        name,
        processors: cpu / span.length.as_secs_f64(),
        cpu_us_per_message: cpu * 1e6 / span.messages as f64,
        cpu_us_per_delivery: cpu * 1e6 / span.deliveries as f64,
        memory_bytes: after.memory,
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _done = self.crowd.leave();
    }
}

impl Figures {
    fn of(
        span: &Span,
        load_processors: f64,
        server: Option<Server>,
        hops: Vec<HopFigures>,
    ) -> Self {
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
            hops,
            deliveries_by_second: span.by_second.clone(),
        }
    }
}
