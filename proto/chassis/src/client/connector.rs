//! Connections to a service, made when they are needed and not too often.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest time to make a connection: no longer than one try.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Pause after a connection could not be made; each is twice the one before, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A peer that does not answer a ping within this is gone, and another
/// connection is made: well within the five seconds in which a fault heals.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// An endpoint that is no `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no endpoint of a service: http://host:port is expected")]
pub struct InvalidEndpoint(pub String);

/// A channel that connects when it is first used.
pub(super) fn lazy(endpoint: &str) -> Result<Channel, InvalidEndpoint> {
    let invalid = || InvalidEndpoint(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| invalid())?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    let (true, Some(host), Some(port)) = (plain, uri.host(), uri.port_u16()) else {
        return Err(invalid());
    };
    // An IPv6 address stands in brackets in a URL, and without them elsewhere.
    let host: Arc<str> = host.trim_matches(['[', ']']).into();
    let pace = Arc::new(Mutex::new(Pace::default()));
    let connector = tower::service_fn(move |_: Uri| connect(host.clone(), port, pace.clone()));
    Ok(Endpoint::from(uri)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}

/// When the next connection may be tried. Calls that come before fail at once:
/// they know better than the connector whether to wait.
#[derive(Debug, Default)]
struct Pace {
    not_before: Option<Instant>,
    pause: Duration,
}

impl Pace {
    fn failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.not_before = Some(now + self.pause.mul_f64(rand::random_range(0.5..1.0)));
    }
}

async fn connect(
    host: Arc<str>,
    port: u16,
    pace: Arc<Mutex<Pace>>,
) -> io::Result<TokioIo<TcpStream>> {
    let lock = || pace.lock().unwrap_or_else(PoisonError::into_inner);
    if lock().not_before.is_some_and(|at| Instant::now() < at) {
        return Err(io::Error::other("the last connection failed just now"));
    }
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((&*host, port)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match connected {
        Ok(connection) => {
            *lock() = Pace::default();
            connection.set_nodelay(true)?;
            Ok(TokioIo::new(connection))
        }
        Err(error) => {
            lock().failed(Instant::now());
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_no_further() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.failed(now);
            assert!(pace.not_before.unwrap() <= now + MAX_PAUSE);
        }
        assert_eq!(pace.pause, MAX_PAUSE);
    }

    #[tokio::test]
    async fn an_endpoint_is_a_plain_url_with_a_port() {
        for valid in ["http://message-svc:8081", "http://[::1]:8081/"] {
            assert!(lazy(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "message-svc:8081",
            "http://host",
            "https://host:1",
            "http://h:1/x",
        ] {
            assert!(lazy(invalid).is_err(), "{invalid}");
        }
    }
}
