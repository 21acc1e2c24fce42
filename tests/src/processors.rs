//! Which processors a measurement has: servers those in front, and the load the last one,
//! so that what is offered takes nothing from who serves.

use std::ffi::OsStr;
use std::process::Command;
use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this thread, and what it starts from now on, to one processor.
///
/// # Errors
/// When the machine has no such processor.
pub fn keep_to(processor: usize) -> Result<(), String> {
    keep_to_all(&[processor])
}

/// Keeps this thread, and what it starts from now on, to all processors but the last.
/// Gives back the last one.
///
/// # Errors
/// When there is only one.
pub fn leave_the_last() -> Result<usize, String> {
    let count = available_parallelism().map_err(|error| error.to_string())?;
    let last = count.get() - 1;
    let others: Vec<usize> = (0..last).collect();
    keep_to_all(&others)?;
    Ok(last)
}

/// A command that runs a program in a session of its own, as service managers do (`setsid` of
/// util-linux, which becomes that program). The kernel shares a processor among sessions before
/// it does among threads (autogroup, `sched(7)`): what a load takes of its own processor would
/// count as taken by the server's session. Measured in storms beside which the server's nicer
/// threads were alone for a moment: in 6 of 37 the kernel's own thread that ends a sync waited
/// for 0.1 to 0.6 s then, in sessions of their own in none of 32.
pub fn in_own_session(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

fn keep_to_all(processors: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    sched_setaffinity(None, &set).map_err(|error| format!("processors {processors:?}: {error}"))
}
