//! `drivers`: the whole system in one process.

use std::process::ExitCode;

use standalone::{config::Config, process};

fn main() -> ExitCode {
    match Config::load() {
        Ok(config) => process::run(config),
        Err(error) => process::refuse(&error),
    }
}
