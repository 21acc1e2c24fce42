//! The gRPC listener: HTTP/2 on a socket, with health and reflection.

use std::time::Duration;

use tokio::{net::TcpListener, time::sleep};
use tonic::transport::Server;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{Services, accept::accepted};
use crate::{health::Readiness, shutdown::Shutdown};

/// Metadata of 32 acting users, percent-encoded, is under 8 KiB; the rest is
/// room for what a mesh adds.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Streams of one connection; a client that wants more opens another.
const MAX_CONCURRENT_STREAMS: u32 = 1_024;

/// Calls of one connection that may be given up before this end has seen them. A program that
/// was stopped for a second finds as many as were made to it: with h2's own limit of 20 it
/// would close the connection on everybody else's.
const MAX_GIVEN_UP: usize = MAX_CONCURRENT_STREAMS as usize;

/// A peer that does not answer a ping within this is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests of a connection that is closed for its age may go on.
const AGE_GRACE: Duration = Duration::from_secs(10);

/// Why the listener ended otherwise than by the end of the program.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors in the binary can't be offered by reflection.
    #[error("reflection can't be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC listener failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Connections were still open as the drain window ended.
    #[error("gRPC requests were still at work as the drain window ended")]
    StillServing,
}

/// Serves over a bound listener until the end of the program begins, then lets
/// requests finish, for four fifths of the drain window: the rest is for what
/// has to end after them.
///
/// `grpc.health.v1` answers for every service name and for the empty one:
/// SERVING while the program is ready and its end has not begun.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    services: Services,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut names = services.names.clone();
    names.push("");
    // Not all servers that started together send their clients away together.
    let max_age = Duration::from_secs(services.config.max_connection_age_s)
        .mul_f64(rand::random_range(0.9..1.1));
    let tls = services.gate.tls().cloned();
    let services = services
        .with(health)
        .with(reflection().build_v1()?)
        .with(reflection().build_v1alpha()?);

    let server = Server::builder()
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_GIVEN_UP))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // With tonic's own grace a connection is not closed in peace but cut off when the
        // grace is over (0.14.9), so `Aged` ends what holds on to one.
        .max_connection_age(max_age)
        .serve_with_incoming_shutdown(
            services,
            accepted(listener, tls, max_age + AGE_GRACE),
            shutdown.begun(),
        );
    let drained = async {
        shutdown.begun().await;
        sleep(shutdown.window().mul_f32(0.8)).await;
    };
    tokio::select! {
        result = server => result.map_err(ServeError::Transport),
        () = drained => Err(ServeError::StillServing),
        never = report_health(&reporter, &names, readiness, shutdown) => match never {},
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn report_health(
    reporter: &HealthReporter,
    names: &[&'static str],
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> std::convert::Infallible {
    let mut ready = readiness.is_ready() && !shutdown.has_begun();
    loop {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in names {
            reporter.set_service_status(*name, status).await;
        }
        if shutdown.has_begun() {
            std::future::pending::<()>().await;
        }
        ready = tokio::select! {
            ready = readiness.changed(ready) => ready,
            () = shutdown.begun() => false,
        };
    }
}
