//! Connections to a replica, made when they are needed and not too often.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};

use super::{
    Credentials,
    peers::{Address, InvalidEndpoint},
};
use crate::tls::{Mutual, PeerName, Reloaded};

/// Longest time to make a connection: no longer than one try.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Pause after a connection could not be made; each is twice the one before, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A peer that does not answer a ping within this is gone, and another
/// connection is made: well within the five seconds in which a fault heals.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes the connections to one replica.
#[derive(Clone)]
pub(super) struct Dialer {
    /// What the replica is called: in a mesh, and in its certificate.
    uri: Uri,
    to: Arc<Destination>,
    tls: Option<Arc<Tls>>,
    pace: Arc<Mutex<Pace>>,
}

/// What is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// A host, looked up each time.
    Host(Address),
    /// One of the addresses of a name.
    Resolved(SocketAddr),
}

/// How it is made sure that the replica is what it should be.
struct Tls {
    own: Reloaded<Mutual>,
    /// What the replica is asked for, which tells services at one address apart.
    asked_for: ServerName<'static>,
    expected: PeerName,
}

type Connection = Either<TcpStream, TlsStream<TcpStream>>;

impl Dialer {
    /// To a replica that is called `name`.
    pub(super) fn new(
        name: &Address,
        to: Destination,
        credentials: &Credentials,
    ) -> Result<Self, InvalidEndpoint> {
        // tonic leaves TLS to the connector, and would refuse a scheme that needs it.
        let url = format!("http://{name}");
        let tls = match credentials {
            Credentials::Secret(_) => None,
            Credentials::Certificate { own, service } => {
                let host = ServerName::try_from(name.host.clone());
                let host = host.map_err(|_| InvalidEndpoint::NoAddress(name.host.clone()))?;
                Some(Arc::new(Tls {
                    own: own.clone(),
                    expected: service.clone().unwrap_or(PeerName::Host(host.clone())),
                    asked_for: host,
                }))
            }
        };
        Ok(Self {
            uri: url.parse().map_err(|_| InvalidEndpoint::NoAddress(url))?,
            to: Arc::new(to),
            tls,
            pace: Arc::default(),
        })
    }

    /// A channel that connects when it is first used.
    pub(super) fn channel(&self) -> Channel {
        let dialer = self.clone();
        let connector = tower::service_fn(move |_: Uri| dialer.clone().connect());
        Endpoint::from(self.uri.clone())
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    /// Lets the next connection be tried at once, for somebody who paces himself.
    pub(super) fn hurry(&self) {
        self.pace().not_before = None;
    }

    async fn connect(self) -> io::Result<TokioIo<Connection>> {
        if (self.pace().not_before).is_some_and(|at| Instant::now() < at) {
            return Err(io::Error::other("the last connection failed just now"));
        }
        let connecting = async {
            let connection = match &*self.to {
                Destination::Host(at) => TcpStream::connect((&*at.host, at.port)).await,
                Destination::Resolved(at) => TcpStream::connect(at).await,
            }?;
            connection.set_nodelay(true)?;
            match &self.tls {
                None => Ok(Either::Left(connection)),
                Some(tls) => tls.connect(connection).await.map(Either::Right),
            }
        };
        let connected = timeout(CONNECT_LIMIT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(connection) => {
                *self.pace() = Pace::default();
                Ok(TokioIo::new(connection))
            }
            Err(error) => {
                self.pace().failed(Instant::now());
                Err(error)
            }
        }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tls {
    async fn connect(&self, connection: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let client = self.own.current().client(&self.expected);
        let client = client.map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(client));
        connector.connect(self.asked_for.clone(), connection).await
    }
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
}
