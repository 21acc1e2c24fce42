//! All that can be set of the whole system.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::{
    client::ClientConfig,
    config::{environment, load},
    database::StoreUrl,
    identity::Callers,
    program::{
        Error,
        keys::{self, Plaintext, address, bus, drain_window},
    },
    server::ServerConfig,
    telemetry::LogFormat,
    tls::MutualTls,
};
use clap::Parser as _;
use gateway::config::{Tls, check_listen};
use serde::{Deserialize, Serialize};

use crate::flags::Flags;

/// Configuration of the whole system; each value has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where phones connect: HTTP API and Socket.IO.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Where internal services call.
    #[serde(deserialize_with = "address")]
    pub grpc_listen: SocketAddr,
    /// Health and metrics.
    #[serde(deserialize_with = "address")]
    pub admin_listen: SocketAddr,
    /// The data folder; made if there is none. It holds the secret of the services, and
    /// the data unless `store` says otherwise.
    pub data: PathBuf,
    /// Where the data is, when not in the data folder: in a keyspace. A `file:` here
    /// names the data folder, in place of `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreUrl>,
    /// How log lines look.
    pub log: LogFormat,
    /// Which log lines there are: a level, or levels by part, as in `info,gateway=debug`.
    pub log_filter: String,
    /// Where events go: `memory:` keeps them in the process, `nats://host` has a broker.
    #[serde(deserialize_with = "bus")]
    pub bus: String,
    /// How the gateway reaches the services.
    pub internal_grpc: InternalGrpc,
    /// With a certificate phones connect by TLS, and only so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// With a certificate internal services connect by TLS, and only so, and show their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Which of them may call what, by the names in certificates; has to be set with `mtls`.
    pub callers: Callers,
    /// Whether `listen` and `grpc_listen` may be plain beyond this machine: `accept` where
    /// a proxy or a mesh encrypts.
    pub plaintext: Plaintext,
    /// How long the end of the program may take, in milliseconds, at least 3,000.
    /// Sockets are closed over the gateway's own window, at most half of this one.
    #[serde(deserialize_with = "drain_window")]
    pub drain_window_ms: u64,
    /// The edge.
    pub gateway: gateway::config::Config,
    /// What stands behind the edge.
    pub hub: gateway::hub::HubConfig,
    /// Accounts.
    pub user: user_svc::Config,
    /// Rooms, topics, members and the log.
    pub message: message_svc::config::Config,
    /// Who is here.
    pub presence: presence_svc::Config,
    /// Limits of calls, counted apart for the gateway and for internal services.
    pub grpc: ServerConfig,
    /// How the gateway calls the services.
    pub client: ClientConfig,
}

/// How the gateway reaches the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InternalGrpc {
    /// By a call within the process.
    #[default]
    InProcess,
    /// Over `grpc_listen`, as it would in a mesh.
    Sockets,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: local(8080),
            grpc_listen: local(8081),
            admin_listen: local(8082),
            data: "./data".into(),
            store: None,
            log: LogFormat::default(),
            log_filter: "info".to_owned(),
            bus: "memory:".to_owned(),
            internal_grpc: InternalGrpc::default(),
            tls: None,
            mtls: None,
            callers: Callers::default(),
            plaintext: Plaintext::default(),
            drain_window_ms: 20_000,
            gateway: gateway::config::Config::default(),
            hub: gateway::hub::HubConfig::default(),
            user: user_svc::Config::default(),
            message: message_svc::config::Config::default(),
            presence: presence_svc::Config::default(),
            grpc: ServerConfig::default(),
            client: ClientConfig::default(),
        }
    }
}

