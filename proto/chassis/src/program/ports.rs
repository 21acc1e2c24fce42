//! The ports that programs have: bound first, so that a start can be refused before
//! it has touched anything, and served as parts.

use std::{
    convert::Infallible,
    future::pending,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Error, Part};
use crate::{
    admin::Admin,
    health::Readiness,
    server::{self, Services},
    shutdown::Shutdown,
};

/// Binds an address that this key of the configuration set.
///
/// # Errors
/// [`Error::Listen`].
pub async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address,
            key,
            source,
        })
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
