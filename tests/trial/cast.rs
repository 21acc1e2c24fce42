//! The people of a trial, their topics, and what they share while it goes on.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::message::v1::Visibility;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tests::account::sign_up_at;
use tests::api::Api;
use tests::history::{Membership, Moment, Recorder, body_of, now};
use tokio::sync::watch;

use crate::stack::Stack;

/// Who talk, members of all topics that talk is in.
const TALKERS: usize = 4;
/// Who come and go.
const WANDERERS: usize = 2;
/// Who become members of the open topic by what they say in it.
const GUESTS: usize = 4;
/// Topics that many talk in.
const LIVELY: usize = 2;
/// Topics in which little is said, so that nothing later tells of a loss.
const QUIET: usize = 3;

/// How far the trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// People talk.
    Talk,
    /// They only find out what became of what they said.
    Settle,
    /// They go.
    Over,
}

/// All that take part in a trial share this.
pub(crate) struct Cast {
    pub(crate) doors: Vec<SocketAddr>,
    pub(crate) apis: Vec<Api>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) people: Vec<Arc<Person>>,
    pub(crate) lively: Vec<i64>,
    pub(crate) quiet: Vec<i64>,
    /// Where everybody may talk.
    pub(crate) open_topic: i64,
}

/// What somebody does in a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// He talks in all topics.
    Talker,
    /// He talks, comes and goes.
    Wanderer,
    /// He talks, and his token is revoked from time to time.
    Suspect,
    /// He hears everything and says nothing.
    Listener,
    /// So does he, until he leaves a lively topic for long.
    Leaver,
    /// He talks in the open topic alone, some time after the beginning, and is a member
    /// from then on.
    Guest,
    /// He is a member of nothing.
    Stranger,
}

impl Role {
    /// Whether he says something.
    pub(crate) fn talks(self) -> bool {
        matches!(
            self,
            Self::Talker | Self::Wanderer | Self::Suspect | Self::Guest
        )
    }
}

/// A message that somebody sends: always with the same content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Outgoing {
    pub(crate) topic: i64,
    pub(crate) stamp: String,
    pub(crate) reply_to: i64,
}

impl Outgoing {
    /// The request of a client. Every fourth message has attributes.
    pub(crate) fn request(&self) -> Value {
        let mut request = json!({
            "topic_id": self.topic,
            "stamp_id": self.stamp,
            "body": body_of(&self.stamp),
        });
        if self.stamp.ends_with(['0', '4', '8']) {
            request["attrs"] = json!({"of": self.stamp});
        }
        if self.reply_to != 0 {
            request["reply_to"] = json!(self.reply_to);
        }
        request
    }
}

/// Somebody, on all of his devices.
pub(crate) struct Person {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) role: Role,
    /// He says nothing before.
    pub(crate) silent_until: Moment,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    /// His tokens; the last one is live.
    pub(crate) tokens: Vec<String>,
    number: u64,
    /// What he sent and has no final answer to, each since its first emit.
    open: HashMap<String, Outgoing>,
    /// What is to be sent again, not before a moment.
    again: VecDeque<(Moment, Outgoing)>,
    /// Some of what is settled.
    old: VecDeque<Outgoing>,
    /// What he heard last of each topic.
    heard: HashMap<i64, i64>,
}

/// How many settled messages are remembered to be sent again.
const OLD: usize = 400;

impl Person {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A new message.
    pub(crate) fn write(&mut self, user: i64, topic: i64, reply_to: i64) -> Outgoing {
        self.number += 1;
        let outgoing = Outgoing {
            topic,
            stamp: format!("{user}-{}", self.number),
            reply_to,
        };
        self.open.insert(outgoing.stamp.clone(), outgoing.clone());
        outgoing
    }

    /// How much has no answer yet.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// What has this stamp and no final answer.
    pub(crate) fn of_stamp(&self, stamp: &str) -> Option<Outgoing> {
        self.open.get(stamp).cloned()
    }

    /// A message has its final answer.
    pub(crate) fn settle(&mut self, stamp: &str) {
        let Some(outgoing) = self.open.remove(stamp) else {
            return;
        };
        if self.old.len() >= OLD {
            // Some are kept for long, so that retries come from full segments, too.
            let at = (self.number % OLD as u64) as usize;
            self.old.remove(at);
        }
        self.old.push_back(outgoing);
    }

