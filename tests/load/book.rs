//! All that the README's table has: each row is a command of this program, with what is
//! asked of its figures.

use std::fmt::Write as _;
use std::path::Path;

use clap::Parser as _;

use crate::outcome::{Measured, Outcome};
use crate::report::{self, Spread, rounded};
use crate::{Arguments, plot};

/// One row: its name, which is its folder too, and its command.
struct Row {
    name: &'static str,
    command: &'static str,
    asked: &'static [Asked],
}

/// What is asked of a figure.
struct Asked {
    figure: &'static str,
    of: Of,
    bound: Bound,
}

enum Of {
    /// The figure itself.
    Ours,
    /// How many times as much as the other's.
    Ratio,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};
use Of::{Ours, Ratio};

const PER_CPU: &str = "deliveries per server CPU second";
const MESSAGES: &str = "messages per second";

const fn ratio(figure: &'static str, bound: Bound) -> Asked {
    Asked {
        figure,
        of: Ratio,
        bound,
    }
}

const fn ours(figure: &'static str, bound: Bound) -> Asked {
    Asked {
        figure,
        of: Ours,
        bound,
    }
}

const fn row(name: &'static str, command: &'static str, asked: &'static [Asked]) -> Row {
    Row {
        name,
        command,
        asked,
    }
}

const ROWS: &[Row] = &[
    row(
        "a-node-durable",
        "compare --scenario a --seconds 2 drivers node-durable",
        &[ratio(MESSAGES, AtLeast(1.3))],
    ),
    row(
        "a-socketioxide",
        "compare --scenario a --seconds 2 drivers socketioxide",
        &[ratio(
            "answer p50, theirs with one fdatasync, ms",
            AtMost(1.5),
        )],
    ),
    row(
        "b-node",
        "compare --scenario b --seconds 3 drivers node",
        &[ratio(PER_CPU, AtLeast(5.0))],
    ),
    row(
        "b-noticing",
        "compare --scenario b --seconds 3 drivers socketioxide-noticing",
        &[ratio(PER_CPU, AtLeast(0.9))],
    ),
    row(
        "b-centrifuge",
        "compare --scenario b --seconds 3 drivers centrifuge",
        &[ratio(PER_CPU, AtLeast(1.0))],
    ),
    row(
        "c-node",
        "compare --scenario c --seconds 3 drivers node",
        &[ratio(PER_CPU, AtLeast(5.0))],
    ),
    row(
        "c-noticing",
        "compare --scenario c --seconds 3 drivers socketioxide-noticing",
        &[ratio(PER_CPU, AtLeast(0.9))],
    ),
    row(
        "c-centrifuge",
        "compare --scenario c --seconds 3 drivers centrifuge",
        &[ratio(PER_CPU, AtLeast(1.0))],
    ),
    row(
        "c-socketioxide",
        "compare --scenario c --seconds 3 drivers socketioxide",
        &[],
    ),
    row(
        "c-tungstenite",
        "compare --scenario c --seconds 3 drivers tungstenite",
        &[],
    ),
    row(
        "d",
        "knee --scenario d --seconds 1.5 --warm-up 0.5 drivers node-durable",
        &[
            ratio("knee, messages per second", AtLeast(3.0)),
            ours("delivery p99 at half of it, ms", AtMost(10.0)),
        ],
    ),
    row(
        "e-uniform",
        "compare --scenario e --against e-few --seconds 3 drivers drivers",
        &[ratio(MESSAGES, AtLeast(0.8))],
    ),
    row(
        "e-zipf",
        "compare --scenario e-zipf --against e-few --seconds 3 drivers drivers",
        &[ratio(MESSAGES, AtLeast(0.8))],
    ),
    row(
        "f",
        "compare --scenario f --seconds 1 --anew drivers socketioxide",
        &[ratio("server KiB per connection", AtMost(1.0))],
    ),
    row(
        "g",
        "storm",
        &[
            ours("back and signed in, clients per second", AtLeast(2_000.0)),
            ratio("others' delivery p99, ms", AtMost(3.0)),
        ],
    ),
    row(
        "h",
        "history",
        &[
            ratio("append, ms", AtMost(1.1)),
            ratio("page of 50 backward, ms", AtMost(1.1)),
            ratio("page of 50 forward, ms", AtMost(1.1)),
        ],
    ),
    row(
        "i",
        "compare --scenario i --seconds 3 drivers socketioxide",
        &[],
    ),
    row(
        "mesh-a",
        "compare --scenario a --per-second 100 --seconds 5 mesh drivers",
        &[ratio(PER_CPU, AtLeast(0.87))],
    ),
    row(
        "mesh-b",
        "compare --scenario b --per-second 300 --seconds 5 mesh drivers",
        &[ratio(PER_CPU, AtLeast(0.87))],
    ),
    row(
        "mesh-c",
        "compare --scenario c --per-second 100 --seconds 5 mesh drivers",
        &[ratio(PER_CPU, AtLeast(0.87))],
    ),
    row(
        "mesh-d",
        "compare --scenario d --per-second 300 --seconds 5 mesh drivers",
        &[ratio(PER_CPU, AtLeast(0.87))],
    ),
    row(
        "mesh-e",
        "compare --scenario e --per-second 200 --seconds 5 mesh drivers",
        &[ratio(PER_CPU, AtLeast(0.87))],
    ),
];

