//! From TCP connections to those that requests come over.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, task::AbortOnDropHandle};

use super::aged::Aged;
use crate::{
    identity::{Names, names_of},
    tls::{Mutual, Reloaded},
};

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Most handshakes at a time; who comes meanwhile waits to be accepted.
const MAX_HANDSHAKES: usize = 256;

type Connection = Aged<Either<TcpStream, TlsStream<TcpStream>>>;

/// Connections as they come, each for at most this long. Who has to show a certificate
/// has shown it.
pub(super) fn accepted(
    listener: TcpListener,
    tls: Option<Reloaded<Mutual>>,
    age_limit: Duration,
) -> impl Stream<Item = io::Result<Connection>> {
    let (shaken, mut connections) = mpsc::channel(1);
    let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, tls, age_limit, shaken)));
    stream::poll_fn(move |context| {
        let _held = &accepting;
        connections
            .poll_recv(context)
            .map(|connection| connection.map(Ok))
    })
}

async fn accept(
    listener: TcpListener,
    tls: Option<Reloaded<Mutual>>,
    age_limit: Duration,
    shaken: mpsc::Sender<Connection>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let (connection, from) = next(&listener).await;
        let Some(tls) = &tls else {
            let connection = Aged::new(Either::Left(connection), Names::default(), age_limit);
            if shaken.send(connection).await.is_err() {
                return;
            }
            continue;
        };
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let (acceptor, shaken) = (TlsAcceptor::from(tls.current().server()), shaken.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(connection) = handshake(acceptor, connection, from).await {
                let peer = peer_of(&connection);
                let connection = Aged::new(Either::Right(connection), peer, age_limit);
                // The server may have ended meanwhile.
                let _ = shaken.send(connection).await;
            }
        });
    }
}

/// Errors of accepting (too many open files, a peer that is gone again) are waited out,
/// at most a second each time, and never end it.
async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut pause = Duration::from_millis(10);
    loop {
        match listener.accept().await {
            Ok((connection, from)) => {
                // Without it a small answer may wait for the peer's acknowledgement.
                let _ = connection.set_nodelay(true);
                return (connection, from);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                metrics::counter!("drivers_grpc_server_accept_errors_total").increment(1);
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    connection: TcpStream,
    from: SocketAddr,
) -> Option<TlsStream<TcpStream>> {
    let error = match timeout(HANDSHAKE_LIMIT, acceptor.accept(connection)).await {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    metrics::counter!("drivers_grpc_server_tls_failures_total").increment(1);
    tracing::debug!(%error, %from, "a caller has no certificate that is trusted here");
    None
}

fn peer_of(connection: &TlsStream<TcpStream>) -> Names {
    let chain = connection
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default();
    chain.first().map(names_of).unwrap_or_default()
}
