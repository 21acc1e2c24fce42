//! What a process has used, from `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Of all its threads, those that have ended included.
    pub(crate) cpu: Duration,
    /// Resident, in bytes.
    pub(crate) memory: u64,
}

impl Usage {
    /// Of these processes together.
    pub(crate) fn of(processes: &[u32]) -> Result<Self, String> {
        let mut all = Self::default();
        for process in processes {
            let one = of_one(*process).map_err(|why| format!("process {process}: {why}"))?;
            all.cpu += one.cpu;
            all.memory += one.memory;
        }
        Ok(all)
    }
}

fn of_one(process: u32) -> Result<Usage, String> {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{process}/{file}")).map_err(|error| error.to_string())
    };
    let wrong = |file: &str| format!("/proc/{process}/{file} is not understood");
    // proc_pid_stat(5): utime and stime are the 14th and 15th, behind a name in brackets that
    // may hold anything. Hundredths of a second, whatever the kernel's own tick is.
    let stat = read("stat")?;
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = (behind_name.split_whitespace().skip(11).take(2))
        .filter_map(|field| field.parse().ok())
        .collect();
    let [user, system] = fields[..] else {
        return Err(wrong("stat"));
    };
    let status = read("status")?;
    let resident = (status.lines().find_map(|line| line.strip_prefix("VmRSS:")))
        .and_then(|kilobytes| kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(Usage {
        cpu: Duration::from_millis((user + system) * 10),
        memory: resident.ok_or_else(|| wrong("status"))? * 1024,
    })
}
