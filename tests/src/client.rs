//! A phone: one Socket.IO connection, of an official client or made by hand,
//! driven in the same way.

mod driver;
mod raw;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::PATIENCE;
use crate::account::User;
use crate::engine::Eio;
use crate::server::Server;

/// Which client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Made by hand.
    Raw(Eio),
    /// socket.io-client of this major version: 1, 2 or 4.
    Js(u8),
    /// python-socketio.
    Python,
    /// io.socket:socket.io-client of this major version: 1 or 2.
    Java(u8),
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Raw(Eio::V3),
        Self::Raw(Eio::V4),
        Self::Js(1),
        Self::Js(2),
        Self::Js(4),
        Self::Python,
        Self::Java(1),
        Self::Java(2),
    ];

    /// The generation it speaks.
    #[must_use]
    pub fn eio(self) -> Eio {
        match self {
            Self::Raw(eio) => eio,
            Self::Js(1 | 2) | Self::Java(1) => Eio::V3,
            Self::Js(_) | Self::Java(_) | Self::Python => Eio::V4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw(Eio::V3) => "raw-eio3",
            Self::Raw(Eio::V4) => "raw-eio4",
            Self::Js(1) => "js-1.7.4",
            Self::Js(2) => "js-2.5.0",
            Self::Js(_) => "js-4.8",
            Self::Python => "python-5",
            Self::Java(1) => "java-1.0.2",
            Self::Java(_) => "java-2.1.2",
        })
    }
}

/// How it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Polling only.
    Polling,
    /// A websocket from the start.
    Websocket,
    /// Polling that becomes a websocket.
    Upgrade,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Polling, Self::Websocket, Self::Upgrade];

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Polling => &["polling"],
            Self::Websocket => &["websocket"],
            Self::Upgrade => &["polling", "websocket"],
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Polling => "polling",
            Self::Websocket => "websocket",
            Self::Upgrade => "upgrade",
        })
    }
}

/// What a client is told to do.
enum Command {
    Emit {
        event: String,
        /// The arguments as JSON texts.
        args: Vec<String>,
        ack: Option<u32>,
    },
    Disconnect,
}

/// What a client reports.
#[derive(Debug)]
enum Report {
    Ready,
    Connected,
    Upgraded,
    Event {
        name: String,
        args: Vec<Box<RawValue>>,
    },
    Ack {
        ack: u32,
        args: Vec<Box<RawValue>>,
    },
    Disconnected {
        reason: String,
    },
    Error {
        message: String,
    },
}

/// An event that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its name.
    pub name: String,
    /// Its arguments, as JSON texts. As they came, where the client is made by
    /// hand; as its client understood them otherwise.
    pub args: Vec<Box<RawValue>>,
}

impl Received {
    /// Its only argument.
    ///
    /// # Panics
    /// It has none or several.
    #[must_use]
    pub fn payload(&self) -> Value {
        assert_eq!(self.args.len(), 1, "{self:?}");
        serde_json::from_str(self.args[0].get()).unwrap()
    }
}

/// The way commands take to a client.
enum Way {
    Driver(driver::Connection),
    Raw(raw::Connection),
}

/// One connection.
pub struct Client {
    /// What it is, for messages.
    pub label: String,
    way: Way,
    reports: mpsc::UnboundedReceiver<Report>,
    events: VecDeque<Received>,
    acks: HashMap<u32, Received>,
    next_ack: u32,
    upgraded: bool,
    end: Option<String>,
}

impl Client {
    /// Connects and, where the transport is one that upgrades, waits for that.
    ///
    /// # Panics
    /// It did not come to that.
    pub async fn connect(kind: Kind, transport: Transport, server: &Server) -> Self {
        let mut client = Self::connecting(kind, transport, server).await;
        if transport == Transport::Upgrade {
            client
                .until("the upgrade", |client| client.upgraded.then_some(()))
                .await;
        }
        client
    }

    /// Connects without waiting for an upgrade to be done.
    ///
    /// # Panics
    /// It did not come to that.
    pub async fn connecting(kind: Kind, transport: Transport, server: &Server) -> Self {
        Self::try_connect(kind, transport, server.at.public, PATIENCE)
            .await
            .unwrap_or_else(|why| panic!("{kind} on {transport}: {why}"))
    }

