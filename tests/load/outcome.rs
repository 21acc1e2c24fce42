//! What a command has found: figures of ours, beside those of another where there is one.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::report::{self, Spread, rounded};

/// The file of an outcome in its folder.
const FILE: &str = "outcome.json";

/// What a command has found, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// One line for people.
    pub(crate) what: String,
    commit: String,
    machine: String,
    /// Ours, and the other if there is one.
    pub(crate) sides: Vec<String>,
    /// How often each was measured.
    pub(crate) rounds: usize,
    measured: Vec<Measured>,
}

/// One figure, of each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    what: String,
    pub(crate) ours: Spread,
    pub(crate) against: Option<Against>,
}

/// The other's figure, and how many times as much ours is, round by round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Against {
    pub(crate) theirs: Spread,
    pub(crate) ratio: Spread,
}

impl Measured {
    /// Ours by itself; none of nothing.
    pub(crate) fn alone(what: &str, ours: Vec<f64>) -> Option<Self> {
        Some(Self {
            what: what.to_owned(),
            ours: Spread::of(ours)?,
            against: None,
        })
    }

    /// Both, of the same rounds; none of nothing.
    pub(crate) fn beside(what: &str, both: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
        let against = Against {
            ratio: Spread::of(ratios.collect())?,
            theirs: Spread::of(theirs)?,
        };
        Some(Self {
            against: Some(against),
            ..Self::alone(what, ours)?
        })
    }
}

impl Outcome {
    pub(crate) fn new(
        what: impl Into<String>,
        sides: impl IntoIterator<Item = String>,
        rounds: usize,
        measured: impl IntoIterator<Item = Option<Measured>>,
    ) -> Self {
        Self {
            what: what.into(),
            commit: report::commit(),
            machine: report::machine(),
            sides: sides.into_iter().collect(),
            rounds,
            measured: measured.into_iter().flatten().collect(),
        }
    }

    /// The figure of this name.
    pub(crate) fn measured(&self, what: &str) -> Option<&Measured> {
        self.measured.iter().find(|one| one.what == what)
    }

    /// The commit and the machine.
    pub(crate) fn origin(&self) -> String {
        format!("commit {}, {}", self.commit, self.machine)
    }

    /// A table in Markdown: medians, and the ratio round by round.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{}; {} rounds; {}\n\n",
            self.what,
            self.rounds,
            self.origin()
        );
        let head = match &self.sides[..] {
            [ours, theirs] => format!("| | {ours} | {theirs} | ratio | least | greatest |"),
            _ => format!("| | {} | least | greatest |", self.sides.join(" ")),
        };
        let columns = head.matches('|').count() - 2;
        let _fits = writeln!(table, "{head}\n|---|{}", "--:|".repeat(columns));
        for Measured {
            what,
            ours,
            against,
        } in &self.measured
        {
            let figures = match against {
                Some(Against { theirs, ratio }) => format!(
                    "{} | {} | {:.2} | {:.2} | {:.2}",
                    rounded(ours.median),
                    rounded(theirs.median),
                    ratio.median,
                    ratio.least,
                    ratio.greatest
                ),
                None => {
                    let [median, least, greatest] =
                        [ours.median, ours.least, ours.greatest].map(rounded);
                    if columns == 3 {
                        format!("{median} | {least} | {greatest}")
                    } else {
                        format!(
                            "{median} ({least} … {greatest}){}",
                            " |".repeat(columns - 1)
                        )
                    }
                }
            };
            let _fits = writeln!(table, "| {what} | {figures} |");
        }
        table
    }

    /// Writes it down in a folder, as JSON and as a table.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), String> {
        report::make_folder(folder)?;
        report::write_json(&folder.join(FILE), self)?;
        report::write(&folder.join("table.md"), self.table())
    }

    /// The one that was written down in a folder, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, String> {
        let path = folder.join(FILE);
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(None);
        };
        let read = serde_json::from_str(&text);
        read.map(Some)
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_compared_round_by_round() {
        let rates = Measured::beside("rate", [(2.0, 1.0), (9.0, 3.0), (4.0, 4.0)]).unwrap();
        let against = rates.against.unwrap();
        assert_eq!(rates.ours.median, 4.0);
        assert_eq!(against.theirs.median, 3.0);
        assert_eq!(
            (
                against.ratio.least,
                against.ratio.median,
                against.ratio.greatest
            ),
            (1.0, 2.0, 3.0)
        );
        assert!(Measured::beside("rate", []).is_none());
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Outcome::read(folder.path()).unwrap().is_none());
        let measured = [
            Measured::beside("rate", [(2.0, 1.0)]),
            Measured::alone("wait, ms", vec![5.0]),
        ];
        let sides = ["ours", "theirs"].map(str::to_owned);
        let outcome = Outcome::new("a try", sides, 1, measured);
        outcome.write(folder.path()).unwrap();
        let read = Outcome::read(folder.path()).unwrap().unwrap();
        assert_eq!(read.table(), outcome.table());
        let table = read.table();
        assert!(
            table.contains("| rate | 2.00 | 1.00 | 2.00 | 2.00 | 2.00 |"),
            "{table}"
        );
        assert!(
            table.contains("| wait, ms | 5.00 (5.00 … 5.00) |"),
            "{table}"
        );
    }
}
