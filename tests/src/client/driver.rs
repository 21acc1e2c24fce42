//! Official clients in child processes; `tests/clients/README.md` has the protocol.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::UnboundedSender;

use super::{Command, Kind, Report, Transport};

/// One driver for each kind of client, started when first asked for. A driver
/// ends when its stdin does, so it does not outlive the tests.
static DRIVERS: LazyLock<Mutex<HashMap<Kind, Arc<Driver>>>> = LazyLock::new(Mutex::default);

struct Driver {
    kind: Kind,
    stdin: Mutex<ChildStdin>,
    routes: Mutex<HashMap<u32, UnboundedSender<Report>>>,
    /// The last lines of its stderr.
    complaints: Mutex<VecDeque<String>>,
    _process: Child,
}

/// A report as it stands on a line.
#[derive(Deserialize)]
struct Line {
    c: u32,
    on: String,
    name: Option<String>,
    args: Option<Vec<Box<RawValue>>>,
    ack: Option<u32>,
    reason: Option<String>,
    message: Option<String>,
}

impl Line {
    fn report(self) -> Option<Report> {
        Some(match self.on.as_str() {
            "ready" => Report::Ready,
            "connected" => Report::Connected,
            "upgraded" => Report::Upgraded,
            "event" => Report::Event {
                name: self.name?,
                args: self.args?,
            },
            "ack" => Report::Ack {
                ack: self.ack?,
                args: self.args?,
            },
            "disconnected" => Report::Disconnected {
                reason: self.reason?,
            },
            "error" => Report::Error {
                message: self.message?,
            },
            _ => return None,
        })
    }
}

fn program(kind: Kind) -> Process {
    let clients = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients");
    let (mut process, needed) = match kind {
        Kind::Js(version) => {
            let mut process = Process::new("node");
            process
                .arg(clients.join("js/driver.js"))
                .arg(version.to_string());
            (process, clients.join("js/node_modules"))
        }
        Kind::Python => {
            let python = clients.join("python/.venv/bin/python");
            let mut process = Process::new(&python);
            process.arg(clients.join("python/driver.py"));
            (process, python)
        }
        Kind::Java(major) => {
            let version = if major == 1 { "1.0.2" } else { "2.1.2" };
            let target = clients.join("java/target").join(version);
            let mut process = Process::new("java");
            process
                .args(["-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp"])
                .arg(format!("{0}/classes:{0}/jars/*", target.display()))
                .arg("uz.drivers.tests.Driver");
            (process, target.join("jars"))
        }
        Kind::Raw(_) => unreachable!("raw clients have no driver"),
    };
    assert!(
        needed.exists(),
        "{} is missing: `tests/run` installs it",
        needed.display()
    );
    process
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process
}

impl Driver {
    fn of(kind: Kind) -> Arc<Self> {
        let mut drivers = DRIVERS.lock().unwrap();
        Arc::clone(drivers.entry(kind).or_insert_with(|| Self::start(kind)))
    }

    fn start(kind: Kind) -> Arc<Self> {
        let mut process = program(kind)
            .spawn()
            .unwrap_or_else(|error| panic!("the driver of {kind}: {error}"));
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let driver = Arc::new(Self {
            kind,
            stdin: Mutex::new(process.stdin.take().unwrap()),
            routes: Mutex::default(),
            complaints: Mutex::default(),
            _process: process,
        });
        let reader = Arc::clone(&driver);
        std::thread::spawn(move || reader.route(stdout));
        let listener = Arc::clone(&driver);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut complaints = listener.complaints.lock().unwrap();
                complaints.push_back(line);
                if complaints.len() > 40 {
                    complaints.pop_front();
                }
            }
        });
        driver
    }

    fn route(&self, stdout: impl BufRead) {
        for line in stdout.lines().map_while(Result::ok) {
            let parsed = serde_json::from_str::<Line>(&line).ok();
            let Some((c, report)) = parsed.and_then(|line| Some((line.c, line.report()?))) else {
                eprintln!("the driver of {} said what is no report: {line}", self.kind);
                continue;
            };
            if let Some(route) = self.routes.lock().unwrap().get(&c) {
                let _ = route.send(report);
            }
        }
        // Its clients see the end of their reports.
        self.routes.lock().unwrap().clear();
        for line in self.complaints.lock().unwrap().iter() {
            eprintln!("driver of {}: {line}", self.kind);
        }
    }

    fn write(&self, line: &str) {
        let mut stdin = self.stdin.lock().unwrap();
        let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
    }
}

pub(super) struct Connection {
    driver: Arc<Driver>,
    c: u32,
}

impl Connection {
    pub(super) fn open(
        kind: Kind,
        transport: Transport,
        url: &str,
        reports: UnboundedSender<Report>,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let c = NEXT.fetch_add(1, Ordering::Relaxed);
        let driver = Driver::of(kind);
        driver.routes.lock().unwrap().insert(c, reports);
        let transports = serde_json::json!(transport.names());
        driver.write(&format!(
            r#"{{"c":{c},"do":"connect","url":"{url}","transports":{transports}}}"#
        ));
        Self { driver, c }
    }

    pub(super) fn command(&self, command: Command) {
        let c = self.c;
        self.driver.write(&match command {
            Command::Emit { event, args, ack } => {
                let event = serde_json::json!(event);
                let args = args.join(",");
                let ack = ack.map_or_else(String::new, |ack| format!(r#","ack":{ack}"#));
                format!(r#"{{"c":{c},"do":"emit","event":{event},"args":[{args}]{ack}}}"#)
            }
            Command::Disconnect => format!(r#"{{"c":{c},"do":"disconnect"}}"#),
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.routes.lock().unwrap().remove(&self.c);
    }
}
