//! Keys that several programs have: how their values are read.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Deserializer, de};

/// Shortest drain window, in milliseconds: what a client emitted last has a second to
/// be answered, and services and stores end after the sockets.
pub const MIN_DRAIN_WINDOW_MS: u64 = 3_000;

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
