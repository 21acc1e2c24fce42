//! Two targets in turn, pair by pair.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::measure::{Figures, Side};
use crate::outcome::{Measured, Outcome};
use crate::report::{self, Spread};
use crate::scenario::Scenario;
use crate::target::Target;
use crate::{Spans, plot};

/// Writes of which the time of one is taken.
const WRITES: usize = 25;
/// Bytes of each.
const WRITTEN: usize = 1 << 10;

/// One thing that two sides are compared by.
struct Measure {
    what: &'static str,
    of: fn(&Figures) -> Option<f64>,
}

const MEASURES: [Measure; 7] = [
    Measure {
        what: "deliveries per server CPU second",
        of: |figures| {
            busy(figures)?
                .server
                .map(|server| server.deliveries_per_cpu_second)
        },
    },
    Measure {
        what: "deliveries per second",
        of: |figures| Some(busy(figures)?.deliveries_per_second),
    },
    Measure {
        what: "messages per second",
        of: |figures| Some(busy(figures)?.messages_per_second).filter(|rate| *rate > 0.0),
    },
    Measure {
        what: "answer p50, ms",
        of: |figures| Some(answered(figures)?.answer_us.p50 as f64 / 1e3),
    },
    Measure {
        what: "delivery p50, ms",
        of: |figures| Some(answered(figures)?.delivery_us.p50 as f64 / 1e3),
    },
    Measure {
        what: "delivery p99, ms",
        of: |figures| Some(answered(figures)?.delivery_us.p99 as f64 / 1e3),
    },
    Measure {
        what: "server KiB per connection",
        of: |figures| {
            figures
                .server
                .map(|server| server.bytes_per_connection / 1024.0)
        },
    },
];

/// The figures, if anything was delivered.
fn busy(figures: &Figures) -> Option<&Figures> {
    (figures.deliveries_per_second > 0.0).then_some(figures)
}

/// The figures, if messages were.
fn answered(figures: &Figures) -> Option<&Figures> {
    (figures.messages_per_second > 0.0).then_some(figures)
}

/// Each target with the scenario that it is under.
pub(crate) type Sides = [(Target, Scenario); 2];

/// What is measured of a pair.
struct Pair {
    figures: [Figures; 2],
    /// How long it takes to write a little and have it on the disk, in milliseconds.
    disk_ms: f64,
}

/// Measures pairs, with both targets running and everybody connected to both, or with one that
/// is started anew each time, and nobody connected to the other.
pub(crate) async fn compare(
    sides: &Sides,
    pairs: usize,
    anew: bool,
    spans: &Spans,
) -> Result<Outcome, String> {
    let mut latencies = Vec::new();
    let mut measured = Vec::new();
    for (target, _) in sides {
        target.build()?;
    }
    let open = match anew {
        true => Vec::new(),
        false => open_both(sides).await?,
    };
    for number in 0..pairs {
        // Who is first takes turns: what drifts meanwhile drifts for both.
        let order = match number.is_multiple_of(2) {
            true => [0, 1],
            false => [1, 0],
        };
        let mut both = Vec::new();
        for number in order {
            let (target, scenario) = &sides[number];
            let fresh;
            let side = match open.get(number) {
                Some(side) => side,
                None => {
                    fresh = Side::open(target, scenario).await?;
                    &fresh
                }
            };
            let load = scenario.load;
            let (figures, span) = side.load(load, spans.warm_up, spans.length).await?;
            println!("{}", report::line(&side.name, &figures));
            both.push((number, figures));
            latencies.push((number, span.delivery));
        }
        both.sort_by_key(|(number, _)| *number);
        if let Ok(both) = <[_; 2]>::try_from(both) {
            measured.push(Pair {
                figures: both.map(|(_, figures)| figures),
                disk_ms: disk_ms()?,
            });
        }
    }
    let names = [0, 1].map(|number| sides[number].0.name());
    let what = match sides {
        [(_, ours), (_, theirs)] if ours.what != theirs.what => {
            format!("{}, against {}", ours.what, theirs.what)
        }
        [(_, ours), _] => ours.what.clone(),
    };
    if let Some(out) = &spans.out {
        let all: Vec<[Figures; 2]> = measured.iter().map(|pair| pair.figures.clone()).collect();
        report::make_folder(out)?;
        report::write_json(&out.join("pairs.json"), &all)?;
        draw(out, &what, &names, &latencies, &measured)?;
    }
    Ok(Outcome::new(what, names, pairs, figures(&measured)))
}

async fn open_both(sides: &Sides) -> Result<Vec<Side>, String> {
    let mut open = Vec::new();
    for (target, scenario) in sides {
        open.push(Side::open(target, scenario).await?);
    }
    Ok(open)
}

fn figures(pairs: &[Pair]) -> Vec<Option<Measured>> {
    let measures = MEASURES.iter().map(|Measure { what, of }| {
        let both = pairs.iter().map(|pair| &pair.figures);
        Measured::beside(
            what,
            both.filter_map(|[ours, theirs]| of(ours).zip(of(theirs))),
        )
    });
    let answer = |figures| Some(answered(figures)?.answer_us.p50 as f64 / 1e3);
    let with_disk = pairs.iter().filter_map(|pair| {
        let [ours, theirs] = &pair.figures;
        Some((answer(ours)?, answer(theirs)? + pair.disk_ms))
    });
    let last = Measured::beside("answer p50, theirs with one fdatasync, ms", with_disk);
    measures.chain([last]).collect()
}

/// The median time of a small write to a file and its `fdatasync`, in milliseconds.
fn disk_ms() -> Result<f64, String> {
    let timed = || -> std::io::Result<Vec<f64>> {
        let mut file = tempfile::tempfile()?;
        let mut times = Vec::new();
        for _ in 0..WRITES {
            let began = Instant::now();
            file.write_all(&[b'x'; WRITTEN])?;
            file.sync_data()?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    let times = timed().map_err(|error| format!("a file can't be written to: {error}"))?;
    Ok(Spread::of(times).map_or(0.0, |spread| spread.median))
}

fn draw(
    out: &Path,
    what: &str,
    names: &[String; 2],
    latencies: &[(usize, Histogram<u64>)],
    pairs: &[Pair],
) -> Result<(), String> {
    let mut all = Vec::new();
    for number in 0..names.len() {
        let mut of_side = latencies.iter().filter(|(side, _)| *side == number);
        let mut sum = of_side.next().ok_or("no pairs")?.1.clone();
        for (_, more) in of_side {
            sum.add(more).map_err(|error| error.to_string())?;
        }
        all.push(sum);
    }
    let Some(last) = pairs.last() else {
        return Ok(());
    };
    let both = [0, 1].map(|n| (names[n].as_str(), &all[n], &last.figures[n]));
    plot::pictures(out, what, &both)
}
