//! The checker is checked: each bug that is planted into `drivers` is found, and without
//! one nothing is.

use std::collections::BTreeMap;
use std::time::Duration;

use libtest_mimic::{Failed, Trial as Case};
use tests::checker::Kind;
use tests::server::sabotaged_binary;

use crate::nemesis::{Plan, Way};
use crate::run::{Trial, expect_none, run};
use crate::stack::Stack;
use crate::stack::standalone::Options;
use crate::{in_runtime, seed};

/// A bus that loses more than half of all events.
const LOSSY: &str = "memory:?drop=0.6&seed=1";
const FAITHFUL: &str = "memory:";
/// All that can happen to an event.
const UNRULY: &str = "memory:?drop=0.3&double=0.2&delay_ms=50&reorder=0.2&seed=1";

/// A store that often does not say what became of an append.
const UNSURE: &[&str] = &["unsure"];
/// Gateways that hear of who has left only when he may be back.
const LATE_LEAVING: &[&str] = &["late_leaving"];

/// How often each device says something; milliseconds between.
const SAYS: std::ops::Range<u64> = 400..2_400;

/// A bug, and what shows it.
struct Planted {
    name: &'static str,
    /// What goes wrong besides, and may: in the programs, …
    besides: &'static [&'static str],
    /// … on the bus and around them.
    bus: &'static str,
    ways: &'static [Way],
    /// One of these at least is found.
    found_as: &'static [Kind],
}

const fn planted(name: &'static str, found_as: &'static [Kind]) -> Planted {
    Planted {
        name,
        besides: &[],
        bus: FAITHFUL,
        ways: &[],
        found_as,
    }
}

impl Planted {
    const fn besides(mut self, what: &'static [&'static str]) -> Self {
        self.besides = what;
        self
    }

    const fn with(mut self, bus: &'static str, ways: &'static [Way]) -> Self {
        self.bus = bus;
        self.ways = ways;
        self
    }
}

use Kind::{
    AfterLeaving, AfterRevocation, BackInTime, BrokenLog, Contradicted, CutOff, Differs, Doubled,
    Hole, LateHeal, Lost, OtherId, OutOfOrder, Overheard, Untold,
};

const BUGS: &[Planted] = &[
    planted("skip_head_condition", &[Lost, Differs, Doubled]).besides(UNSURE),
    planted("forget_current_stamps", &[Doubled]),
    planted("forget_full_stamps", &[Doubled]),
    planted("unknown_is_applied", &[Lost, BrokenLog]).besides(UNSURE),
    planted("unknown_is_refused", &[Contradicted]).besides(UNSURE),
    planted("publish_before_commit", &[Lost, Differs])
        .besides(UNSURE)
        .with(FAITHFUL, &[Way::Kill]),
    planted("acknowledge_before_commit", &[Lost, Differs])
        .besides(UNSURE)
        .with(FAITHFUL, &[Way::Kill]),
    planted("fresh_id_on_retry", &[OtherId]),
    planted("back_in_time", &[BackInTime]),
    planted("turn_round", &[OutOfOrder]),
    planted("swap_in_page", &[BrokenLog]),
    planted("drop_hole", &[Hole]).with(LOSSY, &[]),
    planted("no_heads", &[LateHeal]).with(LOSSY, &[]),
    planted("lost_wakeup", &[LateHeal]).with(LOSSY, &[]),
    planted("late_heal", &[LateHeal]).with(LOSSY, &[]),
    planted("listen_late", &[Hole]),
    planted("double_emit", &[Doubled]),
    planted("cut_healthy", &[CutOff]),
    planted("swallow_failures", &[Untold]),
    planted("ignore_membership", &[AfterLeaving]),
    planted("ignore_revocation", &[AfterRevocation]),
    planted("show_to_strangers", &[Overheard]),
];

/// Nothing is wrong here but what the promises allow for.
const SOUND: &[Planted] = &[
    planted("nothing", &[]),
    planted("nothing_where_leaving_is_heard_of_late", &[]).besides(LATE_LEAVING),
    planted("nothing_on_an_unruly_bus_and_an_unsure_store", &[])
        .besides(UNSURE)
        .with(UNRULY, &[Way::Kill]),
    planted("nothing_with_a_nemesis", &[]).with(
        UNRULY,
        &[
            Way::Kill,
            Way::Freeze,
            Way::Restart,
            Way::Cut,
            Way::CutForth,
            Way::CutBack,
            Way::Slow,
            Way::Reset,
            Way::Refuse,
        ],
    ),
];

/// A case for each.
pub(crate) fn cases() -> Vec<Case> {
    let bugs = BUGS.iter().map(|bug| {
        let name = format!("planted::{}_is_found", bug.name);
        Case::test(name, move || in_runtime(found(bug)))
    });
    let sound = SOUND.iter().map(|sound| {
        let name = format!("planted::{}_is_found", sound.name);
        Case::test(name, move || in_runtime(nothing_found(sound)))
    });
    bugs.chain(sound).collect()
}

async fn stack(planted: &Planted, is_bug: bool) -> Stack {
    let bug = is_bug.then_some(planted.name);
    let names: Vec<&str> = bug
        .into_iter()
        .chain(planted.besides.iter().copied())
        .collect();
    Stack::standalone(Options {
        program: sabotaged_binary(),
        bus: planted.bus.into(),
        sabotage: names.join(","),
    })
    .await
}

/// How many short trials a bug may take to show: each is a matter of chance, with odds
/// that are far on our side.
const ATTEMPTS: u32 = 3;

async fn found(bug: &Planted) -> Result<(), Failed> {
    let mut missed = Vec::new();
    for _ in 0..ATTEMPTS {
        let seed = seed();
        let kinds = findings(bug, seed).await;
        println!("{}: {kinds:?}", bug.name);
        if bug.found_as.iter().any(|kind| kinds.contains_key(kind)) {
            return Ok(());
        }
        missed.push(format!("with seed {seed} only {kinds:?}"));
    }
    Err(format!("it was not found: {}", missed.join("; ")).into())
}

/// What one short trial finds.
async fn findings(bug: &Planted, seed: u64) -> BTreeMap<Kind, usize> {
    let stack = stack(bug, true).await;
    let trial = Trial {
        seed,
        length: Duration::from_secs(15),
        says: SAYS,
        settle: Duration::from_secs(8),
    };
    // Kills, one after the other, and no time to heal: it is about what was acknowledged.
    let plan = Plan::new(&stack, seed, Some(bug.ways), 300..900);
    let (_, findings) = run(&stack, &trial, plan).await;
    findings.by_kind()
}

async fn nothing_found(sound: &Planted) -> Result<(), Failed> {
    let stack = stack(sound, false).await;
    let seed = seed();
    let trial = Trial {
        seed,
        length: Duration::from_secs(30),
        says: SAYS,
        settle: Duration::from_secs(30),
    };
    let plan = Plan::new(&stack, seed, Some(sound.ways), 6_500..7_500);
    let (history, findings) = run(&stack, &trial, plan).await;
    expect_none(seed, &history, &findings)
}
