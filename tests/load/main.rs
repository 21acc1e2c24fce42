//! A load for our server and for its peers, which checks what it measures: a run in which a
//! message was lost, doubled or out of order has no figures.
//!
//! ```sh
//! cargo run --release -p tests --bin drivers-load -- compare --scenario c drivers socketioxide
//! ```
//!
//! The server has a processor of its own, the load another one. Whole pairs are measured in
//! turn, with both servers running and everybody connected to both.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway, and lengths were looked at before"
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod crowd;
mod dialect;
mod knee;
mod ledger;
mod measure;
mod peers;
mod plot;
mod report;
mod scenario;
mod storm;
mod target;
mod usage;
mod websocket;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::knee::Climbs;
use crate::measure::{Figures, Side};
use crate::plot::Line;
use crate::report::Comparison;
use crate::scenario::Scenario;
use crate::target::{Remote, Target, Which};
use crate::usage::Hop;

#[derive(Parser)]
#[command(about = "Loads a chat server, checks what it delivers, and measures it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One server under one load.
    Run {
        #[command(flatten)]
        load: Load,
        /// What to start; `drivers` unless one runs elsewhere
        #[arg(default_value = "drivers", conflicts_with = "at")]
        target: Which,
        /// Where the phones of a deployment connect that runs already
        #[arg(long, requires = "grpc")]
        at: Option<SocketAddr>,
        /// Where its message-svc answers, as an internal service calls it
        #[arg(long, requires_all = ["at", "secret"])]
        grpc: Option<SocketAddr>,
        /// Its bearer secret
        #[arg(long, env = "DRIVERS_SECRET", hide_env_values = true)]
        secret: Option<String>,
        /// A process of it whose cost is told: its name, and its PID here or its admin port
        #[arg(long, value_name = "NAME=PID|ADDRESS", requires = "at")]
        hop: Vec<Hop>,
    },
    /// Two servers in turn, pair by pair.
    Compare {
        #[command(flatten)]
        load: Load,
        /// Pairs that are measured
        #[arg(long, default_value_t = 11)]
        pairs: usize,
        ours: Which,
        theirs: Which,
    },
    /// How much each of these carries, climbing in turn.
    Knee {
        #[command(flatten)]
        load: Load,
        /// Climbs of each
        #[arg(long, default_value_t = 10)]
        climbs: usize,
        #[arg(required = true)]
        targets: Vec<Which>,
    },
    /// Clients drop all at once and come back, beside others under a load.
    Storm {
        #[command(flatten)]
        load: Load,
        /// Who drop
        #[arg(long, default_value_t = 5_000)]
        clients: usize,
        #[arg(default_value = "drivers")]
        target: Which,
    },
    /// Serves as one of the peers, on the port in PORT.
    #[command(hide = true)]
    Peer { kind: peers::Kind },
}

