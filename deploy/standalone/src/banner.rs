//! What the program says once it serves.

use std::{
    fmt,
    path::{self, Path, PathBuf},
};

use chassis::{database::StoreUrl, program::say, telemetry::LogFormat};
use gateway::program::TryIt;

use crate::{app::Addresses, config::Config};

/// What listens where, where the data is, and one line to try.
#[derive(Clone, Debug)]
pub struct Banner {
    at: Addresses,
    tls: bool,
    mtls: bool,
    data: PathBuf,
    store: StoreUrl,
    format: LogFormat,
}

impl Banner {
    /// Of a program with this configuration that listens there.
    #[must_use]
    pub fn new(config: &Config, at: Addresses) -> Self {
        Self {
            at,
            tls: config.tls.is_some(),
            mtls: config.mtls.is_some(),
            data: absolute(config.folder()),
            store: match config.store() {
                StoreUrl::File(folder) => StoreUrl::File(absolute(&folder)),
                scylla @ StoreUrl::Scylla(_) => scylla,
            },
            format: config.log,
        }
    }

    /// Says it: to a person on the standard output, to a machine in a log line.
    pub fn show(&self) {
        say(self.format, self, || {
            tracing::info!(
                listen = %self.at.phones,
                grpc_listen = %self.at.grpc,
                admin_listen = %self.at.admin,
                tls = self.tls,
                mtls = self.mtls,
                data = %self.data.display(),
                store = %self.store,
                version = env!("CARGO_PKG_VERSION"),
                "serving",
            );
        });
    }
}

fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses {
            phones,
            grpc,
            admin,
        } = self.at;
        let scheme = if self.tls { "https" } else { "http" };
        let data = self.data.display();
        writeln!(f, "drivers {} serves", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  phones    {scheme}://{phones}  sign-up and Socket.IO")?;
        if self.mtls {
            writeln!(f, "  services  https://{grpc}  gRPC, by certificate")?;
        } else {
            writeln!(
                f,
                "  services  http://{grpc}  gRPC, the secret is in {data}/secret"
            )?;
        }
        writeln!(
            f,
            "  health    http://{admin}  /readyz, /livez and /metrics"
        )?;
        match &self.store {
            StoreUrl::File(_) => writeln!(f, "  data      {data}")?,
            StoreUrl::Scylla(url) => writeln!(f, "  data      {url}")?,
        }
        let try_it = TryIt {
            phones,
            tls: self.tls,
        };
        try_it.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_all_he_needs() {
        let at = Addresses {
            phones: ([0, 0, 0, 0], 8080).into(),
            grpc: ([127, 0, 0, 1], 8081).into(),
            admin: ([127, 0, 0, 1], 8082).into(),
        };
        let config = Config {
            data: "/srv/drivers".into(),
            ..Config::default()
        };
        let text = Banner::new(&config, at).to_string();
        let in_keyspace = Config {
            store: "scylla://u:hunter2@db/drivers".parse().ok(),
            ..config
        };
        let other = Banner::new(&in_keyspace, at).to_string();
        assert!(
            other.contains("data      scylla://db:9042/drivers"),
            "{other}"
        );
        assert!(other.contains("/srv/drivers/secret"), "{other}");
        assert!(!other.contains("hunter2"), "{other}");
        for part in [
            "http://0.0.0.0:8080",
            "http://127.0.0.1:8081",
            "http://127.0.0.1:8082",
            "/srv/drivers/secret",
            "curl http://127.0.0.1:8080/sign_up -d '",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
