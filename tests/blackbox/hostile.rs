//! Whatever bytes arrive, no process stops and no other client notices.

mod payloads;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use proto::message::v1::Visibility;
use serde_json::json;
use tests::account::{self, User};
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::{Eio, Polling, Ws};
use tests::http;
use tests::server::{Options, Server};
use tests::trial::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

cases! {
    Alone:
        bytes_that_are_no_http,
        requests_that_no_client_makes,
        polling_bodies_that_are_no_payloads,
        packets_on_a_websocket,
        packets_on_polling,
        frames_that_are_no_websocket,
        events_of_a_signed_in_user;
}

/// How many attackers are at it at a time.
const AT_ONCE: usize = 8;
/// How long an attacker waits for what the server says to him.
const LISTEN: Duration = Duration::from_millis(60);

/// Runs attacks while two clients of both generations talk to each other, who
/// must notice nothing, and a server that must neither grow nor lose a socket.
async fn unnoticed<F: Future<Output = ()>>(count: usize, attack: impl Fn(usize, Target) -> F) {
    let server = Server::start(Options::default()).await;
    let (one, two) = (
        account::sign_up(&server).await,
        account::sign_up(&server).await,
    );
    let attacker = account::sign_up(&server).await;
    let members = [one.id, two.id];
    let topic = Api::of(&server).topic(Visibility::Private, &members).await;
    let mut pair = Vec::new();
    for (user, eio) in [(&one, Eio::V3), (&two, Eio::V4)] {
        let mut client = Client::connect(Kind::Raw(eio), Transport::Websocket, &server).await;
        client.sign_in(user).await;
        pair.push(client);
    }
    let memory = server.memory();
    let done = std::cell::Cell::new(false);
    let target = Target {
        at: server.at.public,
        user: attacker,
    };
    let attacks = async {
        futures::stream::iter(0..count)
            .for_each_concurrent(AT_ONCE, |number| attack(number, target.clone()))
            .await;
        done.set(true);
    };
    let talk = async {
        let mut latencies = Vec::new();
        while !done.get() || latencies.len() < 20 {
            let writer = latencies.len() % 2;
            let body = format!("calm {}", latencies.len());
            let emitted = Instant::now();
            pair[writer].emit("message_events", &json!({"topic_id": topic, "body": body}));
            for client in &mut pair {
                // A signed-in attacker may post to topic 1, as anybody may: that is no attack on them.
                while !client.next().await.args[0].get().contains(&body) {}
            }
            latencies.push(emitted.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        latencies.sort_unstable();
        latencies
    };
    let (latencies, ()) = futures::future::join(talk, attacks).await;
    let (middle, worst) = (
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1],
    );
    println!(
        "{count} attacks, {} messages of bystanders: median {middle:?}, worst {worst:?}",
        latencies.len()
    );
    assert!(
        worst < Duration::from_secs(2),
        "a bystander waited {worst:?}"
    );
    for client in &mut pair {
        assert!(client.is_open(), "a bystander lost its connection");
    }
    assert!(server.is_running());
    let grown = server.memory().saturating_sub(memory) >> 20;
    assert!(grown < 128, "memory grew by {grown} MiB");
}

/// What an attacker knows of the server.
#[derive(Clone)]
struct Target {
    at: std::net::SocketAddr,
    user: User,
}

/// Writes while it reads, or both sides would wait for each other, and listens
/// a little longer.
async fn push(tcp: &mut TcpStream, bytes: &[u8]) {
    let (mut reader, mut writer) = tcp.split();
    let mut buffer = [0; 4096];
    let listening = async { while let Ok(1..) = reader.read(&mut buffer).await {} };
    let writing = async {
        let _ = tokio::time::timeout(tests::PATIENCE, writer.write_all(bytes)).await;
        tokio::time::sleep(LISTEN).await;
    };
    futures::future::select(std::pin::pin!(listening), std::pin::pin!(writing)).await;
}

async fn bytes_that_are_no_http(_: World) {
    let all = payloads::tcp();
    unnoticed(all.len(), async |number, target: Target| {
        let mut tcp = TcpStream::connect(target.at).await.unwrap();
        push(&mut tcp, &all[number]).await;
    })
    .await;
}

async fn requests_that_no_client_makes(_: World) {
    let all = payloads::requests();
    unnoticed(all.len(), async |number, target: Target| {
        let (method, path, content_type, body) = &all[number];
        let headers = [("content-type", content_type.as_str())];
        let asked = http::request(target.at, method, path, &headers, body.clone());
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), asked).await {
            assert_ne!(
                answer.status,
                500,
                "{method} {path} {content_type} {body:?}: {}",
                answer.text()
            );
        }
    })
    .await;
}

