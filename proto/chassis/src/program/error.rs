//! Why a program can't serve, or did not end as it should.

use std::{io, net::SocketAddr};

use crate::{
    bus::InvalidBusUrl, client::InvalidEndpoint, config::ConfigError, database::DatabaseError,
    embedded::OpenError, server::ServeError, telemetry::TelemetryError, tls::TlsError,
};

/// One sentence for the person who started the program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key has no default, and nobody set it.
    #[error("the configuration key `{key}` is not set: {expected} is expected")]
    NotSet {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The bus of the configuration is none.
    #[error("the configuration key `bus` is wrong: {0}")]
    Bus(#[from] InvalidBusUrl),
    /// Logs or metrics can't be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// An address can't be listened on.
    #[error("{address} can't be listened on: {}; the key `{key}` sets another address", why(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key that set it.
        key: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nothing would encrypt what comes over a network.
    #[error(
        "`{key}` is {address}, beyond this machine, and would be plain: set {instead}, or `plaintext = \"accept\"` where a mesh or a proxy encrypts"
    )]
    Plain {
        /// The key that set the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The keys that would encrypt it.
        instead: &'static str,
    },
    /// A key means nothing without another one.
    #[error("the configuration key `{key}` is set, and means nothing without `{needs}`")]
    Alone {
        /// The key.
        key: &'static str,
        /// The other one.
        needs: &'static str,
    },
    /// The certificate can't be used.
    #[error("TLS can't be used: {0}")]
    Tls(#[from] TlsError),
    /// The data folder, a store, or the database of all can't be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The secret of the services can't be used.
    #[error("the secret of the services can't be used: {0}")]
    Secret(#[source] OpenError),
    /// The address of the services is none.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
    /// The operating system refused.
    #[error("{what} failed: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The gRPC port failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A part ended although nobody had asked it to.
    #[error("{0} ended by itself")]
    Ended(&'static str),
    /// A part did not end in its share of the drain window.
    #[error("{0} did not end within the drain window")]
    Late(&'static str),
}

impl Error {
    /// The exit code: 2 when the configuration is wrong, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::NotSet { .. }
            | Self::Plain { .. }
            | Self::Alone { .. }
            | Self::Endpoint(_)
            | Self::Bus(_)
            | Self::Telemetry(TelemetryError::Filter(_)) => 2,
            _ => 1,
        }
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "it is in use by another program".to_owned(),
        io::ErrorKind::AddrNotAvailable => "it is no address of this machine".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not".to_owned(),
        _ => error.to_string(),
    }
}
