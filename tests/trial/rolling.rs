//! An operator restarts each program in turn, in order, while a crowd talks: nobody may
//! lose, miss or be shown twice any message, or wait for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use libtest_mimic::{Failed, Trial as Case};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::checker::{Limits, check};
use tests::history::{
    Connection, End, Event, Fault, History, Message, Moment, Recorder, What, now,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::crowd::{Heard, MEMBERS, Person, connect, gather, message, understand};
use crate::run::expect_none;
use crate::stack::Stack;
use crate::{in_runtime, number, seed};

/// The programs' own window to end in, and a little more: they may not need more.
const DRAIN: Duration = Duration::from_secs(21);
const START: Duration = Duration::from_secs(30);
/// Talk before the first restart and after the last one.
const TALK: Duration = Duration::from_secs(3);
/// By when everybody is there at first.
const GATHER: Duration = Duration::from_secs(60);
/// What the stamp of a last message ends with.
const LAST: &str = "-last";
/// A sign-in is answered by then.
const ANSWER: Moment = 20_000;

/// How many there are, and what is expected of the programs.
#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    /// Messages a second that they send in all.
    rate: usize,
    /// The longest from what somebody wants to say until he is told that it is sent: he is
    /// not heard for a second while he is drained, waits up to a second to connect again, and
    /// the next gateway may be the wrong one again; milliseconds.
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
        let talker = Talker {
            doors: stack.doors.clone(),
            shared: Arc::clone(&shared),
            phases: phases.clone(),
            random: StdRng::seed_from_u64(random.random()),
            pause: Duration::from_secs_f64(pause),
            said: 0,
            says_at: Moment::MAX,
            open: VecDeque::new(),
            is_silent: false,
            has_heard_last: false,
            figures: Figures::default(),
            person,
        };
        tokio::spawn(talker.run())
    });
    let talkers: Vec<_> = talkers.collect();
    shared
        .reaches(&shared.here, clients, GATHER, "everybody is here")
        .await?;
    println!("{clients} are here, {rate} messages a second");
    phase.send_replace(Phase::Talk);
    sleep(TALK).await;

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
    expect_none(seed, &history, &findings)?;
    figures.expect(&history, size)
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

/// What somebody was told.
#[derive(Debug, Default)]
struct Figures {
    sent: usize,
    /// The longest from what he wanted to say until he was told that it is sent; milliseconds.
    slowest: Moment,
    /// Answers by which a message may be sent again.
    failed: usize,
    /// Those by which it may not.
    refused: usize,
    /// How often the same message was emitted, at most.
    emits: u32,
    /// The longest from the end of a connection until the next one was signed in; milliseconds.
    longest_absence: Moment,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.slowest = self.slowest.max(other.slowest);
        self.failed += other.failed;
        self.refused += other.refused;
        self.emits = self.emits.max(other.emits);
        self.longest_absence = self.longest_absence.max(other.longest_absence);
    }

    fn expect(&self, history: &History, size: Size) -> Result<(), Failed> {
        let in_logs: usize = history.logs.values().map(Vec::len).sum();
        if self.refused > 0 || self.sent != in_logs {
            return Err(format!("{in_logs} messages are in the logs: {self:?}").into());
        }
        if self.slowest > size.slowest {
            return Err(format!("it took {} ms until a message was sent", self.slowest).into());
        }
        let faults = &history.faults;
        let took = faults.last().zip(faults.first());
        let took = took.map_or(0, |(last, first)| last.ended - first.began);
        let offered = usize::try_from(took).unwrap_or(0) * size.rate / 1_000;
        if self.sent < offered {
            return Err(format!("only {} of {offered} messages were said", self.sent).into());
        }
        Ok(())
    }
}

/// Somebody who talks, listens, and comes back whenever he is sent away.
struct Talker {
    person: Person,
    doors: Vec<std::net::SocketAddr>,
    shared: Arc<Shared>,
    phases: watch::Receiver<Phase>,
    random: StdRng,
    /// Between two messages, on average.
    pause: Duration,
    said: usize,
    says_at: Moment,
    open: VecDeque<Open>,
    is_silent: bool,
    has_heard_last: bool,
    figures: Figures,
}

/// What he said and has no final answer to.
struct Open {
    stamp: String,
    said_at: Moment,
    emits: u32,
    /// When it is due to be emitted; none while it is on its way.
    due: Option<Moment>,
}

impl Talker {
    async fn run(mut self) -> Figures {
        let mut gateway = self.random.random_range(0..self.doors.len());
        let mut failures = 0;
        let mut away_since = None;
        loop {
            let record = self.visit(gateway).await;
            let signed_in = record.signed_in;
            let ended = record.ended.as_ref().map_or(0, |(at, _)| *at);
            self.shared
                .recorder
                .add(|history| history.connections.push(record));
            if let (Some(since), Some(signed_in)) = (away_since, signed_in) {
                let absence = &mut self.figures.longest_absence;
                *absence = (*absence).max(signed_in - since);
                away_since = None;
            }
            if *self.phases.borrow() == Phase::Over {
                return self.figures;
            }
            away_since.get_or_insert(ended);
            failures = if signed_in.is_some() { 0 } else { failures + 1 };
            // At most a second, as a phone does; at another door if this one was shut.
            let longest = (200_u64 << failures.min(3)).min(1_000);
            sleep(Duration::from_millis(self.random.random_range(0..longest))).await;
            gateway = match failures {
                0 => self.random.random_range(0..self.doors.len()),
                _ => (gateway + 1) % self.doors.len(),
            };
        }
    }

