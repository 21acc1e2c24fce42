//! What a process has used, from `/proc`, or from the metrics that it tells.

use std::fs;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ::tests::http;

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

/// A process that has a part in what is measured.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) name: String,
    meter: Meter,
}

/// Where it is read what a process has used.
#[derive(Clone, Copy, Debug)]
enum Meter {
    Process(u32),
    /// Its metrics in Prometheus' text format.
    Admin(SocketAddr),
}

impl FromStr for Hop {
    type Err = String;

    /// `name=PID`, or `name=ADDRESS` of an admin port.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = text
            .split_once('=')
            .ok_or_else(|| format!("{text} is not NAME=PID or NAME=ADDRESS"))?;
        let process = place.parse().map(Meter::Process).ok();
        let meter = process.or_else(|| place.parse().map(Meter::Admin).ok());
        Ok(Self {
            name: name.to_owned(),
            meter: meter.ok_or_else(|| format!("{place} is neither a PID nor an address"))?,
        })
    }
}

impl Hop {
    pub(crate) fn of(name: &str, process: u32) -> Self {
        Self {
            name: name.to_owned(),
            meter: Meter::Process(process),
        }
    }

    pub(crate) async fn usage(&self) -> Result<Usage, String> {
        match self.meter {
            Meter::Process(process) => Usage::of(&[process]),
            Meter::Admin(address) => {
                let told = http::request(address, "GET", "/metrics", &[], "").await;
                let text = told.map_err(|why| format!("{}: {why}", self.name))?.text();
                let value = |name: &str| {
                    let of = |line: &str| line.strip_prefix(name)?.trim().parse::<f64>().ok();
                    (text.lines().find_map(of))
                        .ok_or_else(|| format!("{} tells no {name}", self.name))
                };
                Ok(Usage {
                    cpu: Duration::from_secs_f64(value("process_cpu_seconds_total")?),
                    memory: value("process_resident_memory_bytes")? as u64,
                })
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hop_is_named_and_metered() {
        let own = format!("load={}", std::process::id());
        let hop: Hop = own.parse().unwrap();
        assert_eq!(hop.name, "load");
        assert!(hop.usage().await.unwrap().memory > 0);
        assert!("gateway=127.0.0.1:9090".parse::<Hop>().is_ok());
        for wrong in ["gateway", "gateway=localhost", "gateway=-1"] {
            assert!(wrong.parse::<Hop>().is_err(), "{wrong}");
        }
    }
}
