//! What is measured: our own server, or a peer, started here and kept to one processor.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::message::v1::Visibility;
use tempfile::TempDir;
use tests::account::try_sign_up_as;
use tests::api::Api;
use tests::part::free_address;
use tests::processors::{in_own_session, keep_to};
use tests::server::{Folder, Options, Server};

use crate::crowd::Guests;
use crate::dialect::Dialect;
use crate::mesh::Mesh;
use crate::scenario::Scenario;
use crate::usage::{Hop, Usage};

/// The processor that servers have, and that of the load.
const OF_SERVERS: usize = 0;
const OF_LOAD: usize = 1;
/// Calls that prepare users and topics at a time.
const AT_A_TIME: usize = 32;
const START_LIMIT: Duration = Duration::from_secs(20);

/// What is measured.
pub(crate) enum Target {
    Here(Which),
    Elsewhere(Remote),
}

/// A deployment of ours that runs already.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// Where phones connect.
    pub(crate) at: SocketAddr,
    /// Where message-svc answers.
    pub(crate) grpc: SocketAddr,
    /// Its bearer secret.
    pub(crate) secret: String,
    /// Processes of it that are metered.
    pub(crate) hops: Vec<Hop>,
}

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// Ours: one process, embedded store, everything durable
    Drivers,
    /// Another build of ours, the program that DRIVERS_BEFORE names
    DriversBefore,
    /// Ours as one of each program over NATS and Cassandra; the gateway is metered
    Mesh,
    /// Socket.IO 4.8 on Node with `ws`: broadcasts only
    Node,
    /// The same behind SQLite (WAL, synchronous=FULL), one transaction for all that came meanwhile
    NodeDurable,
    /// socketioxide, multi-thread runtime, its own adapter: broadcasts only
    Socketioxide,
    /// The same with an adapter that notices whose queue is full
    SocketioxideNoticing,
    /// The Go library centrifuge 0.40, memory broker: broadcasts only
    Centrifuge,
    /// tokio-tungstenite and nothing else: the floor
    Tungstenite,
}

/// A target that runs.
pub(crate) struct Running {
    process: Process,
    address: SocketAddr,
    dialect: Dialect,
}

enum Process {
    Drivers(Box<Server>),
    Mesh(Box<Mesh>),
    Peer(Peer),
    Remote(Remote),
}

/// A peer's process, which ends with this.
struct Peer {
    child: Child,
    /// Its log, and its database.
    folder: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Target {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Here(which) => which.name(),
            Self::Elsewhere(remote) => remote.at.to_string(),
        }
    }

    /// Brings what is measured up to date, beside this program.
    pub(crate) fn build(&self) -> Result<(), String> {
        match self {
            Self::Here(which) => which.build(),
            Self::Elsewhere(_) => Ok(()),
        }
    }

    /// Starts it, on a processor of its own, unless it runs already.
    pub(crate) async fn start(&self) -> Result<Running, String> {
        match self {
            Self::Here(which) => {
                // A process begins on the processors of the thread that starts it.
                keep_to(OF_SERVERS)?;
                let started = which.start().await;
                keep_to(OF_LOAD)?;
                started
            }
            Self::Elsewhere(remote) => Ok(Running {
                address: remote.at,
                dialect: Dialect::SocketIo,
                process: Process::Remote(remote.clone()),
            }),
        }
    }
}

impl Which {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn dialect(self) -> Dialect {
        match self {
            Self::Centrifuge => Dialect::Centrifuge,
            _ => Dialect::SocketIo,
        }
    }

    fn build(self) -> Result<(), String> {
        match self {
            Self::Drivers if std::env::var_os("DRIVERS_BIN").is_none() => {
                build_ours(&["standalone"])
            }
            Self::Mesh if std::env::var_os("DRIVERS_TRIAL_BIN").is_none() => {
                build_ours(&["gateway", "user-svc", "message-svc", "presence-svc"])
            }
            Self::Node | Self::NodeDurable => {
                let install = ["ci", "--silent", "--no-fund", "--no-audit"];
                run(Command::new("npm")
                    .args(install)
                    .current_dir(peers().join("node")))
            }
            Self::Centrifuge => run(Command::new("go")
                .args(["build", "-o"])
                .arg(centrifuge()?)
                .arg(".")
                .current_dir(peers().join("centrifuge"))),
            _ => Ok(()),
        }
    }

