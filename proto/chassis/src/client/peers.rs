//! Where the replicas of a service are, as the configuration says it.

use std::{fmt, str::FromStr};

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most replicas of one service; what a name has beyond that is not called.
pub(super) const MAX_REPLICAS: usize = 256;

/// The replicas of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// `http://message-svc:8081`: whatever is behind this address, as in a mesh. Several
    /// with commas between them are that many replicas.
    At(Vec<Address>),
    /// `dns:///message-svc:8081`: every address that this name has, as they come and go.
    Named(Address),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A text that says of no service where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of a service: http://host:port, several of them with commas between, or dns:///name:port is expected"
)]
pub struct InvalidEndpoint(pub String);

impl FromStr for Peers {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if let Some(name) = text.strip_prefix("dns:///") {
            let address = Address::of(&format!("http://{name}")).ok_or_else(invalid)?;
            return Ok(Self::Named(address));
        }
        let mut addresses = Vec::new();
        for one in text.split(',') {
            let address = Address::of(one.trim()).ok_or_else(invalid)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.len() > MAX_REPLICAS {
            return Err(invalid());
        }
        Ok(Self::At(addresses))
    }
}

impl Address {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let plain = uri.scheme_str() == Some("http")
            && uri.path() == "/"
            && uri.query().is_none()
            && !authority.contains('@');
        // An IPv6 address stands in brackets in a URL, and without them elsewhere.
        let host = uri.host()?.trim_matches(['[', ']']);
        (plain && !host.is_empty()).then_some(Self {
            host: host.to_owned(),
            port: uri.port_u16()?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "dns:///{name}"),
            Self::At(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}http://{address}")?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for Peers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_address_a_name_and_a_list() {
        for (text, shown) in [
            ("http://message-svc:8081", "http://message-svc:8081"),
            ("http://[::1]:8081/", "http://[::1]:8081"),
            ("dns:///message-svc:8081", "dns:///message-svc:8081"),
            ("http://a:1, http://b:2,http://a:1", "http://a:1,http://b:2"),
        ] {
            let peers: Peers = text.parse().unwrap();
            assert_eq!(peers.to_string(), shown);
            assert_eq!(shown.parse(), Ok(peers));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for invalid in [
            "",
            "message-svc:8081",
            "http://host",
            "http://h:1/x",
            "http://h:1?x",
            "http://me@h:1",
            "https://host:1",
            "http://a:1,",
            "dns:///a:1,b:1",
            "dns://resolver/a:1",
            "dns:///a",
        ] {
            let refused = invalid.parse::<Peers>();
            assert_eq!(refused, Err(InvalidEndpoint(invalid.to_owned())));
        }
    }
}
