//! `drivers-gateway`: the edge as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::program::main()
}
