//! How much a target carries: an open loop that is faster step by step, until the target
//! keeps up no more.

use std::time::Duration;

use serde::Serialize;

use crate::measure::{Figures, Side};
use crate::report::Spread;
use crate::scenario::Load;

/// The first rate of a climb, messages a second, and by what each one is faster.
const FIRST: f64 = 200.0;
const STEP: f64 = 1.2;
/// Who delivers less of what was due than this keeps up no more.
const KEPT_UP: f64 = 0.97;
/// So does who delivers this late, in microseconds, at the 99th percentile.
const LATE_US: u64 = 100_000;

/// Where one climb ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Knee {
    /// The highest rate that was kept up with, messages a second.
    pub(crate) messages_per_second: f64,
    /// 99th percentile of deliveries at half of it, in microseconds.
    pub(crate) p99_us_at_half: u64,
}

/// The climbs of one target.
#[derive(Debug, Serialize)]
pub(crate) struct Climbs {
    pub(crate) name: String,
    pub(crate) climbs: Vec<Knee>,
}

impl Climbs {
    pub(crate) fn line(&self) -> String {
        let spread = |of: fn(&Knee) -> f64| Spread::of(self.climbs.iter().map(of).collect());
        let knee = spread(|knee| knee.messages_per_second);
        let p99 = spread(|knee| knee.p99_us_at_half as f64 / 1e3);
        knee.zip(p99).map_or_else(String::new, |(knee, p99)| {
            format!(
                "{}: knee at {:.0} messages/s ({:.0} to {:.0}), p99 at half of it {:.2} ms ({:.2} to {:.2})",
                self.name, knee.median, knee.least, knee.greatest, p99.median, p99.least, p99.greatest
            )
        })
    }
}

/// Climbs once, with spans of that length behind that warm-up.
pub(crate) async fn climb(
    side: &Side,
    warm_up: Duration,
    length: Duration,
) -> Result<Knee, String> {
    let at = async |rate: f64| -> Result<Figures, String> {
        let (figures, _) = side.load(Load::PerSecond(rate), warm_up, length).await?;
        if figures.load_processors > 0.95 {
            return Err(format!(
                "at {rate:.0} messages/s the load itself is the limit"
            ));
        }
        Ok(figures)
    };
    let mut rate = FIRST;
    while keeps_up(&at(rate).await?, rate) {
        rate *= STEP;
    }
    let knee = rate / STEP;
    Ok(Knee {
        messages_per_second: knee,
        p99_us_at_half: at(knee / 2.0).await?.delivery_us.p99,
    })
}

fn keeps_up(figures: &Figures, rate: f64) -> bool {
    let share = figures.messages_per_second / rate;
    share >= KEPT_UP && figures.failures == 0 && figures.delivery_us.p99 <= LATE_US
}