/// Measures these rows, or all, and writes the table of all that were ever measured.
pub(crate) async fn write(out: &Path, only: &[String]) -> Result<(), String> {
    if let Some(unknown) = only
        .iter()
        .find(|name| ROWS.iter().all(|row| row.name != **name))
    {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("{unknown} is no row: {}", names.join(", ")));
    }
    let is_asked_for = |row: &&Row| only.is_empty() || only.iter().any(|name| name == row.name);
    let mut failed = Vec::new();
    for row in ROWS.iter().filter(is_asked_for) {
        println!("\n== {}: {}", row.name, row.command);
        // The table is written anew behind each row, so that an end keeps those before it.
        if let Err(why) = row.measure(out).await {
            eprintln!("{}: {why}", row.name);
            failed.push(row.name);
        }
        write_table(out)?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("these rows have no figures: {}", failed.join(", "))),
    }
}

impl Row {
    async fn measure(&self, out: &Path) -> Result<(), String> {
        let folder = out.join(self.name);
        let arguments = ["drivers-load"].into_iter().chain(self.command.split(' '));
        let mut arguments: Vec<String> = arguments.map(str::to_owned).collect();
        arguments.extend(["--out".to_owned(), folder.display().to_string()]);
        let parsed = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
        parsed.command.tell().await.map(drop)
    }
}

fn write_table(out: &Path) -> Result<(), String> {
    let mut text = String::from(
        "# Measured\n\nMedians, and the ratio round by round with the least and the greatest. Written by `drivers-load book`.\n\n\
         | row | what | ours | theirs | ratio | least … greatest | asked | |\n|---|---|--:|--:|--:|--:|--:|---|\n",
    );
    let mut details = String::new();
    for row in ROWS {
        let Some(outcome) = Outcome::read(&out.join(row.name))? else {
            continue;
        };
        let sides = outcome.sides.join(" / ");
        for asked in row.asked {
            if let Some(measured) = outcome.measured(asked.figure) {
                let line = asked.line(measured);
                let _fits = writeln!(text, "| [{}]({0}/table.md) {sides} | {}", row.name, line);
            }
        }
        if row.asked.is_empty()
            && let Some(measured) = outcome.measured(PER_CPU)
        {
            let line = figures(PER_CPU, measured);
            let _fits = writeln!(
                text,
                "| [{}]({0}/table.md) {sides} | {line} | | |",
                row.name
            );
        }
        let _fits = writeln!(
            details,
            "- {}: {}; {} rounds; {}. `drivers-load {}`",
            row.name,
            outcome.what,
            outcome.rounds,
            outcome.origin(),
            row.command
        );
    }
    let _fits = writeln!(text, "\n{details}");
    report::make_folder(out)?;
    report::write(&out.join("README.md"), text)?;
    for scenario in ["b", "c"] {
        picture(out, scenario)?;
    }
    Ok(())
}

