//! The mesh that the README starts on one machine with one command, and stops with another.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::{Failed, Trial as Case};
use proto::message::v1::Visibility;
use tests::account::{User, sign_up_at};
use tests::api::Api;
use tests::authority::Certificate;
use tests::history::Message;

use crate::crowd::{Heard, Person, connect, message, understand};
use crate::in_runtime;

/// How many ports the mesh has, and from where on they are looked for.
const PORTS: u16 = 30;
const FIRST_PORT: u16 = 8_200;
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::test(
        "deploy::two_commands_start_a_mesh_and_stop_it",
        || in_runtime(start_talk_and_stop()),
    )]
}

async fn start_talk_and_stop() -> Result<(), Failed> {
    let mesh = Mesh::new();
    mesh.run("start", &[])?;
    let api = mesh.api();
    let [one, other] = [sign_up_at(mesh.at(0)).await, sign_up_at(mesh.at(10)).await];
    let topic = api.topic(Visibility::Private, &[one.id, other.id]).await;
    mesh.talk(topic, &one, &other, "before").await?;

    mesh.run("stop", &["KILL", "gateway-1"])?;
    if mesh.run("stop", &["0", "gateway-1"]).is_ok() {
        return Err("gateway-1 outlived kill -9".into());
    }
    mesh.run("start", &[])?;
    mesh.talk(topic, &other, &one, "after").await?;

    // Two of each program, the broker, and the database.
    let running = mesh.processes();
    if running.len() != 10 {
        return Err(format!("not ten processes are running: {running:?}").into());
    }
    mesh.run("stop", &[])?;
    match mesh.processes() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left behind: {left:?}").into()),
    }
}

/// A mesh in a folder; it ends with this.
struct Mesh {
    folder: tempfile::TempDir,
    first: u16,
}

impl Mesh {
    fn new() -> Self {
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let first = (FIRST_PORT..)
            .step_by(usize::from(PORTS))
            .find(|first| (*first..first + PORTS).all(is_free));
        Self {
            folder: tempfile::tempdir().unwrap(),
            first: first.unwrap(),
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + port).into()
    }

    /// Runs one of the two commands.
    fn run(&self, command: &str, arguments: &[&str]) -> Result<Output, Failed> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let ran = Command::new(root.join("deploy/mesh").join(command))
            .arg(self.folder.path())
            .args(arguments)
            .env("PROFILE", "debug")
            .env("PORT", self.first.to_string())
            .output()?;
        if ran.status.success() {
            return Ok(ran);
        }
        let said = String::from_utf8_lossy(&ran.stderr);
        Err(format!("{command} {arguments:?} failed: {said}").into())
    }

    /// The services, as somebody inside calls them.
    fn api(&self) -> Api {
        let certificates = self.folder.path().join("certificates");
        let own = Certificate::of("internal", &certificates);
        Api::by_certificate([22, 26, 30].map(|port| self.at(port)), &own)
    }

    /// One says something at the first gateway, the other hears it at the second.
    async fn talk(&self, topic: i64, one: &User, other: &User, stamp: &str) -> Result<(), Failed> {
        let person = |user: &User| Person {
            id: user.id,
            token: user.token.clone(),
            topic,
            place: 0,
        };
        let mut speaks = connect(self.at(0), &person(one)).await?;
        let mut hears = connect(self.at(10), &person(other)).await?;
        for socket in [&mut speaks, &mut hears] {
            let packet = socket.packet_within(ANSWER).await?.ok_or("no answer")?;
            if !matches!(understand(&packet)?, Heard::SignedIn) {
                return Err(packet.into());
            }
        }
        speaks.send(&message(topic, stamp)).await?;
        let mut seen: Vec<Message> = Vec::new();
        for socket in [&mut speaks, &mut hears] {
            let packet = socket
                .packet_within(ANSWER)
                .await?
                .ok_or("nothing is heard")?;
            match understand(&packet)? {
                Heard::Sent(message) => seen.push(*message),
                _ => return Err(packet.into()),
            }
        }
        if seen[0] != seen[1] || seen[0].stamp != stamp {
            return Err(format!("{seen:?}").into());
        }
        Ok(())
    }

    /// What runs on its folder, by the first words of the commands.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap();
        let processes = processes.filter_map(|process| {
            let read = |file| std::fs::read(process.as_ref().ok()?.path().join(file)).ok();
            let (command, environment) = (read("cmdline")?, read("environ")?);
            let [command, environment] = [command, environment]
                .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
            let is_ours = command.contains(folder) || environment.contains(folder);
            is_ours.then(|| command.chars().take(80).collect())
        });
        processes.collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ended = self.run("stop", &["KILL"]);
    }
}