impl Config {
    /// The configuration of this process: its flags, environment and file. With
    /// `--help`, `--version` or a wrong flag the process ends here.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn load() -> Result<Self, Error> {
        let flags = Flags::parse();
        let config = load(flags.config.as_deref(), environment(), &flags.settings())?;
        Ok(config)
    }

    /// Refuses ports that anybody could listen in on.
    ///
    /// # Errors
    /// What is missing, or set in vain.
    pub fn check_ports(&self) -> Result<(), Error> {
        check_listen(self.listen, self.tls.as_ref(), self.plaintext)?;
        keys::check_grpc(
            self.grpc_listen,
            self.mtls.as_ref(),
            &self.callers,
            self.plaintext,
        )
    }

    /// The data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match &self.store {
            Some(StoreUrl::File(folder)) => folder,
            _ => &self.data,
        }
    }

    /// Where the data is.
    #[must_use]
    pub fn store(&self) -> StoreUrl {
        let in_folder = || StoreUrl::File(self.data.clone());
        self.store.clone().unwrap_or_else(in_folder)
    }

    /// How long the end of the program may take.
    #[must_use]
    pub fn drain_window(&self) -> Duration {
        Duration::from_millis(self.drain_window_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn from(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, String> {
        let flags = Flags::try_parse_from([&["drivers"], flags].concat()).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(flags.config.as_deref(), environment, &flags.settings())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_it_serves_this_machine() {
        let config = from(&[], &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:8081");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8082");
        assert_eq!(config.folder(), Path::new("./data"));
        assert_eq!(config.store().to_string(), "file:./data");
        assert_eq!(config.log, LogFormat::Text);
        assert_eq!(config.internal_grpc, InternalGrpc::InProcess);
        assert_eq!(config.message.seed_file, None);
        assert!(config.gateway.rate_limits.enabled);
        assert!(config.tls.is_none());
    }

    #[test]
    fn every_flag_sets_its_key() {
        let config = from(
            &[
                "--listen=[::1]:1",
                "--grpc-listen=0.0.0.0:2",
                "--admin-listen=127.0.0.1:3",
                "--data=5",
                "--store=scylla://u:hunter2@db/drivers",
                "--bus=nats://broker?prefix=staging",
                "--seed-file=rooms.toml",
                "--rate-limits=off",
                "--log=json",
            ],
            &[("DRIVERS_LISTEN", "127.0.0.1:9"), ("DRIVERS_DATA", "six")],
        )
        .unwrap();
        assert_eq!(config.listen.to_string(), "[::1]:1");
        assert_eq!(config.grpc_listen.to_string(), "0.0.0.0:2");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:3");
        assert_eq!(config.folder(), Path::new("5"));
        assert_eq!(config.store().to_string(), "scylla://db:9042/drivers");
        assert_eq!(config.bus, "nats://broker?prefix=staging");
        assert_eq!(config.message.seed_file, Some("rooms.toml".into()));
        assert!(!config.gateway.rate_limits.enabled);
        assert_eq!(config.log, LogFormat::Json);
    }

    #[test]
    fn keys_without_a_flag_are_set_by_the_environment() {
        let config = from(
            &[],
            &[
                ("DRIVERS_INTERNAL_GRPC", "sockets"),
                ("DRIVERS_STORE", "file:elsewhere"),
                ("DRIVERS_BUS", "memory:?drop=0.2&seed=7"),
                ("DRIVERS_TLS__CERTIFICATE", "chain.pem"),
                ("DRIVERS_TLS__KEY", "key.pem"),
                ("DRIVERS_GATEWAY__AUTH_TIMEOUT_MS", "2000"),
                ("DRIVERS_DRAIN_WINDOW_MS", "3000"),
            ],
        )
        .unwrap();
        assert_eq!(config.internal_grpc, InternalGrpc::Sockets);
        assert_eq!(config.bus, "memory:?drop=0.2&seed=7");
        assert_eq!(config.folder(), Path::new("elsewhere"));
        assert_eq!(config.store().to_string(), "file:elsewhere");
        assert_eq!(config.tls.unwrap().key, PathBuf::from("key.pem"));
        assert_eq!(config.gateway.auth_timeout, Duration::from_secs(2));
        assert_eq!(config.drain_window_ms, 3_000);
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_its_source_and_what_was_expected() {
        for (name, value, expected) in [
            ("LISTEN", "8080", "an IP address and a port"),
            ("LISTEN", "localhost:8080", "an IP address and a port"),
            ("LOG", "xml", "json, text"),
            ("STORE", "./data", "`file:./data` or `scylla://"),
            ("STORE", "scylla://u:hunter2@db", "is no keyspace"),
            (
                "BUS",
                "redis://u:hunter2@there",
                "`nats://host` is expected",
            ),
            ("BUS", "memory:?drop=2", "a number from 0 to 1"),
            ("INTERNAL_GRPC", "udp", "in-process, sockets"),
            ("DRAIN_WINDOW_MS", "2999", "an integer of at least 3000"),
            ("TLS__CERTIFICATE", "chain.pem", "`key`"),
            ("LISTENS", "x", "one of listen, grpc_listen"),
            ("USER__NAME", "x", "there is no such key"),
            ("GATEWAY__RATE_LIMITS__SIGN_UP__BURST", "0", "nonzero"),
        ] {
            let variable = format!("DRIVERS_{name}");
            let error = from(&[], &[(&variable, value)]).unwrap_err();
            let key = name.to_lowercase().replace("__", ".");
            let key = if name.starts_with("TLS") { "tls" } else { &key };
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert!(error.contains(&variable), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = from(&["--listen", "here"], &[]).unwrap_err();
        assert!(error.contains("the flag --listen"), "{error}");
    }
}
