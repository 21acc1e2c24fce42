//! What is written down: a line and a table for people, JSON for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::measure::Figures;

/// Of several values of the same thing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
pub(crate) fn rounded(value: f64) -> String {
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

/// The commit that is checked out, marked if there are changes, but for what was measured.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        std::process::Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()
            .filter(|output| output.status.success())
    };
    let Some(described) = git(&["describe", "--always", "--abbrev=10"]) else {
        return "?".to_owned();
    };
    let unchanged = ["diff", "--quiet", "HEAD", "--", ":/", ":!load/results"];
    let mark = git(&unchanged).map_or("-dirty", |_| "");
    let commit = String::from_utf8_lossy(&described.stdout);
    format!("{}{mark}", commit.trim())
}

/// Makes the folder that reports go to.
pub(crate) fn make_folder(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes something as JSON.
pub(crate) fn write_json(path: &Path, what: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(what).map_err(|error| error.to_string())?;
    write(path, text + "\n")
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: impl AsRef<str>) -> Result<(), String> {
    std::fs::write(path, text.as_ref()).map_err(|error| format!("{}: {error}", path.display()))
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