/// The bars of a scenario: what each server delivers for the same processor time.
fn picture(out: &Path, scenario: &str) -> Result<(), String> {
    let mut bars = Vec::new();
    let (mut own, mut what) = (Vec::new(), String::new());
    for row in ROWS {
        let is_of_scenario =
            (row.name.strip_prefix(scenario)).is_some_and(|rest| rest.starts_with('-'));
        let outcome = match is_of_scenario {
            true => Outcome::read(&out.join(row.name))?,
            false => None,
        };
        let Some(outcome) = outcome else { continue };
        let against = outcome
            .measured(PER_CPU)
            .and_then(|one| Some((one, one.against?)));
        if let (Some((measured, against)), Some(name)) = (against, outcome.sides.last()) {
            own.push(measured.ours.median);
            bars.push((name.clone(), against.theirs.median));
            what.clone_from(&outcome.what);
        }
    }
    let Some(own) = Spread::of(own) else {
        return Ok(());
    };
    bars.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    bars.insert(0, ("drivers, durable".to_owned(), own.median));
    let title = format!("{PER_CPU}: {what}");
    plot::bars(&out.join(format!("{scenario}.svg")), &title, &bars)
}

/// The columns of a figure.
fn figures(what: &str, measured: &Measured) -> String {
    let ours = rounded(measured.ours.median);
    match measured.against {
        Some(against) => format!(
            "{what} | {ours} | {} | {:.2} | {:.2} … {:.2}",
            rounded(against.theirs.median),
            against.ratio.median,
            against.ratio.least,
            against.ratio.greatest
        ),
        None => format!(
            "{what} | {ours} | | | {} … {}",
            rounded(measured.ours.least),
            rounded(measured.ours.greatest)
        ),
    }
}

impl Asked {
    fn line(&self, measured: &Measured) -> String {
        let value = match self.of {
            Ours => Some(measured.ours.median),
            Ratio => measured.against.map(|against| against.ratio.median),
        };
        let (sign, bound, is_met) = match self.bound {
            AtLeast(bound) => ('≥', bound, value.is_some_and(|value| value >= bound)),
            AtMost(bound) => ('≤', bound, value.is_some_and(|value| value <= bound)),
        };
        let times = if matches!(self.of, Ratio) { " ×" } else { "" };
        let verdict = if is_met { "met" } else { "**missed**" };
        let figures = figures(self.figure, measured);
        format!("{figures} | {sign} {}{times} | {verdict} |", rounded(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_command_that_writes_where_it_is_told() {
        for row in ROWS {
            let arguments = ["drivers-load"].into_iter().chain(row.command.split(' '));
            let parsed = Arguments::try_parse_from(arguments.chain(["--out", "folder"]));
            let command = parsed.unwrap().command;
            assert_eq!(command.out().as_deref(), Some(Path::new("folder")));
        }
    }

    #[test]
    fn a_bound_is_held_against_the_figure_that_is_meant() {
        let measured = Measured::beside("figure", [(3.0, 2.0)]).unwrap();
        let verdict = |asked: Asked| asked.line(&measured).contains("**missed**");
        assert!(!verdict(ratio("figure", AtLeast(1.5))));
        assert!(verdict(ratio("figure", AtMost(1.4))));
        assert!(verdict(ours("figure", AtLeast(3.1))));
        assert!(!verdict(ours("figure", AtMost(3.0))));
        let alone = Measured::alone("figure", vec![3.0]).unwrap();
        assert!(
            ratio("figure", AtMost(9.0))
                .line(&alone)
                .contains("**missed**")
        );
    }
}
