//! All that can be set of the gateway as a program of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chassis::{
    client::{ClientConfig, Peers},
    program::{
        Error,
        keys::{Plaintext, address, bus, drain_window},
    },
    telemetry::LogFormat,
    tls::{MutualTls, PeerName},
};
use serde::{Deserialize, Serialize};

use super::{Needs, Shown};
use crate::{
    config::{Config, Tls, check_listen},
    hub::HubConfig,
};

/// Configuration of the program; each value has a default, but for where the services
/// are and the secret they are shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where phones connect: HTTP API and Socket.IO.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Health and metrics.
    #[serde(deserialize_with = "address")]
    pub admin_listen: SocketAddr,
    /// The bus: `nats://…`, or `memory:`, over which no events of the services come in.
    #[serde(deserialize_with = "bus")]
    pub bus: String,
    /// Where the user service is; has to be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_svc: Option<Peers>,
    /// Where the message service is; has to be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_svc: Option<Peers>,
    /// Where the presence service is; has to be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_svc: Option<Peers>,
    /// With a certificate the services are called by TLS, and shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// The names in the services' certificates, where they are not those in their addresses.
    pub identities: Identities,
    /// The file of the bearer secret that the services are shown where there is no `mtls`;
    /// made if there is none. One of the two has to be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// How log lines look.
    pub log: LogFormat,
    /// Which log lines there are: a level, or levels by part, as in `info,gateway=debug`.
    pub log_filter: String,
    /// With a certificate phones connect by TLS, and only so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Whether `listen` may be plain beyond this machine: `accept` where a proxy encrypts.
    pub plaintext: Plaintext,
    /// How long the end of the program may take, in milliseconds, at least 3,000.
    /// Sockets are closed over the gateway's own window, at most half of this one.
    #[serde(deserialize_with = "drain_window")]
    pub drain_window_ms: u64,
    /// The edge.
    pub gateway: Config,
    /// What stands behind the edge.
    pub hub: HubConfig,
    /// How the services are called.
    pub client: ClientConfig,
}

/// The name in each service's certificate: a DNS name, or `spiffe://domain/path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identities {
    /// That of the user service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_svc: Option<PeerName>,
    /// That of the message service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_svc: Option<PeerName>,
    /// That of the presence service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_svc: Option<PeerName>,
}

impl Default for Settings {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: local(8080),
            admin_listen: local(8082),
            bus: "memory:".to_owned(),
            user_svc: None,
            message_svc: None,
            presence_svc: None,
            mtls: None,
            identities: Identities::default(),
            secret_file: None,
            log: LogFormat::default(),
            log_filter: "info".to_owned(),
            tls: None,
            plaintext: Plaintext::default(),
            drain_window_ms: 20_000,
            gateway: Config::default(),
            hub: HubConfig::default(),
            client: ClientConfig::default(),
        }
    }
}

impl Settings {
    /// How long the end of the program may take.
    #[must_use]
    pub fn drain_window(&self) -> Duration {
        Duration::from_millis(self.drain_window_ms)
    }

    /// What has no default.
    pub(super) fn needs(&self) -> Result<Needs, Error> {
        let peers = |key, peers: &Option<Peers>| {
            let not_set = Error::NotSet {
                key,
                expected: "http://host:port, several of them with commas between, or dns:///name:port",
            };
            peers.clone().ok_or(not_set)
        };
        let needed = Needs {
            user_svc: peers("user_svc", &self.user_svc)?,
            message_svc: peers("message_svc", &self.message_svc)?,
            presence_svc: peers("presence_svc", &self.presence_svc)?,
            shown: self.shown()?,
        };
        check_listen(self.listen, self.tls.as_ref(), self.plaintext)?;
        Ok(needed)
    }

    fn shown(&self) -> Result<Shown, Error> {
        match (&self.mtls, &self.secret_file) {
            (Some(mtls), _) => Ok(Shown::Certificate(mtls.clone())),
            (None, Some(file)) => Ok(Shown::Secret(file.clone())),
            (None, None) => Err(Error::NotSet {
                key: "secret_file",
                expected: "the file of the bearer secret that the services are shown, or `mtls` instead of it,",
            }),
        }
    }
}
