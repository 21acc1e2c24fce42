//! What senders were told: of each message something, once and for all the same, and true.

use std::collections::{HashMap, HashSet};

use super::{Facts, Findings, Kind, Name, hinders, name, told, whose};
use crate::history::{Connection, Message, What};

/// After these a message may still have been stored, or may be sent again.
const PASSING: [&str; 2] = ["unavailable", "rate_limited"];

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings) {
    as_stored(facts, findings);
    let mut settled = HashSet::new();
    for connection in &facts.history.connections {
        answered(facts, connection, &mut settled, findings);
    }
    for call in &facts.history.calls {
        if call.sent.is_some() {
            settled.insert((call.user, call.topic, call.stamp.as_str()));
        }
    }
    for (owner, topic, stamp) in facts.emitted.keys() {
        if !settled.contains(&(*owner, *topic, *stamp)) {
            findings.add(
                Kind::Untold,
                format!("what became of {stamp} in topic {topic} was never told"),
            );
        }
    }
}

/// Nobody in a trial deserves these: their messages are well-formed, have stamps of their own,
/// and reply to what their sender was shown.
const UNDESERVED: [&str; 4] = [
    "invalid_message",
    "reply_not_found",
    "stamp_reused",
    "topic_not_found",
];

/// All that was shown of a message is what the log has.
fn as_stored(facts: &Facts<'_>, findings: &mut Findings) {
    let shown = facts.history.connections.iter().flat_map(|connection| {
        connection
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Shown(message) => Some(message.as_ref()),
                _ => None,
            })
    });
    let called = facts.history.calls.iter().filter_map(|call| {
        let (_, message) = call.sent.as_ref()?;
        Some(message.as_ref())
    });
    let mut seen: HashMap<Name<'_>, HashSet<&Message>> = HashMap::new();
    for message in shown.chain(called) {
        seen.entry(name(message)).or_default().insert(message);
    }
    for (named, messages) in seen {
        let ids: HashSet<i64> = messages.iter().map(|message| message.id).collect();
        if ids.len() > 1 {
            findings.add(
                Kind::OtherId,
                format!("{named:?} was shown with the ids {ids:?}"),
            );
        }
        for message in messages {
            match facts.stored.get(&named) {
                None => findings.add(Kind::Lost, format!("{message:?} is not in the log")),
                Some(stored) if *stored != message => findings.add(
                    Kind::Differs,
                    format!("{message:?} was shown, {stored:?} is stored"),
                ),
                Some(_) => {}
            }
        }
    }
}

/// Each emit is answered while its connection lives, and no answer is untrue.
fn answered<'a>(
    facts: &Facts<'a>,
    connection: &'a Connection,
    settled: &mut HashSet<Name<'a>>,
    findings: &mut Findings,
) {
    let mut open: HashMap<Name<'_>, i64> = HashMap::new();
    // A stamp may be emitted again before it was answered: then it is answered twice.
    let mut emitted: HashMap<&str, Name<'_>> = HashMap::new();
    for event in &connection.events {
        match &event.what {
            What::Emitted { topic, stamp } => {
                let named = (connection.user, *topic, stamp.as_str());
                open.entry(named).or_insert(event.at);
                emitted.insert(stamp, named);
            }
            What::Shown(message) if message.owner == connection.user => {
                open.remove(&name(message));
                settled.insert(name(message));
            }
            What::Failed { stamp, code } => {
                let Some(named) = emitted.get(stamp.as_str()).copied() else {
                    continue;
                };
                open.remove(&named);
                if PASSING.contains(&code.as_str()) {
                    continue;
                }
                settled.insert(named);
                if UNDESERVED.contains(&code.as_str()) {
                    findings.add(
                        Kind::Contradicted,
                        format!("{stamp} failed with {code}, which can't be"),
                    );
                }
                if facts.stored.contains_key(&named) && facts.emitted.get(&named) == Some(&1) {
                    findings.add(
                        Kind::Contradicted,
                        format!("{stamp} failed with {code} and is in the log"),
                    );
                }
            }
            What::Shown(_) | What::Typed { .. } | What::Refused { .. } => {}
        }
    }
    let limit = facts.limits.answer;
    for ((_, topic, stamp), at) in open {
        let due = facts.settled(at, limit, hinders(connection.gateway)) + limit;
        if facts.end(connection) > due {
            findings.add(
                Kind::Untold,
                format!(
                    "{} was not told what became of {stamp} in topic {topic}, emitted at {}",
                    whose(facts, connection),
                    told(facts, at)
                ),
            );
        }
    }
}