#[derive(Args)]
struct Load {
    /// A letter, or a TOML file
    #[arg(long, default_value = "c")]
    scenario: String,
    /// Seconds of each span that is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds in front of each
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Folder for JSON, table and pictures
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Peer { kind } => peers::serve(kind),
        Command::Run {
            load,
            target,
            at,
            grpc,
            secret,
            hop,
        } => {
            let remote = at.zip(grpc).zip(secret);
            let target = remote.map_or(Target::Here(target), |((at, grpc), secret)| {
                Target::Elsewhere(Remote {
                    at,
                    grpc,
                    secret,
                    hops: hop,
                })
            });
            on_one_thread(run(load, target))
        }
        Command::Knee {
            load,
            climbs,
            targets,
        } => on_one_thread(climb(load, climbs, targets)),
        Command::Storm {
            load,
            clients,
            target,
        } => on_one_thread(storm(load, clients, Target::Here(target))),
        Command::Compare {
            load,
            pairs,
            ours,
            theirs,
        } => on_one_thread(compare(load, pairs, [ours, theirs])),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn on_one_thread(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(LocalSet::new().run_until(work))
}

async fn run(load: Load, target: Target) -> Result<(), String> {
    let scenario = Scenario::find(&load.scenario)?;
    target.build()?;
    let side = Side::open(&target, &scenario).await?;
    println!("{}: {} is connected", scenario.what, side.name);
    let (warm_up, length) = load.times()?;
    let (figures, span) = side.load(scenario.load, warm_up, length).await?;
    println!("{}", report::line(&side.name, &figures));
    if let Some(out) = &load.out {
        report::make_folder(out)?;
        report::write_json(&out.join("run.json"), &figures)?;
        pictures(out, &scenario, &[(&side.name, &span.delivery, &figures)])?;
    }
    Ok(())
}

async fn climb(load: Load, climbs: usize, targets: Vec<Which>) -> Result<(), String> {
    let scenario = Scenario::find(&load.scenario)?;
    let (warm_up, length) = load.times()?;
    let mut all = Vec::new();
    for which in targets {
        let target = Target::Here(which);
        target.build()?;
        let side = Side::open(&target, &scenario).await?;
        let name = side.name.clone();
        let climbs = Vec::new();
        all.push((side, Climbs { name, climbs }));
    }
    for _ in 0..climbs {
        for (side, of_side) in &mut all {
            let knee = knee::climb(side, warm_up, length).await?;
            println!("{}: {:.0} messages/s", side.name, knee.messages_per_second);
            of_side.climbs.push(knee);
        }
    }
    let all: Vec<_> = all.into_iter().map(|(_, climbs)| climbs).collect();
    for climbs in &all {
        println!("{}", climbs.line());
    }
    match &load.out {
        Some(out) => {
            report::make_folder(out)?;
            report::write_json(&out.join("knee.json"), &all)
        }
        None => Ok(()),
    }
}

async fn storm(load: Load, clients: usize, target: Target) -> Result<(), String> {
    let scenario = Scenario::find(&load.scenario)?;
    target.build()?;
    let side = Side::open(&target, &scenario).await?;
    let storm = storm::blow(&side, &scenario, clients).await?;
    println!("{}: {}", side.name, storm.line());
    match &load.out {
        Some(out) => {
            report::make_folder(out)?;
            report::write_json(&out.join("storm.json"), &storm)
        }
        None => Ok(()),
    }
}

async fn compare(load: Load, pairs: usize, sides: [Which; 2]) -> Result<(), String> {
    let scenario = Scenario::find(&load.scenario)?;
    let (warm_up, length) = load.times()?;
    let mut open = Vec::new();
    for which in sides {
        let target = Target::Here(which);
        target.build()?;
        open.push(Side::open(&target, &scenario).await?);
    }
    let mut comparison = Comparison {
        commit: report::commit(),
        machine: report::machine(),
        sides: [open[0].name.clone(), open[1].name.clone()],
        pairs: Vec::new(),
        scenario,
    };
    let mut latencies = Vec::new();
    for pair in 0..pairs {
        // Who is first takes turns: what drifts meanwhile drifts for both.
        let order = if pair.is_multiple_of(2) {
            [0, 1]
        } else {
            [1, 0]
        };
        let mut both = Vec::new();
        for number in order {
            let side = &open[number];
            let (figures, span) = side.load(comparison.scenario.load, warm_up, length).await?;
            println!("{}", report::line(&side.name, &figures));
            both.push((number, figures));
            latencies.push((number, span.delivery));
        }
        both.sort_by_key(|(number, _)| *number);
        if let Ok(pair) = <[_; 2]>::try_from(both) {
            comparison.pairs.push(pair.map(|(_, figures)| figures));
        }
    }
    let table = comparison.table();
    println!("\n{table}");
    let Some(out) = &load.out else {
        return Ok(());
    };
    report::make_folder(out)?;
    report::write_json(&out.join("comparison.json"), &comparison)?;
    let path = out.join("table.md");
    std::fs::write(&path, table).map_err(|error| format!("{}: {error}", path.display()))?;
    let all = |number: usize| -> Result<Histogram<u64>, String> {
        let mut of_side = latencies.iter().filter(|(side, _)| *side == number);
        let mut sum = of_side.next().ok_or("no pairs")?.1.clone();
        for (_, more) in of_side {
            sum.add(more).map_err(|error| error.to_string())?;
        }
        Ok(sum)
    };
    let (ours, theirs) = (all(0)?, all(1)?);
    if let Some([a, b]) = comparison.pairs.last() {
        let [first, second] = &comparison.sides;
        let sides = [(first.as_str(), &ours, a), (second.as_str(), &theirs, b)];
        pictures(out, &comparison.scenario, &sides)?;
    }
    Ok(())
}

fn pictures(
    out: &Path,
    scenario: &Scenario,
    sides: &[(&str, &Histogram<u64>, &Figures)],
) -> Result<(), String> {
    let latencies = sides
        .iter()
        .map(|(name, latency, _)| Line::of_latencies(name, latency));
    plot::draw(
        &out.join("latency.svg"),
        &scenario.what,
        [
            "nines: 1 is p90, 2 is p99, 3 is p99.9",
            "ms until delivered",
        ],
        &latencies.collect::<Vec<_>>(),
    )?;
    let throughput = sides.iter().map(|(name, _, figures)| Line {
        name: (*name).to_owned(),
        points: (figures.deliveries_by_second.iter().enumerate())
            .map(|(second, count)| (second as f64, *count as f64))
            .collect(),
    });
    plot::draw(
        &out.join("throughput.svg"),
        &scenario.what,
        ["second", "deliveries"],
        &throughput.collect::<Vec<_>>(),
    )
}

impl Load {
    fn times(&self) -> Result<(Duration, Duration), String> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value).map_err(|error| format!("--{name}: {error}"))
        };
        Ok((
            seconds("warm-up", self.warm_up)?,
            seconds("seconds", self.seconds)?,
        ))
    }
}
