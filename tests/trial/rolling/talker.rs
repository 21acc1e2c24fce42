//! Somebody of a crowd who talks, listens, and comes back whenever he is sent away.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tests::history::{Connection, End, Event, Moment, What, now};
use tokio::sync::watch;
use tokio::time::sleep;

use super::wait::Wait;
use super::{Phase, Shared};
use crate::crowd::{Heard, Person, connect, message, understand};

/// What the stamp of a last message ends with.
const LAST: &str = "-last";
/// How long he stays on average before the restarts: of two gateways' sockets those of one go
/// in the ten seconds of its drain, so as many come back in a second before as meanwhile.
const STAY: Moment = 20_000;
/// A sign-in is answered by then.
const ANSWER: Moment = 20_000;

/// What somebody was told.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) sent: usize,
    /// The longest wait since restarts began.
    pub(super) slowest: Option<Wait>,
    /// Answers by which a message may be sent again.
    pub(super) failed: usize,
    /// Those by which it may not.
    pub(super) refused: usize,
    /// How often the same message was emitted, at most.
    pub(super) emits: u32,
    /// The longest from the end of a connection until the next one was signed in; milliseconds.
    pub(super) longest_absence: Moment,
}

impl Figures {
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.note(other.slowest);
        self.failed += other.failed;
        self.refused += other.refused;
        self.emits = self.emits.max(other.emits);
        self.longest_absence = self.longest_absence.max(other.longest_absence);
    }

    fn note(&mut self, wait: Option<Wait>) {
        let took = |wait: &Option<Wait>| wait.as_ref().map(Wait::took);
        if took(&wait) > took(&self.slowest) {
            self.slowest = wait;
        }
    }
}

/// Somebody who talks, listens, and comes back whenever he is sent away.
pub(super) struct Talker {
    person: Person,
    doors: Vec<SocketAddr>,
    shared: Arc<Shared>,
    phases: watch::Receiver<Phase>,
    random: StdRng,
    /// Between two messages, on average.
    pause: Duration,
    said: usize,
    says_at: Moment,
    /// When he leaves by himself, unless the restarts have begun.
    leaves_at: Moment,
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
    pub(super) fn new(
        person: Person,
        doors: Vec<SocketAddr>,
        shared: Arc<Shared>,
        phases: watch::Receiver<Phase>,
        random: StdRng,
        pause: Duration,
    ) -> Self {
        Self {
            person,
            doors,
            shared,
            phases,
            random,
            pause,
            said: 0,
            says_at: Moment::MAX,
            leaves_at: Moment::MAX,
            open: VecDeque::new(),
            is_silent: false,
            has_heard_last: false,
            figures: Figures::default(),
        }
    }

    pub(super) async fn run(mut self) -> Figures {
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
        self.stay();
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
                    if record.signed_in.is_none() || self.leaves() {
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
            self.stay();
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

    fn stay(&mut self) {
        self.leaves_at = now() + self.random.random_range(0..2 * STAY);
    }

    /// Whether he goes now, to come back at once.
    fn leaves(&self) -> bool {
        self.leaves_at <= now() && self.comes_and_goes()
    }

    fn comes_and_goes(&self) -> bool {
        *self.phases.borrow() == Phase::Talk && self.shared.began.load(Ordering::Relaxed) == 0
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
                    self.note_sent(open, at);
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

    fn note_sent(&mut self, open: Open, at: Moment) {
        let wait = Wait {
            user: self.person.id,
            stamp: open.stamp,
            said_at: open.said_at,
            told_at: at,
        };
        self.figures.sent += 1;
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        self.shared
            .slowest
            .fetch_max(wait.took(), Ordering::Relaxed);
        let began = self.shared.began.load(Ordering::Relaxed);
        if began > 0 && at >= began {
            self.figures.note(Some(wait));
        }
    }

    fn settle(&mut self, stamp: &str) -> Option<Open> {
        let at = self.open.iter().position(|open| open.stamp == stamp)?;
        self.open.remove(at)
    }

    fn wakes_at(&self) -> Moment {
        let due = self.open.iter().filter_map(|open| open.due).min();
        let says = (*self.phases.borrow() == Phase::Talk).then_some(self.says_at);
        let leaves = self.comes_and_goes().then_some(self.leaves_at);
        let never = now() + 3_600_000;
        due.into_iter()
            .chain(says)
            .chain(leaves)
            .min()
            .unwrap_or(never)
    }
}
