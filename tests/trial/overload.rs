//! More is offered than a mesh can carry: what it can carry it goes on carrying, the rest
//! is refused and told so, and once it is over all is as before. Who offers has a processor
//! to himself, so that offering more takes nothing from those who serve.

mod figures;
mod load;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libtest_mimic::{Failed, Trial as Case};
use tests::history::{Moment, now};
use tests::part::Part;
use tests::processors::{keep_to, leave_the_last};
use tokio::time::sleep;

use self::figures::Span;
use self::load::Load;
use crate::crowd::gather;
use crate::stack::Stack;
use crate::{in_one_thread, number};

/// One step on the way to the peak, and how long of it does not count.
const STEP: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);
/// Messages under way in the first step; each step has twice as many as the one before.
const FIRST_STEP: usize = 16;
const STEPS: u32 = 9;
/// Within which 99 of 100 are answered, as long as no more is asked than can be carried:
/// what keeps people waiting any longer is no capacity.
const IN_TIME: Moment = 1_000;
/// A step that has not so much more than the best is none further up; after so many of
/// them it is looked no further.
const RISES: f64 = 1.05;
const FLAT: usize = 3;
/// What is offered before and after, of the peak, and for how long.
const CALM: f64 = 0.5;
const CALM_FOR: Duration = Duration::from_secs(10);
/// By when all is as before.
const RECOVERY: Duration = Duration::from_secs(2);
/// By when everything is answered.
const ANSWER: Duration = Duration::from_secs(20);
/// Of the peak, at least.
const GOODPUT: f64 = 0.8;
/// What may be added to twice the time that answers took before, for a busy machine; milliseconds.
const GRACE: Moment = 100;

/// What a program may grow by meanwhile; MiB.
const MEMORY: u64 = 128;

/// How many there are, and for how long more is offered than can be carried.
#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    seconds: u64,
}

pub(crate) fn cases() -> Vec<Case> {
    let case =
        |name: &str, size| Case::test(name, move || in_one_thread(move || what_is_too_much(size)));
    vec![
        case(
            "overload::three_times_the_peak_is_borne_and_what_is_too_much_is_told",
            Size {
                clients: 160,
                seconds: 15,
            },
        ),
        case(
            "overload::thorough_three_times_the_peak_is_borne_for_long_by_many",
            Size {
                clients: 1_000,
                seconds: 30,
            },
        ),
    ]
}

async fn what_is_too_much(size: Size) -> Result<(), Failed> {
    let clients = number("DRIVERS_TRIAL_CLIENTS").unwrap_or(size.clients);
    // A process begins on the processors of the thread that starts it.
    let last = leave_the_last()?;
    let stack = Stack::bare_mesh().await;
    keep_to(last)?;
    let (people, _) = gather(&stack, clients).await;
    let load = Load::connect(&stack, people).await;

    let peak = peak(&load).await;
    let calm = span(&load, peak * CALM, RECOVERY + CALM_FOR, RECOVERY).await;
    println!("half of the peak, from {RECOVERY:?} on: {calm}");
    let memory = Memory::watch(&stack);
    let over = span(
        &load,
        peak * 3.0,
        Duration::from_secs(size.seconds),
        Duration::ZERO,
    )
    .await;
    println!("three times the peak: {over}");
    let end = now();
    let after = span(&load, peak * CALM, RECOVERY + CALM_FOR, RECOVERY).await;
    println!("half of the peak, from {RECOVERY:?} on: {after}");
    for second in 1..=5 {
        let began = end + (second - 1) * 1_000;
        println!("second {second}: {}", load.span(began, began + 1_000));
    }
    let grown = memory.end().await;
    let silent = load.settle(ANSWER).await;

    let mut broken = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    expect(
        silent == 0,
        format!("{silent} messages were never answered"),
    );
    let ended = load.ended();
    expect(ended.is_empty(), format!("sockets were ended: {ended:?}"));
    expect(
        over.offered() >= 2.7 * peak,
        format!("this machine can't offer more than {:.0}", over.offered()),
    );
    expect(
        over.goodput() >= GOODPUT * peak,
        format!("{:.0} of {peak:.0} a second were sent", over.goodput()),
    );
    for (code, count) in &over.failed {
        expect(
            matches!(code.as_str(), "unavailable" | "rate_limited"),
            format!("{count} were refused with {code}"),
        );
    }
    expect(
        after.refused() <= calm.refused() + 0.01 * after.offered()
            && after.goodput() >= 0.9 * after.offered(),
        "what can be carried was not carried at once when it was over".into(),
    );
    for (share, name) in [(0.5, "half"), (0.99, "99 of 100")] {
        let (before, after) = (calm.took(share), after.took(share));
        expect(
            after <= 2 * before + GRACE,
            format!("{name} took {before} ms before and {after} ms after"),
        );
    }
    for (name, grown) in grown {
        expect(!grown.is_too_much(), format!("{name}: {grown:?}"));
    }
    if broken.is_empty() {
        return Ok(());
    }
    println!("what the programs logged is in {}", stack.keep().display());
    Err(broken.join("; ").into())
}

