//! A real NATS server of one test, to break.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The server that all tests share; nobody breaks it.
///
/// # Panics
/// There is none: a test without its server has failed.
#[must_use]
pub fn shared_nats() -> SocketAddr {
    let Ok(address) = std::env::var("DRIVERS_TEST_NATS") else {
        panic!("DRIVERS_TEST_NATS is not set: `tests/nats/start FOLDER` prints what it is");
    };
    address.parse().unwrap()
}

/// A server in a folder of its own. It ends with this, or with the test process, however
/// that ends.
pub struct Nats {
    folder: TempDir,
    /// Where it listens, also after a restart.
    pub address: SocketAddr,
}

impl Nats {
    /// Starts one and waits until it serves.
    ///
    /// # Panics
    /// It does not.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("drivers-nats-")
            .tempdir()
            .unwrap();
        let address = start(folder.path()).await.parse().unwrap();
        Self { folder, address }
    }

    /// Its process.
    ///
    /// # Panics
    /// It was never started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        pid_in(&self.folder.path().join("pid"))
    }

    /// Ends it with SIGKILL; returns when it is gone.
    pub async fn kill(&self) {
        self.signal("KILL").await;
    }

    /// Stops it: its connections stay open, and nothing is answered.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// Lets it go on.
    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    /// Starts it after a kill; returns when it serves.
    ///
    /// # Panics
    /// It does not.
    pub async fn restart(&self) {
        start(self.folder.path()).await;
    }

    async fn signal(&self, signal: &str) {
        let mut command = script("stop");
        command.arg(self.folder.path()).args([signal, "again"]);
        run(command).await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = script("stop").arg(self.folder.path()).arg("KILL").status();
    }
}

/// The process that a start script has written down.
pub(crate) fn pid_in(file: &Path) -> u32 {
    let text = std::fs::read_to_string(file).unwrap();
    text.trim().parse().unwrap()
}

async fn start(folder: &Path) -> String {
    let mut command = script("start");
    command
        .args(["--with-parent", &std::process::id().to_string()])
        .arg(folder);
    run(command).await.trim().to_owned()
}

fn script(name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats");
    let mut command = Command::new(folder.join(name));
    command.stdin(Stdio::null()).env_remove("NATS_CONFIG");
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
