//! Holds what clients saw in a trial against the log and the promises. Knows nothing but
//! the history: the same one has the same violations.

mod access;
mod answers;
mod log;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Serialize;

use crate::history::{Connection, Fault, History, Message, Moment, What};

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// A message was shown as sent and is not in the log.
    Lost,
    /// A stamp is in the log twice, or an entry was shown twice to one connection.
    Doubled,
    /// An entry was shown behind a later one, or one sender's messages are not in the
    /// order in which he emitted them.
    OutOfOrder,
    /// A connection was not shown an entry, and was shown later ones.
    Hole,
    /// The log lacks a seq, or its ids do not ascend.
    BrokenLog,
    /// A message was shown with other content than the log has, or the log has what
    /// nobody emitted.
    Differs,
    /// A retry was answered with another id.
    OtherId,
    /// Somebody was shown a message of a topic that he never was a member of.
    Overheard,
    /// A listener was shown an entry too late, or not at all.
    LateHeal,
    /// Somebody was shown a message too long after he left.
    AfterLeaving,
    /// A connection lived too long after its token was revoked.
    AfterRevocation,
    /// The outcome of a send was not told.
    Untold,
    /// A message was refused for good, and is in the log.
    Contradicted,
    /// `sent_at` went back.
    BackInTime,
    /// A connection was ended, and nothing that it depends on was at fault.
    CutOff,
    /// A live token was refused, or a sign-in not answered.
    NotLetIn,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// What happened, for people.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// What is allowed; milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest that a heal, and delivery after leaving or revocation, may take.
    pub heal: Moment,
    /// Allowed on top of any limit, for a busy machine.
    pub grace: Moment,
    /// The longest until a send or a sign-in is answered: the gateway tries a message for
    /// eight seconds, but tells its sender only with those that were sent on with it.
    pub answer: Moment,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heal: 5_000,
            grace: 1_000,
            answer: 20_000,
        }
    }
}

/// What a check finds.
#[derive(Debug, Default)]
pub struct Findings {
    /// The broken promises.
    pub violations: Vec<Violation>,
    /// The longest from the end of a fault until a listener had what it had kept from him.
    pub slowest_heal: Moment,
    /// The longest from `sent_at` until a listener had the entry, where nothing was at fault.
    pub slowest_delivery: Moment,
    /// Entries that listeners had a right to and were shown.
    pub delivered: usize,
}

impl Findings {
    /// How many violations there are of each kind.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for violation in &self.violations {
            *kinds.entry(violation.kind).or_insert(0) += 1;
        }
        kinds
    }

    fn add(&mut self, kind: Kind, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { kind, what });
    }
}

/// Checks a history.
#[must_use]
pub fn check(history: &History, limits: &Limits) -> Findings {
    let facts = Facts::of(history, *limits);
    let mut findings = Findings::default();
    log::check(&facts, &mut findings);
    answers::check(&facts, &mut findings);
    streams::check(&facts, &mut findings);
    access::check(&facts, &mut findings);
    findings
}

/// An owner, a topic and a stamp: one message.
type Name<'a> = (i64, i64, &'a str);

/// The history, arranged for questions.
struct Facts<'a> {
    history: &'a History,
    limits: Limits,
    /// Where each named message first stands in the log.
    stored: HashMap<Name<'a>, &'a Message>,
    /// How often each named message was emitted or sent.
    emitted: HashMap<Name<'a>, usize>,
    memberships: HashMap<(i64, i64), Vec<Term>>,
}

/// A user's time in a topic.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// He joined between these.
    joined: (Moment, Moment),
    /// And left between these, if he did.
    left: Option<(Moment, Moment)>,
}

impl Term {
    /// Whether he was a member at this moment for sure.
    fn surely_holds(&self, at: Moment) -> bool {
        at > self.joined.1 && self.left.is_none_or(|(began, _)| at < began)
    }
}

impl<'a> Facts<'a> {
    fn of(history: &'a History, limits: Limits) -> Self {
        let mut stored = HashMap::new();
        for entry in history.logs.values().flatten() {
            stored.entry(name(entry)).or_insert(entry);
        }
        let mut emitted = HashMap::new();
        for connection in &history.connections {
            for event in &connection.events {
                if let What::Emitted { topic, stamp } = &event.what {
                    *emitted
                        .entry((connection.user, *topic, stamp.as_str()))
                        .or_insert(0) += 1;
                }
            }
        }
        for call in &history.calls {
            *emitted
                .entry((call.user, call.topic, call.stamp.as_str()))
                .or_insert(0) += 1;
        }
        let mut memberships: HashMap<_, Vec<Term>> = HashMap::new();
        for change in &history.memberships {
            let terms = memberships.entry((change.user, change.topic)).or_default();
            let between = (change.began, change.done);
            match terms.last_mut() {
                Some(term) if !change.joins && term.left.is_none() => term.left = Some(between),
                _ if change.joins => terms.push(Term {
                    joined: between,
                    left: None,
                }),
                _ => {}
            }
        }
        Self {
            history,
            limits,
            stored,
            emitted,
            memberships,
        }
    }

    fn terms(&self, user: i64, topic: i64) -> &[Term] {
        self.memberships
            .get(&(user, topic))
            .map_or(&[], Vec::as_slice)
    }

    /// When nothing is at fault any more for what began at this moment and may take so
    /// long without a fault: a fault that comes within that time starts it anew.
    fn settled(&self, at: Moment, within: Moment, concerns: impl Fn(&Fault) -> bool) -> Moment {
        let mut settled = at;
        loop {
            let later = self
                .history
                .faults
                .iter()
                .filter(|fault| concerns(fault))
                .filter(|fault| fault.began <= settled + within && fault.ended > settled)
                .map(|fault| fault.ended)
                .max();
            match later {
                Some(ended) => settled = ended,
                None => return settled,
            }
        }
    }

    /// By when something has healed that began at this moment.
    fn healed(&self, at: Moment, concerns: impl Fn(&Fault) -> bool) -> Moment {
        self.settled(at, self.limits.heal, concerns) + self.limits.heal + self.limits.grace
    }

    /// When a connection ended, or the trial did.
    fn end(&self, connection: &Connection) -> Moment {
        connection
            .ended
            .as_ref()
            .map_or(self.history.over, |(at, _)| *at)
    }
}

fn name(message: &Message) -> Name<'_> {
    (message.owner, message.topic, &message.stamp)
}

fn deafens(gateway: usize) -> impl Fn(&Fault) -> bool {
    move |fault| fault.deafens.contains(&gateway)
}

fn hinders(gateway: usize) -> impl Fn(&Fault) -> bool {
    move |fault| fault.deafens.contains(&gateway) || fault.cuts.contains(&gateway)
}

/// A moment as people read it: seconds since the trial began.
fn told(facts: &Facts<'_>, at: Moment) -> String {
    let first = facts.history.connections.iter().map(|one| one.opened).min();
    let since = at - first.unwrap_or(0);
    format!("{}.{:03} s", since / 1_000, since.rem_euclid(1_000))
}

/// Which connection it is, for people.
fn whose(facts: &Facts<'_>, connection: &Connection) -> String {
    format!(
        "user {} ({}, gateway {}, opened at {})",
        connection.user,
        connection.label,
        connection.gateway,
        told(facts, connection.opened)
    )
}
