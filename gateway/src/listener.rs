//! From TCP to HTTP requests.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

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
    config::Config,
    connection::{Connection, Control},
    http::ClientAddress,
    socket::requests::{PATH, Requests},
    turnstile::Turnstile,
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
    pub(crate) turnstile: Turnstile,
    /// No new connections, and none that stays.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Accepts connections until told to stop. Each is served by a task of `server.tasks`.
pub(crate) async fn accept(listener: TcpListener, server: Server, config: &Config) {
    let permits = Arc::new(Semaphore::new(
        config.max_connections.clamp(1, Semaphore::MAX_PERMITS),
    ));
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            accepted = next(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, address, permit)) => {
                let server = server.clone();
                server
                    .tasks
                    .clone()
                    .spawn(async move { server.serve(stream, address, permit).await });
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
        self.turnstile.pass().await;
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
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
        let turnstile = self.turnstile.clone();
        let connection = Connection::new(
            stream,
            control.clone(),
            self.stall_timeout,
            turnstile,
            permit,
        );
        let service = service_fn(move |mut request: Request<Incoming>| {
            let server = self.clone();
            request.extensions_mut().insert(control.clone());
            request.extensions_mut().insert(ClientAddress(address));
            async move { Ok::<_, Infallible>(server.answer(request).await) }
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
