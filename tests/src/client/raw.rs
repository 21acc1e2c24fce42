//! A client made by hand, which keeps to the protocol and shows what came byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{Command, Report, Transport};
use crate::PATIENCE;
use crate::engine::{Eio, Polling, Ws};

pub(super) struct Connection {
    commands: UnboundedSender<Command>,
}

impl Connection {
    pub(super) fn open(
        eio: Eio,
        transport: Transport,
        address: SocketAddr,
        reports: UnboundedSender<Report>,
    ) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let outcome = match transport {
                Transport::Websocket => websocket(eio, address, receiver, &reports).await,
                Transport::Polling => polling(eio, address, receiver, &reports, false).await,
                Transport::Upgrade => polling(eio, address, receiver, &reports, true).await,
            };
            let _ = reports.send(match outcome {
                Ok(reason) => Report::Disconnected { reason },
                Err(message) => Report::Error { message },
            });
        });
        Self { commands }
    }

    pub(super) fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// The engine packet for a command.
fn packet(command: Command) -> String {
    match command {
        Command::Emit { event, args, ack } => {
            let event = serde_json::json!(event);
            let ack = ack.map_or_else(String::new, |ack| ack.to_string());
            let args: String = args.iter().map(|arg| format!(",{arg}")).collect();
            format!("42{ack}[{event}{args}]")
        }
        Command::Disconnect => "41".to_owned(),
    }
}

/// Reports what a packet says; the reason of the end where it is one.
fn take(packet: &str, reports: &UnboundedSender<Report>) -> Result<Option<String>, String> {
    let wrong = || format!("not understood: {packet:?}");
    let (kind, rest) = packet.split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "1" => return Ok(Some("transport close".to_owned())),
        "3" | "6" => return Ok(None),
        "4" => {}
        _ => return Err(wrong()),
    }
    let (kind, rest) = rest.split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "1" => Ok(Some("io server disconnect".to_owned())),
        "2" | "3" => {
            let start = rest.find('[').ok_or_else(wrong)?;
            let ack = &rest[..start];
            let mut args: Vec<Box<RawValue>> =
                serde_json::from_str(&rest[start..]).map_err(|_| wrong())?;
            let report = if kind == "2" {
                let name = serde_json::from_str(args.remove(0).get()).map_err(|_| wrong())?;
                Report::Event { name, args }
            } else {
                let ack = ack.parse().map_err(|_| wrong())?;
                Report::Ack { ack, args }
            };
            let _ = reports.send(report);
            Ok(None)
        }
        _ => Err(wrong()),
    }
}

/// Pings of Engine.IO 3 come from the client.
fn pings(eio: Eio, every: Duration) -> tokio::time::Interval {
    let every = if eio == Eio::V3 {
        every
    } else {
        Duration::from_secs(1_000_000)
    };
    tokio::time::interval_at(tokio::time::Instant::now() + every, every)
}

async fn websocket(
    eio: Eio,
    address: SocketAddr,
    commands: UnboundedReceiver<Command>,
    reports: &UnboundedSender<Report>,
) -> Result<String, String> {
    let ws = Ws::connect(address, eio).await?;
    let _ = reports.send(Report::Connected);
    run_websocket(ws, commands, reports, Duration::from_secs(20)).await
}

async fn run_websocket(
    mut ws: Ws,
    mut commands: UnboundedReceiver<Command>,
    reports: &UnboundedSender<Report>,
    ping_interval: Duration,
) -> Result<String, String> {
    const LONG: Duration = Duration::from_secs(3600);
    let mut pings = pings(ws.eio, ping_interval);
    loop {
        tokio::select! {
            packet = ws.packet_within(LONG) => match packet? {
                None => return Ok("transport close".to_owned()),
                Some(packet) => if let Some(end) = take(&packet, reports)? {
                    return Ok(end);
                },
            },
            command = commands.recv() => match command {
                None => return Ok("io client disconnect".to_owned()),
                Some(command) => {
                    let last = matches!(command, Command::Disconnect);
                    if ws.send(&packet(command)).await.is_err() {
                        return Ok("transport close".to_owned());
                    }
                    if last {
                        return Ok("io client disconnect".to_owned());
                    }
                }
            },
            _ = pings.tick() => if ws.send("2").await.is_err() {
                return Ok("transport close".to_owned());
            },
        }
    }
}

async fn polling(
    eio: Eio,
    address: SocketAddr,
    mut commands: UnboundedReceiver<Command>,
    reports: &UnboundedSender<Report>,
    upgrade: bool,
) -> Result<String, String> {
    let session = Polling::connect(address, eio).await?;
    let _ = reports.send(Report::Connected);
    for packet in &session.first {
        if let Some(end) = take(packet, reports)? {
            return Ok(end);
        }
    }
    // Polls go on beside the posts; the task ends with its receiver.
    let (sender, mut packets) = mpsc::channel(1);
    let poller = session.clone();
    let polls = tokio::spawn(async move {
        loop {
            let answer = poller.packets().await;
            let last = answer.is_err();
            if sender.send(answer).await.is_err() || last {
                return;
            }
        }
    });
    if upgrade {
        let mut ws = Ws::open(address, eio, Some(&session.sid)).await?;
        ws.send("2probe").await?;
        let probed = ws.packet_within(PATIENCE).await?;
        if probed.as_deref() != Some("3probe") {
            return Err(format!("the upgrade was not confirmed: {probed:?}"));
        }
        // The open poll is answered with a noop before the old transport is left.
        loop {
            let answer = packets.recv().await.ok_or("the polls ended")??;
            let mut paused = false;
            for packet in &answer {
                paused |= packet == "6";
                if let Some(end) = take(packet, reports)? {
                    return Ok(end);
                }
            }
            if paused {
                break;
            }
        }
        polls.abort();
        ws.send("5").await?;
        let _ = reports.send(Report::Upgraded);
        return run_websocket(ws, commands, reports, session.ping_interval).await;
    }
    let mut pings = pings(eio, session.ping_interval);
    let outcome = loop {
        tokio::select! {
            answer = packets.recv() => match answer {
                None | Some(Err(_)) => break Ok("transport error".to_owned()),
                Some(Ok(answer)) => {
                    let mut end = None;
                    for packet in &answer {
                        if end.is_none() {
                            end = take(packet, reports)?;
                        }
                    }
                    if let Some(end) = end {
                        break Ok(end);
                    }
                }
            },
            command = commands.recv() => {
                // What is there already goes along in one body, as official clients do it.
                let Some(command) = command else { break Ok("io client disconnect".to_owned()) };
                let mut last = matches!(command, Command::Disconnect);
                let mut body = vec![packet(command)];
                let mut size = body[0].len();
                while !last && size < 100_000 && let Ok(command) = commands.try_recv() {
                    last = matches!(command, Command::Disconnect);
                    body.push(packet(command));
                    size += body.last().map_or(0, String::len);
                }
                let body: Vec<&str> = body.iter().map(String::as_str).collect();
                let answer = session.post_body(eio.encode(&body)).await;
                if last {
                    break Ok("io client disconnect".to_owned());
                }
                // What was refused may be followed by polls with what came before the end;
                // what did not arrive is an end, as it is for official clients.
                if answer.is_err() {
                    break Ok("transport error".to_owned());
                }
            },
            _ = pings.tick() => { let _ = session.post("2").await; },
        }
    };
    polls.abort();
    outcome
}
