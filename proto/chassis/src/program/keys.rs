//! Keys that several programs have: how their values are read.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::Error;
use crate::{identity::Callers, tls::MutualTls};

/// Shortest drain window, in milliseconds: what a client emitted last has a second to
/// be answered, and services and stores end after the sockets.
pub const MIN_DRAIN_WINDOW_MS: u64 = 3_000;

/// Whether a program may listen without TLS beyond this machine, because a mesh or a
/// proxy around it encrypts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plaintext {
    /// It may not.
    #[default]
    Refuse,
    /// It may.
    Accept,
}

impl Plaintext {
    /// Refuses an address that this key set, and that would be plain unless the keys of
    /// `instead` are set.
    ///
    /// # Errors
    /// [`Error::Plain`].
    pub fn check(
        self,
        key: &'static str,
        address: SocketAddr,
        instead: &'static str,
    ) -> Result<(), Error> {
        if self == Self::Accept || address.ip().is_loopback() {
            return Ok(());
        }
        Err(Error::Plain {
            key,
            address,
            instead,
        })
    }
}

/// Refuses a gRPC port at this address that anybody could listen in on, or that nobody
/// could call.
///
/// # Errors
/// What is missing, or set in vain.
pub fn check_grpc(
    address: SocketAddr,
    mtls: Option<&MutualTls>,
    callers: &Callers,
    plaintext: Plaintext,
) -> Result<(), Error> {
    match (mtls, callers.is_empty()) {
        (None, true) => plaintext.check("grpc_listen", address, "`mtls` and `callers`"),
        (None, false) => Err(Error::Alone {
            key: "callers",
            needs: "mtls",
        }),
        (Some(_), true) => Err(Error::NotSet {
            key: "callers",
            expected: "who may call what, as in { \"spiffe://drivers.uz/gateway\" = [\"gateway\"] },",
        }),
        (Some(_), false) => Ok(()),
    }
}

/// Reads an address to listen on.
///
/// # Errors
/// When it is no IP address with a port.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    struct Address;

    impl de::Visitor<'_> for Address {
        type Value = SocketAddr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an IP address and a port, as in 127.0.0.1:8080")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<SocketAddr, E> {
            text.parse()
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_str(Address)
}

/// Reads the URL of a bus.
///
/// # Errors
/// When it means no bus; see [`crate::bus::check`].
pub fn bus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    crate::bus::check(&url).map_err(de::Error::custom)?;
    Ok(url)
}

/// Reads a drain window in milliseconds.
///
/// # Errors
/// When it is shorter than [`MIN_DRAIN_WINDOW_MS`].
pub fn drain_window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let ms = u64::deserialize(deserializer)?;
    if ms >= MIN_DRAIN_WINDOW_MS {
        return Ok(ms);
    }
    let expected = format!("an integer of at least {MIN_DRAIN_WINDOW_MS}");
    let found = de::Unexpected::Unsigned(ms);
    Err(de::Error::invalid_value(found, &expected.as_str()))
}
