//! The command line.

use std::path::PathBuf;

use chassis::config::Flag;
use clap::Parser;
use gateway::program::Switch;

const MORE: &str = "\
Every flag is a key of the configuration, too, and there are more keys. Of the
defaults, the file, the environment and the flags, the later one wins. In the file:

    listen = \"0.0.0.0:443\"
    tls.certificate = \"/etc/drivers/chain.pem\"
    tls.key = \"/etc/drivers/key.pem\"

    [gateway.rate_limits]
    sign_up = { burst = 60, per_minute = 60 }

In the environment a dot is written as two underscores: DRIVERS_TLS__KEY=key.pem.
A key that is unknown and a value that does not fit are refused.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it can't serve, 2 when the
configuration is wrong, 130 or 143 when a second signal cut the end short.";

/// The chat backend in one process: HTTP sign-up, Socket.IO, and the services
/// behind them, on a data folder of its own.
#[derive(Debug, Default, Parser)]
#[command(name = "drivers", version, after_help = MORE)]
pub(crate) struct Flags {
    /// Where phones connect: HTTP API and Socket.IO [default: 127.0.0.1:8080] [key: listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where internal services call, with the bearer secret of the data folder
    /// [default: 127.0.0.1:8081] [key: grpc_listen]
    #[arg(long, value_name = "ADDRESS")]
    grpc_listen: Option<String>,
    /// Health and metrics [default: 127.0.0.1:8082] [key: admin_listen]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// The data folder; made if there is none [default: ./data] [key: data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
    /// Where the data is: file:FOLDER or scylla://HOST,…/KEYSPACE?KEY=VALUE&…; name the
    /// file of a password there with password_file, for everybody on the machine sees
    /// flags [default: in the data folder] [key: store]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Where events go: memory:, which keeps them in this process, or
    /// nats://HOST,…?KEY=VALUE&…, which others share [default: memory:] [key: bus]
    #[arg(long, value_name = "URL")]
    bus: Option<String>,
    /// A configuration file, TOML [variable: DRIVERS_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The rooms and topics to begin with, TOML [default: one room with one open
    /// topic] [key: message.seed_file]
    #[arg(long, value_name = "FILE")]
    seed_file: Option<String>,
    /// Whether sign-ups and messages are limited [default: on] [key:
    /// gateway.rate_limits.enabled]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    rate_limits: Option<Switch>,
    /// Log lines for people on stderr, or JSON on stdout [default: text] [key: log]
    #[arg(long, value_name = "text|json")]
    log: Option<String>,
}

impl Flags {
    /// The flags that were given, as settings of their keys.
    pub(crate) fn settings(&self) -> Vec<Flag> {
        let enabled = self.rate_limits.map(Switch::setting);
        [
            ("--listen", "listen", &self.listen),
            ("--grpc-listen", "grpc_listen", &self.grpc_listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--data", "data", &self.data),
            ("--store", "store", &self.store),
            ("--bus", "bus", &self.bus),
            ("--seed-file", "message.seed_file", &self.seed_file),
            ("--rate-limits", "gateway.rate_limits.enabled", &enabled),
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
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Flags::command().debug_assert();
    }
}
