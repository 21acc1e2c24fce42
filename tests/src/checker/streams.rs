//! What each listener was shown of each topic: every entry, in order, once, in time.

use std::collections::{HashMap, HashSet};

use super::{Facts, Findings, Kind, Term, deafens, told, whose};
use crate::history::{Connection, Message, Moment, What};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings) {
    for connection in &facts.history.connections {
        let Some(signed_in) = connection.signed_in else {
            continue;
        };
        let mut streams = Streams::default();
        for event in &connection.events {
            if let What::Emitted { topic, stamp } = &event.what {
                streams.will_be_emitted(*topic, stamp);
            }
        }
        streams.find_crossing(facts, connection.user);
        for event in &connection.events {
            match &event.what {
                What::Emitted { topic, stamp } => streams.emitted(*topic, stamp),
                What::Shown(message) => {
                    let is_own = message.owner == connection.user;
                    let told_of = streams.shown(message, event.at, signed_in, is_own);
                    if let Err(kind) = told_of {
                        findings.add(
                            kind,
                            format!(
                                "{} was shown seq {} of topic {} at {}",
                                whose(facts, connection),
                                message.seq,
                                message.topic,
                                told(facts, event.at)
                            ),
                        );
                    }
                }
                What::Typed { .. } | What::Failed { .. } | What::Refused { .. } => {}
            }
        }
        for (topic, log) in &facts.history.logs {
            let stream = streams.0.remove(topic).unwrap_or_default();
            whole(facts, connection, signed_in, log, &stream, findings);
        }
    }
}

/// What a connection was shown of each topic.
#[derive(Default)]
struct Streams<'a>(HashMap<i64, Stream<'a>>);

#[derive(Default)]
struct Stream<'a> {
    /// The last seq that was shown as the next one.
    last: Option<i64>,
    /// When each seq was shown first.
    first: HashMap<i64, Moment>,
    /// Those that may have been answers, and no deliveries.
    answers: HashSet<i64>,
    own: HashMap<&'a str, Own>,
}

/// A message that a connection emitted itself.
#[derive(Default)]
struct Own {
    /// How often, in all.
    emits: usize,
    /// How often until now.
    emitted: u32,
    /// Whether it was emitted elsewhere, too, so that it may be delivered while it is on
    /// its way from here.
    may_cross: bool,
    /// How often it was shown since.
    shown: u32,
}

impl Stream<'_> {
    /// Those behind this seq that were sent in the same term and shown.
    fn shown_behind<'s>(
        &'s self,
        log: &'s [Message],
        seq: i64,
        term: &'s Term,
    ) -> impl Iterator<Item = i64> + 's {
        let later = log.iter().filter(move |entry| entry.seq > seq);
        later
            .take_while(|entry| term.surely_holds(entry.sent_at))
            .map(|entry| entry.seq)
            .filter(|seq| self.first.contains_key(seq))
    }

    /// Whether one of them was a delivery for sure.
    fn went_on(&self, log: &[Message], seq: i64, term: &Term) -> bool {
        let mut later = self.shown_behind(log, seq, term);
        later.any(|seq| !self.answers.contains(&seq))
    }

    /// Whether one of them may have been one. What was shown in a later term says nothing.
    fn may_have_gone_on(&self, log: &[Message], seq: i64, term: &Term) -> bool {
        let mut later = self.shown_behind(log, seq, term);
        later.any(|seq| self.last >= Some(seq))
    }
}

impl<'a> Streams<'a> {
    fn will_be_emitted(&mut self, topic: i64, stamp: &'a str) {
        let stream = self.0.entry(topic).or_default();
        stream.own.entry(stamp).or_default().emits += 1;
    }

    fn find_crossing(&mut self, facts: &Facts<'_>, user: i64) {
        for (topic, stream) in &mut self.0 {
            for (stamp, own) in &mut stream.own {
                let everywhere = facts.emitted.get(&(user, *topic, *stamp));
                own.may_cross = everywhere.is_some_and(|emits| *emits > own.emits);
            }
        }
    }

