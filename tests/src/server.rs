//! The real `drivers` in a process of its own.

pub(crate) mod watcher;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cassandra;
use crate::processors::in_own_session;

/// The configuration keys that tests set, in one place.
pub mod key {
    /// URL of the bus.
    pub const BUS: &str = "bus";
    /// How the parts call each other: in process or over sockets.
    pub const INTERNAL_GRPC: &str = "internal_grpc";
    /// How long a socket may stay without signing in; milliseconds.
    pub const AUTH_TIMEOUT_MS: &str = "gateway.auth_timeout_ms";
    /// How long closing may take after SIGTERM; milliseconds.
    pub const DRAIN_WINDOW_MS: &str = "drain_window_ms";
    /// File with the chain of certificates, PEM.
    pub const TLS_CERTIFICATE: &str = "tls.certificate";
    /// File with the key of the certificate, PEM.
    pub const TLS_KEY: &str = "tls.key";

    /// How often heartbeats are due; milliseconds.
    pub const PING_INTERVAL_MS: &str = "gateway.ping_interval_ms";
    /// How late the answer to a heartbeat may be; milliseconds.
    pub const PING_TIMEOUT_MS: &str = "gateway.ping_timeout_ms";

    /// A bus that loses a fifth, doubles a tenth, delays up to 50 ms and reorders a tenth.
    #[must_use]
    pub fn misbehaving_bus(seed: u64) -> String {
        format!("\"memory:?drop=0.2&double=0.1&delay_ms=50&reorder=0.1&seed={seed}\"")
    }
}

/// The metrics that tests read, in one place.
pub mod metric {
    /// Socket.IO connections that are open.
    pub const SOCKETS: &str = "drivers_gateway_sockets";
}

/// How a server is started.
#[derive(Clone, Default)]
pub struct Options {
    /// Lines of its configuration file: key and value in TOML.
    pub config: Vec<(&'static str, String)>,
    /// Further arguments, after those that the harness gives.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(&'static str, String)>,
    /// URL of the store; unless said, [`Store::of_this_run`].
    pub store: Option<String>,
    /// Contents of a seed file.
    pub seed_file: Option<String>,
    /// Whether rate limits are on; off unless said.
    pub rate_limits: bool,
    /// The program; [`binary`] unless said.
    pub binary: Option<PathBuf>,
    /// A bug that is planted, into [`sabotaged_binary`].
    pub sabotage: Option<&'static str>,
}

impl Options {
    /// Sets a configuration key to a TOML value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.config.push((key, value.to_string()));
        self
    }
}

/// Where the servers of a run of the suites keep their data, unless a test says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In their data folder.
    Embedded,
    /// In the shared Cassandra, a keyspace for each [`Folder`].
    Cql,
}

impl Store {
    /// What `DRIVERS_TEST_STORE` says: `embedded`, which is also meant without it, or `cql`.
    ///
    /// # Panics
    /// It says something else.
    #[must_use]
    pub fn of_this_run() -> Self {
        match std::env::var("DRIVERS_TEST_STORE").as_deref() {
            Err(_) | Ok("embedded") => Self::Embedded,
            Ok("cql") => Self::Cql,
            Ok(other) => panic!("DRIVERS_TEST_STORE is `embedded` or `cql`, not `{other}`"),
        }
    }
}

/// The folder of one deployment: its data, and the logs of each start.
pub struct Folder {
    root: TempDir,
    /// Where its data is with [`Store::Cql`].
    keyspace: String,
    starts: Mutex<u32>,
}

impl Folder {
    /// A new, empty folder.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            root: tempfile::Builder::new()
                .prefix("drivers-test-")
                .tempdir()
                .unwrap(),
            keyspace: cassandra::new_keyspace(),
            starts: Mutex::new(0),
        })
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// A keyspace that nobody else uses.
    #[must_use]
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// A path beside the data folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// Three addresses nobody uses.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTPS API and Socket.IO.
    pub public: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

