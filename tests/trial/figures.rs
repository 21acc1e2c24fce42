//! What a trial was, in numbers.

use std::collections::{BTreeMap, HashSet};

use tests::checker::Findings;
use tests::history::{Fault, History, Moment, What};

/// How long after a fault sends may still suffer from it.
const AFTER: Moment = 5_000;

/// Prints the figures.
pub(crate) fn print(history: &History, findings: &Findings) {
    let mut emitted = HashSet::new();
    let mut acknowledged = HashSet::new();
    let (mut shown, mut typed) = (0, 0);
    // Each acknowledgement: when, and through which gateway.
    let mut sent: Vec<(Moment, usize)> = Vec::new();
    for connection in &history.connections {
        for event in &connection.events {
            match &event.what {
                What::Emitted { topic, stamp } => {
                    emitted.insert((connection.user, *topic, stamp.as_str()));
                }
                What::Shown(message) => {
                    shown += 1;
                    if message.owner == connection.user {
                        sent.push((event.at, connection.gateway));
                        acknowledged.insert((message.owner, message.topic, message.stamp.as_str()));
                    }
                }
                What::Typed { .. } => typed += 1,
                What::Failed { .. } | What::Refused { .. } => {}
            }
        }
    }
    sent.sort_unstable();
    println!("{typed} times somebody was told that another types");
    acknowledged.retain(|name| emitted.contains(name));
    println!("{} connections", history.connections.len());
    println!(
        "{} messages emitted, {} acknowledged, {} in the log; {} shown, {} of them to listeners in time",
        emitted.len() + history.calls.len(),
        acknowledged.len()
            + history
                .calls
                .iter()
                .filter(|call| call.sent.is_some())
                .count(),
        history.logs.values().map(Vec::len).sum::<usize>(),
        shown,
        findings.delivered,
    );
    let mut kinds: BTreeMap<&str, Vec<&Fault>> = BTreeMap::new();
    for fault in &history.faults {
        kinds.entry(&fault.kind).or_default().push(fault);
    }
    println!(
        "{} faults of {} kinds; of each how many, and the longest without any send that was acknowledged:",
        history.faults.len(),
        kinds.len()
    );
    for (kind, faults) in kinds {
        let silence = faults.iter().map(|fault| silence(fault, &sent)).max();
        println!("  {kind}: {}, {} ms", faults.len(), silence.unwrap_or(0));
    }
    println!(
        "slowest heal {} ms after a fault's end; slowest delivery without a fault {} ms",
        findings.slowest_heal, findings.slowest_delivery
    );
    println!("{} violations", findings.violations.len());
}

/// The longest between two acknowledgements around a fault, by gateways that it leaves alone.
fn silence(fault: &Fault, sent: &[(Moment, usize)]) -> Moment {
    let times = sent
        .iter()
        .filter(|(_, gateway)| !fault.cuts.contains(gateway))
        .map(|(at, _)| *at)
        .filter(|at| (fault.began - 1_000..=fault.ended + AFTER).contains(at));
    let times: Vec<Moment> = times.collect();
    times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or(fault.ended - fault.began)
}