    async fn start(self) -> Result<Running, String> {
        if self == Self::Mesh {
            let mesh = Mesh::start().await?;
            return Ok(Running {
                address: mesh.address,
                dialect: self.dialect(),
                process: Process::Mesh(Box::new(mesh)),
            });
        }
        let ours = match self {
            Self::Drivers => Some(Options::default()),
            Self::DriversBefore => Some(Options {
                binary: Some(before()?),
                ..Options::default()
            }),
            _ => None,
        };
        if let Some(options) = ours {
            let started = Server::start_blocking(&Folder::new(), &options);
            let server = started.map_err(|ended| format!("drivers ended:\n{}", ended.log))?;
            return Ok(Running {
                address: server.at.public,
                dialect: self.dialect(),
                process: Process::Drivers(Box::new(server)),
            });
        }
        let address = free_address();
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let log = folder.path().join("log");
        let output = || File::options().create(true).append(true).open(&log);
        let started = output().and_then(|out| Ok((out, output()?)));
        let (out, err) = started.map_err(|error| error.to_string())?;
        let mut command = self.peer()?;
        if self == Self::NodeDurable {
            command.env("DATABASE", folder.path().join("database"));
        }
        command.env("PORT", address.port().to_string());
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.name()))?;
        let mut peer = Peer { child, folder };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let has_ended = peer.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || began.elapsed() > START_LIMIT {
                let said = std::fs::read_to_string(peer.folder.path().join("log"));
                let said = said.unwrap_or_default();
                return Err(format!("{} does not serve:\n{said}", self.name()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Running {
            process: Process::Peer(peer),
            dialect: self.dialect(),
            address,
        })
    }

    /// How the peer is run.
    fn peer(self) -> Result<Command, String> {
        let own = |kind: &str| -> Result<Command, String> {
            let mut command = in_own_session(this()?);
            command.arg("peer").arg(kind);
            Ok(command)
        };
        match self {
            Self::Node | Self::NodeDurable => {
                let folder = peers().join("node");
                let mut command = in_own_session(folder.join("node_modules/.bin/node"));
                command.arg("server.js").current_dir(folder);
                Ok(command)
            }
            Self::Centrifuge => Ok(in_own_session(centrifuge()?)),
            Self::Socketioxide => own("socketioxide"),
            Self::SocketioxideNoticing => own("socketioxide-noticing"),
            Self::Tungstenite => own("tungstenite"),
            Self::Drivers | Self::DriversBefore | Self::Mesh => {
                Err("drivers is no peer".to_owned())
            }
        }
    }
}

impl Running {
    /// What it has used so far; none if it runs elsewhere.
    pub(crate) fn usage(&self) -> Result<Option<Usage>, String> {
        let process = match &self.process {
            Process::Drivers(server) => server.pid(),
            Process::Mesh(mesh) => mesh.gateway(),
            Process::Peer(peer) => peer.child.id(),
            Process::Remote(_) => return Ok(None),
        };
        Usage::of(&[process]).map(Some)
    }

    /// The processes whose use is told each by itself.
    pub(crate) fn hops(&self) -> Vec<Hop> {
        match &self.process {
            Process::Remote(remote) => remote.hops.clone(),
            Process::Mesh(mesh) => mesh.hops(),
            Process::Drivers(_) | Process::Peer(_) => Vec::new(),
        }
    }

    /// Where phones connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its services, as an internal service calls them.
    pub(crate) fn api(&self) -> Result<Api, String> {
        match &self.process {
            Process::Drivers(server) => Ok(Api::of(server)),
            Process::Mesh(mesh) => Ok(mesh.api()),
            Process::Remote(remote) => Ok(Api::at([remote.grpc; 3], &remote.secret)),
            Process::Peer(_) => Err("a peer has no services".to_owned()),
        }
    }

    /// The tokens and topics of a scenario, made where they have to be.
    pub(crate) async fn prepare(&self, scenario: &Scenario) -> Result<Guests, String> {
        let (topics, tokens, users) = match &self.process {
            Process::Peer(_) => name_topics(scenario),
            _ => sign_everybody_up(self.address, &self.api()?, scenario).await?,
        };
        Ok(Guests {
            address: self.address,
            dialect: self.dialect,
            topics,
            tokens,
            users,
        })
    }
}

/// Topics, and the token and the user of each connection.
type Prepared = (Vec<i64>, Vec<String>, Vec<i64>);

/// Where there are no accounts, a token names the topics of its connection.
fn name_topics(scenario: &Scenario) -> Prepared {
    let topics: Vec<i64> = (1..).take(scenario.topics).collect();
    let mut tokens = vec![Vec::new(); scenario.connections];
    for (place, topic) in topics.iter().enumerate() {
        for member in scenario.members_of(place) {
            tokens[member].push(topic.to_string());
        }
    }
    let tokens = tokens.iter().map(|of_one| of_one.join(",")).collect();
    (topics, tokens, vec![15; scenario.connections])
}

/// Accounts and topics on a server of ours.
async fn sign_everybody_up(
    address: SocketAddr,
    api: &Api,
    scenario: &Scenario,
) -> Result<Prepared, String> {
    // Nobody else's, on a server that has seen other loads.
    let first: u64 = rand::random_range(0..1_000_000_000_000);
    let users: Vec<_> = stream::iter((first..).take(scenario.connections))
        .map(|number| try_sign_up_as(address, format!("99{number:013}"), format!("load{number}")))
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    let topics = stream::iter(0..scenario.topics).map(|topic| {
        let members: Vec<i64> = scenario
            .members_of(topic)
            .filter_map(|member| users.get(member).map(|user| user.id))
            .collect();
        async move { api.topic(Visibility::Private, &members).await }
    });
    let topics = topics.buffered(AT_A_TIME).collect().await;
    let (tokens, users) = users.into_iter().map(|user| (user.token, user.id)).unzip();
    Ok((topics, tokens, users))
}

/// Builds packages of ours as they are released.
fn build_ours(packages: &[&str]) -> Result<(), String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // What has started this has chosen its toolchain; else the one of the folder is taken.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--quiet"]);
    for package in packages {
        build.args(["-p", package]);
    }
    run(build.current_dir(workspace))
}

/// The folder of the peers' sources.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load/peers")
}

fn this() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| error.to_string())
}

fn before() -> Result<PathBuf, String> {
    let path = std::env::var_os("DRIVERS_BEFORE").map(PathBuf::from);
    path.ok_or_else(|| "DRIVERS_BEFORE names no program".to_owned())
}

fn centrifuge() -> Result<PathBuf, String> {
    Ok(this()?.with_file_name("load-peer-centrifuge"))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ended with {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
