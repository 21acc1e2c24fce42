//! One program of a mesh: started, broken and started again on the same ports.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::processors::in_own_session;
use crate::server::{assert_no_panic, free_port, resident, says_ready, watcher};

/// An address on this machine that nobody uses.
#[must_use]
pub fn free_address() -> SocketAddr {
    free_port()
}

/// The folder in which the programs are that were built with this one, which is there
/// itself or, as a test, in `deps`.
pub(crate) fn built() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().unwrap();
    match folder.ends_with("deps") {
        true => folder.parent().unwrap().to_owned(),
        false => folder.to_owned(),
    }
}

/// The program of this name: in the folder that `DRIVERS_TRIAL_BIN` names, or built
/// beside the tests.
///
/// # Panics
/// It was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("DRIVERS_TRIAL_BIN").map_or_else(built, PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// A program and how it is started. It ends with this, or with the test process.
pub struct Part {
    /// What it is called here, for example `message 1`.
    pub name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    folder: PathBuf,
    admin: SocketAddr,
    child: Mutex<Option<Child>>,
    starts: AtomicU32,
}

impl Part {
    /// A program that is not started yet. It works in this folder, logs into it, and says
    /// at this port whether it is ready.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        program: PathBuf,
        folder: &Path,
        admin: SocketAddr,
    ) -> Self {
        let name = name.into();
        let folder = folder.join(name.replace(' ', "-"));
        fs::create_dir_all(&folder).unwrap();
        Self {
            name,
            program,
            args: Vec::new(),
            env: Vec::new(),
            folder,
            admin,
            child: Mutex::new(None),
            starts: AtomicU32::new(0),
        }
    }

    /// Gives it an argument.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl ToString) -> Self {
        self.args.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Sets an environment variable for it.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// The folder that it works in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it.
    ///
    /// # Panics
    /// It runs, or can't be started.
    pub fn start(&self) {
        let mut child = self.child();
        assert!(child.is_none(), "{} runs", self.name);
        let start = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        let output = fs::File::create(self.log_of(start)).unwrap();
        let started = self
            .command()
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        watcher::started(started.id(), &self.folder);
        *child = Some(started);
    }

    /// Runs it with one argument more until it ends by itself.
    ///
    /// # Panics
    /// It does not end well.
    pub async fn run(&self, command: &str) {
        let mut command_line = self.command();
        command_line.arg(command);
        let ended = tokio::task::spawn_blocking(move || command_line.output());
        let output = ended.await.unwrap().unwrap();
        assert!(
            output.status.success(),
            "{} {command}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self) -> Command {
        let mut command = in_own_session(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DRIVERS_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// It has ended, or is not ready in time.
    pub async fn ready_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let admin = self.admin;
            let ready = tokio::task::spawn_blocking(move || says_ready(admin));
            if ready.await.unwrap() {
                return;
            }
            if let Some(child) = self.child().as_mut()
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            assert!(
                Instant::now() < deadline,
                "{} is not ready after {limit:?}:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it at once, as a power cut of the process; returns when it is gone.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = (child.kill(), child.wait());
            watcher::ended(child.id());
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = self.child().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Ends it as an operator does.
    ///
    /// # Panics
    /// It does not end in time, or not well.
    pub async fn end_within(&self, limit: Duration) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child().as_mut().unwrap().try_wait().unwrap();
            if let Some(status) = ended {
                assert!(
                    status.success(),
                    "{} ended with {status}:\n{}",
                    self.name,
                    self.log_tail()
                );
                self.kill();
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} still runs after {limit:?}:\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines that it wrote, for a person who reads a failure.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log(self.starts.load(Ordering::Relaxed));
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Its process.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("a program that runs").id()
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let child = self.child();
        resident(Pid::from_child(
            child.as_ref().expect("a program that runs"),
        ))
    }

    fn log(&self, start: u32) -> String {
        String::from_utf8_lossy(&fs::read(self.log_of(start)).unwrap_or_default()).into_owned()
    }

    fn log_of(&self, start: u32) -> PathBuf {
        self.folder.join(format!("log-{start}"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            for start in 1..=self.starts.load(Ordering::Relaxed) {
                assert_no_panic(&self.log(start));
            }
        }
    }
}