    /// A message is sent again, on whichever device comes first.
    pub(crate) fn doubt(&mut self, outgoing: Outgoing, not_before: Moment) {
        let waits = |(_, other): &(Moment, Outgoing)| *other == outgoing;
        if self.open.contains_key(&outgoing.stamp) && !self.again.iter().any(waits) {
            self.again.push_back((not_before, outgoing));
        }
    }

    /// What is to be sent again now.
    pub(crate) fn due(&mut self) -> Option<Outgoing> {
        let now = now();
        loop {
            let at = self.again.iter().position(|(at, _)| *at <= now)?;
            let (_, outgoing) = self.again.remove(at)?;
            if self.open.contains_key(&outgoing.stamp) {
                return Some(outgoing);
            }
        }
    }

    /// Something that was settled, to be sent once more.
    pub(crate) fn old(&self, number: usize) -> Option<Outgoing> {
        let number = number.checked_rem(self.old.len())?;
        self.old.get(number).cloned()
    }

    /// Notes the id of a message of the topic, which may be answered from now on.
    pub(crate) fn heard(&mut self, topic: i64, id: i64) {
        self.heard.insert(topic, id);
    }

    /// A message of the topic that may be answered; 0 if he has heard none.
    pub(crate) fn last_of(&self, topic: i64) -> i64 {
        self.heard.get(&topic).copied().unwrap_or(0)
    }
}

impl Cast {
    /// Signs everybody up and makes their topics.
    pub(crate) async fn of(
        stack: &Stack,
        recorder: Arc<Recorder>,
        phase: watch::Receiver<Phase>,
        length: Duration,
        random: &mut StdRng,
    ) -> Self {
        let roles = std::iter::repeat_n(Role::Talker, TALKERS)
            .chain(std::iter::repeat_n(Role::Wanderer, WANDERERS))
            .chain(std::iter::repeat_n(Role::Guest, GUESTS))
            .chain([Role::Suspect, Role::Listener, Role::Leaver, Role::Stranger]);
        let length = Moment::try_from(length.as_millis()).unwrap();
        let mut people = Vec::new();
        for (number, role) in roles.enumerate() {
            let user = sign_up_at(stack.doors[number % stack.doors.len()]).await;
            let state = State {
                tokens: vec![user.token],
                ..State::default()
            };
            let silent_until = match role {
                Role::Guest => now() + random.random_range(0..length / 2),
                _ => 0,
            };
            people.push(Arc::new(Person {
                silent_until,
                id: user.id,
                username: user.username,
                role,
                state: Mutex::new(state),
            }));
        }
        let mut topics = Vec::new();
        for number in 0..LIVELY + QUIET + 1 {
            let began = now();
            let members = people.iter().filter(|person| {
                !matches!(person.role, Role::Stranger | Role::Wanderer | Role::Guest)
            });
            let members: Vec<i64> = members.map(|person| person.id).collect();
            let visibility = match number {
                0 => Visibility::Open,
                _ => Visibility::Private,
            };
            let topic = stack.apis[0].topic(visibility, &members).await;
            topics.push(topic);
            let done = now();
            recorder.add(|history| {
                history
                    .memberships
                    .extend(members.iter().map(|user| Membership {
                        user: *user,
                        topic,
                        joins: true,
                        began,
                        done,
                    }));
            });
        }
        let open_topic = topics.remove(0);
        let quiet = topics.split_off(LIVELY);
        Self {
            doors: stack.doors.clone(),
            apis: stack.apis.clone(),
            recorder,
            phase,
            people,
            lively: topics,
            quiet,
            open_topic,
        }
    }

    /// How far the trial is.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// All topics.
    pub(crate) fn topics(&self) -> Vec<i64> {
        [&[self.open_topic], &*self.lively, &*self.quiet].concat()
    }

    /// Where somebody talks.
    pub(crate) fn talked_in_by(&self, role: Role) -> Vec<i64> {
        match role {
            Role::Guest => vec![self.open_topic],
            Role::Wanderer => self.lively.clone(),
            _ => [&[self.open_topic], &*self.lively].concat(),
        }
    }

    /// How many messages have no final answer yet.
    pub(crate) fn open(&self) -> usize {
        self.people.iter().map(|person| person.state().open()).sum()
    }

    /// Waits for the phase to be at least this; then for ever once the trial is over.
    pub(crate) async fn until(&self, phase: Phase) {
        let mut phases = self.phase.clone();
        let _ = phases.wait_for(|now| *now >= phase).await;
    }
}
