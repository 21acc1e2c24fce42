//! The trial: people talk over a real mesh while a nemesis breaks it at random, and a
//! checker holds what everybody saw against the log and the promises. And the trial of
//! the checker, with bugs that are planted.
//!
//! `DRIVERS_TEST_SEED` repeats all choices of a run. `DRIVERS_TRIAL_HISTORY` names the file in
//! which a run left what happened: nothing is done but that the checker looks at it again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

mod cast;
mod crowd;
mod deploy;
mod figures;
mod mesh;
mod nemesis;
mod overload;
mod phone;
mod planted;
mod rolling;
mod run;
mod services;
mod stack;

use std::panic::resume_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use libtest_mimic::{Arguments, Failed};
use tests::checker::{Limits, check};
use tests::history::History;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if let Some(path) = std::env::var_os("DRIVERS_TRIAL_HISTORY") {
        return look_again(Path::new(&path));
    }
    // Most of a trial is waiting.
    arguments.test_threads.get_or_insert(3);
    let cases = [
        deploy::cases(),
        mesh::cases(),
        overload::cases(),
        planted::cases(),
        rolling::cases(),
    ];
    libtest_mimic::run(&arguments, cases.into_iter().flatten().collect()).exit_code()
}

/// Holds a history that was kept against the promises.
fn look_again(path: &Path) -> ExitCode {
    let text = std::fs::read_to_string(path).unwrap();
    let history: History = serde_json::from_str(&text).unwrap();
    let findings = check(&history, &Limits::default());
    figures::print(&history, &findings);
    for violation in &findings.violations {
        println!("{violation}");
    }
    match findings.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The number that an environment variable holds, if it is set.
fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable} is a number, not `{text}`"),
    }
}

/// What `DRIVERS_TEST_SEED` says, or a fresh seed; printed.
fn seed() -> u64 {
    let seed = number("DRIVERS_TEST_SEED").unwrap_or_else(rand::random);
    println!("DRIVERS_TEST_SEED={seed}");
    seed
}

/// Runs a case in a runtime of its own.
fn in_runtime(case: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    run(Builder::new_multi_thread().worker_threads(2), case)
}

/// The same in one thread, which keeps to itself on which processors it runs.
fn in_one_thread<F>(case: impl FnOnce() -> F + Send) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>>,
{
    thread::scope(|scope| {
        let case = scope.spawn(|| run(&mut Builder::new_current_thread(), case()));
        case.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn run(
    builder: &mut Builder,
    case: impl Future<Output = Result<(), Failed>>,
) -> Result<(), Failed> {
    builder.enable_all().build().unwrap().block_on(case)
}
