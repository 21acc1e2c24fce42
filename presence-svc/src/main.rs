//! `drivers-presence`: the presence service as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::program::service::main::<presence_svc::App>()
}
