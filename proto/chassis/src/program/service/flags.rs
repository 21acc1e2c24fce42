//! The command line of a service.

use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::Flag;

const MORE: &str = "\
Every flag is a key of the configuration, too, and there are more keys. Of the
defaults, the file, the environment and the flags, the later one wins. In the file:

    store = \"scylla://drivers@db-1,db-2/drivers?dc=dc1&password_file=/run/secrets/db\"
    bus = \"nats://drivers@nats-1,nats-2?password_file=/run/secrets/nats\"
    secret_file = \"/run/secrets/services\"        # or [mtls] and [callers]
    grpc.max_in_flight = 2048

In the environment a dot is written as two underscores: DRIVERS_GRPC__MAX_IN_FLIGHT=2048.
A key that is unknown and a value that does not fit are refused. A password in a URL
can be seen by whoever sees the processes of the machine: name its file.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it can't serve, 2 when the
configuration is wrong, 130 or 143 when a second signal cut the end short.";

#[derive(Debug, Parser)]
#[command(version, after_help = MORE)]
pub(super) struct Flags {
    /// Where gateways and internal services call, with a bearer secret or a certificate
    /// [default: 127.0.0.1:8081] [key: grpc_listen]
    #[arg(long, global = true, value_name = "ADDRESS")]
    grpc_listen: Option<String>,
    /// Health and metrics [default: 127.0.0.1:8082] [key: admin_listen]
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where the data is: file:FOLDER or scylla://HOST,…/KEYSPACE?KEY=VALUE&…
    /// [default: file:./data] [key: store]
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// Where events go: nats://HOST,…?KEY=VALUE&…, or memory:, which keeps them in this
    /// process [default: memory:] [key: bus]
    #[arg(long, global = true, value_name = "URL")]
    bus: Option<String>,
    /// A configuration file, TOML [variable: DRIVERS_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Log lines for people on stderr, or JSON on stdout [default: text] [key: log]
    #[arg(long, global = true, value_name = "text|json")]
    log: Option<String>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Command {
    /// Brings the tables in the store up to this version, and ends
    Migrate,
}

impl Flags {
    /// The command line of this process. With `--help`, `--version` or a wrong flag
    /// the process ends here.
    pub(super) fn of_process(name: &'static str, about: &'static str) -> Self {
        let command = Self::command().name(name).about(about);
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// The flags that were given, as settings of their keys.
    pub(super) fn settings(&self) -> Vec<Flag> {
        [
            ("--grpc-listen", "grpc_listen", &self.grpc_listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--store", "store", &self.store),
            ("--bus", "bus", &self.bus),
            ("--log", "log", &self.log),
        ]
        .into_iter()
        .filter_map(|(name, key, value)| {
            let value = value.clone()?;
            Some(Flag { name, key, value })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        config::load, database::StoreUrl, program::service::Settings, telemetry::LogFormat,
    };

    #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Own {
        loads: u32,
    }

    fn from(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings<Own>, String> {
        let flags = Flags::try_parse_from([&["drivers-x"], flags].concat()).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(flags.config.as_deref(), environment, &flags.settings())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_flag_sets_its_key_and_the_service_has_its_own() {
        let settings = from(
            &[
                "migrate",
                "--grpc-listen=[::1]:1",
                "--admin-listen=0.0.0.0:2",
                "--store=scylla://db/drivers",
                "--bus=memory:?seed=7",
                "--log=json",
            ],
            &[
                ("DRIVERS_STORE", "file:elsewhere"),
                ("DRIVERS_SECRET_FILE", "secret"),
                ("DRIVERS_MESSAGE__LOADS", "3"),
                ("DRIVERS_GRPC__MAX_IN_FLIGHT", "5"),
            ],
        )
        .unwrap();
        assert_eq!(settings.grpc_listen.to_string(), "[::1]:1");
        assert_eq!(settings.admin_listen.to_string(), "0.0.0.0:2");
        assert_eq!(settings.store.to_string(), "scylla://db:9042/drivers");
        assert_eq!(settings.bus, "memory:?seed=7");
        assert_eq!(settings.log, LogFormat::Json);
        assert_eq!(settings.secret_file, Some("secret".into()));
        assert_eq!(settings.service, Own { loads: 3 });
        assert_eq!(settings.grpc.max_in_flight, 5);
    }

    #[test]
    fn without_a_word_it_serves_this_machine_from_a_folder() {
        let settings = from(&[], &[]).unwrap();
        assert!(settings.grpc_listen.ip().is_loopback());
        assert!(settings.admin_listen.ip().is_loopback());
        assert_eq!(settings.store, StoreUrl::File("./data".into()));
        assert_eq!(settings.service, Own::default());
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_and_no_password() {
        for (key, value, expected) in [
            ("STORE", "cassandra://u:hunter2@db/k", "`file:./data` or"),
            ("STORE", "scylla://u:hunter2@db", "is no keyspace"),
            (
                "BUS",
                "redis://u:hunter2@there",
                "`nats://host` is expected",
            ),
            ("BUS", "nats://u:hunter2@b?colour=red", "`colour` is no key"),
            ("BUS", "nats://b?drop=2", "a number from 0 to 1"),
            ("USER__LOAD", "1", "there is no such key"),
            ("USER__LOADS", "x", "an integer from 0"),
            ("LISTEN", "127.0.0.1:1", "one of grpc_listen, admin_listen"),
        ] {
            let variable = format!("DRIVERS_{key}");
            let error = from(&[], &[(&variable, value)]).unwrap_err();
            let key = key.to_lowercase().replace("__", ".");
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
