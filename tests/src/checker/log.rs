//! The log itself: one order, each message once, and nothing that nobody sent.

use std::collections::{HashMap, HashSet};

use super::{Facts, Findings, Kind, name};
use crate::history::{Message, What, body_of};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings) {
    for (topic, log) in &facts.history.logs {
        in_order(*topic, log, findings);
        once(facts, log, findings);
    }
    as_emitted(facts, findings);
}

fn in_order(topic: i64, log: &[Message], findings: &mut Findings) {
    let mut before: Option<&Message> = None;
    for entry in log {
        let expected = before.map_or(1, |before| before.seq + 1);
        if entry.seq != expected || entry.topic != topic {
            findings.add(
                Kind::BrokenLog,
                format!(
                    "topic {topic} has seq {} in the place of {expected}",
                    entry.seq
                ),
            );
        }
        if let Some(before) = before {
            if entry.id <= before.id {
                findings.add(
                    Kind::BrokenLog,
                    format!("in topic {topic} id {} follows {}", entry.id, before.id),
                );
            }
            if entry.sent_at < before.sent_at {
                findings.add(
                    Kind::BackInTime,
                    format!(
                        "seq {} of topic {topic} was sent before the one before",
                        entry.seq
                    ),
                );
            }
        }
        before = Some(entry);
    }
}

fn once(facts: &Facts<'_>, log: &[Message], findings: &mut Findings) {
    let mut names = HashSet::new();
    for entry in log {
        if !names.insert(name(entry)) {
            findings.add(
                Kind::Doubled,
                format!("{} is in topic {} twice", entry.stamp, entry.topic),
            );
        }
        if !facts.emitted.contains_key(&name(entry)) || entry.body != body_of(&entry.stamp) {
            findings.add(
                Kind::Differs,
                format!(
                    "seq {} of topic {} is nobody's: {entry:?}",
                    entry.seq, entry.topic
                ),
            );
        }
    }
}

/// What a connection emitted once and for all has the order in which it emitted it.
fn as_emitted(facts: &Facts<'_>, findings: &mut Findings) {
    for connection in &facts.history.connections {
        let mut newest: HashMap<i64, &Message> = HashMap::new();
        for event in &connection.events {
            let What::Emitted { topic, stamp } = &event.what else {
                continue;
            };
            let name = (connection.user, *topic, stamp.as_str());
            if facts.emitted.get(&name) != Some(&1) {
                continue;
            }
            let Some(entry) = facts.stored.get(&name) else {
                continue;
            };
            match newest.get(topic) {
                Some(before) if before.seq > entry.seq => findings.add(
                    Kind::OutOfOrder,
                    format!(
                        "{stamp} was emitted behind {} and stands before it",
                        before.stamp
                    ),
                ),
                _ => {
                    newest.insert(*topic, entry);
                }
            }
        }
    }
}
