//! `drivers-user`: the user service as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::program::service::main::<user_svc::App>()
}
