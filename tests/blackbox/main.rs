//! The black-box suites: `contract` holds a case for each sentence of the client
//! contract, `promises` one or more for each promise, the rest what no single
//! client would do. `cargo test -p tests -- <filter>` picks by name; a name is
//! `suite::sentence` or `suite::sentence::client::transport`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

mod cluster;
mod contract;
mod cyrillic;
mod hostile;
mod kill;
mod promises;
mod replicas;
mod standalone;
mod storm;
mod traffic;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use tests::trial::{Case, end_shared, watch_panics};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of a case is waiting for the server, so more run than there are cores.
    arguments.test_threads.get_or_insert(6);
    watch_panics();
    let cases = [
        contract::cases(),
        promises::cases(),
        cyrillic::cases(),
        kill::cases(),
        hostile::cases(),
        storm::cases(),
        replicas::cases(),
        cluster::cases(),
        standalone::cases(),
        standalone::start::cases(),
        standalone::grpc::cases(),
        standalone::mutual::cases(),
    ];
    let trials = cases.into_iter().flatten().flat_map(Case::trials).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    cluster::end();
    match end_shared() {
        Ok(()) => conclusion.exit_code(),
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
