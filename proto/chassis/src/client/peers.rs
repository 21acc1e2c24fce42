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
    /// with commas between them are that many replicas. By TLS where it is `https://`.
    At(Scheme, Vec<Address>),
    /// `dns:///message-svc:8081`: every address that this name has, as they come and go.
    Named(Address),
}

/// How an address is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`: plain.
    Http,
    /// `https`: by TLS.
    Https,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a service can't be called where it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// A text that says of no service where it is.
    #[error(
        "`{0}` is no address of a service: http://host:port or https://host:port, several of them with commas between, or dns:///name:port is expected"
    )]
    NoAddress(String),
    /// A certificate can be shown, and would not be.
    #[error("`{0}` is called without TLS, although `mtls` is set: https:// is expected")]
    Plain(String),
    /// There is no certificate to show.
    #[error("`{0}` is called by TLS, for which `mtls` has to be set")]
    NoCertificate(String),
}

impl FromStr for Peers {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint::NoAddress(text.to_owned());
        if let Some(name) = text.strip_prefix("dns:///") {
            let (_, address) = address(&format!("http://{name}")).ok_or_else(invalid)?;
            return Ok(Self::Named(address));
        }
        let mut scheme = None;
        let mut addresses = Vec::new();
        for one in text.split(',') {
            let (its, address) = address(one.trim()).ok_or_else(invalid)?;
            if *scheme.get_or_insert(its) != its {
                return Err(invalid());
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let scheme = scheme.filter(|_| addresses.len() <= MAX_REPLICAS);
        Ok(Self::At(scheme.ok_or_else(invalid)?, addresses))
    }
}

fn address(url: &str) -> Option<(Scheme, Address)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    let plain = uri.path() == "/" && uri.query().is_none() && !authority.contains('@');
    // An IPv6 address stands in brackets in a URL, and without them elsewhere.
    let host = uri.host()?.trim_matches(['[', ']']);
    let address = Address {
        host: host.to_owned(),
        port: uri.port_u16()?,
    };
    (plain && !host.is_empty()).then_some((scheme, address))
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
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
            Self::At(scheme, addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{scheme}://{address}")?;
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
            ("https://a:1,https://b:2", "https://a:1,https://b:2"),
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
            "ftp://host:1",
            "http://a:1,https://b:1",
            "http://a:1,",
            "dns:///a:1,b:1",
            "dns://resolver/a:1",
            "dns:///a",
        ] {
            let refused = invalid.parse::<Peers>();
            assert_eq!(refused, Err(InvalidEndpoint::NoAddress(invalid.to_owned())));
        }
    }
}
