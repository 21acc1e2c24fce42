//! An operator restarts each program in turn, in order, while a crowd talks: nobody may
//! lose, miss or be shown twice any message, or wait for long.

mod talker;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use libtest_mimic::{Failed, Trial as Case};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tests::checker::{Limits, check};
use tests::history::{Fault, History, Message, Moment, Recorder, now};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::talker::{Figures, Talker};
use self::wait::Wait;
use crate::crowd::{MEMBERS, gather};
use crate::run::expect_none;
use crate::stack::Stack;
use crate::{in_runtime, number, seed};

/// The programs' own window to end in, and a little more: they may not need more.
const DRAIN: Duration = Duration::from_secs(21);
const START: Duration = Duration::from_secs(30);
/// Talk before the first restart and after the last one.
const TALK: Duration = Duration::from_secs(3);
/// By when the machine carries what is said while nothing is restarted: all is sent within this
/// part of the time that may pass while something is.
const STRIDE: Duration = Duration::from_secs(60);
const WELL_WITHIN: Moment = 5;
/// By when everybody is there at first.
const GATHER: Duration = Duration::from_secs(60);

/// How many there are, and what is expected of the programs.
#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    /// Messages a second that they send in all.
    rate: usize,
    /// The longest from what somebody wants to say until he is told that it is sent: he is
    /// hardly heard while he is drained, waits up to a second to connect again, and the next
    /// gateway may be the wrong one again; each time he signs in beside everybody else.
    /// Milliseconds.
    slowest: Moment,
    /// By when everybody is back, has been told all, and has what was said last.
    back: Duration,
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, size| Case::test(name, move || in_runtime(nothing_is_noticed(size)));
    vec![
        case(
            "rolling::nobody_misses_anything_while_each_program_is_restarted",
            // Unoptimized programs let in some sixty a second on two cores.
            Size {
                clients: 200,
                rate: 60,
                slowest: 20_000,
                back: Duration::from_secs(30),
            },
        ),
        case(
            "rolling::thorough_two_thousand_miss_nothing_while_each_program_is_restarted",
            Size {
                clients: 2_000,
                rate: 300,
                slowest: 5_000,
                back: Duration::from_secs(10),
            },
        ),
    ]
}

async fn nothing_is_noticed(size: Size) -> Result<(), Failed> {
    let seed = seed();
    let size = Size {
        clients: number("DRIVERS_TRIAL_CLIENTS").unwrap_or(size.clients),
        rate: number("DRIVERS_TRIAL_RATE").unwrap_or(size.rate),
        ..size
    };
    let stack = Stack::bare_mesh().await;
    let sound = nothing_is_noticed_of(&stack, seed, size).await;
    if sound.is_err() {
        println!("what the programs logged is in {}", stack.keep().display());
    }
    sound
}

async fn nothing_is_noticed_of(stack: &Stack, seed: u64, size: Size) -> Result<(), Failed> {
    let Size { rate, back, .. } = size;
    let (people, memberships) = gather(stack, size.clients).await;
    let clients = people.len();
    let (phase, phases) = watch::channel(Phase::Gather);
    let shared = Arc::new(Shared::default());
    shared
        .recorder
        .add(|history| history.memberships = memberships);

    let mut random = StdRng::seed_from_u64(seed);
    let pause = clients as f64 / rate as f64;
    let topics: Vec<i64> = people
        .iter()
        .step_by(MEMBERS)
        .map(|one| one.topic)
        .collect();
    let talkers = people.into_iter().map(|person| {
        let random = StdRng::seed_from_u64(random.random());
        let talker = Talker::new(
            person,
            stack.doors.clone(),
            Arc::clone(&shared),
            phases.clone(),
            random,
            Duration::from_secs_f64(pause),
        );
        tokio::spawn(talker.run())
    });
    let talkers: Vec<_> = talkers.collect();
    shared
        .reaches(&shared.here, clients, GATHER, "everybody is here")
        .await?;
    println!("{clients} are here, {rate} messages a second");
    phase.send_replace(Phase::Talk);
    is_carried(&shared, size).await?;

    shared.began.store(now(), Ordering::Relaxed);
    restart_each(stack, &shared).await;
    let restarted = Instant::now();
    shared
        .reaches(&shared.here, clients, back, "everybody is back")
        .await?;
    println!(
        "all were back {:?} after the last restart",
        restarted.elapsed()
    );
    sleep(TALK).await;
    phase.send_replace(Phase::Settle);
    shared
        .reaches(&shared.silent, clients, back, "everything said is answered")
        .await?;
    phase.send_replace(Phase::Last);
    shared
        .reaches(&shared.last, clients, back, "the last round is heard")
        .await?;
    let over = now();
    phase.send_replace(Phase::Over);

    let mut figures = Figures::default();
    for talker in talkers {
        figures.add(talker.await.unwrap());
    }
    let mut history = shared.recorder.take();
    history.over = over;
    let api = &stack.apis[0];
    let logs = stream::iter(topics)
        .map(|topic| async move {
            let entries = api.history(topic).await;
            (topic, entries.iter().map(Message::stored).collect())
        })
        .buffered(8);
    history.logs = logs.collect::<Vec<_>>().await.into_iter().collect();
    let findings = check(&history, &Limits::default());
    println!(
        "{} messages in {} topics, {} shown in time to listeners, the slowest {} ms after it was sent",
        history.logs.values().map(Vec::len).sum::<usize>(),
        history.logs.len(),
        findings.delivered,
        findings.slowest_delivery,
    );
    println!("{figures:#?}");
    if let Some(wait) = &figures.slowest {
        println!("{}", wait.story(&history));
    }
    expect_none(seed, &history, &findings)?;
    expect(&figures, &history, size)
}

