//! Everybody drops at once and comes back, beside others who go on talking.

use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::crowd::{AT_A_TIME, Crowd, Guests};
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

/// Those who drop, on a thread of their own: the others, who are measured, must not wait for
/// what a thousand connections have to do here.
struct Herd {
    steps: mpsc::Sender<(usize, oneshot::Sender<Result<Duration, String>>)>,
}

impl Herd {
    fn of(guests: Guests, scenario: Scenario) -> Self {
        let (steps, mut to_do) = mpsc::channel::<(_, oneshot::Sender<_>)>(1);
        thread::spawn(move || {
            crate::on_one_thread(async move {
                let mut here: Option<Rc<Crowd>> = None;
                while let Some((at_a_time, done)) = to_do.recv().await {
                    let stayed = here.take().map_or(Ok(()), |crowd| let_go(&crowd));
                    let began = Instant::now();
                    let come = match stayed {
                        Ok(()) => Crowd::gather(guests.clone(), &scenario, at_a_time).await,
                        Err(why) => Err(why),
                    };
                    let took = come.map(|crowd| {
                        here = Some(crowd);
                        began.elapsed()
                    });
                    let _gone = done.send(took);
                }
                Ok(())
            })
        });
        Self { steps }
    }

    /// Lets go of all connections and makes them again, so many at a time; how long that took.
    async fn come_anew(&self, at_a_time: usize) -> Result<Duration, String> {
        let ended = || "the thread of those who drop has ended".to_owned();
        let (done, outcome) = oneshot::channel();
        let asked = self.steps.send((at_a_time, done)).await;
        asked.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

/// Lets go of all, of whom nobody must have been lost before.
fn let_go(crowd: &Crowd) -> Result<(), String> {
    crowd.leave();
    match crowd.violations() {
        (_, 0) => Ok(()),
        (why, _) => Err(why.join("\n  ")),
    }
}

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
    let guests = side.running.prepare(&idle).await?;
    let herd = Herd::of(guests, idle);
    let (mut rates, mut delays) = (Vec::new(), Vec::new());
    let p99_ms = |span: &Span| span.delivery.value_at_quantile(0.99) as f64 / 1e3;
    for _ in 0..storms {
        herd.come_anew(AT_A_TIME).await?;
        side.crowd.start(others.load);
        side.crowd.begin_span();
        tokio::time::sleep(CALM).await;
        let before = side.crowd.begin_span();
        let took = herd.come_anew(clients).await?;
        tokio::time::sleep(AFTERWARDS).await;
        let during = side.crowd.begin_span();
        side.settle().await?;
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
