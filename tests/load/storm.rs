//! Everybody drops at once and comes back, beside others who go on talking.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::crowd::{AT_A_TIME, Crowd};
use crate::ledger::Span;
use crate::measure::Side;
use crate::scenario::{Load, Scenario};

/// Members of each topic of those who drop.
const MEMBERS: usize = 10;

/// How long the others are measured before.
const CALM: Duration = Duration::from_secs(5);
/// What is measured of them behind the storm counts, too.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What came of a storm.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    /// Who dropped, and came back signed in.
    pub(crate) clients: usize,
    pub(crate) seconds: f64,
    pub(crate) clients_per_second: f64,
    /// 99th percentile of deliveries to the others before, in microseconds.
    pub(crate) others_p99_before_us: u64,
    /// While it went on.
    pub(crate) others_p99_us: u64,
}

impl Storm {
    pub(crate) fn line(&self) -> String {
        format!(
            "{} clients were back and signed in after {:.2} s: {:.0} a second; others' p99 {:.2} ms, {:.2} ms before",
            self.clients,
            self.seconds,
            self.clients_per_second,
            self.others_p99_us as f64 / 1e3,
            self.others_p99_before_us as f64 / 1e3
        )
    }
}

/// Lets so many clients, who are signed in and say nothing, drop and come back, while
/// `side` is under its load.
pub(crate) async fn blow(side: &Side, others: &Scenario, clients: usize) -> Result<Storm, String> {
    let idle = Scenario {
        what: format!("{clients} who say nothing"),
        connections: clients,
        topics: clients.div_ceil(MEMBERS),
        members: MEMBERS.min(clients),
        senders: 1,
        load: Load::Idle,
        ..others.clone()
    };
    let guests = side.running.prepare(&idle).await?;
    let crowd = Crowd::gather(guests, &idle, AT_A_TIME).await?;
    side.crowd.start(others.load);
    side.crowd.begin_span();
    tokio::time::sleep(CALM).await;
    let before = side.crowd.begin_span();
    let guests = crowd.leave();
    let began = Instant::now();
    let back = Crowd::gather(guests, &idle, clients).await?;
    let took = began.elapsed().as_secs_f64();
    tokio::time::sleep(AFTERWARDS).await;
    let during = side.crowd.begin_span();
    side.settle().await?;
    let _done = back.leave();
    let p99 = |span: &Span| span.delivery.value_at_quantile(0.99);
    Ok(Storm {
        clients,
        seconds: took,
        clients_per_second: clients as f64 / took,
        others_p99_before_us: p99(&before),
        others_p99_us: p99(&during),
    })
}