/// Waits until the machine carries what they say while they come and go: a database that has
/// just started does not at first, and what no machine carries says nothing of restarts.
async fn is_carried(shared: &Shared, size: Size) -> Result<(), Failed> {
    let until = Instant::now() + STRIDE;
    loop {
        sleep(TALK).await;
        let sent = shared.sent.swap(0, Ordering::Relaxed);
        let slowest = shared.slowest.swap(0, Ordering::Relaxed);
        println!("in {TALK:?} {sent} were sent, the slowest after {slowest} ms");
        let enough = 0.9 * TALK.as_secs_f64() * size.rate as f64;
        if sent as f64 >= enough && slowest * WELL_WITHIN <= size.slowest {
            return Ok(());
        }
        if Instant::now() >= until {
            let rate = size.rate;
            return Err(format!("this machine does not carry {rate} messages a second").into());
        }
    }
}

/// Restarts one after the other, each as soon as the one before is ready.
async fn restart_each(stack: &Stack, shared: &Shared) {
    for (part, gateway) in stack.programs() {
        let began = now();
        part.end_within(DRAIN).await;
        let ended = now();
        part.start();
        part.ready_within(START).await;
        let ready = now();
        println!(
            "{}: ended in {} ms, ready after {} more",
            part.name,
            ended - began,
            ready - ended
        );
        // Listeners have no excuse. Sockets have one where their gateway goes.
        shared.recorder.add(|history| {
            history.faults.push(Fault {
                kind: "restart".into(),
                target: part.name.clone(),
                began,
                ended: ready,
                deafens: Vec::new(),
                cuts: gateway.into_iter().collect(),
            });
        });
    }
}

/// How far the trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// People connect.
    Gather,
    /// They talk.
    Talk,
    /// They only find out what became of what they said.
    Settle,
    /// In each topic somebody says a last thing.
    Last,
    /// They go.
    Over,
}

/// What all share.
#[derive(Default)]
struct Shared {
    recorder: Recorder,
    /// How many are signed in.
    here: AtomicUsize,
    /// How many have no more to say, and an answer to everything.
    silent: AtomicUsize,
    /// How many have been shown the last message of their topic.
    last: AtomicUsize,
    /// Messages that were sent since this was looked at last, and what the slowest of them took.
    sent: AtomicUsize,
    slowest: AtomicI64,
    /// When the restarts began; 0 before.
    began: AtomicI64,
}

impl Shared {
    async fn reaches(
        &self,
        count: &AtomicUsize,
        enough: usize,
        limit: Duration,
        what: &str,
    ) -> Result<(), Failed> {
        let reached = async {
            while count.load(Ordering::Relaxed) < enough {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(limit, reached).await.map_err(|_| {
            let count = count.load(Ordering::Relaxed);
            format!("after {limit:?} it is not so that {what}: {count} of {enough}").into()
        })
    }
}

/// What each was told is in the logs, and nobody waited for long.
fn expect(figures: &Figures, history: &History, size: Size) -> Result<(), Failed> {
    let in_logs: usize = history.logs.values().map(Vec::len).sum();
    if figures.refused > 0 || figures.sent != in_logs {
        return Err(format!("{in_logs} messages are in the logs: {figures:?}").into());
    }
    let slowest = figures.slowest.as_ref().map_or(0, Wait::took);
    if slowest > size.slowest {
        return Err(format!("it took {slowest} ms until a message was sent").into());
    }
    let faults = &history.faults;
    let took = faults.last().zip(faults.first());
    let took = took.map_or(0, |(last, first)| last.ended - first.began);
    let offered = usize::try_from(took).unwrap_or(0) * size.rate / 1_000;
    if figures.sent < offered {
        return Err(format!("only {} of {offered} messages were said", figures.sent).into());
    }
    Ok(())
}
