//! The parts put together: what a phone, an internal service and an operator get from
//! the whole, in process and over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

mod house;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chassis::{
    bus::{self, nats},
    client::Channel,
    cql::testing::fresh_keyspace,
    database::StoreUrl,
    secret_file,
};
use futures::{SinkExt as _, StreamExt as _};
use gateway::{edge::Edge, hub};
use serde_json::{Value, json};
use standalone::config::{Config, InternalGrpc};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use house::{House, LIMIT, http, sign_up};

/// A signed-in phone.
struct Phone(WebSocketStream<TcpStream>);

impl Phone {
    async fn sign_in(at: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        let url = format!("ws://{at}/socket.io/?EIO=4&transport=websocket");
        let connected = timeout(LIMIT, client_async(url, stream)).await.unwrap();
        let mut phone = Self(connected.unwrap().0);
        assert!(phone.next().await.unwrap().starts_with("0{"));
        phone.send("40").await;
        assert!(phone.next().await.unwrap().starts_with("40"));
        phone.emit("signin_request", &json!({"token": token})).await;
        let answer = phone.event("signin_response").await;
        assert_eq!(answer["status"], "ok", "{answer}");
        phone
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn emit(&mut self, name: &str, payload: &Value) {
        self.send(&format!("42{}", json!([name, payload]))).await;
    }

    /// The next packet; `None` once the connection has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            match timeout(LIMIT, self.0.next())
                .await
                .expect("a packet in time")
            {
                Some(Ok(Message::Text(text))) if text == "2" => self.send("3").await,
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn event(&mut self, name: &str) -> Value {
        let packet = self.next().await.expect("an event");
        let event: Value = serde_json::from_str(packet.strip_prefix("42").expect(&packet)).unwrap();
        assert_eq!(event[0], name, "{packet}");
        event[1].clone()
    }
}

async fn two_phones_talk(change: impl Fn(&mut Config)) {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), &change).await.unwrap();
    let mut sender = Phone::sign_in(house.at.phones, &sign_up(house.at.phones, 1).await).await;
    let mut listener = Phone::sign_in(house.at.phones, &sign_up(house.at.phones, 2).await).await;
    let message = json!({"topic_id": 1, "body": "salom", "stamp_id": "first"});
    sender.emit("message_events", &message).await;
    let sent = sender.event("message_events").await;
    assert_eq!(sent["event_type"], "sent", "{sent}");
    assert_eq!(sent["data"]["seq"], 1, "{sent}");
    assert_eq!(listener.event("message_events").await, sent);
    house.close().await;
    assert!(sender.next().await.is_none_or(|packet| packet == "41"));