    fn emitted(&mut self, topic: i64, stamp: &'a str) {
        let stream = self.0.entry(topic).or_default();
        stream.own.entry(stamp).or_default().emitted += 1;
    }

    fn shown(
        &mut self,
        message: &'a Message,
        at: Moment,
        signed_in: Moment,
        is_own: bool,
    ) -> Result<(), Kind> {
        let stream = self.0.entry(message.topic).or_default();
        let was_shown = stream.first.contains_key(&message.seq);
        stream.first.entry(message.seq).or_insert(at);
        // Each emit of a message has one answer, which may be no delivery.
        let mut is_answer = false;
        let mut is_retry = false;
        if is_own
            && let Some(own) = stream.own.get_mut(message.stamp.as_str())
            && own.emitted > 0
        {
            is_answer = true;
            stream.answers.insert(message.seq);
            is_retry = own.emits > 1 || own.may_cross;
            own.shown += 1;
            if own.shown > own.emitted + u32::from(own.may_cross) {
                return Err(Kind::Doubled);
            }
        }
        if was_shown {
            return if is_answer {
                Ok(())
            } else {
                Err(Kind::Doubled)
            };
        }
        match stream.last {
            // It may be the answer to a retry, of what is older than the connection or is
            // yet to be delivered to somebody who has just joined.
            None if is_answer && (is_retry || message.sent_at <= signed_in) => {}
            Some(last) if is_retry && message.seq > last + 1 => {}
            Some(last) if message.seq < last => {
                if !is_answer {
                    return Err(Kind::OutOfOrder);
                }
            }
            _ => stream.last = Some(message.seq),
        }
        Ok(())
    }
}

/// What was sent while the connection listened was shown to it, in time.
fn whole(
    facts: &Facts<'_>,
    connection: &Connection,
    signed_in: Moment,
    log: &[Message],
    stream: &Stream<'_>,
    findings: &mut Findings,
) {
    let end = facts.end(connection);
    let Some(first) = log.first() else { return };
    let terms = facts.terms(connection.user, first.topic);
    if terms.is_empty() {
        return;
    }
    let from = log.partition_point(|entry| entry.sent_at <= signed_in);
    let while_open = log
        .iter()
        .skip(from)
        .take_while(|entry| entry.sent_at < end);
    for entry in while_open {
        let Some(term) = terms.iter().find(|term| term.surely_holds(entry.sent_at)) else {
            continue;
        };
        let settled = facts.settled(
            entry.sent_at,
            facts.limits.heal,
            deafens(connection.gateway),
        );
        let due = settled + facts.limits.heal + facts.limits.grace;
        let mut broken = |kind, how: &str| {
            findings.add(
                kind,
                format!(
                    "{} was {how} seq {} of topic {}, sent at {}, due at {}",
                    whose(facts, connection),
                    entry.seq,
                    entry.topic,
                    told(facts, entry.sent_at),
                    told(facts, due)
                ),
            );
        };
        match stream.first.get(&entry.seq) {
            Some(at) if *at > due => broken(
                Kind::LateHeal,
                &format!("shown only at {}", told(facts, *at)),
            ),
            Some(at) => {
                findings.delivered += 1;
                let took = *at - settled;
                if settled == entry.sent_at {
                    findings.slowest_delivery = findings.slowest_delivery.max(took);
                } else {
                    findings.slowest_heal = findings.slowest_heal.max(took);
                }
            }
            // Who leaves before it is due need not have it, unless he was shown a later one.
            None if term.left.is_some_and(|(began, _)| began < due)
                && !stream.went_on(log, entry.seq, term) => {}
            None if stream.may_have_gone_on(log, entry.seq, term) => {
                broken(Kind::Hole, "shown later ones and not");
            }
            None if end > due => broken(Kind::LateHeal, "never shown"),
            None => {}
        }
    }
}
