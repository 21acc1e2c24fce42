//! How sockets end: cut off, drained, reset, and nothing of them is left.

use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    client::{Polling, Ws, http, version},
    rig::{LIMIT, Rig, eventually, token},
};
use crate::{
    config::Config,
    frame::{Frame, Generation},
    outbox::EndReason,
};

fn revoke_all(rig: &Rig) {
    for listener in rig.echo.listeners.lock().unwrap().iter() {
        listener.outbox.end(EndReason::Revoked);
    }
}

#[tokio::test]
async fn a_client_that_ignores_the_disconnect_is_cut_off_and_heard_no_more() {
    let rig = Rig::new().await;
    let mut bystander = Ws::signed_in(&rig, Generation::Eio4, 9).await;
    let handle = rig.echo.listeners.lock().unwrap()[0].clone();
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for listener in rig.echo.listeners.lock().unwrap().iter() {
        if listener.session_id != handle.session_id {
            listener.outbox.end(EndReason::Revoked);
        }
    }
    ws.emit("message_events", json!({"topic_id": 1, "body": "too late"}))
        .await;
    let begun = Instant::now();
    assert_eq!(ws.rest().await.first().unwrap(), "41");
    assert!(begun.elapsed() < Duration::from_secs(5));
    rig.wait_for_sockets(1).await;
    bystander
        .emit("message_events", json!({"topic_id": 1, "body": "first"}))
        .await;
    assert_eq!(bystander.event("message_events").await["data"]["id"], 1);
}

#[tokio::test]
async fn an_ended_polling_session_is_unknown() {
    let rig = Rig::new().await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        let polling = Polling::signed_in(&rig, generation, 1).await;
        revoke_all(&rig);
        let answer = polling.post(polling.encode(&["2"]).as_bytes()).await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (400, json!(1))
        );
        assert_eq!(polling.packets().await, ["41"]);
        rig.wait_for_sockets(0).await;
        let answer = polling.poll().await;
        assert_eq!(
            (answer.status, answer.json()),
            (400, json!({"code": 1, "message": "Session ID unknown"}))
        );
    }
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off_while_the_others_keep_their_pace() {
    let rig = Rig::with(Config {
        stall_timeout: Duration::from_secs(1),
        ..Config::default()
    })
    .await;
    let stalled = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let polling = Polling::signed_in(&rig, Generation::Eio4, 2).await;
    let mut others = Vec::new();
    for user in 3..8 {
        others.push(Ws::signed_in(&rig, Generation::Eio3, user).await);
    }
    // More than the kernel's buffers take.
    let frame = Frame::event("message_events", &"x".repeat(10_000));
    let mut longest = Duration::ZERO;
    while rig.sockets.peers().len() > others.len() {
        let sent = Instant::now();
        rig.echo.broadcast(&frame);
        for other in &mut others {
            other.event("message_events").await;
        }
        longest = longest.max(sent.elapsed());
    }
    assert!(
        longest < Duration::from_secs(2),
        "the others waited {longest:?}"
    );
    drop((stalled, polling));
}

#[tokio::test]
async fn connect_and_reset_leaves_no_session_behind() {
    let rig = Rig::new().await;
    for round in 0..300 {
        let generation = [Generation::Eio3, Generation::Eio4][round % 2];
        let stream = TcpStream::connect(rig.address).await.unwrap();
        let mut stream = stream;
        let request = format!(
            "GET /socket.io/?EIO={}&transport=websocket HTTP/1.1\r\nhost: x\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            version(generation)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    // Some were reset before they were served at all; one more shows that all were.
    let last = Ws::signed_in(&rig, Generation::Eio3, 1).await;
    rig.wait_for_sockets(1).await;
    drop(last);
    rig.wait_for_sockets(0).await;
}

#[tokio::test]
async fn a_slow_head_and_a_slow_handshake_hold_up_nobody() {
    let rig = Rig::new().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(b"GET /socket.io/?EIO=4").await.unwrap();
        slow.push(stream);
    }
    Ws::signed_in(&rig, Generation::Eio4, 1).await;
}

#[tokio::test]
async fn a_full_gateway_refuses_and_recovers() {
    let rig = Rig::with(Config {
        max_sockets: 1,
        ..Config::default()
    })
    .await;
    let ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let target = "/socket.io/?EIO=4&transport=polling";
    assert_eq!(http(rig.address, "GET", target, "", b"").await.status, 503);
    drop(ws);
    rig.wait_for_sockets(0).await;
    assert_eq!(http(rig.address, "GET", target, "", b"").await.status, 200);
}

#[tokio::test]
async fn a_drain_answers_what_was_emitted_and_ends_everybody() {
    let rig = Rig::with(Config {
        drain_window: Duration::from_secs(2),
        ..Config::default()
    })
    .await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let idle = Ws::connect(&rig, Generation::Eio3).await;
    let polling = Polling::signed_in(&rig, Generation::Eio4, 2).await;
    ws.emit("message_events", json!({"topic_id": 1, "body": "last"}))
        .await;
    assert_eq!(ws.event("message_events").await["data"]["body"], "last");
    rig.shutdown.cancel();
    assert_eq!(ws.rest().await.first().unwrap(), "41");
    timeout(LIMIT, rig.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(rig.address).await.is_err());
    assert_eq!(rig.sockets.peers().len(), 0);
    drop((idle, polling));
}

#[tokio::test]
async fn a_drain_waits_for_those_only_who_wait_for_an_answer() {
    let rig = Rig::new().await;
    let mut waits = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let mut idle = Ws::signed_in(&rig, Generation::Eio4, 2).await;
    waits
        .emit("message_events", json!({"topic_id": 1, "body": "later"}))
        .await;
    eventually("the emitted message", || rig.echo.is_asked_later()).await;
    rig.shutdown.cancel();
    assert_eq!(idle.rest().await.first().unwrap(), "41");
    assert_eq!(rig.echo.answer_later(), 1);
    assert_eq!(waits.event("message_events").await["data"]["body"], "later");
    assert_eq!(waits.rest().await.first().unwrap(), "41");
    timeout(LIMIT, rig.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_same_works_over_tls() {
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, ServerName},
    };
    let key = rcgen::generate_simple_self_signed(["chat.drivers.uz".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let rig = Rig::with_tls(
        Config::default(),
        Some(chassis::tls::Reloaded::fixed(server)),
    )
    .await;
    // Plain HTTP is no handshake; it harms nobody.
    let mut plain = TcpStream::connect(rig.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client))
        .connect(ServerName::try_from("chat.drivers.uz").unwrap(), stream)
        .await
        .unwrap();
    let url = "ws://chat.drivers.uz/socket.io/?EIO=4&transport=websocket";
    let (mut ws, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let sign_in = json!(["signin_request", {"token": token(1)}]);
    ws.send(Message::text("40")).await.unwrap();
    ws.send(Message::text(format!("42{sign_in}")))
        .await
        .unwrap();
    loop {
        let message = timeout(LIMIT, ws.next()).await.unwrap().unwrap().unwrap();
        if message.to_string().contains("\"status\":\"ok\"") {
            break;
        }
    }
    eventually("the listener", || {
        rig.echo.listeners.lock().unwrap().len() == 1
    })
    .await;
}