/// The most messages a second that are sent in time, however many are under way, while
/// hardly any is refused.
async fn peak(load: &Load) -> f64 {
    let mut best: f64 = 0.0;
    let mut flat = 0;
    for step in 0..STEPS {
        let under_way = FIRST_STEP << step;
        load.keep_under_way(under_way);
        sleep(WARM_UP).await;
        let began = now();
        sleep(STEP).await;
        let span = load.span(began, now());
        println!("{under_way} under way: {span}");
        if span.refused() > 0.01 * span.goodput() || span.took(0.99) > IN_TIME {
            break;
        }
        flat = if span.goodput() > RISES * best {
            0
        } else {
            flat + 1
        };
        best = best.max(span.goodput());
        if flat == FLAT {
            break;
        }
    }
    load.keep_under_way(0);
    load.settle(ANSWER).await;
    best
}

/// Offers so many messages a second for a time; what came of it, but for its beginning.
async fn span(load: &Load, rate: f64, length: Duration, beginning: Duration) -> Span {
    let beginning = Moment::try_from(beginning.as_millis()).unwrap_or(0);
    let began = now() + beginning;
    load.offer(rate, length).await;
    load.span(began, now())
}

/// The resident memory of each program while it is watched.
struct Memory {
    is_over: Arc<AtomicBool>,
    watch: tokio::task::JoinHandle<Vec<(String, Grown)>>,
}

/// How a program's memory grew; MiB.
#[derive(Debug, Default)]
struct Grown {
    from: u64,
    /// The most in the first and in the second half of the time.
    halves: [u64; 2],
}

impl Grown {
    /// Whether it grew without end, or by far.
    fn is_too_much(&self) -> bool {
        let [first, second] = self.halves;
        second > first + first / 4 + 16 || second > self.from + MEMORY
    }
}

impl Memory {
    fn watch(stack: &Stack) -> Self {
        let parts: Vec<Arc<Part>> = stack.programs().into_iter().map(|(part, _)| part).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let watch = tokio::spawn(async move {
            let mut samples: Vec<Vec<u64>> = vec![Vec::new(); parts.len()];
            while !ends.load(Ordering::Relaxed) {
                for (part, samples) in parts.iter().zip(&mut samples) {
                    samples.push(part.memory() >> 20);
                }
                sleep(Duration::from_millis(500)).await;
            }
            let grown = parts.iter().zip(samples).map(|(part, samples)| {
                let (first, second) = samples.split_at(samples.len() / 2);
                let most = |half: &[u64]| half.iter().copied().max().unwrap_or(0);
                let grown = Grown {
                    from: first.first().copied().unwrap_or(0),
                    halves: [most(first), most(second)],
                };
                println!("{}: {grown:?} MiB", part.name);
                (part.name.clone(), grown)
            });
            grown.collect()
        });
        Self { is_over, watch }
    }

    async fn end(self) -> Vec<(String, Grown)> {
        self.is_over.store(true, Ordering::Relaxed);
        self.watch.await.unwrap()
    }
}