async fn polling_bodies_that_are_no_payloads(_: World) {
    let all = payloads::bodies();
    unnoticed(all.len() * 2, async |number, target: Target| {
        let eio = Eio::BOTH[number % 2];
        let session = Polling::connect(target.at, eio).await.unwrap();
        if let Ok(answer) = session
            .post_body(Bytes::from(all[number / 2].clone()))
            .await
        {
            assert_ne!(
                answer.status,
                500,
                "{:?}",
                String::from_utf8_lossy(&all[number / 2])
            );
        }
        let _ = tokio::time::timeout(LISTEN, session.poll()).await;
        let _ = session.post("1").await;
    })
    .await;
}

async fn packets_on_a_websocket(_: World) {
    let all = payloads::packets();
    unnoticed(all.len() * 2, async |number, target: Target| {
        let mut ws = Ws::connect(target.at, Eio::BOTH[number % 2]).await.unwrap();
        let _ = ws.send(&all[number / 2]).await;
        let _ = ws.packet_within(LISTEN).await;
        // Binary frames with the same content are no better.
        let mut ws = Ws::connect(target.at, Eio::BOTH[number % 2]).await.unwrap();
        let _ = ws
            .send_message(Message::binary(all[number / 2].clone().into_bytes()))
            .await;
        let _ = ws.packet_within(LISTEN).await;
    })
    .await;
}

async fn packets_on_polling(_: World) {
    let all = payloads::packets();
    unnoticed(all.len() * 2, async |number, target: Target| {
        let session = Polling::connect(target.at, Eio::BOTH[number % 2])
            .await
            .unwrap();
        if let Ok(answer) = session.post(&all[number / 2]).await {
            assert_ne!(answer.status, 500, "{}", all[number / 2]);
        }
        let _ = tokio::time::timeout(LISTEN, session.poll()).await;
        let _ = session.post("1").await;
    })
    .await;
}

async fn frames_that_are_no_websocket(_: World) {
    let all = payloads::frames();
    unnoticed(all.len() * 2, async |number, target: Target| {
        let ws = Ws::connect(target.at, Eio::BOTH[number % 2]).await.unwrap();
        let mut tcp = ws.into_tcp();
        push(&mut tcp, &all[number / 2]).await;
    })
    .await;
}

async fn events_of_a_signed_in_user(_: World) {
    let all = payloads::events();
    unnoticed(all.len() * 2, async |number, target: Target| {
        let mut ws = Ws::connect(target.at, Eio::BOTH[number % 2]).await.unwrap();
        ws.send(&format!(
            r#"42["signin_request",{{"token":"{}"}}]"#,
            target.user.token
        ))
        .await
        .unwrap();
        // The bystanders' messages may come first: he is a listener before he is told so.
        let mut answer = String::new();
        while !answer.contains("signin_response") {
            answer = ws.packet().await.unwrap();
        }
        assert!(answer.contains("ok"), "{answer}");
        let _ = ws.send(&all[number / 2]).await;
        let _ = ws.packet_within(LISTEN).await;
        // A signed-in user who was let stay is still served.
        let probe = r#"42["typing_event",{}]"#;
        if ws.send(probe).await.is_ok() {
            loop {
                let packet = ws.packet_within(tests::PATIENCE).await;
                match packet.unwrap_or_else(|error| panic!("{error} behind {}", all[number / 2])) {
                    Some(packet) if !packet.contains("staus") => {}
                    _ => break,
                }
            }
        }
    })
    .await;
}
