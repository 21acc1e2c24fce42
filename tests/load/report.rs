//! What is written down: a line and a table for people, JSON for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::measure::Figures;
use crate::scenario::Scenario;

/// Two targets in turn, pair by pair.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) scenario: Scenario,
    pub(crate) sides: [String; 2],
    pub(crate) pairs: Vec<[Figures; 2]>,
}

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
        of: |figures| Some(busy(figures)?.messages_per_second),
    },
    Measure {
        what: "answer p50, ms",
        of: |figures| Some(busy(figures)?.answer_us.p50 as f64 / 1e3),
    },
    Measure {
        what: "delivery p50, ms",
        of: |figures| Some(busy(figures)?.delivery_us.p50 as f64 / 1e3),
    },
    Measure {
        what: "delivery p99, ms",
        of: |figures| Some(busy(figures)?.delivery_us.p99 as f64 / 1e3),
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

impl Comparison {
    /// A table in Markdown: medians, and the ratio pair by pair.
    pub(crate) fn table(&self) -> String {
        let [ours, theirs] = &self.sides;
        let mut table = format!(
            "{}; {} pairs\n\n| | {ours} | {theirs} | ratio | least | greatest |\n|---|--:|--:|--:|--:|--:|\n",
            self.scenario.what,
            self.pairs.len()
        );
        for Measure { what, of } in MEASURES {
            let both = self.pairs.iter().filter_map(|[a, b]| of(a).zip(of(b)));
            let (ours, theirs): (Vec<f64>, Vec<f64>) = both.unzip();
            let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
            let (Some(ours), Some(theirs), Some(ratios)) =
                (Spread::of(ours), Spread::of(theirs), Spread::of(ratios))
            else {
                continue;
            };
            let _fits = writeln!(
                table,
                "| {what} | {} | {} | {:.2} | {:.2} | {:.2} |",
                rounded(ours.median),
                rounded(theirs.median),
                ratios.median,
                ratios.least,
                ratios.greatest
            );
        }
        table
    }
}

/// Of several values of the same thing.
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            least: *values.first()?,
            greatest: *values.last()?,
        })
    }
}

/// Three digits that count, thousands apart.
fn rounded(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One line about a span.
pub(crate) fn line(name: &str, figures: &Figures) -> String {
    let mut line = format!(
        "{name}: {} messages/s, {} deliveries/s, answer p50 {:.2} ms p99 {:.2} ms, delivery p99 {:.2} ms",
        rounded(figures.messages_per_second),
        rounded(figures.deliveries_per_second),
        figures.answer_us.p50 as f64 / 1e3,
        figures.answer_us.p99 as f64 / 1e3,
        figures.delivery_us.p99 as f64 / 1e3,
    );
    if let Some(server) = figures.server {
        let _fits = write!(
            line,
            "; server {:.2} processors, {:.2} µs per delivery, {:.1} KiB per connection",
            server.processors,
            server.cpu_us_per_delivery,
            server.bytes_per_connection / 1024.0
        );
    }
    let _fits = write!(line, "; load {:.2} processors", figures.load_processors);
    for hop in &figures.hops {
        let _fits = write!(
            line,
            "\n  {}: {:.2} processors, {:.0} µs per message, {:.2} µs per delivery, {:.0} MiB",
            hop.name,
            hop.processors,
            hop.cpu_us_per_message,
            hop.cpu_us_per_delivery,
            hop.memory_bytes as f64 / f64::from(1 << 20)
        );
    }
    if figures.failures > 0 {
        let _fits = write!(line, "; {} refused", figures.failures);
    }
    line
}

/// The processor and how many of them there are.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = (info
        .lines()
        .find_map(|line| line.strip_prefix("model name")))
    .map_or("?", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let count = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!("{count} × {model}")
}

/// The commit that is checked out, marked if there are changes.
pub(crate) fn commit() -> String {
    let described = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    described.map_or_else(
        |_| "?".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Makes the folder that reports go to.
pub(crate) fn make_folder(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes something as JSON.
pub(crate) fn write_json(path: &Path, what: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(what).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(rounded(1.234), "1.23");
        assert_eq!(rounded(999.6), "1,000");
        assert_eq!(rounded(1_234_567.0), "1,234,567");
    }

    #[test]
    fn a_median_lies_between_the_least_and_the_greatest() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (spread.least, spread.median, spread.greatest),
            (1.0, 2.0, 3.0)
        );
        assert!(Spread::of(Vec::new()).is_none());
    }
}
