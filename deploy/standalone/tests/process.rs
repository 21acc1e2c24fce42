//! The process as its operator starts and ends it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `drivers` on a folder of its own, with ports that the system picks.
fn drivers(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drivers"));
    for flag in ["--listen", "--grpc-listen", "--admin-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Ends it when the test fails.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// What is left of its output, and how it ended.
    fn ended(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut rest).unwrap();
        }
        (rest, self.0.wait().unwrap().code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused(mut command: Command, code: i32, words: &[&str]) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|it| it.starts_with("drivers: "))
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    for word in words {
        assert!(lines[0].contains(word), "{stderr}");
    }
}

#[test]
fn what_is_in_the_way_is_one_sentence_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_drivers"));
    command
        .args(["--listen", &address])
        .current_dir(folder.path());
    refused(command, 1, &[&address, "in use", "`listen`"]);
    assert!(!folder.path().join("data").exists(), "a folder was made");

    let mut command = drivers(folder.path());
    command.env("DRIVERS_TLS__CERTIFICATE", "none.pem");
    command.env("DRIVERS_TLS__KEY", "none.key");
    refused(command, 1, &["none.pem", "can't be read"]);

    let mut command = drivers(folder.path());
    command.args(["--seed-file", "none.toml"]);
    refused(command, 1, &["none.toml", "can't be read"]);

    let mut command = drivers(folder.path());
    command.args(["--data", "/proc/here"]);
    refused(command, 1, &["/proc/here"]);
}

#[test]
fn a_wrong_configuration_is_one_sentence_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("wrong.toml"),
        "log = \"text\"\ncolour = 1\n",
    )
    .unwrap();
    let mut command = drivers(folder.path());
    command.args(["--config", "wrong.toml"]);
    refused(command, 2, &["`colour`", "wrong.toml line 2"]);

    let mut command = drivers(folder.path());
    command.env("DRIVERS_LOG_FILTER", "chassis=loud");
    refused(command, 2, &["log filter"]);
}

#[test]
fn a_person_is_told_what_listens_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(drivers(folder.path()));
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut banner = String::new();
    while !banner.contains("curl") {
        assert_ne!(stdout.read_line(&mut banner).unwrap(), 0, "{banner}");
    }
    // The line to try works as it is printed.
    let url = banner.split("curl http://").nth(1).unwrap();
    let (address, body) = url.split_once("/sign_up -d '").unwrap();
    let body = body.split('\'').next().unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "POST /sign_up HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"status\":\"ok\""), "{answer}");
    running.signal(Signal::INT);
    assert_eq!(running.ended().1, Some(0));
}

/// Starts it with JSON logs; returns the line that says where it listens.
fn start_for_machines(folder: &Path) -> (Running, BufReader<std::process::ChildStdout>, Value) {
    let mut command = drivers(folder);
    command.args(["--log", "json"]);
    let mut running = Running::start(command);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended");
        let line: Value = serde_json::from_str(&line).expect(&line);
        if line["message"] == "serving" {
            return (running, stdout, line);
        }
    }
}

#[test]
fn a_machine_reads_json_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, mut stdout, serving) = start_for_machines(folder.path());
    for key in ["listen", "grpc_listen", "admin_listen"] {
        let address: SocketAddr = serving[key].as_str().unwrap().parse().unwrap();
        TcpStream::connect(address).unwrap();
    }
    running.signal(Signal::TERM);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    for line in rest.lines() {
        serde_json::from_str::<Value>(line).expect(line);
    }
    let mut stderr = String::new();
    let errors = running.0.stderr.take();
    errors.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
    assert_eq!(running.ended().1, Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (running, mut stdout, serving) = start_for_machines(folder.path());
    // A request that is not over keeps the end waiting.
    let mut slow = TcpStream::connect(serving["listen"].as_str().unwrap()).unwrap();
    slow.write_all(b"POST /sign_up HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        .unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // It is at work on it once it answers somebody who came later.
    let mut later = TcpStream::connect(serving["listen"].as_str().unwrap()).unwrap();
    later
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    later.read_to_end(&mut Vec::new()).unwrap();
    running.signal(Signal::TERM);
    loop {
        let mut line = String::new();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended");
        if line.contains("\"ending\"") {
            break;
        }
    }
    running.signal(Signal::INT);
    assert_eq!(running.ended().1, Some(130));
}
