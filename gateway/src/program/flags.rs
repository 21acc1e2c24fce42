//! The command line of the gateway.

use std::path::PathBuf;

use chassis::config::Flag;
use clap::{Parser, ValueEnum};

const MORE: &str = "\
Where a service is: http://user-svc:8081 is one address, behind which a mesh chooses;
dns:///user-svc:8081 is every address of a name, looked up again every few seconds;
http://a:8081,http://b:8081 is a list.

Every flag is a key of the configuration, too, and there are more keys. Of the
defaults, the file, the environment and the flags, the later one wins. In the file:

    listen = \"0.0.0.0:443\"
    tls.certificate = \"/etc/drivers/chain.pem\"
    tls.key = \"/etc/drivers/key.pem\"
    secret_file = \"/run/secrets/services\"        # or [mtls], with addresses by https://
    user_svc = \"dns:///user-svc:8081\"

    [gateway.rate_limits]
    sign_up = { burst = 60, per_minute = 60 }

In the environment a dot is written as two underscores: DRIVERS_TLS__KEY=key.pem.
A key that is unknown and a value that does not fit are refused.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when it can't serve, 2 when the
configuration is wrong, 130 or 143 when a second signal cut the end short.";

/// The edge: HTTP sign-up and Socket.IO for phones, in front of the three services.
/// Any number of them runs side by side.
#[derive(Debug, Parser)]
#[command(name = "drivers-gateway", version, after_help = MORE)]
pub(super) struct Flags {
    /// Where phones connect: HTTP API and Socket.IO [default: 127.0.0.1:8080] [key: listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Health and metrics [default: 127.0.0.1:8082] [key: admin_listen]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where events come from: nats://HOST,…?KEY=VALUE&…, or memory:, over which none
    /// come in [default: memory:] [key: bus]
    #[arg(long, value_name = "URL")]
    bus: Option<String>,
    /// Where the user service is; has to be set [key: user_svc]
    #[arg(long, value_name = "URL")]
    user_svc: Option<String>,
    /// Where the message service is; has to be set [key: message_svc]
    #[arg(long, value_name = "URL")]
    message_svc: Option<String>,
    /// Where the presence service is; has to be set [key: presence_svc]
    #[arg(long, value_name = "URL")]
    presence_svc: Option<String>,
    /// A configuration file, TOML [variable: DRIVERS_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Whether sign-ups and messages are limited [default: on] [key:
    /// gateway.rate_limits.enabled]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    rate_limits: Option<Switch>,
    /// Log lines for people on stderr, or JSON on stdout [default: text] [key: log]
    #[arg(long, value_name = "text|json")]
    log: Option<String>,
}

/// Whether something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    /// As a value of a configuration key.
    #[must_use]
    pub fn setting(self) -> String {
        (self == Self::On).to_string()
    }
}

impl Flags {
    /// The command line of this process. With `--help`, `--version` or a wrong flag
    /// the process ends here.
    pub(super) fn of_process() -> Self {
        Self::parse()
    }

