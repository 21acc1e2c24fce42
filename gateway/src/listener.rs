//! From TCP to HTTP requests.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use chassis::tls::Reloaded;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    connection::{Connection, Control},
    http::ClientAddress,
    reception::{Inside, Roaming},
    socket::requests::{PATH, Requests},
    turnstile::Turnstiles,
};

/// How long a TLS handshake may take.
const TLS_LIMIT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, also the first one.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The most that a head may have.
const MAX_HEAD: usize = 64 << 10;
/// After which the kernel gives up a peer that acknowledges nothing.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after an accept that failed for want of something, a descriptor mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection is served with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) requests: Requests,
    pub(crate) router: Router,
    pub(crate) tls: Option<Reloaded<ServerConfig>>,
    pub(crate) stall_timeout: Duration,
    pub(crate) turnstiles: Turnstiles,
    /// Where requests are answered, and websockets are served.
    pub(crate) inside: Inside,
    /// No new connections, and none that stays.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Accepts connections until told to stop. Each is served by a task of `server.tasks`.
///
/// # Errors
/// The runtime can't watch the listener.
pub(crate) async fn accept(
    listener: std::net::TcpListener,
    server: Server,
    max_connections: usize,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(
        max_connections.clamp(1, Semaphore::MAX_PERMITS),
    ));
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.cancelled() => return Ok(()),
            accepted = next(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, address, permit)) => {
                let server = server.clone();
                let tasks = server.tasks.clone();
                // Large tasks are aligned, and what they leave in memory between what stays is
                // not taken by the next ones: 1.5 KiB for each socket.
                let serving = async move { server.serve(stream, address, permit).await };
                tasks.spawn(Box::pin(serving));
            }
            Err(error) => {
                metrics::counter!("drivers_gateway_accept_errors_total").increment(1);
                // A peer that left before it was accepted is no reason to wait.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tracing::warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let permit = permits
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address.ip(), permit))
}

impl Server {
    async fn serve(self, stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit) {
        self.turnstiles.reception.pass().await;
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        let stream = Roaming::new(stream, self.turnstiles.inside.clone());
        match &self.tls {
            None => self.http(stream, address, permit).await,
            Some(newest) => {
                let handshake = TlsAcceptor::from(newest.current()).accept(stream);
                let stream = tokio::select! {
                    () = self.stop.cancelled() => return,
                    stream = timeout(TLS_LIMIT, handshake) => stream,
                };
                match stream {
                    Ok(Ok(stream)) => self.http(stream, address, permit).await,
                    Ok(Err(_)) | Err(_) => {
                        metrics::counter!("drivers_gateway_tls_failures_total").increment(1);
                    }
                }
            }
        }
    }

    async fn http<S>(&self, stream: S, address: IpAddr, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let control = Arc::new(Control::default());
        let turnstiles = self.turnstiles.clone();
        let connection = Connection::new(
            stream,
            control.clone(),
            self.stall_timeout,
            turnstiles,
            permit,
        );
        let service = service_fn(move |mut request: Request<Incoming>| {
            let server = self.clone();
            request.extensions_mut().insert(control.clone());
            request.extensions_mut().insert(ClientAddress(address));
            async move {
                let inside = server.inside.clone();
                inside.run(server.answer(request)).await
            }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(connection), service)
            .with_upgrades();
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path.strip_suffix('/').unwrap_or(path) == PATH {
            return self.requests.answer(request).await;
        }
        let Ok(response) = self.router.oneshot(request.map(Body::new)).await;
        response
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10)),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
