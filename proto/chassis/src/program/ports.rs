//! The ports that programs have: bound first, so that a start can be refused before
//! it has touched anything, and served as parts.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::{Error, Part};
use crate::{
    admin::Admin,
    health::Readiness,
    server::{self, Services},
    shutdown::Shutdown,
};

/// Connections that may wait to be accepted: as many as Linux allows by default. Whoever
/// finds no place tries again a second later, so those who drop all at once need many;
/// `TcpListener::bind` has 128.
const BACKLOG: u32 = 4_096;

/// Binds an address that this key of the configuration set. Has to be called within a runtime.
///
/// # Errors
/// [`Error::Listen`].
pub fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, Error> {
    listen(address).map_err(|source| Error::Listen {
        address,
        key,
        source,
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // As `TcpListener::bind` does: a program that has just ended leaves connections behind.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Where it listens.
///
/// # Errors
/// When the operating system does not say.
pub fn address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::System {
        what: "asking for the address of a port",
        source,
    })
}

/// The address by which this machine reaches what listens at `at`.
#[must_use]
pub fn reachable(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, at.port())
}

/// Serves the admin port.
#[must_use]
pub fn serve_admin(listener: TcpListener, admin: Admin, any_ended: &CancellationToken) -> Part {
    Part::start("the admin port", any_ended, |stop| async move {
        let served = admin.serve(listener, stop.cancelled_owned()).await;
        served.map_err(|source| Error::System {
            what: "serving the admin port",
            source,
        })
    })
}

/// Serves the gRPC port. Told to stop, the part begins `end`, within whose window
/// requests may finish.
#[must_use]
pub fn serve_grpc(
    listener: TcpListener,
    services: Services,
    readiness: Readiness,
    end: Shutdown,
    any_ended: &CancellationToken,
) -> Part {
    Part::start("the gRPC port", any_ended, |stop| async move {
        let ending = async {
            stop.cancelled().await;
            end.begin();
            pending::<Infallible>().await
        };
        tokio::select! {
            served = server::serve(listener, services, &readiness, &end) => served,
            never = ending => match never {},
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures::future::try_join_all;
    use tokio::{net::TcpStream, time::timeout};

    use super::*;

    #[tokio::test]
    async fn many_may_connect_before_anybody_is_accepted() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), "listen").unwrap();
        let at = address(&listener).unwrap();
        // Whoever is not let in tries again after a second, then after three.
        let all = try_join_all((0..1_000).map(|_| TcpStream::connect(at)));
        let connected = timeout(Duration::from_secs(2), all).await;
        assert_eq!(connected.unwrap().unwrap().len(), 1_000);
    }
}
