//! One trial, from its first sign-up to its figures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Failed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::checker::{Findings, Limits, check};
use tests::history::{Fault, History, Membership, Message, Moment, Recorder, What, now};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cast::{Cast, Phase, Role};
use crate::nemesis::{self, Plan};
use crate::phone::Phone;
use crate::services;
use crate::stack::Stack;

/// How a trial goes.
pub(crate) struct Trial {
    /// All choices come from this.
    pub(crate) seed: u64,
    /// How long people talk and things break.
    pub(crate) length: Duration,
    /// How often each device says something; milliseconds between.
    pub(crate) says: std::ops::Range<u64>,
    /// The longest until all that was sent is settled then.
    pub(crate) settle: Duration,
}

/// After the last message: by then it is everywhere, or will not be in time.
const LAST: Duration = Duration::from_millis(6_500);

/// Runs a trial; what happened, and what the checker says of it.
pub(crate) async fn run(stack: &Stack, trial: &Trial, plan: Plan) -> (History, Findings) {
    let recorder = Arc::new(Recorder::default());
    let (phase, phases) = watch::channel(Phase::Talk);
    let mut random = StdRng::seed_from_u64(trial.seed);
    let cast = Cast::of(
        stack,
        Arc::clone(&recorder),
        phases,
        trial.length,
        &mut random,
    );
    let cast = Arc::new(cast.await);
    let mut tasks = Vec::new();
    for person in &cast.people {
        // Two devices each, which retry each other's messages.
        let devices = match person.role {
            Role::Talker | Role::Listener | Role::Suspect => 2,
            Role::Wanderer | Role::Leaver | Role::Guest | Role::Stranger => 1,
        };
        for number in 0..devices {
            // Those who have one only stay for long.
            let number = number + (devices % 2);
            let phone = Phone::new(&cast, person, number, trial.says.clone(), random.random());
            tasks.push(tokio::spawn(phone.run()));
        }
    }
    tasks.push(tokio::spawn(stalls(Arc::clone(&cast))));
    let send =
        |topics, every, seed| tokio::spawn(services::send(Arc::clone(&cast), topics, every, seed));
    tasks.push(send(cast.lively.clone(), 200..800, random.random()));
    for topic in &cast.quiet {
        tasks.push(send(vec![*topic], 6_000..8_000, random.random()));
    }
    tasks.push(tokio::spawn(services::lead(
        Arc::clone(&cast),
        random.random(),
    )));
    tasks.push(tokio::spawn(services::revoke(
        Arc::clone(&cast),
        random.random(),
    )));

    nemesis::run(stack, plan, trial.length, &recorder).await;
    phase.send_replace(Phase::Settle);
    let deadline = Instant::now() + trial.settle;
    while cast.open() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(LAST).await;
    let over = now();
    phase.send_replace(Phase::Over);
    for task in tasks {
        task.await.unwrap();
    }
    let mut history = recorder.take();
    history.over = over;
    let guests = cast
        .people
        .iter()
        .filter(|person| person.role == Role::Guest);
    let joined = guests.filter_map(|guest| joined(&history, guest.id, cast.open_topic));
    let joined: Vec<Membership> = joined.collect();
    history.memberships.extend(joined);
    for topic in cast.topics() {
        let entries = stack.apis[0].history(topic).await;
        let log = entries.iter().map(Message::stored).collect();
        history.logs.insert(topic, log);
    }
    let findings = check(&history, &Limits::default());
    (history, findings)
}

/// When somebody became a member by what he said: after he emitted it first, and before he
/// was first shown anything of the topic.
fn joined(history: &History, user: i64, topic: i64) -> Option<Membership> {
    let his = (history.connections.iter()).filter(|connection| connection.user == user);
    let events: Vec<_> = his.flat_map(|connection| &connection.events).collect();
    let said = events.iter().filter_map(|event| match &event.what {
        What::Emitted { topic: to, .. } if *to == topic => Some(event.at),
        _ => None,
    });
    let shown = events.iter().filter_map(|event| match &event.what {
        What::Shown(message) if message.topic == topic => Some(event.at),
        _ => None,
    });
    Some(Membership {
        user,
        topic,
        joins: true,
        began: said.min()?,
        done: shown.min().unwrap_or(Moment::MAX / 4),
    })
}

/// How often it is looked whether the machine goes on, and what counts as standing still.
const TICK: Duration = Duration::from_millis(100);
const STALL: Moment = 600;

/// Where this process itself gets no time, nobody can hear anything: that is written down
/// as a fault of everything.
async fn stalls(cast: Arc<Cast>) {
    let mut last = now();
    while cast.phase() < Phase::Over {
        sleep(TICK).await;
        let at = now();
        if at - last > STALL {
            let gateways: Vec<usize> = (0..cast.doors.len()).collect();
            let fault = Fault {
                kind: "stall of the machine".into(),
                target: "everything".into(),
                began: last,
                ended: at,
                deafens: gateways,
                cuts: Vec::new(),
            };
            println!("the machine stood still for {} ms", at - last);
            cast.recorder.add(|history| history.faults.push(fault));
        }
        last = at;
    }
}

/// Says what is wrong, and keeps the history for whoever looks into it.
///
/// # Errors
/// There are violations.
pub(crate) fn expect_none(seed: u64, history: &History, findings: &Findings) -> Result<(), Failed> {
    if findings.violations.is_empty() {
        return Ok(());
    }
    let mut shown: BTreeMap<_, u32> = BTreeMap::new();
    let mut told = String::new();
    for violation in &findings.violations {
        let count = shown.entry(violation.kind).or_insert(0);
        *count += 1;
        if *count <= 10 {
            told += &format!("\n{violation}");
        }
    }
    let path = keep(seed, history);
    let kinds = findings.by_kind();
    let history = path.display();
    Err(format!("violations with seed {seed}: {kinds:?}; the history is {history}{told}").into())
}

fn keep(seed: u64, history: &History) -> PathBuf {
    let folder = std::env::current_exe().unwrap();
    let folder = folder.parent().unwrap().join("trials");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{seed}.json"));
    let text = serde_json::to_string_pretty(history).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}