impl Addresses {
    /// Picks three free ports.
    #[must_use]
    pub fn free() -> Self {
        Self {
            public: free_port(),
            grpc: free_port(),
            admin: free_port(),
        }
    }
}

/// A free port below the range that the system gives to outgoing connections,
/// so that no connection of a test takes it before the server does.
pub(crate) fn free_port() -> SocketAddr {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    #[allow(clippy::cast_possible_truncation, reason = "any start will do")]
    let start = (std::process::id() as u16).wrapping_mul(97);
    for _ in 0..COUNT {
        let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + step % COUNT));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}

/// The one into which bugs can be planted: `DRIVERS_SABOTAGE_BIN`.
///
/// # Panics
/// The variable is not set.
#[must_use]
pub fn sabotaged_binary() -> PathBuf {
    std::env::var_os("DRIVERS_SABOTAGE_BIN")
        .expect("DRIVERS_SABOTAGE_BIN names a `drivers` built with the feature `sabotage`")
        .into()
}

/// The binary under test: `DRIVERS_BIN`, or the one that was built beside the tests.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DRIVERS_BIN") {
        return path.into();
    }
    let path = crate::part::built().join("drivers");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build -p standalone` first",
        path.display()
    );
    path
}

/// A `drivers` that ended, or never served.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout and stderr.
    pub log: String,
}

/// A running `drivers`. Dropping it kills it.
pub struct Server {
    child: Mutex<Child>,
    pid: Pid,
    folder: Arc<Folder>,
    log: PathBuf,
    /// Where it listens.
    pub at: Addresses,
}

impl Server {
    /// Starts one on a new folder and waits until it is ready.
    ///
    /// # Panics
    /// It ended, or was not ready within 30 seconds; 120 with a CQL store.
    pub async fn start(options: Options) -> Self {
        Self::start_on(&Folder::new(), options).await
    }

    /// Starts one on this folder and waits until it is ready.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_on(folder: &Arc<Folder>, options: Options) -> Self {
        let folder = Arc::clone(folder);
        tokio::task::spawn_blocking(move || Self::start_blocking(&folder, &options))
            .await
            .unwrap()
            .unwrap_or_else(|ended| {
                panic!("drivers did not start, {}:\n{}", ended.status, ended.log)
            })
    }

    /// Starts one that is expected to refuse to serve.
    ///
    /// # Panics
    /// It serves.
    pub async fn refused(folder: &Arc<Folder>, options: Options) -> Ended {
        let folder = Arc::clone(folder);
        let outcome = tokio::task::spawn_blocking(move || Self::start_blocking(&folder, &options))
            .await
            .unwrap();
        match outcome {
            Err(ended) => ended,
            Ok(_) => panic!("drivers serves although it should have refused to"),
        }
    }

    /// Starts one and waits until it is ready or has ended.
    ///
    /// # Errors
    /// It ended.
    ///
    /// # Panics
    /// It is neither ready nor ended after that time.
    pub fn start_blocking(folder: &Arc<Folder>, options: &Options) -> Result<Self, Ended> {
        let at = Addresses::free();
        let start = {
            let mut starts = folder.starts.lock().unwrap();
            *starts += 1;
            *starts
        };
        let log = folder.file(&format!("log-{start}"));
        let output = fs::File::create(&log).unwrap();
        let program = match (&options.binary, options.sabotage) {
            (Some(program), _) => program.clone(),
            (None, None) => binary(),
            (None, Some(_)) => sabotaged_binary(),
        };
        let mut command = in_own_session(&program);
        if let Some(bug) = options.sabotage {
            command.env("DRIVERS_SABOTAGE", bug);
        }
        let store = options
            .store
            .clone()
            .or_else(|| match Store::of_this_run() {
                Store::Embedded => None,
                Store::Cql => Some(cassandra::shared_url(folder.keyspace())),
            });
        // The first start on a keyspace makes its tables, a few seconds of a node's work.
        let patience = Duration::from_secs(if store.is_some() { 120 } else { 30 });
        if let Some(store) = store
            && !options.args.iter().any(|arg| arg == "--store")
        {
            command.arg("--store").arg(store);
        }
        for (flag, value) in [
            ("--listen", at.public.to_string()),
            ("--grpc-listen", at.grpc.to_string()),
            ("--admin-listen", at.admin.to_string()),
            ("--data", folder.data().display().to_string()),
            (
                "--rate-limits",
                if options.rate_limits { "on" } else { "off" }.to_owned(),
            ),
            ("--log", "text".to_owned()),
        ] {
            // A test's own argument for the same flag takes its place.
            if !options.args.iter().any(|arg| arg == flag) {
                command.arg(flag).arg(value);
            }
        }
        if !options.config.is_empty() {
            let mut text = String::new();
            for (key, value) in &options.config {
                writeln!(text, "{key} = {value}").unwrap();
            }
            let path = folder.file("drivers.toml");
            fs::write(&path, text).unwrap();
            command.arg("--config").arg(path);
        }
        if let Some(seed) = &options.seed_file {
            let path = folder.file("seed.toml");
            fs::write(&path, seed).unwrap();
            command.arg("--seed-file").arg(path);
        }
        // What tells the tests something begins as the configuration's keys do.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DRIVERS_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&options.args)
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.root.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        watcher::started(child.id(), folder.root.path());
        let pid = Pid::from_child(&child);
        let server = Self {
            child: Mutex::new(child),
            pid,
            folder: Arc::clone(folder),
            log,
            at,
        };
        let deadline = Instant::now() + patience;
        loop {
            let ended = server.child.lock().unwrap().try_wait().unwrap();
            if let Some(status) = ended {
                return Err(Ended {
                    status,
                    log: server.log(),
                });
            }
            if server.is_ready() {
                return Ok(server);
            }
            assert!(
                Instant::now() < deadline,
                "drivers is not ready after {patience:?}:\n{}",
                server.log_tail()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether `/readyz` says so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        says_ready(self.at.admin)
    }

    /// The folder it works on.
    #[must_use]
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The URL that Socket.IO clients are given.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.at.public)
    }

    /// The bearer secret for gRPC.
    #[must_use]
    pub fn secret(&self) -> String {
        let path = self.folder.data().join("secret");
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// What it wrote since it started.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        let _ = kill_process(self.pid, Signal::INT);
    }

    /// Ends it at once with SIGKILL, as a power cut of the process.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Whether the process lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It has not ended in time.
    pub async fn ended_within(&self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            if let Some(status) = ended {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "drivers still runs after {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        resident(self.pid)
    }

    /// Number of open file descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid.as_raw_nonzero());
        fs::read_dir(path).unwrap().count()
    }

    /// The sum of a metric's samples over all its labels; `None` when it is not there.
    ///
    /// # Panics
    /// `/metrics` does not answer.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let answer = crate::http::request(self.at.admin, "GET", "/metrics", &[], "")
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next())?
        });
        let values: Vec<f64> = samples.map(|value| value.parse().unwrap()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The last lines of its log, for a person who reads a failure.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: Pid) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Whether the program with this admin port says that it is ready.
pub(crate) fn says_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        watcher::ended(self.child.lock().unwrap().id());
        if std::thread::panicking() {
            eprintln!(
                "--- log of drivers {}\n{}\n---",
                self.pid.as_raw_nonzero(),
                self.log_tail()
            );
        } else {
            assert_no_panic(&self.log());
        }
    }
}

/// Whatever happens, no part of the server panics.
///
/// # Panics
/// The log tells of a panic.
pub fn assert_no_panic(log: &str) {
    if let Some(at) = log.find("panicked at") {
        let from = log[..at].rfind('\n').map_or(0, |end| end + 1);
        let told: String = log[from..].lines().take(6).collect::<Vec<_>>().join("\n");
        panic!("a part of drivers panicked:\n{told}");
    }
}
