//! Everybody drops at once and comes back, beside others who go on talking.

use std::time::{Duration, Instant};

use crate::crowd::{AT_A_TIME, Crowd};
use crate::ledger::Span;
use crate::measure::Side;
use crate::outcome::{Measured, Outcome};
use crate::scenario::{Load, Scenario};
use crate::target::Target;

/// Members of each topic of those who drop.
const MEMBERS: usize = 10;

/// How long the others are measured before.
const CALM: Duration = Duration::from_secs(3);
/// What is measured of them behind the storm counts, too.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Lets so many clients, who are signed in and say nothing, drop and come back again and
/// again, while others are under a load.
pub(crate) async fn blow(
    target: &Target,
    others: &Scenario,
    clients: usize,
    storms: usize,
) -> Result<Outcome, String> {
    target.build()?;
    let side = Side::open(target, others).await?;
    let idle = Scenario {
        what: format!("{clients} who say nothing"),
        connections: clients,
        topics: clients.div_ceil(MEMBERS),
        members: MEMBERS.min(clients),
        senders: 1,
        load: Load::Idle,
        ..others.clone()
    };
    let mut guests = side.running.prepare(&idle).await?;
    let (mut rates, mut delays) = (Vec::new(), Vec::new());
    let p99_ms = |span: &Span| span.delivery.value_at_quantile(0.99) as f64 / 1e3;
    for _ in 0..storms {
        let crowd = Crowd::gather(guests, &idle, AT_A_TIME).await?;
        side.crowd.start(others.load);
        side.crowd.begin_span();
        tokio::time::sleep(CALM).await;
        let before = side.crowd.begin_span();
        guests = crowd.leave();
        let began = Instant::now();
        let back = Crowd::gather(guests, &idle, clients).await?;
        let took = began.elapsed();
        tokio::time::sleep(AFTERWARDS).await;
        let during = side.crowd.begin_span();
        side.settle().await?;
        guests = back.leave();
        println!(
            "{}: {clients} were back and signed in after {:.2} s; others' p99 {:.2} ms, {:.2} ms before",
            side.name,
            took.as_secs_f64(),
            p99_ms(&during),
            p99_ms(&before)
        );
        rates.push(clients as f64 / took.as_secs_f64());
        delays.push((p99_ms(&during), p99_ms(&before)));
    }
    let what = format!(
        "{clients} clients drop at once and come back, beside others: {}",
        others.what
    );
    let sides = [side.name.clone(), "before the storm".to_owned()];
    let figures = [
        Measured::alone("back and signed in, clients per second", rates),
        Measured::beside("others' delivery p99, ms", delays),
    ];
    Ok(Outcome::new(what, sides, storms, figures))
}