    /// The flags that were given, as settings of their keys.
    pub(super) fn settings(&self) -> Vec<Flag> {
        let enabled = self.rate_limits.map(Switch::setting);
        [
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin_listen", &self.admin_listen),
            ("--bus", "bus", &self.bus),
            ("--user-svc", "user_svc", &self.user_svc),
            ("--message-svc", "message_svc", &self.message_svc),
            ("--presence-svc", "presence_svc", &self.presence_svc),
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
    #![allow(clippy::unwrap_used)]

    use chassis::{config::load, program::Error, telemetry::LogFormat};
    use clap::CommandFactory as _;

    use super::{
        super::{Settings, Shown},
        *,
    };

    fn from(flags: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
        let flags = Flags::try_parse_from([&["drivers-gateway"], flags].concat()).unwrap();
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
    fn every_flag_sets_its_key_and_more_are_set_by_the_environment() {
        let settings = from(
            &[
                "--listen=[::1]:1",
                "--admin-listen=0.0.0.0:2",
                "--bus=memory:?seed=7",
                "--user-svc=http://user-svc:8081",
                "--message-svc=dns:///message-svc:8081",
                "--presence-svc=http://a:1,http://b:2",
                "--rate-limits=off",
                "--log=json",
            ],
            &[
                ("DRIVERS_LISTEN", "127.0.0.1:9"),
                ("DRIVERS_SECRET_FILE", "secret"),
                ("DRIVERS_TLS__CERTIFICATE", "chain.pem"),
                ("DRIVERS_TLS__KEY", "key.pem"),
                ("DRIVERS_HUB__MAX_TOPICS", "5"),
                ("DRIVERS_CLIENT__TRY_LIMIT_MS", "300"),
                ("DRIVERS_DRAIN_WINDOW_MS", "3000"),
            ],
        )
        .unwrap();
        assert_eq!(settings.listen.to_string(), "[::1]:1");
        assert_eq!(settings.admin_listen.to_string(), "0.0.0.0:2");
        assert_eq!(settings.bus, "memory:?seed=7");
        assert!(!settings.gateway.rate_limits.enabled);
        assert_eq!(settings.log, LogFormat::Json);
        assert_eq!(settings.tls.as_ref().unwrap().key.to_str(), Some("key.pem"));
        assert_eq!(settings.hub.max_topics, 5);
        assert_eq!(settings.client.try_limit_ms, 300);
        let needs = settings.needs().unwrap();
        assert_eq!(needs.user_svc.to_string(), "http://user-svc:8081");
        assert_eq!(needs.message_svc.to_string(), "dns:///message-svc:8081");
        assert_eq!(needs.presence_svc.to_string(), "http://a:1,http://b:2");
        assert!(matches!(needs.shown, Shown::Secret(file) if file.as_os_str() == "secret"));
        let keys = ["CERTIFICATE", "KEY", "CA"].map(|key| format!("DRIVERS_MTLS__{key}"));
        let mut mutual: Vec<_> = keys.iter().map(|key| (key.as_str(), "file.pem")).collect();
        mutual.push((
            "DRIVERS_IDENTITIES__USER_SVC",
            "spiffe://drivers.uz/user-svc",
        ));
        let flags = [
            "--user-svc=https://a:1",
            "--message-svc=https://a:1",
            "--presence-svc=https://a:1",
        ];
        let settings = from(&flags, &mutual).unwrap();
        let id = settings.identities.user_svc.as_ref().unwrap().to_string();
        assert_eq!(id, "spiffe://drivers.uz/user-svc");
        assert!(matches!(
            settings.needs().unwrap().shown,
            Shown::Certificate(_)
        ));
    }

    #[test]
    fn what_has_no_default_is_asked_for() {
        let mut environment = Vec::new();
        for key in ["user_svc", "message_svc", "presence_svc", "secret_file"] {
            let missing = from(&[], &environment).unwrap().needs().err();
            assert!(
                matches!(missing, Some(Error::NotSet { key: named, .. }) if named == key),
                "{missing:?}"
            );
            let variable = match key {
                "user_svc" => "DRIVERS_USER_SVC",
                "message_svc" => "DRIVERS_MESSAGE_SVC",
                _ => "DRIVERS_PRESENCE_SVC",
            };
            environment.push((variable, "http://a:1"));
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key() {
        for (key, value, expected) in [
            ("USER_SVC", "user-svc:8081", "http://host:port"),
            ("MESSAGE_SVC", "dns://message-svc:8081", "dns:///name:port"),
            ("LISTEN", "8080", "an IP address and a port"),
            ("BUS", "redis://there", "`memory:` or `nats://host`"),
            ("DRAIN_WINDOW_MS", "2999", "an integer of at least 3000"),
            ("STORE", "file:data", "there is no such key"),
            ("PLAINTEXT", "yes", "refuse, accept"),
            (
                "IDENTITIES__USER_SVC",
                "a b",
                "spiffe://domain/path is expected",
            ),
        ] {
            let variable = format!("DRIVERS_{key}");
            let error = from(&[], &[(&variable, value)]).unwrap_err();
            let key = key.to_lowercase().replace("__", ".");
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
