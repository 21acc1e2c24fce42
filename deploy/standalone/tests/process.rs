//! The process as its operator starts and ends it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use chassis::program::testing::{Program, Running};
use rustix::process::Signal;
use serde_json::Value;

const PROGRAM: Program = Program {
    name: "drivers",
    binary: env!("CARGO_BIN_EXE_drivers"),
};

/// `drivers` on a folder of its own, with ports that the system picks.
fn drivers(folder: &Path) -> Command {
    let mut command = PROGRAM.command(folder);
    command.args(["--listen", "127.0.0.1:0"]);
    command
}

#[test]
fn what_is_in_the_way_is_one_sentence_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = PROGRAM.command(folder.path());
    command.args(["--listen", &address]);
    PROGRAM.refuses(command, 1, &[&address, "in use", "`listen`"]);
    assert!(!folder.path().join("data").exists(), "a folder was made");

    let mut command = drivers(folder.path());
    command.env("DRIVERS_TLS__CERTIFICATE", "none.pem");
    command.env("DRIVERS_TLS__KEY", "none.key");
    PROGRAM.refuses(command, 1, &["none.pem", "can't be read"]);

    let mut command = drivers(folder.path());
    command.args(["--seed-file", "none.toml"]);
    PROGRAM.refuses(command, 1, &["none.toml", "can't be read"]);

    let mut command = drivers(folder.path());
    command.args(["--data", "/proc/here"]);
    PROGRAM.refuses(command, 1, &["/proc/here"]);
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
    PROGRAM.refuses(command, 2, &["`colour`", "wrong.toml line 2"]);

    let mut command = drivers(folder.path());
    command.env("DRIVERS_LOG_FILTER", "chassis=loud");
    PROGRAM.refuses(command, 2, &["log filter"]);
}

#[test]
fn a_wrong_store_is_refused_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    for store in ["scylla://u:hunter2@db", "postgres://u:hunter2@db/k"] {
        let mut command = drivers(folder.path());
        command.args(["--store", store]);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("`store`"), "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn while_its_database_is_away_it_waits_and_can_be_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = drivers(folder.path());
    // Nobody listens there.
    let store = "scylla://u:hunter2@127.0.0.1:1/drivers";
    command.args(["--log", "json", "--store", store]);
    let mut running = PROGRAM.start(command);
    running.logged("the database is away; it is tried until it is there");
    running.signal(Signal::TERM);
    let (rest, errors, code) = running.ended();
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    assert!(!rest.contains("hunter2"), "{rest}");
}

#[test]
fn a_file_store_names_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = drivers(folder.path());
    command.args(["--log", "json", "--store", "file:elsewhere"]);
    let mut running = PROGRAM.start(command);
    running.logged("serving");
    assert!(folder.path().join("elsewhere/secret").exists());
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_person_is_told_what_listens_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = PROGRAM.start(drivers(folder.path()));
    let mut banner = String::new();
    while !banner.contains("curl") {
        assert_ne!(
            running.stdout.read_line(&mut banner).unwrap(),
            0,
            "{banner}"
        );
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
    assert_eq!(running.ended().2, Some(0));
}

/// Starts it with JSON logs; returns the line that says where it listens.
fn start_for_machines(folder: &Path) -> (Running, Value) {
    let mut command = drivers(folder);
    command.args(["--log", "json"]);
    let mut running = PROGRAM.start(command);
    let serving = running.logged("serving");
    (running, serving)
}

#[test]
fn a_machine_reads_json_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (running, serving) = start_for_machines(folder.path());
    for key in ["listen", "grpc_listen", "admin_listen"] {
        let address: SocketAddr = serving[key].as_str().unwrap().parse().unwrap();
        TcpStream::connect(address).unwrap();
    }
    running.signal(Signal::TERM);
    let (rest, errors, code) = running.ended();
    for line in rest.lines() {
        serde_json::from_str::<Value>(line).expect(line);
    }
    assert_eq!((errors.as_str(), code), ("", Some(0)));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, serving) = start_for_machines(folder.path());
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
    running.logged("ending");
    running.signal(Signal::INT);
    assert_eq!(running.ended().2, Some(130));
}
