//! All that can be set of a service that is a program of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    database::StoreUrl,
    identity::Callers,
    program::keys::{Plaintext, address, bus, drain_window},
    server::ServerConfig,
    telemetry::LogFormat,
    tls::MutualTls,
};

/// Configuration of a program; each value has a default, but for `secret_file` or
/// `mtls`. `C` is the service's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings<C> {
    /// Where gateways and internal services call.
    #[serde(deserialize_with = "address")]
    pub grpc_listen: SocketAddr,
    /// Health and metrics.
    #[serde(deserialize_with = "address")]
    pub admin_listen: SocketAddr,
    /// Where the data is.
    pub store: StoreUrl,
    /// Where events go: `memory:` keeps them in the process, `nats://host` has a broker.
    #[serde(deserialize_with = "bus")]
    pub bus: String,
    /// With a certificate callers connect by TLS, and only so, and show their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Who may call what, by the names in certificates; has to be set with `mtls`.
    pub callers: Callers,
    /// The file of the bearer secret that callers show where there is no `mtls`; made if
    /// there is none. A data folder has one of its own; with any other store this has to
    /// be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Whether `grpc_listen` may be plain beyond this machine: `accept` where a mesh encrypts.
    pub plaintext: Plaintext,
    /// How log lines look.
    pub log: LogFormat,
    /// Which log lines there are: a level, or levels by part, as in `info,chassis=debug`.
    pub log_filter: String,
    /// How long the end of the program may take, in milliseconds, at least 3,000.
    #[serde(deserialize_with = "drain_window")]
    pub drain_window_ms: u64,
    /// Limits of calls.
    pub grpc: ServerConfig,
    /// What is the service's own. It stands under the service's name, as it does where
    /// one program holds all services.
    #[serde(
        skip_serializing,
        rename = "user",
        alias = "message",
        alias = "presence"
    )]
    pub service: C,
}

impl<C: Default> Default for Settings<C> {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            grpc_listen: local(8081),
            admin_listen: local(8082),
            store: StoreUrl::File("./data".into()),
            bus: "memory:".to_owned(),
            mtls: None,
            callers: Callers::default(),
            secret_file: None,
            plaintext: Plaintext::default(),
            log: LogFormat::default(),
            log_filter: "info".to_owned(),
            drain_window_ms: 20_000,
            grpc: ServerConfig::default(),
            service: C::default(),
        }
    }
}

impl<C> Settings<C> {
    /// How long the end of the program may take.
    #[must_use]
    pub fn drain_window(&self) -> Duration {
        Duration::from_millis(self.drain_window_ms)
    }
}
