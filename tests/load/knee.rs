//! How much a target carries: an open loop that is faster step by step, until the target
//! keeps up no more.

use crate::Spans;
use crate::measure::{Figures, Side};
use crate::outcome::{Measured, Outcome};
use crate::scenario::{Load, Scenario};
use crate::target::{Target, Which};

/// The first rate of a climb, messages a second, and by what each one is faster.
const FIRST: f64 = 200.0;
const STEP: f64 = 1.5;
/// How often the way between the last two is halved: to 2.6 %.
const HALVINGS: u32 = 4;
/// Who delivers less of what was due than this keeps up no more.
const KEPT_UP: f64 = 0.97;
/// So does who delivers this late, in microseconds, at the 99th percentile.
const LATE_US: u64 = 100_000;
/// As often in a row as that: a shared disk stands still now and then, whoever writes to it.
const TRIES: u32 = 2;

/// Where one climb ended.
struct Knee {
    /// The highest rate that was kept up with, messages a second.
    messages_per_second: f64,
    /// 99th percentile of deliveries at half of it, in microseconds.
    p99_us_at_half: u64,
}

/// Has both climb in turn, so often.
pub(crate) async fn climb_in_turn(
    targets: [Which; 2],
    scenario: &Scenario,
    climbs: usize,
    spans: &Spans,
) -> Result<Outcome, String> {
    let mut sides = Vec::new();
    for which in targets {
        let target = Target::Here(which);
        target.build()?;
        sides.push(Side::open(&target, scenario).await?);
    }
    let mut knees = Vec::new();
    for _ in 0..climbs {
        let mut both = Vec::new();
        for side in &sides {
            let knee = climb(side, spans).await?;
            println!(
                "{}: {:.0} messages/s, at half of it p99 {:.2} ms",
                side.name,
                knee.messages_per_second,
                knee.p99_us_at_half as f64 / 1e3
            );
            both.push(knee);
        }
        knees.push(both);
    }
    let measured = |what, of: fn(&Knee) -> f64| {
        Measured::beside(what, knees.iter().map(|both| (of(&both[0]), of(&both[1]))))
    };
    let figures = [
        measured("knee, messages per second", |knee| knee.messages_per_second),
        measured("delivery p99 at half of it, ms", |knee| {
            knee.p99_us_at_half as f64 / 1e3
        }),
    ];
    let names = sides.iter().map(|side| side.name.clone());
    Ok(Outcome::new(&scenario.what, names, climbs, figures))
}

/// Climbs until a rate is too high, and looks between that and the one before.
async fn climb(side: &Side, spans: &Spans) -> Result<Knee, String> {
    let at = async |rate: f64| -> Result<Figures, String> {
        let load = Load::PerSecond(rate);
        let (figures, _) = side.load(load, spans.warm_up, spans.length).await?;
        if figures.load_processors > 0.95 {
            return Err(format!(
                "at {rate:.0} messages/s the load itself is the limit"
            ));
        }
        Ok(figures)
    };
    let is_kept_up = async |rate: f64| -> Result<bool, String> {
        for _ in 0..TRIES {
            if keeps_up(&at(rate).await?, rate) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut too_high = FIRST;
    while is_kept_up(too_high).await? {
        too_high *= STEP;
    }
    let mut knee = too_high / STEP;
    for _ in 0..HALVINGS {
        let middle = (knee * too_high).sqrt();
        match is_kept_up(middle).await? {
            true => knee = middle,
            false => too_high = middle,
        }
    }
    Ok(Knee {
        messages_per_second: knee,
        p99_us_at_half: at(knee / 2.0).await?.delivery_us.p99,
    })
}

fn keeps_up(figures: &Figures, rate: f64) -> bool {
    let share = figures.messages_per_second / rate;
    share >= KEPT_UP && figures.failures == 0 && figures.delivery_us.p99 <= LATE_US
}
