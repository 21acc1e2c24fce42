//! Engine.IO by hand, both generations: what official clients can't be made to do.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::PATIENCE;
use crate::http::{self, Response};

/// Generation of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eio {
    /// Engine.IO 3: Socket.IO clients 1.x and 2.x.
    V3,
    /// Engine.IO 4: Socket.IO clients 3.x and 4.x.
    V4,
}

impl Eio {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V3, Self::V4];

    /// The number in the query.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }

    /// Joins packets into the body of a poll or a POST.
    #[must_use]
    pub fn encode(self, packets: &[&str]) -> String {
        match self {
            // Lengths count UTF-16 units, as JavaScript does.
            Self::V3 => packets
                .iter()
                .map(|packet| format!("{}:{packet}", packet.encode_utf16().count()))
                .collect(),
            Self::V4 => packets.join("\u{1e}"),
        }
    }

    /// Splits the body of a poll into packets.
    ///
    /// # Errors
    /// The body is no payload of this generation.
    pub fn decode(self, body: &str) -> Result<Vec<String>, String> {
        match self {
            Self::V4 => Ok(body.split('\u{1e}').map(str::to_owned).collect()),
            Self::V3 => {
                let wrong = || format!("no payload of Engine.IO 3: {body:?}");
                let mut packets = Vec::new();
                let mut rest = body;
                while !rest.is_empty() {
                    let (length, tail) = rest.split_once(':').ok_or_else(wrong)?;
                    let length: usize = length.parse().map_err(|_| wrong())?;
                    let mut units = 0;
                    let mut end = 0;
                    for character in tail.chars() {
                        if units >= length {
                            break;
                        }
                        units += character.len_utf16();
                        end += character.len_utf8();
                    }
                    if units != length {
                        return Err(wrong());
                    }
                    packets.push(tail[..end].to_owned());
                    rest = &tail[end..];
                }
                Ok(packets)
            }
        }
    }
}

/// A websocket with Engine.IO on it.
pub struct Ws {
    stream: WebSocketStream<TcpStream>,
    /// Generation.
    pub eio: Eio,
}

impl Ws {
    /// Opens a websocket, without waiting for the handshake packet.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn open(address: SocketAddr, eio: Eio, sid: Option<&str>) -> Result<Self, String> {
        let tcp = tokio::time::timeout(PATIENCE, TcpStream::connect(address))
            .await
            .map_err(|_| "connecting took too long".to_owned())?
            .map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        Self::open_over(tcp, eio, sid).await
    }

    /// Opens a websocket over a TCP connection that is open already.
    ///
    /// # Errors
    /// The server refused it.
    pub async fn open_over(tcp: TcpStream, eio: Eio, sid: Option<&str>) -> Result<Self, String> {
        let sid = sid.map_or_else(String::new, |sid| format!("&sid={sid}"));
        let url = format!(
            "ws://localhost/socket.io/?EIO={}&transport=websocket{sid}",
            eio.number()
        );
        let mut config = WebSocketConfig::default();
        // 128 KiB by default: there are tests with thousands of these.
        config.read_buffer_size = 8 << 10;
        config.max_message_size = None;
        config.max_frame_size = None;
        let opening = tokio_tungstenite::client_async_with_config(url, tcp, Some(config));
        let (stream, _) = tokio::time::timeout(PATIENCE, opening)
            .await
            .map_err(|_| "the websocket handshake took too long".to_owned())?
            .map_err(|error| error.to_string())?;
        Ok(Self { stream, eio })
    }

    /// Opens a websocket and joins the namespace `/`.
    ///
    /// # Errors
    /// The server refused it, or said something else than the protocol has here.
    pub async fn connect(address: SocketAddr, eio: Eio) -> Result<Self, String> {
        let mut ws = Self::open(address, eio, None).await?;
        let open = ws.packet_within(PATIENCE).await?;
        let open = open.ok_or("ended before the handshake")?;
        if !open.starts_with('0') {
            return Err(format!("no handshake: {open}"));
        }
        if eio == Eio::V4 {
            ws.send("40").await?;
        }
        let joined = ws.packet_within(PATIENCE).await?;
        let joined = joined.ok_or("ended before the namespace")?;
        if !joined.starts_with("40") {
            return Err(format!("no connect packet: {joined}"));
        }
        Ok(ws)
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, packet: &str) -> Result<(), String> {
        self.send_message(Message::text(packet)).await
    }

    /// Sends any websocket message.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send_message(&mut self, message: Message) -> Result<(), String> {
        tokio::time::timeout(PATIENCE, self.stream.send(message))
            .await
            .map_err(|_| "the server does not read".to_owned())?
            .map_err(|error| error.to_string())
    }

    /// The next text packet, or `None` at the connection's end; pings are
    /// answered on the way.
    ///
    /// # Panics
    /// Nothing came for a minute.
    pub async fn packet(&mut self) -> Option<String> {
        self.packet_within(Duration::from_secs(60))
            .await
            .expect("a packet or the end within a minute")
    }

    /// As [`Self::packet`], or an error when nothing comes in time.
    ///
    /// # Errors
    /// Nothing came in time.
    pub async fn packet_within(&mut self, limit: Duration) -> Result<Option<String>, String> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let next = tokio::time::timeout_at(end, self.stream.next())
                .await
                .map_err(|_| format!("nothing within {limit:?}"))?;
            match next {
                Some(Ok(Message::Text(text))) => {
                    if self.eio == Eio::V4 && text.as_str() == "2" {
                        if self.send("3").await.is_err() {
                            return Ok(None);
                        }
                        continue;
                    }
                    return Ok(Some(text.as_str().to_owned()));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Waits until the server has ended the TCP connection; what still comes is dropped.
    ///
    /// # Errors
    /// It did not within the limit.
    pub async fn ended_within(&mut self, limit: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            match tokio::time::timeout_at(end, self.stream.next()).await {
                Err(_) => return Err(format!("still open after {limit:?}")),
                Ok(None | Some(Err(_))) => return Ok(()),
                Ok(Some(Ok(_))) => {}
            }
        }
    }

    /// Ends the connection with a reset: the peer's buffers are dropped, no goodbye is said.
    pub fn reset(self) {
        let _ = self.stream.get_ref().set_zero_linger();
    }

    /// The bare TCP connection.
    #[must_use]
    pub fn into_tcp(self) -> TcpStream {
        self.stream.into_inner()
    }
}

