//! Programs as their operators and callers see them: what all of them do is checked
//! here, once, against the real binary.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "only tests call it, and a failed expectation of a test is a panic"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{io::copy_bidirectional, task::JoinSet};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    bus::nats, call::Call, client::Channel, cql::testing::fresh_keyspace, identity::Secret,
    secret_file, status::reason,
};

/// How long a program may take for what it does at once.
const LIMIT: Duration = Duration::from_secs(20);

/// What the log says once while the database can't be used.
const AWAY: &str = "the database is away; it is tried until it is there";

/// A program under test.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name, which begins its errors.
    pub name: &'static str,
    /// Its binary: `env!("CARGO_BIN_EXE_…")`.
    pub binary: &'static str,
}

/// A running program. Dropping it kills it.
pub struct Running {
    child: Child,
    /// Its output, as far as it was not read yet.
    pub stdout: BufReader<ChildStdout>,
}

impl Program {
    /// The program in this folder, on ports that the system picks, with nothing else set.
    #[must_use]
    pub fn command(&self, folder: &Path) -> Command {
        self.command_with_ports(folder, &["DRIVERS_GRPC_LISTEN", "DRIVERS_ADMIN_LISTEN"])
    }

    /// The same for a program with other ports: the variables that set them.
    #[must_use]
    pub fn command_with_ports(&self, folder: &Path, ports: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DRIVERS_") {
                command.env_remove(name);
            }
        }
        command
            .envs(ports.iter().map(|port| (port, "127.0.0.1:0")))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it.
    #[must_use]
    pub fn start(&self, mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    /// It ends with this code, and one sentence that holds these words.
    pub fn refuses(&self, mut command: Command, code: i32, words: &[&str]) {
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{stderr}");
        let begin = format!("{}: ", self.name);
        let lines: Vec<&str> = stderr.lines().filter(|it| it.starts_with(&begin)).collect();
        assert_eq!(lines.len(), 1, "{stderr}");
        for word in words {
            assert!(lines[0].contains(word), "{stderr}");
        }
    }
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next JSON line of the log that has this message.
    pub fn logged(&mut self, message: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended");
            let line: Value = serde_json::from_str(&line).expect(&line);
            if line["message"] == message {
                return line;
            }
        }
    }

    /// What is left of its output and errors, and the code it ended with.
    #[must_use]
    pub fn ended(mut self) -> (String, String, Option<i32>) {
        let (mut rest, mut errors) = (String::new(), String::new());
        self.stdout.read_to_string(&mut rest).unwrap();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut errors).unwrap();
        (rest, errors, self.child.wait().unwrap().code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that is a service alone. Those that call it need a runtime with several
/// threads: connections are lived on while the program is waited for.
impl Program {
    /// On this store: it answers health to everybody, and `call` to who shows the
    /// secret; it ends in order, and can be started again.
    pub async fn serves(
        &self,
        folder: &Path,
        store: &str,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let secret_file = folder.join("secret");
        for _ in 0..2 {
            let mut command = self.command(folder);
            command.args(["--log", "json", "--store", store]);
            command.env("DRIVERS_SECRET_FILE", &secret_file);
            let mut running = self.start(command);
            let at = Addresses::of(&running.logged("serving"));
            assert!(get(at.admin, "/livez").starts_with("HTTP/1.1 200"));
            assert!(get(at.admin, "/readyz").starts_with("HTTP/1.1 200"));
            assert!(get(at.admin, "/metrics").contains("drivers_build_info"));

            let stranger = at.channel(Secret::new("nobody-knows-this").unwrap());
            assert_eq!(health(stranger.clone()).await, ServingStatus::Serving);
            let error = call(stranger).await.unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated, "{error}");
            let friend = at.channel(secret_file::read_or_make(&secret_file).unwrap());
            call(friend).await.unwrap();

            running.signal(Signal::TERM);
            let (rest, errors, code) = running.ended();
            assert_eq!((errors.as_str(), code), ("", Some(0)), "{rest}");
            for line in rest.lines() {
                serde_json::from_str::<Value>(line).expect(line);
            }
        }
    }

    /// Of two replicas one is stopped, as by SIGSTOP or a machine that swaps: callers of
    /// both wait for it once, and less than two seconds.
    pub async fn is_left_while_it_hangs(
        &self,
        folder: &Path,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let secret_file = folder.join("secret");
        let mut replicas = ["file:one", "file:other"].map(|store| {
            let mut command = self.command(folder);
            command.args(["--log", "json", "--store", store]);
            command.env("DRIVERS_SECRET_FILE", &secret_file);
            self.start(command)
        });
        let urls = replicas.each_mut().map(|replica| {
            let at = Addresses::of(&replica.logged("serving"));
            format!("http://{}", at.grpc)
        });
        let secret = secret_file::read_or_make(&secret_file).unwrap();
        let channel = Channel::connect(&urls.join(","), secret).unwrap();
        for _ in 0..20 {
            call(channel.clone()).await.unwrap();
        }
        replicas[0].signal(Signal::STOP);
        let begun = Instant::now();
        let mut waited = 0;
        for _ in 0..50 {
            let asked = Instant::now();
            call(channel.clone()).await.unwrap();
            waited += u32::from(asked.elapsed() > Duration::from_millis(900));
        }
        println!("50 calls beside a stopped replica: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(2), "{waited} waited");
        assert!(waited <= 1, "{waited} waited for it");
    }

    /// A data folder has a secret of its own, and serves one program.
    pub async fn has_its_folder_for_itself(
        &self,
        folder: &Path,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let command = || {
            let mut command = self.command(folder);
            command.args(["--log", "json", "--store", "file:own"]);
            command
        };
        let mut running = self.start(command());
        let at = Addresses::of(&running.logged("serving"));
        let secret = secret_file::read_or_make(&folder.join("own/secret")).unwrap();
        call(at.channel(secret)).await.unwrap();
        self.refuses(command(), 1, &["own", "is in use by"]);
    }

    /// While its database is away it lives, is not ready, and says so to its callers and
    /// once in its log.
    pub async fn waits_for_its_database(
        &self,
        folder: &Path,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let mut command = self.command(folder);
        let nobody = free_port();
        let store = format!("scylla://user:hunter2@{nobody}/drivers");
        command.args(["--log", "json", "--store", &store]);
        command.env("DRIVERS_SECRET_FILE", "secret");
        let mut running = self.start(command);
        let at = Addresses::of(&running.logged("starting"));
        running.logged(AWAY);
        assert!(get(at.admin, "/livez").starts_with("HTTP/1.1 200"));
        let ready = get(at.admin, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("waiting for: the database\n"), "{ready}");

        let channel = at.channel(secret_file::read_or_make(&folder.join("secret")).unwrap());
        assert_eq!(health(channel.clone()).await, ServingStatus::NotServing);
        let error = call(channel).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert_eq!(reason(&error).as_deref(), Some("STARTING"), "{error}");

        running.signal(Signal::TERM);
        let (rest, errors, code) = running.ended();
        assert_eq!((errors.as_str(), code), ("", Some(0)));
        assert!(!rest.contains("WARN"), "{rest}");
        assert!(!rest.contains("hunter2"), "{rest}");
    }

    /// It waits for the broker of its bus at its start, not ready, and serves on when the
    /// broker is lost.
    pub async fn waits_for_its_broker(
        &self,
        folder: &Path,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let shared = nats::testing::fresh_url();
        let (broker, keys) = shared["nats://".len()..].split_once('?').unwrap();
        let later = free_port();
        let mut command = self.command(folder);
        command.args(["--log", "json", "--bus", &format!("nats://{later}?{keys}")]);
        let mut running = self.start(command);
        let at = Addresses::of(&running.logged("starting"));
        running.logged("the broker is away; it is tried until it is there");
        let ready = get(at.admin, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.contains("the broker"), "{ready}");

        let forwarding = tokio::spawn(forward(later, broker.to_owned()));
        running.logged("the broker is there");
        running.logged("serving");
        assert!(get(at.admin, "/readyz").starts_with("HTTP/1.1 200"));
        forwarding.abort();
        running.logged("the broker is away; it is tried until it is there");
        assert!(get(at.admin, "/readyz").starts_with("HTTP/1.1 200"));
        let secret = secret_file::read_or_make(&folder.join("data/secret")).unwrap();
        call(at.channel(secret)).await.unwrap();
        running.signal(Signal::TERM);
        let (rest, errors, code) = running.ended();
        assert_eq!((errors.as_str(), code), ("", Some(0)), "{rest}");
        assert!(!rest.contains("WARN"), "it is said once: {rest}");
    }

    /// What is wrong with its configuration is one sentence with the key, and exit code 2.
    pub fn refuses_a_wrong_configuration(&self, folder: &Path) {
        for (flag, value, words) in [
            (
                "--store",
                "./data",
                ["`store`", "`file:./data` or `scylla://"],
            ),
            ("--store", "scylla://u:hunter2@db", ["`store`", "keyspace"]),
            (
                "--grpc-listen",
                "here",
                ["`grpc_listen`", "an IP address and a port"],
            ),
            (
                "--bus",
                "redis://there",
                ["`bus`", "`nats://host` is expected"],
            ),
            ("--log", "xml", ["`log`", "json, text"]),
            ("--store", "scylla://db/k", ["`secret_file`", "is not set"]),
        ] {
            let mut command = self.command(folder);
            command.args([flag, value]);
            let output = command.output().unwrap();
            assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
            self.refuses(command, 2, &words);
        }
        let beyond = || {
            let mut command = self.command(folder);
            command.args(["--log", "json", "--grpc-listen", "0.0.0.0:0"]);
            command
        };
        self.refuses(
            beyond(),
            2,
            &["`grpc_listen`", "beyond", "`mtls`", "`plaintext"],
        );
        let listed = r#"{ "spiffe://drivers.uz/gateway" = ["gateway"] }"#;
        let mut command = beyond();
        command.env("DRIVERS_CALLERS", listed);
        self.refuses(command, 2, &["`callers`", "nothing without `mtls`"]);
        let mut command = self.command(folder);
        let mutual = ["CERTIFICATE", "KEY", "CA"].map(|key| format!("DRIVERS_MTLS__{key}"));
        command.envs(mutual.iter().map(|key| (key, "none.pem")));
        self.refuses(command, 2, &["`callers` is not set", "spiffe://"]);
        let mut command = self.command(folder);
        command.env(
            "DRIVERS_CALLERS",
            listed.replace("[\"gateway", "[\"getaway"),
        );
        self.refuses(command, 2, &["`callers", "`getaway` is nothing"]);

        let mut command = self.command(folder);
        command.env("DRIVERS_COLOUR", "red");
        self.refuses(command, 2, &["`colour`", "DRIVERS_COLOUR", "no such key"]);

        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut command = self.command(folder);
        command.args(["--admin-listen", &address]);
        self.refuses(command, 1, &[&address, "in use", "`admin_listen`"]);
        assert!(!folder.join("data").exists(), "a folder was made");
    }

    /// `migrate` on this store does what these words say, and then finds nothing to do.
    pub fn migrates(&self, folder: &Path, store: &str, first: &str) {
        for words in [first, "nothing to migrate"] {
            let mut command = self.command(folder);
            let output = command.args(["migrate", "--store", store]).output();
            let output = output.unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
            assert!(stdout.starts_with(self.name), "{stdout}");
            assert!(stdout.contains(words), "{stdout}");
        }
    }

    /// In an empty keyspace of a real cluster: it waits until its tables are made, then
    /// serves, and finds a cluster that comes up later than itself.
    pub async fn serves_from_a_keyspace(
        &self,
        folder: &Path,
        call: impl AsyncFn(Channel) -> Result<(), Status>,
    ) {
        let (_, keyspace) = fresh_keyspace(&[]).await;
        let (host, name) = (&keyspace.url.hosts[0], &keyspace.url.keyspace);
        let store = |host: &str| {
            format!("scylla://{host}/{name}?replication=1&single_replica=accept&timeout_ms=5000")
        };
        let mut command = self.command(folder);
        command.args(["--log", "json", "--store", &store(host)]);
        command.env("DRIVERS_SECRET_FILE", "secret");
        let mut early = self.start(command);
        let waits = early.logged(AWAY)["why"].to_string();
        assert!(waits.contains("apply the migrations first"), "{waits}");
        self.migrates(folder, &store(host), "applied");
        early.logged("serving");
        drop(early);
        self.serves(folder, &store(host), &call).await;

        let later = free_port();
        let mut command = self.command(folder);
        command.args(["--log", "json", "--store", &store(&later.to_string())]);
        command.env("DRIVERS_SECRET_FILE", "secret");
        let mut running = self.start(command);
        running.logged(AWAY);
        let forwarding = tokio::spawn(forward(later, host.clone()));
        running.logged("the database is there");
        let at = Addresses::of(&running.logged("serving"));
        let secret = secret_file::read_or_make(&folder.join("secret")).unwrap();
        call(at.channel(secret)).await.unwrap();
        running.signal(Signal::TERM);
        let (rest, errors, code) = running.ended();
        assert_eq!((errors.as_str(), code), ("", Some(0)), "{rest}");
        forwarding.abort();
    }
}

/// Stands at an address for a cluster that listens elsewhere.
async fn forward(at: SocketAddr, to: String) {
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let to = to.clone();
        connections.spawn(async move {
            let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
            // Whoever breaks it off has ended.
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

/// Where a program listens.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Addresses {
    fn of(line: &Value) -> Self {
        let address = |key: &str| line[key].as_str().unwrap().parse().unwrap();
        Self {
            grpc: address("grpc_listen"),
            admin: address("admin_listen"),
        }
    }

    fn channel(self, secret: Secret) -> Channel {
        Channel::connect(&format!("http://{}", self.grpc), secret).unwrap()
    }
}

/// An address where nobody listens.
#[must_use]
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The whole answer to a GET of this path.
#[must_use]
pub fn get(at: SocketAddr, path: &str) -> String {
    http(at, &format!("GET {path}"), "")
}

/// The whole answer to a request that begins like `POST /sign_up` and has this form.
#[must_use]
pub fn http(at: SocketAddr, line: &str, form: &str) -> String {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// What is said of the whole program's health; it is asked until it is reached.
async fn health(channel: Channel) -> ServingStatus {
    let begun = Instant::now();
    loop {
        let question = Call::within(LIMIT).request(HealthCheckRequest::default());
        match HealthClient::new(channel.clone()).check(question).await {
            Ok(answer) => return answer.into_inner().status(),
            Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
