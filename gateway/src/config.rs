//! How the edge is configured. Durations are whole milliseconds in the keys that end in `_ms`.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use chassis::{
    program::{Error, keys::Plaintext},
    tls::{self, Reloaded, TlsError},
};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::ServerConfig;

use crate::outbox::OutboxLimits;

/// What can be set. The defaults are those of production.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long after connecting a socket may take to sign in.
    #[serde(with = "millis", rename = "auth_timeout_ms")]
    pub auth_timeout: Duration,
    /// How often a heartbeat is due.
    #[serde(with = "millis", rename = "ping_interval_ms")]
    pub ping_interval: Duration,
    /// How late the answer to a heartbeat may be.
    #[serde(with = "millis", rename = "ping_timeout_ms")]
    pub ping_timeout: Duration,
    /// How long a socket may take nothing of what waits for it before it is cut off.
    #[serde(with = "millis", rename = "stall_timeout_ms")]
    pub stall_timeout: Duration,
    /// Packets that may wait for one socket.
    pub outbox_packets: usize,
    /// Their bytes.
    pub outbox_bytes: usize,
    /// TCP connections at a time; more are not accepted until one ends.
    pub max_connections: usize,
    /// Sockets at a time, those on polling included; more are refused.
    pub max_sockets: usize,
    /// How long the end of the program is spread over, so that the clients do
    /// not all come back to the other gateways at once.
    #[serde(with = "millis", rename = "drain_window_ms")]
    pub drain_window: Duration,
    /// How fast one address may sign up and one user may emit.
    pub rate_limits: RateLimits,
}

impl Default for Config {
    fn default() -> Self {
        let outbox = OutboxLimits::default();
        Self {
            auth_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            stall_timeout: outbox.stall,
            outbox_packets: outbox.packets,
            outbox_bytes: outbox.bytes,
            max_connections: 100_000,
            max_sockets: 100_000,
            drain_window: Duration::from_secs(10),
            rate_limits: RateLimits::default(),
        }
    }
}

impl Config {
    pub(crate) fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits {
            packets: self.outbox_packets,
            bytes: self.outbox_bytes,
            stall: self.stall_timeout,
        }
    }
}

/// Files of the certificate that phones are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, PEM, its own certificate first.
    pub certificate: PathBuf,
    /// The private key of the first, PEM.
    pub key: PathBuf,
}

impl Tls {
    /// Reads them, and again when they change. Has to be called within a runtime.
    ///
    /// # Errors
    /// When one of them can't be used; names the file.
    pub fn load(&self) -> Result<Reloaded<ServerConfig>, TlsError> {
        tls::load_again(self.certificate.clone(), self.key.clone())
    }
}

/// Refuses a port for phones that anybody could listen in on.
///
/// # Errors
/// [`Error::Plain`].
pub fn check_listen(
    address: SocketAddr,
    tls: Option<&Tls>,
    plaintext: Plaintext,
) -> Result<(), Error> {
    match tls {
        Some(_) => Ok(()),
        None => plaintext.check("listen", address, "`tls.certificate` and `tls.key`"),
    }
}

/// How much of each kind is let through. A burst is let through at once; what
/// was used comes back at `per_minute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Off: everything is let through.
    pub enabled: bool,
    /// Sign-ups of one IPv4 address or IPv6 /64. Many phones share an address.
    pub sign_up: Rate,
    /// `message_events` of one user, all his sockets here together.
    pub message: Rate,
    /// `typing_event` of one user, all his sockets here together.
    pub typing: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            sign_up: Rate::new(60, 60),
            message: Rate::new(2_000, 1_200),
            typing: Rate::new(200, 600),
        }
    }
}

/// One limit. Both numbers are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// At once.
    pub burst: NonZeroU32,
    /// Over time.
    pub per_minute: NonZeroU32,
}

impl Rate {
    /// A limit; 0 counts as 1.
    #[must_use]
    pub const fn new(burst: u32, per_minute: u32) -> Self {
        Self {
            burst: at_least_one(burst),
            per_minute: at_least_one(per_minute),
        }
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