    /// One connection, from its beginning to its end.
    async fn visit(&mut self, gateway: usize) -> Connection {
        let mut record = Connection {
            user: self.person.id,
            label: "raw-eio4 on websocket".into(),
            gateway,
            token: 0,
            opened: now(),
            signed_in: None,
            ended: None,
            events: Vec::new(),
        };
        let end = match self.converse(&mut record).await {
            Ok(()) => End::ByClient,
            Err(why) => End::ByServer(why),
        };
        record.ended = Some((now(), end));
        if record.signed_in.is_some() {
            self.shared.here.fetch_sub(1, Ordering::Relaxed);
        }
        for open in &mut self.open {
            open.due.get_or_insert(0);
        }
        record
    }

    async fn converse(&mut self, record: &mut Connection) -> Result<(), String> {
        let mut ws = connect(self.doors[record.gateway], &self.person).await?;
        self.phases.mark_changed();
        loop {
            let wake_at = match record.signed_in {
                None => record.opened + ANSWER,
                Some(_) => self.wakes_at(),
            };
            let pause = u64::try_from(wake_at - now()).unwrap_or(0);
            tokio::select! {
                packet = ws.packet_within(Duration::from_secs(3_600)) => {
                    let packet = packet?.ok_or("the connection was closed")?;
                    self.hear(&packet, record)?;
                    self.follow();
                }
                () = sleep(Duration::from_millis(pause)) => {
                    if record.signed_in.is_none() {
                        return Ok(());
                    }
                    for packet in self.say(record) {
                        ws.send(&packet).await?;
                    }
                }
                changed = self.phases.changed() => {
                    changed.map_err(|error| error.to_string())?;
                    if self.follow() == Phase::Over {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does what the phase asks for, and says which it is.
    fn follow(&mut self) -> Phase {
        let phase = *self.phases.borrow_and_update();
        if phase == Phase::Talk && self.says_at == Moment::MAX {
            self.says_at = now() + self.pause_of(0.0..1.0);
        }
        if phase >= Phase::Settle && self.open.is_empty() && !self.is_silent {
            self.is_silent = true;
            self.shared.silent.fetch_add(1, Ordering::Relaxed);
        }
        if phase == Phase::Last && self.person.place == 0 && self.says_at != Moment::MIN {
            self.says_at = Moment::MIN;
            self.write(format!("{}{LAST}", self.person.id), now());
        }
        phase
    }

    fn pause_of(&mut self, share: std::ops::Range<f64>) -> Moment {
        let pause = self.pause.mul_f64(self.random.random_range(share));
        Moment::try_from(pause.as_millis()).unwrap_or(Moment::MAX)
    }

    fn write(&mut self, stamp: String, said_at: Moment) {
        self.open.push_back(Open {
            stamp,
            said_at,
            emits: 0,
            due: Some(said_at),
        });
    }

    /// The packets that are due. What he wanted to say while he was away counts from then.
    fn say(&mut self, record: &mut Connection) -> Vec<String> {
        let now = now();
        while *self.phases.borrow() == Phase::Talk && self.says_at <= now {
            self.said += 1;
            self.write(format!("{}-{}", self.person.id, self.said), self.says_at);
            self.says_at += self.pause_of(0.5..1.5);
        }
        let topic = self.person.topic;
        let due = |open: &&mut Open| open.due.is_some_and(|due| due <= now);
        let emitted = self.open.iter_mut().filter(due).map(|open| {
            open.due = None;
            open.emits += 1;
            self.figures.emits = self.figures.emits.max(open.emits);
            let stamp = open.stamp.clone();
            let packet = message(topic, &stamp);
            record.events.push(Event {
                at: now,
                what: What::Emitted { topic, stamp },
            });
            packet
        });
        emitted.collect()
    }

    /// Takes in a packet; an error where it ends the connection.
    fn hear(&mut self, packet: &str, record: &mut Connection) -> Result<(), String> {
        let at = now();
        let what = match understand(packet)? {
            Heard::SignedIn => {
                record.signed_in = Some(at);
                self.shared.here.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Heard::Refused(code) => What::Refused { code },
            Heard::Sent(message) => {
                if message.owner == self.person.id
                    && let Some(open) = self.settle(&message.stamp)
                {
                    self.figures.sent += 1;
                    self.figures.slowest = self.figures.slowest.max(at - open.said_at);
                }
                if message.stamp.ends_with(LAST) && !self.has_heard_last {
                    self.has_heard_last = true;
                    self.shared.last.fetch_add(1, Ordering::Relaxed);
                }
                What::Shown(self.shared.recorder.keep(*message))
            }
            Heard::Failed { stamp, code } => {
                if matches!(code.as_str(), "unavailable" | "rate_limited") {
                    self.figures.failed += 1;
                    let pause = self.random.random_range(100..1_000);
                    let open = self.open.iter_mut().find(|open| open.stamp == stamp);
                    open.ok_or("told of a message that waits for nothing")?.due = Some(at + pause);
                } else {
                    self.figures.refused += 1;
                    self.settle(&stamp);
                }
                What::Failed { stamp, code }
            }
            Heard::Other => return Ok(()),
        };
        record.events.push(Event { at, what });
        Ok(())
    }

    fn settle(&mut self, stamp: &str) -> Option<Open> {
        let at = self.open.iter().position(|open| open.stamp == stamp)?;
        self.open.remove(at)
    }

    fn wakes_at(&self) -> Moment {
        let due = self.open.iter().filter_map(|open| open.due).min();
        let says = (*self.phases.borrow() == Phase::Talk).then_some(self.says_at);
        let never = now() + 3_600_000;
        due.into_iter().chain(says).min().unwrap_or(never)
    }
}
