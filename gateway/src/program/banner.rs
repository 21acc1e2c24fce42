//! What the program says once it is ready.

use std::{fmt, net::SocketAddr};

use chassis::{
    client::Peers,
    program::{ports::reachable, say},
    telemetry::LogFormat,
};

use super::NAME;

/// What listens where, and which services it calls.
pub(super) struct Banner {
    pub(super) phones: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) tls: bool,
    pub(super) services: [Peers; 3],
    pub(super) log: LogFormat,
}

impl Banner {
    /// Says it: to a person on the standard output, to a machine in a log line.
    pub(super) fn show(&self) {
        let [user, message, presence] = &self.services;
        say(self.log, self, || {
            tracing::info!(
                listen = %self.phones,
                admin_listen = %self.admin,
                tls = self.tls,
                user_svc = %user,
                message_svc = %message,
                presence_svc = %presence,
                version = env!("CARGO_PKG_VERSION"),
                "serving",
            );
        });
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let [user, message, presence] = &self.services;
        writeln!(f, "{NAME} {} serves", env!("CARGO_PKG_VERSION"))?;
        writeln!(
            f,
            "  phones    {scheme}://{}  sign-up and Socket.IO",
            self.phones
        )?;
        writeln!(
            f,
            "  health    http://{}  /readyz, /livez and /metrics",
            self.admin
        )?;
        writeln!(f, "  services  {user} {message} {presence}")?;
        let try_it = TryIt {
            phones: self.phones,
            tls: self.tls,
        };
        try_it.fmt(f)
    }
}

/// One line to try.
pub struct TryIt {
    /// Where phones connect.
    pub phones: SocketAddr,
    /// Whether by TLS.
    pub tls: bool,
}

impl fmt::Display for TryIt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, curl) = if self.tls {
            ("https", "curl -k")
        } else {
            ("http", "curl")
        };
        writeln!(f, "Try:")?;
        writeln!(
            f,
            "  {curl} {scheme}://{}/sign_up -d 'phone_number=998901234567&username=Sardor&gcm_token=none&device_type=linux'",
            reachable(self.phones)
        )
    }
}