    /// Connects to this address without waiting for an upgrade to be done.
    ///
    /// # Errors
    /// It was refused, or it took longer than the limit.
    pub async fn try_connect(
        kind: Kind,
        transport: Transport,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<Self, String> {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let way = match kind {
            Kind::Raw(eio) => Way::Raw(raw::Connection::open(eio, transport, address, sender)),
            _ => {
                let url = format!("http://{address}");
                Way::Driver(driver::Connection::open(kind, transport, &url, sender))
            }
        };
        let deadline = tokio::time::Instant::now() + limit;
        let label = format!("{kind} on {transport}");
        let mut upgraded = false;
        loop {
            let report = tokio::time::timeout_at(deadline, reports.recv()).await;
            match report {
                Ok(Some(Report::Connected)) => break,
                // The engine may be done before the namespace is.
                Ok(Some(Report::Upgraded)) => upgraded = true,
                Ok(other) => return Err(format!("did not connect: {other:?}")),
                Err(_) => return Err(format!("not connected after {limit:?}")),
            }
        }
        Ok(Self {
            label,
            way,
            reports,
            events: VecDeque::new(),
            acks: HashMap::new(),
            next_ack: 0,
            upgraded,
            end: None,
        })
    }

    fn command(&self, command: Command) {
        match &self.way {
            Way::Driver(connection) => connection.command(command),
            Way::Raw(connection) => connection.command(command),
        }
    }

    /// Emits an event with one argument.
    pub fn emit(&self, event: &str, arg: &Value) {
        self.emit_raw(event, &[&arg.to_string()]);
    }

    /// Emits an event with arguments given as JSON texts.
    pub fn emit_raw(&self, event: &str, args: &[&str]) {
        self.command(Command::Emit {
            event: event.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ack: None,
        });
    }

    /// Emits an event with one argument, asks for an acknowledgement, and says its number.
    pub fn emit_with_ack(&mut self, event: &str, arg: &Value) -> u32 {
        self.next_ack += 1;
        self.command(Command::Emit {
            event: event.to_owned(),
            args: vec![arg.to_string()],
            ack: Some(self.next_ack),
        });
        self.next_ack
    }

    /// Ends the connection from this side.
    pub fn disconnect(&self) {
        self.command(Command::Disconnect);
    }

    /// Takes in one report.
    fn take(&mut self, report: Report) {
        match report {
            Report::Event { name, args } => self.events.push_back(Received { name, args }),
            Report::Ack { ack, args } => {
                let name = "ack".to_owned();
                let before = self.acks.insert(ack, Received { name, args });
                assert!(
                    before.is_none(),
                    "{}: ack {ack} was answered twice",
                    self.label
                );
            }
            Report::Disconnected { reason } | Report::Error { message: reason } => {
                self.end.get_or_insert(reason);
            }
            Report::Upgraded => self.upgraded = true,
            Report::Ready | Report::Connected => panic!("{}: connected twice", self.label),
        }
    }

    /// Takes in what has arrived, without waiting.
    fn drain(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
    }

    async fn until<T>(&mut self, what: &str, found: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, found).await
    }

    async fn until_within<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            self.drain();
            if let Some(value) = found(self) {
                return value;
            }
            assert!(
                self.end.is_none(),
                "{}: waiting for {what}, but the connection ended ({:?}); events not asked for: {:?}",
                self.label,
                self.end,
                self.events
            );
            match tokio::time::timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(report)) => self.take(report),
                Ok(None) => panic!("{}: waiting for {what}, but its driver is gone", self.label),
                Err(_) => panic!(
                    "{}: no {what} within {limit:?}; events not asked for: {:?}",
                    self.label, self.events
                ),
            }
        }
    }

    /// The next event, whatever it is.
    ///
    /// # Panics
    /// None came in time.
    pub async fn next(&mut self) -> Received {
        self.until("event", |client| client.events.pop_front())
            .await
    }

    /// The next event, or `None` when none comes within the limit or the connection ends.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Received> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            self.drain();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.end.is_some() {
                return None;
            }
            let report = tokio::time::timeout_at(deadline, self.reports.recv()).await;
            self.take(report.ok()??);
        }
    }

    /// The payload of the next event, which must have this name.
    ///
    /// # Panics
    /// Another event came first, or none in time.
    pub async fn expect(&mut self, name: &str) -> Value {
        let label = self.label.clone();
        let event = self.next().await;
        assert_eq!(event.name, name, "{label}: {event:?}");
        event.payload()
    }

    /// The payload of the next event of this name; others stay for later.
    ///
    /// # Panics
    /// None came in time.
    pub async fn expect_later(&mut self, name: &str) -> Value {
        self.until(name, |client| {
            let at = client.events.iter().position(|event| event.name == name)?;
            client.events.remove(at)
        })
        .await
        .payload()
    }

    /// The payload of an acknowledgement.
    ///
    /// # Panics
    /// None came in time.
    pub async fn expect_ack(&mut self, ack: u32) -> Value {
        self.until("acknowledgement", |client| client.acks.remove(&ack))
            .await
            .payload()
    }

    /// Waits until the server has ended the connection; says the reason.
    ///
    /// # Panics
    /// It has not in time.
    pub async fn expect_end(&mut self) -> String {
        self.expect_end_within(PATIENCE).await
    }

    /// As [`Self::expect_end`].
    ///
    /// # Panics
    /// It has not in time.
    pub async fn expect_end_within(&mut self, limit: Duration) -> String {
        self.until_within(limit, "end", |client| client.end.clone())
            .await
    }

    /// Asserts that no event waits that was not asked for, and that the connection is open.
    /// Use it behind something that the server answers in order.
    ///
    /// # Panics
    /// There is one, or the connection ended.
    pub fn expect_nothing_more(&mut self) {
        self.drain();
        assert!(self.events.is_empty(), "{}: {:?}", self.label, self.events);
        assert_eq!(self.end, None, "{}: the connection ended", self.label);
    }

    /// Events that came and were not asked for.
    pub fn rest(&mut self) -> Vec<Received> {
        self.drain();
        self.events.drain(..).collect()
    }

    /// Why the connection ended, if it has.
    pub fn ended(&mut self) -> Option<&str> {
        self.drain();
        self.end.as_deref()
    }

    /// Whether the connection is open as far as is known.
    pub fn is_open(&mut self) -> bool {
        self.drain();
        self.end.is_none()
    }

    /// Signs in; the answer must be ok. Messages that come before it stay for later.
    ///
    /// # Panics
    /// It is not.
    pub async fn sign_in(&mut self, user: &User) {
        self.emit(
            "signin_request",
            &serde_json::json!({ "token": user.token }),
        );
        let answer = self.expect_later("signin_response").await;
        assert_eq!(answer["status"], "ok", "{}: {answer}", self.label);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.end.is_none() {
            self.command(Command::Disconnect);
        }
    }
}
