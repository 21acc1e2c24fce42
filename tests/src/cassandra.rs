//! Real Apache Cassandra: a server that tests share, and clusters to break.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::nats::pid_in;

/// Names the shared server, `host:port`.
const SHARED: &str = "DRIVERS_TEST_CQL";

/// A name that no other keyspace has.
#[must_use]
pub fn new_keyspace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "t{:x}_{}_{:x}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed),
        rand::random::<u32>()
    )
}

/// The URL of a keyspace in the server that all tests share; nobody breaks it.
///
/// # Panics
/// There is none: a test without its server has failed.
#[must_use]
pub fn shared_url(keyspace: &str) -> String {
    let Ok(address) = std::env::var(SHARED) else {
        panic!(
            "{SHARED} is not set: start a server by `tests/cassandra/start FOLDER` and set it to the address that it prints, or run `tests/run`"
        );
    };
    url(&address, keyspace, 1)
}

fn url(address: &str, keyspace: &str, replicas: u32) -> String {
    let single = if replicas == 1 {
        "&single_replica=accept"
    } else {
        ""
    };
    format!("scylla://{address}/{keyspace}?dc=datacenter1&replication={replicas}{single}")
}

/// A cluster of real processes in a folder of its own, whose nodes are numbered from 1.
/// It ends with this, or with the test process, however that ends.
///
/// Nobody tells a node what it missed while it was away, as after an absence that is
/// longer than hints are kept.
pub struct Cluster {
    folder: TempDir,
    address: String,
    nodes: u32,
    yaml: String,
}

impl Cluster {
    /// Starts one and waits until every node serves.
    ///
    /// # Panics
    /// A node does not.
    pub async fn start(nodes: u32) -> Self {
        Self::start_with(nodes, "").await
    }

    /// The same with more lines of its configuration.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(nodes: u32, yaml: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("drivers-cassandra-")
            .tempdir()
            .unwrap();
        // Nobody tells a node what it missed: see above.
        let yaml = format!("hinted_handoff_enabled: false\n{yaml}");
        let mut cluster = Self {
            folder,
            address: String::new(),
            nodes,
            yaml,
        };
        cluster.address = cluster.start_nodes(None).await;
        cluster
    }

    /// `host:port` of its first node.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a keyspace with a replica on each node.
    #[must_use]
    pub fn url(&self, keyspace: &str) -> String {
        url(&self.address, keyspace, self.nodes)
    }

    /// The process of a node.
    ///
    /// # Panics
    /// It was never started.
    #[must_use]
    pub fn pid(&self, node: u32) -> u32 {
        pid_in(&self.folder.path().join(format!("node{node}/pid")))
    }

    /// Ends a node with SIGKILL, as a power cut of the process; returns when it is gone.
    pub async fn kill(&self, node: u32) {
        self.signal(node, "KILL").await;
    }

    /// Stops a node: its connections stay open, and nothing is answered.
    pub async fn freeze(&self, node: u32) {
        self.signal(node, "STOP").await;
    }

    /// Lets a stopped node go on with what it was doing.
    pub async fn thaw(&self, node: u32) {
        self.signal(node, "CONT").await;
    }

    /// Starts a node that was killed, on its old data; returns when it serves.
    ///
    /// # Panics
    /// It does not.
    pub async fn restart(&self, node: u32) {
        self.start_nodes(Some(node)).await;
    }

    /// Lets every node go on or starts it again, whatever became of it.
    ///
    /// # Panics
    /// One does not serve.
    pub async fn mend(&self) {
        for node in 1..=self.nodes {
            self.thaw(node).await;
        }
        self.start_nodes(None).await;
    }

    /// Starts those that do not run, or one; the address of the first.
    async fn start_nodes(&self, only: Option<u32>) -> String {
        let mut command = script("start");
        command
            .args(["--with-parent", &std::process::id().to_string()])
            .arg(self.folder.path())
            .arg(self.nodes.to_string())
            .args(only.map(|node| node.to_string()))
            .env("CASSANDRA_YAML", &self.yaml);
        run(command).await.trim().to_owned()
    }

    async fn signal(&self, node: u32, signal: &str) {
        let mut command = script("stop");
        command.arg(self.folder.path());
        command.args([&node.to_string(), signal]);
        run(command).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = script("stop")
            .arg(self.folder.path())
            .args(["all", "KILL"])
            .status();
    }
}

fn script(name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cassandra");
    let mut command = Command::new(folder.join(name));
    command.stdin(Stdio::null());
    // What was said to the shared server is not meant for these.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CASSANDRA_") {
            command.env_remove(name);
        }
    }
    command
}

async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
