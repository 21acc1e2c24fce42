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

mod book;
mod compare;
mod crowd;
mod dialect;
mod history;
mod knee;
mod ledger;
mod measure;
mod mesh;
mod outcome;
mod peers;
mod plot;
mod report;
mod scenario;
mod storm;
mod target;
mod usage;
mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::task::LocalSet;

use crate::measure::Side;
use crate::outcome::Outcome;
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
        /// A letter, or a TOML file
        #[arg(long, default_value = "c", value_parser = Scenario::find)]
        scenario: Scenario,
        #[command(flatten)]
        spans: Spans,
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
        #[arg(long, default_value = "c", value_parser = Scenario::find)]
        scenario: Scenario,
        /// What the second one is under, if that is another load
        #[arg(long, value_parser = Scenario::find)]
        against: Option<Scenario>,
        #[command(flatten)]
        spans: Spans,
        /// Pairs that are measured
        #[arg(long, default_value_t = 11)]
        pairs: usize,
        /// Starts each anew each time, while the other does not run
        #[arg(long)]
        anew: bool,
        /// Messages a second on both sides, whatever becomes of them, instead of the scenario's load
        #[arg(long)]
        per_second: Option<f64>,
        ours: Which,
        theirs: Which,
    },
    /// How much each of two servers carries, climbing in turn.
    Knee {
        #[arg(long, default_value = "d", value_parser = Scenario::find)]
        scenario: Scenario,
        #[command(flatten)]
        spans: Spans,
        /// Climbs of each
        #[arg(long, default_value_t = 11)]
        climbs: usize,
        ours: Which,
        theirs: Which,
    },
    /// Clients drop all at once and come back, beside others under a load.
    Storm {
        #[arg(long, default_value = "g", value_parser = Scenario::find)]
        scenario: Scenario,
        /// Who drop
        #[arg(long, default_value_t = 5_000)]
        clients: usize,
        /// How often they do
        #[arg(long, default_value_t = 11)]
        storms: usize,
        /// Folder for JSON and table
        #[arg(long)]
        out: Option<PathBuf>,
        #[arg(default_value = "drivers")]
        target: Which,
    },
    /// Appends to a long topic and reads it, in turn with a short one.
    History {
        /// Messages of the long topic
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
        /// Rounds of appends and reads
        #[arg(long, default_value_t = 11)]
        rounds: usize,
        /// Folder for JSON and table
        #[arg(long)]
        out: Option<PathBuf>,
        #[arg(default_value = "drivers")]
        target: Which,
    },
    /// All that the README's table has, row by row.
    Book {
        /// Only these rows
        #[arg(long)]
        only: Vec<String>,
        /// Where the rows stand, and the table of all of them
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/load/results"))]
        out: PathBuf,
    },
    /// Serves as one of the peers, on the port in PORT.
    #[command(hide = true)]
    Peer { kind: peers::Kind },
}

/// How long is measured, and what is written.
#[derive(Args)]
struct Spans {
    /// Seconds of each span that is measured
    #[arg(long = "seconds", default_value = "5", value_parser = seconds)]
    length: Duration,
    /// Seconds in front of each
    #[arg(long, default_value = "1", value_parser = seconds)]
    warm_up: Duration,
    /// Folder for JSON, table and pictures
    #[arg(long)]
    out: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Peer { kind } => peers::serve(kind),
        Command::Book { only, out } => on_one_thread(book::write(&out, &only)),
        other => on_one_thread(async { other.tell().await.map(drop) }),
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

impl Command {
    /// Does what is asked, and tells what came of it, here and in the folder that was named.
    async fn tell(self) -> Result<Option<Outcome>, String> {
        let out = self.out();
        let outcome = self.carry_out().await?;
        if let Some(outcome) = &outcome {
            println!("\n{}", outcome.table());
            out.map_or(Ok(()), |out| outcome.write(&out))?;
        }
        Ok(outcome)
    }

    fn out(&self) -> Option<PathBuf> {
        match self {
            Self::Run { spans, .. } | Self::Compare { spans, .. } | Self::Knee { spans, .. } => {
                spans.out.clone()
            }
            Self::Storm { out, .. } | Self::History { out, .. } => out.clone(),
            Self::Book { .. } | Self::Peer { .. } => None,
        }
    }

    async fn carry_out(self) -> Result<Option<Outcome>, String> {
        let outcome = match self {
            Self::Run {
                scenario,
                spans,
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
                run(&scenario, &spans, &target).await?;
                return Ok(None);
            }
            Self::Compare {
                scenario,
                against,
                spans,
                pairs,
                anew,
                per_second,
                ours,
                theirs,
            } => {
                let against = against.unwrap_or_else(|| scenario.clone());
                let [scenario, against] = match per_second {
                    Some(rate) => [scenario.at(rate)?, against.at(rate)?],
                    None => [scenario, against],
                };
                let sides = [
                    (Target::Here(ours), scenario),
                    (Target::Here(theirs), against),
                ];
                compare::compare(&sides, pairs, anew, &spans).await?
            }
            Self::Knee {
                scenario,
                spans,
                climbs,
                ours,
                theirs,
            } => knee::climb_in_turn([ours, theirs], &scenario, climbs, &spans).await?,
            Self::Storm {
                scenario,
                clients,
                storms,
                target,
                ..
            } => storm::blow(&Target::Here(target), &scenario, clients, storms).await?,
            Self::History {
                messages,
                rounds,
                target,
                ..
            } => history::measure(&Target::Here(target), messages, rounds).await?,
            Self::Book { .. } | Self::Peer { .. } => return Ok(None),
        };
        Ok(Some(outcome))
    }
}

async fn run(scenario: &Scenario, spans: &Spans, target: &Target) -> Result<(), String> {
    target.build()?;
    let side = Side::open(target, scenario).await?;
    println!("{}: {} is connected", scenario.what, side.name);
    let (figures, span) = side
        .load(scenario.load, spans.warm_up, spans.length)
        .await?;
    println!("{}", report::line(&side.name, &figures));
    let Some(out) = &spans.out else {
        return Ok(());
    };
    report::make_folder(out)?;
    report::write_json(&out.join("run.json"), &figures)?;
    plot::pictures(
        out,
        &scenario.what,
        &[(&side.name, &span.delivery, &figures)],
    )
}