/// A polling session.
#[derive(Clone)]
pub struct Polling {
    address: SocketAddr,
    /// Generation.
    pub eio: Eio,
    /// Session id.
    pub sid: String,
    /// How often the client (Engine.IO 3) or the server (4) pings.
    pub ping_interval: Duration,
    /// Packets that came along with the handshake.
    pub first: Vec<String>,
}

impl Polling {
    /// Opens a session; the namespace of Engine.IO 4 is not joined yet.
    ///
    /// # Errors
    /// The server refused it, or answered something else than the protocol has here.
    pub async fn open(address: SocketAddr, eio: Eio) -> Result<Self, String> {
        let path = format!("/socket.io/?EIO={}&transport=polling", eio.number());
        let answer = http::request(address, "GET", &path, &[], Bytes::new()).await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()));
        }
        let mut packets = eio.decode(&answer.text())?;
        if packets.is_empty() || !packets[0].starts_with('0') {
            return Err(format!("no handshake: {}", answer.text()));
        }
        let first = packets.split_off(1);
        let open: serde_json::Value =
            serde_json::from_str(&packets[0][1..]).map_err(|error| error.to_string())?;
        Ok(Self {
            address,
            eio,
            sid: open["sid"].as_str().ok_or("no sid")?.to_owned(),
            ping_interval: Duration::from_millis(
                open["pingInterval"].as_u64().ok_or("no pingInterval")?,
            ),
            first,
        })
    }

    /// Opens a session and joins the namespace `/`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn connect(address: SocketAddr, eio: Eio) -> Result<Self, String> {
        let mut session = Self::open(address, eio).await?;
        if eio == Eio::V4 {
            let answer = session.post("40").await?;
            if answer.status != 200 {
                return Err(format!("status {}", answer.status));
            }
        }
        while session.first.is_empty() {
            session.first = session.packets().await?;
        }
        let joined = session.first.remove(0);
        if !joined.starts_with("40") {
            return Err(format!("no connect packet: {joined}"));
        }
        Ok(session)
    }

    fn path(&self) -> String {
        format!(
            "/socket.io/?EIO={}&transport=polling&sid={}",
            self.eio.number(),
            self.sid
        )
    }

    /// Polls once.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn poll(&self) -> Result<Response, String> {
        http::request(self.address, "GET", &self.path(), &[], Bytes::new()).await
    }

    /// Polls once for packets; pings are answered and left out.
    ///
    /// # Errors
    /// The connection failed, or the server no longer knows the session.
    pub async fn packets(&self) -> Result<Vec<String>, String> {
        let answer = self.poll().await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()));
        }
        let mut packets = self.eio.decode(&answer.text())?;
        if self.eio == Eio::V4 && packets.iter().any(|packet| packet == "2") {
            packets.retain(|packet| packet != "2");
            self.post("3").await?;
        }
        Ok(packets)
    }

    /// Posts one packet.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn post(&self, packet: &str) -> Result<Response, String> {
        self.post_body(self.eio.encode(&[packet])).await
    }

    /// Posts a body as it is.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn post_body(&self, body: impl Into<Bytes>) -> Result<Response, String> {
        let headers = [("content-type", "text/plain;charset=UTF-8")];
        http::request(self.address, "POST", &self.path(), &headers, body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_back_as_they_went() {
        for eio in Eio::BOTH {
            for packets in [vec!["40"], vec!["2", "42[\"a\",\"Ж𝄞\"]", "3probe"]] {
                assert_eq!(eio.decode(&eio.encode(&packets)).unwrap(), packets);
            }
        }
        assert!(Eio::V3.decode("5:abc").is_err());
    }
}
