//! The trial of the mesh.

use std::time::Duration;

use libtest_mimic::{Failed, Trial as Case};

use crate::figures;
use crate::nemesis::Plan;
use crate::run::{Trial, expect_none, run};
use crate::stack::Stack;
use crate::{in_runtime, number, seed};

/// How long it goes on unless `DRIVERS_TRIAL_SECONDS` says so.
const LENGTH: u32 = 180;
/// Nodes of its database unless `DRIVERS_TRIAL_NODES` says so.
const NODES: u32 = 1;
/// What was broken has healed by the end of such a pause, or will be late; milliseconds.
const PAUSE: std::ops::Range<u64> = 6_500..8_000;

/// How often each device says something; milliseconds between.
const SAYS: std::ops::Range<u64> = 800..4_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::test("mesh::no_fault_is_seen_by_a_phone", || {
        in_runtime(no_fault_is_seen_by_a_phone())
    })]
}

async fn no_fault_is_seen_by_a_phone() -> Result<(), Failed> {
    let seed = seed();
    let length = number("DRIVERS_TRIAL_SECONDS").unwrap_or(LENGTH);
    let stack = Stack::mesh(number("DRIVERS_TRIAL_NODES").unwrap_or(NODES)).await;
    let trial = Trial {
        seed,
        length: Duration::from_secs(length.into()),
        says: SAYS,
        settle: Duration::from_secs(60),
    };
    let plan = Plan::new(&stack, seed, None, PAUSE);
    let (history, findings) = run(&stack, &trial, plan).await;
    figures::print(&history, &findings);
    let sound = expect_none(seed, &history, &findings);
    if sound.is_err() {
        println!("what the programs logged is in {}", stack.keep().display());
    }
    sound
}
