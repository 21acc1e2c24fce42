//! The admin port: `/livez`, `/readyz` and `/metrics`, for whoever runs the program.

use std::{future::Future, io, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, time::MissedTickBehavior};

use crate::{health::Readiness, shutdown::Shutdown, telemetry::Metrics};

/// How often samples are brought into their buckets when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long requests may go on once the port closes.
const GRACE: Duration = Duration::from_secs(1);

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whether the program is ready.
    pub readiness: Readiness,
    /// Whether it drains.
    pub shutdown: Shutdown,
    /// What it measured.
    pub metrics: Metrics,
}

impl Admin {
    /// The routes of the port.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get("ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Serves over a bound listener until `end`. That is later than the
    /// beginning of the program's own end: until then it says that it drains.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let collected = self.metrics.clone();
        let closing = tokio_util::sync::CancellationToken::new();
        let closed = closing.clone();
        let server = axum::serve(listener, self.router()).with_graceful_shutdown(async move {
            end.await;
            closing.cancel();
        });
        let closed = async {
            closed.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let upkeep = async {
            let mut ticks = tokio::time::interval(UPKEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                collected.upkeep();
            }
        };
        tokio::select! {
            result = server.into_future() => result,
            () = closed => Ok(()),
            () = upkeep => Ok(()),
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let mut waits = admin.readiness.waiting_for();
    if admin.shutdown.has_begun() {
        waits.push("the end of the program");
    }
    if waits.is_empty() {
        "ready\n".into_response()
    } else {
        let text = format!("waiting for: {}\n", waits.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], admin.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    async fn get(port: u16, path: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_port_says_how_the_program_is() {
        let (recorder, metrics) = Metrics::detached();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("drivers_test_total").increment(3);
        });
        let admin = Admin {
            readiness: Readiness::new(),
            shutdown: Shutdown::new(Duration::from_secs(1)),
            metrics,
        };
        let latch = admin.readiness.latch("store");
        let end = tokio_util::sync::CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(admin.clone().serve(listener, end.clone().cancelled_owned()));

        assert!(get(port, "/livez").await.starts_with("HTTP/1.1 200"));
        let unready = get(port, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(unready.ends_with("waiting for: store\n"), "{unready}");
        drop(latch);
        assert!(get(port, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(port, "/metrics").await.contains("drivers_test_total 3"));

        admin.shutdown.begin();
        assert!(get(port, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(port, "/livez").await.starts_with("HTTP/1.1 200"));

        // A connection that says nothing does not hold the port open.
        let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        end.cancel();
        let ended = timeout(Duration::from_secs(5), server).await;
        ended.unwrap().unwrap().unwrap();
    }
}
