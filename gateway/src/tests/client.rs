//! Clients that do what a test says and no more.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::rig::{LIMIT, Rig, token};
use crate::frame::Generation;

pub(super) fn version(generation: Generation) -> u8 {
    match generation {
        Generation::Eio3 => 3,
        Generation::Eio4 => 4,
    }
}

/// A websocket client.
pub(super) struct Ws(pub(super) WebSocketStream<TcpStream>);

impl Ws {
    /// Opens the transport; nothing is sent on it.
    pub(super) async fn open(address: SocketAddr, query: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/socket.io/?transport=websocket&{query}");
        let (ws, _) = timeout(LIMIT, client_async(url, stream))
            .await
            .unwrap()
            .unwrap();
        Self(ws)
    }

    /// In the namespace.
    pub(super) async fn connect(rig: &Rig, generation: Generation) -> Self {
        let mut ws = Self::open(rig.address, &format!("EIO={}", version(generation))).await;
        assert!(ws.text().await.starts_with("0{"));
        if generation == Generation::Eio4 {
            ws.send("40").await;
            assert!(ws.text().await.starts_with("40{\"sid\":"));
        } else {
            assert_eq!(ws.text().await, "40");
        }
        ws
    }

    /// Signed in.
    pub(super) async fn signed_in(rig: &Rig, generation: Generation, user: i64) -> Self {
        let mut ws = Self::connect(rig, generation).await;
        ws.emit("signin_request", json!({"token": token(user)}))
            .await;
        assert_eq!(ws.event("signin_response").await["status"], "ok");
        ws
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub(super) async fn emit(&mut self, name: &str, payload: Value) {
        self.send(&format!("42{}", json!([name, payload]))).await;
    }

    /// The next text that is no heartbeat; `None` at the end.
    pub(super) async fn try_text(&mut self) -> Option<String> {
        loop {
            match timeout(LIMIT, self.0.next())
                .await
                .expect("a frame in time")
            {
                Some(Ok(Message::Text(text))) if text == "2" => {
                    let _ = self.0.send(Message::text("3")).await;
                }
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(super) async fn text(&mut self) -> String {
        self.try_text().await.expect("a text")
    }

    /// The payload of the next event, which has this name.
    pub(super) async fn event(&mut self, name: &str) -> Value {
        payload(&self.text().await, name)
    }

    /// What comes until the transport ends.
    pub(super) async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(text) = self.try_text().await {
            rest.push(text);
        }
        rest
    }
}

/// The payload of an event packet, which has this name.
pub(super) fn payload(packet: &str, name: &str) -> Value {
    let array = packet
        .strip_prefix("42")
        .unwrap_or_else(|| panic!("an event, not {packet}"));
    let mut array: Vec<Value> = serde_json::from_str(array).unwrap();
    assert_eq!(array[0], name, "{packet}");
    array.remove(1)
}

/// An HTTP answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One request on a connection of its own.
pub(super) async fn http(
    address: SocketAddr,
    method: &str,
    target: &str,
    content_type: &str,
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !content_type.is_empty() {
        request += &format!("content-type: {content_type}\r\n");
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // The answer may come before the whole body was taken.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("an answer in time");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// A polling client.
pub(super) struct Polling {
    pub(super) address: SocketAddr,
    pub(super) generation: Generation,
    pub(super) sid: String,
    /// Packets of the last payload that were not asked for yet.
    pub(super) got: std::collections::VecDeque<String>,
}

impl Polling {
    pub(super) async fn open(rig: &Rig, generation: Generation) -> Self {
        let eio = version(generation);
        let target = format!("/socket.io/?EIO={eio}&transport=polling");
        let answer = http(rig.address, "GET", &target, "", b"").await;
        let open = answer.body.split_once("0{").unwrap().1;
        let open: Value = serde_json::from_str(&format!("{{{open}")).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        // For load balancers; the head is in lower case here.
        let cookie = format!("set-cookie: io={}; path=/socket.io/", sid.to_lowercase());
        assert!(answer.head.contains(&cookie), "{}", answer.head);
        Self {
            address: rig.address,
            generation,
            sid,
            got: std::collections::VecDeque::new(),
        }
    }

    pub(super) async fn signed_in(rig: &Rig, generation: Generation, user: i64) -> Self {
        let mut polling = Self::open(rig, generation).await;
        if generation == Generation::Eio4 {
            polling.send(&["40"]).await;
        }
        assert!(polling.text().await.starts_with("40"));
        let request = json!(["signin_request", {"token": token(user)}]);
        polling.send(&[&format!("42{request}")]).await;
        let response = payload(&polling.text().await, "signin_response");
        assert_eq!(response["status"], "ok");
        polling
    }

    pub(super) fn target(&self) -> String {
        let eio = version(self.generation);
        format!("/socket.io/?EIO={eio}&transport=polling&sid={}", self.sid)
    }

    pub(super) fn encode(&self, packets: &[&str]) -> String {
        match self.generation {
            Generation::Eio4 => packets.join("\u{1e}"),
            Generation::Eio3 => packets
                .iter()
                .map(|packet| format!("{}:{packet}", packet.encode_utf16().count()))
                .collect(),
        }
    }

    pub(super) async fn post(&self, body: &[u8]) -> Answer {
        http(
            self.address,
            "POST",
            &self.target(),
            "text/plain;charset=UTF-8",
            body,
        )
        .await
    }

    pub(super) async fn send(&self, packets: &[&str]) {
        let answer = self.post(self.encode(packets).as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }

    pub(super) async fn poll(&self) -> Answer {
        http(self.address, "GET", &self.target(), "", b"").await
    }

    /// The packets of one poll.
    pub(super) async fn packets(&self) -> Vec<String> {
        let answer = self.poll().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        match self.generation {
            Generation::Eio4 => answer.body.split('\u{1e}').map(str::to_owned).collect(),
            Generation::Eio3 => {
                let mut rest: Vec<u16> = answer.body.encode_utf16().collect();
                let mut packets = Vec::new();
                while let Some(at) = rest.iter().position(|unit| *unit == u16::from(b':')) {
                    let length: usize = String::from_utf16(&rest[..at]).unwrap().parse().unwrap();
                    packets.push(String::from_utf16(&rest[at + 1..=at + length]).unwrap());
                    rest.drain(..=at + length);
                }
                packets
            }
        }
    }

    /// The next packet that is no heartbeat.
    pub(super) async fn text(&mut self) -> String {
        loop {
            match self.got.pop_front() {
                Some(packet) if packet == "2" => self.send(&["3"]).await,
                Some(packet) => return packet,
                None => self.got = self.packets().await.into(),
            }
        }
    }
}
