//! `drivers-message`: the message service as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::program::service::main::<message_svc::App>()
}
