//! Bugs of a feed that the trial has to find; see [`chassis::sabotage`].

use std::time::Duration;

use chassis::{
    id::Seq,
    sabotage::{is, strikes},
};

use crate::{
    frame::Frame,
    outbox::{EndReason, Outbox},
};

/// `late_heal`: a hole waits longer than is promised.
pub(super) fn late_heal() -> Duration {
    Duration::from_secs(if is("late_heal") { 8 } else { 0 })
}

/// `double_emit`: a socket is told twice. `cut_healthy`: it is ended for nothing.
pub(super) fn told(outbox: &Outbox, frame: &Frame) {
    if strikes("double_emit", 0.02) {
        outbox.push(frame);
    }
    if strikes("cut_healthy", 0.002) {
        outbox.end(EndReason::SlowReader);
    }
}

/// `listen_late`: whoever signs in misses the next entry.
pub(super) fn later(from: Seq) -> Seq {
    if is("listen_late") { from.next() } else { from }
}