    // What was acknowledged is there when the store is opened again, under the same id.
    let house = House::open(data.path(), &change).await.unwrap();
    let again = sign_up(house.at.phones, 3).await;
    let mut other = Phone::sign_in(house.at.phones, &again).await;
    let reply = json!({"topic_id": 1, "body": "alik", "reply_to": sent["data"]["id"]});
    other.emit("message_events", &reply).await;
    let replied = other.event("message_events").await;
    assert_eq!(replied["data"]["reply_to"], sent["data"]["id"], "{replied}");
    assert_eq!(replied["data"]["seq"], 2, "{replied}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_in_process() {
    two_phones_talk(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_over_sockets() {
    two_phones_talk(|config| config.internal_grpc = InternalGrpc::Sockets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_on_scylla() {
    let (_, keyspace) = fresh_keyspace(&[]).await;
    let store = StoreUrl::Scylla(Box::new(keyspace.url.clone()));
    two_phones_talk(|config| config.store = Some(store.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_talk_by_a_broker() {
    let bus = nats::testing::fresh_url();
    two_phones_talk(|config| config.bus.clone_from(&bus)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_emitted_before_the_end_is_answered_over_sockets_too() {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), |config| {
        config.internal_grpc = InternalGrpc::Sockets;
        config.drain_window_ms = 5_000;
    })
    .await
    .unwrap();
    let mut phone = Phone::sign_in(house.at.phones, &sign_up(house.at.phones, 1).await).await;
    // All at once, and more than the gateway can ask of the services in one call.
    let message = json!(["message_events", {"topic_id": 1, "body": "salom ".repeat(200)}]);
    let packet = Message::text(format!("42{message}"));
    for _ in 0..1_500 {
        phone.0.feed(packet.clone()).await.unwrap();
    }
    phone.0.flush().await.unwrap();
    // The first answer shows that the server has begun to read them.
    let mut answered = 1;
    assert_eq!(phone.event("message_events").await["event_type"], "sent");
    house.end.cancel();
    let begun = Instant::now();
    while let Some(packet) = phone.next().await {
        if packet.starts_with("42") {
            assert!(packet.contains("\"sent\""), "{packet}");
            answered += 1;
        }
    }
    house.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5));

    let house = House::open(data.path(), |_| {}).await.unwrap();
    let token = sign_up(house.at.phones, 2).await;
    let mut phone = Phone::sign_in(house.at.phones, &token).await;
    let last = json!({"topic_id": 1, "body": "how many were there?"});
    phone.emit("message_events", &last).await;
    let sent = phone.event("message_events").await;
    assert_eq!(sent["data"]["seq"], answered + 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gateway_serves_from_the_same_services() {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), |_| {}).await.unwrap();
    let secret = secret_file::read_or_make(&data.path().join("secret")).unwrap();
    let channel = Channel::connect(&format!("http://{}", house.at.grpc), secret).unwrap();
    let called = hub::Services::new(channel.clone(), channel.clone(), channel);
    // Nothing that happens in the house is told here, unless it is asked for.
    let bus = bus::connect("memory:").await.unwrap();
    let (config, hub) = Default::default();
    let edge = Edge::new(config, hub, called, bus, None, Duration::from_secs(3));
    let phones = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = phones.local_addr().unwrap();
    let edge = edge.serve(phones, &CancellationToken::new());

    let mut here = Phone::sign_in(house.at.phones, &sign_up(other, 1).await).await;
    let mut there = Phone::sign_in(other, &sign_up(house.at.phones, 2).await).await;
    for number in 1..=3 {
        let message = json!({"topic_id": 1, "body": format!("{number}")});
        there.emit("message_events", &message).await;
        let sent = there.event("message_events").await;
        assert_eq!(sent["data"]["seq"], number, "{sent}");
        assert_eq!(here.event("message_events").await, sent);
    }
    edge.end(tokio::time::Instant::now()).await.unwrap();
    while there.next().await.is_some() {}
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_until_its_end_begins() {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), |_| {}).await.unwrap();
    let admin = house.at.admin;
    let ready = http(admin, "GET /readyz", "").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    // A phone that is here keeps the end waiting for a moment.
    let token = sign_up(house.at.phones, 1).await;
    let mut phone = Phone::sign_in(house.at.phones, &token).await;
    house.end.cancel();
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = http(admin, "GET /readyz", "").await;
        if answer.starts_with("HTTP/1.1 503") {
            let why = "waiting for: the end of the program\n";
            assert!(answer.ends_with(why), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
    assert!(http(admin, "GET /livez", "").await.contains("200"));
    // What phones are answered with stays until they are gone.
    TcpStream::connect(house.at.grpc).await.unwrap();
    while phone.next().await.is_some() {}
    house.close().await;
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_serves_one_program() {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), |_| {}).await.unwrap();
    let Err(error) = House::open(data.path(), |_| {}).await else {
        panic!("two programs use one folder");
    };
    let sentence = error.to_string();
    let folder = data.path().display().to_string();
    assert!(sentence.starts_with(&folder), "{sentence}");
    assert!(sentence.contains("is in use by"), "{sentence}");
    house.close().await;
    // The folder is free as soon as the first has ended.
    House::open(data.path(), |_| {})
        .await
        .unwrap()
        .close()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_holds_on_does_not_hold_the_program() {
    let data = tempfile::tempdir().unwrap();
    let house = House::open(data.path(), |config| config.drain_window_ms = 3_000)
        .await
        .unwrap();
    // A request whose body never comes.
    let mut slow = TcpStream::connect(house.at.phones).await.unwrap();
    let head = b"POST /sign_up HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    slow.write_all(head).await.unwrap();
    let token = sign_up(house.at.phones, 1).await;
    let mut phone = Phone::sign_in(house.at.phones, &token).await;
    let begun = Instant::now();
    house.close().await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    while phone.next().await.is_some() {}
}
