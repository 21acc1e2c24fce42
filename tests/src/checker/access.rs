//! Who was let in and shown what: nobody else's, nothing after the end, and whoever
//! behaves is left alone.

use super::{Facts, Findings, Kind, told, whose};
use crate::history::{Connection, End, Message, Moment, What};

pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings) {
    for connection in &facts.history.connections {
        shown(facts, connection, findings);
        let ending = revoked(facts, connection, findings);
        let_in(facts, connection, ending, findings);
        let_live(facts, connection, ending, findings);
    }
}

/// Whether a connection emitted this message, so that it is an answer.
fn is_answer(connection: &Connection, message: &Message) -> bool {
    message.owner == connection.user
        && connection.events.iter().any(|event| {
            matches!(&event.what, What::Emitted { topic, stamp }
                if *topic == message.topic && *stamp == message.stamp)
        })
}

/// Nothing is shown of a topic to who is no member, or has not been one for long.
fn shown(facts: &Facts<'_>, connection: &Connection, findings: &mut Findings) {
    for event in &connection.events {
        let (topic, what) = match &event.what {
            What::Shown(message) if is_answer(connection, message) => continue,
            What::Shown(message) => (message.topic, format!("seq {}", message.seq)),
            What::Typed { topic, user } => (*topic, format!("that user {user} types")),
            What::Emitted { .. } | What::Failed { .. } | What::Refused { .. } => continue,
        };
        let terms = facts.terms(connection.user, topic);
        let joined = |term: &&super::Term| term.joined.0 <= event.at;
        let may = terms.iter().filter(joined).any(|term| match term.left {
            None => true,
            Some((_, done)) => {
                event.at <= done
                    || event.at <= facts.healed(done, |fault| !fault.deafens.is_empty())
            }
        });
        if may {
            continue;
        }
        let kind = if terms.iter().any(|term| joined(&term)) {
            Kind::AfterLeaving
        } else {
            Kind::Overheard
        };
        findings.add(
            kind,
            format!(
                "{} was shown {what} of topic {topic} at {}",
                whose(facts, connection),
                told(facts, event.at)
            ),
        );
    }
}

/// A connection ends soon after its token; from when on that may be, if it is revoked.
fn revoked(facts: &Facts<'_>, connection: &Connection, findings: &mut Findings) -> Option<Moment> {
    let revocation = facts
        .history
        .revocations
        .iter()
        .find(|one| one.user == connection.user && one.token == connection.token)?;
    let due = facts.healed(revocation.done, |_| true);
    let listened_until = connection.signed_in.map(|_| facts.end(connection));
    if listened_until.is_some_and(|until| until > due) {
        findings.add(
            Kind::AfterRevocation,
            format!(
                "{} went on to {} with a token revoked at {}",
                whose(facts, connection),
                told(facts, facts.end(connection)),
                told(facts, revocation.done)
            ),
        );
    }
    Some(revocation.began)
}

/// A live token is let in.
fn let_in(
    facts: &Facts<'_>,
    connection: &Connection,
    ending: Option<Moment>,
    findings: &mut Findings,
) {
    for event in &connection.events {
        if let What::Refused { code } = &event.what
            && ending.is_none_or(|ending| event.at < ending)
        {
            findings.add(
                Kind::NotLetIn,
                format!("{} was refused: {code}", whose(facts, connection)),
            );
        }
    }
    let Some((ended, End::ByClient)) = connection.ended else {
        return;
    };
    let limit = facts.limits.answer;
    if connection.signed_in.is_none()
        && ended > facts.settled(connection.opened, limit, |_| true) + limit
    {
        findings.add(
            Kind::NotLetIn,
            format!("{} was not answered", whose(facts, connection)),
        );
    }
}

/// A connection is not ended unless something is at fault.
fn let_live(
    facts: &Facts<'_>,
    connection: &Connection,
    ending: Option<Moment>,
    findings: &mut Findings,
) {
    let Some((at, End::ByServer(reason))) = &connection.ended else {
        return;
    };
    let after = facts.limits.heal + facts.limits.grace;
    let excused = facts.history.faults.iter().any(|fault| {
        fault.cuts.contains(&connection.gateway) && fault.began <= *at && *at <= fault.ended + after
    });
    if !excused && ending.is_none_or(|ending| *at < ending) {
        findings.add(
            Kind::CutOff,
            format!(
                "{} was ended at {}: {reason}",
                whose(facts, connection),
                told(facts, *at)
            ),
        );
    }
}
