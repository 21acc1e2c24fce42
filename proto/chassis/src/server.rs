//! What stands around every gRPC service, whether it is called over a socket or
//! from within the process.
//!
//! From the outside in: metrics, the caller's identity, the [`Call`], shedding, a
//! tracing span, the deadline, and a net for panics. Metrics are outermost so
//! that what is refused is counted too.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status, body::Body, server::NamedService, service::Routes};
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use crate::{
    call::{Call, MAX_ACTING_USERS, TraceContext, metadata},
    identity::{Gate, InProcess},
    methods::{self, Method},
    status::{self, Refusal},
};

mod accept;
mod aged;
mod direct;
mod later;
pub mod listener;

pub use direct::Direct;
pub use later::Later;
pub use listener::{ServeError, serve};

/// tonic's server answers CANCELLED when a request's `grpc-timeout` is over. So over a
/// socket a call ends earlier by a tenth of its time, within these bounds, and says
/// DEADLINE_EXCEEDED: tonic's clock was started first, by as long as a busy server took
/// to come to the call.
const LEAST_AHEAD_OF_TONIC: Duration = Duration::from_millis(2);
const MOST_AHEAD_OF_TONIC: Duration = Duration::from_millis(20);

/// Limits of a gRPC server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Most requests at work at once; more are refused with UNAVAILABLE. Health
    /// and reflection are not counted.
    pub max_in_flight: usize,
    /// How long a request may take whose caller did not say; milliseconds.
    pub default_timeout_ms: u64,
    /// Age at which a connection is closed in peace, so that its client spreads
    /// over new replicas; seconds.
    pub max_connection_age_s: u64,
}

impl Default for ServerConfig {
    /// 512 requests: at a millisecond each half a second's work for one core. Twice as many
    /// would miss the limit of one try, and be made again for nothing.
    fn default() -> Self {
        Self {
            max_in_flight: 512,
            default_timeout_ms: 10_000,
            max_connection_age_s: 600,
        }
    }
}

/// A set of gRPC services and the layers around them. Clones share one limit.
#[derive(Clone, Debug)]
pub struct Services {
    routes: Routes,
    names: Vec<&'static str>,
    gate: Gate,
    config: Arc<ServerConfig>,
    in_flight: Arc<Semaphore>,
}

impl Services {
    /// No service yet. Callers within the process are let in, and over a socket those
    /// of the gate.
    #[must_use]
    pub fn new(config: ServerConfig, gate: Gate) -> Self {
        Self {
            routes: Routes::default(),
            names: Vec::new(),
            gate,
            in_flight: Arc::new(Semaphore::new(
                config.max_in_flight.min(Semaphore::MAX_PERMITS),
            )),
            config: Arc::new(config),
        }
    }

    /// One more service: a server that tonic generated.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let method = methods::find(request.uri().path());
        let mut measure = Measure::begin(method);
        let response = self
            .admitted(request, method)
            .await
            .unwrap_or_else(Refusal::into_response);
        measure.code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
        response
    }

    async fn admitted(
        self,
        mut request: Request<Body>,
        method: Option<&'static Method>,
    ) -> Result<Response<Body>, Refusal> {
        let uri = request.uri().clone();
        let call = self.identify(&mut request, method, is_open(uri.path()))?;
        let (deadline, trace) = (call.deadline, call.trace);
        request.extensions_mut().insert(call);
        let handler = Box::pin(self.routes.oneshot(request));
        match Self::work(&self.in_flight, uri.path(), deadline, trace, handler).await? {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }

    /// Does what a call asks for, if there is room for it, within its time and its span.
    async fn work<T>(
        in_flight: &Semaphore,
        path: &str,
        deadline: Instant,
        trace: TraceContext,
        handler: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let _permit = if is_open(path) {
            None
        } else {
            Some(in_flight.try_acquire().map_err(|_| shed())?)
        };
        if deadline <= Instant::now() {
            return Err(Refusal::too_late());
        }
        let span = tracing::info_span!(
            "grpc",
            path,
            trace_id = format_args!("{:032x}", trace.trace_id),
            span_id = format_args!("{:016x}", trace.span_id),
        );
        let handler = AssertUnwindSafe(handler)
            .catch_unwind()
            .instrument(span.clone());
        match timeout_at(deadline, trace.spanning(handler)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => {
                span.in_scope(|| tracing::error!("a handler panicked"));
                metrics::counter!("drivers_grpc_server_panics_total").increment(1);
                Err(Refusal::of_layer(
                    Code::Internal,
                    "PANICKED",
                    "the service failed in a way that nobody foresaw",
                ))
            }
            Err(_) => Err(Refusal::too_late()),
        }
    }

    /// Who calls, and the call he makes. The span of the call is this server's own.
    fn identify(
        &self,
        request: &mut Request<Body>,
        method: Option<&Method>,
        open: bool,
    ) -> Result<Call, Refusal> {
        if let Some(InProcess(call)) = request.extensions_mut().remove() {
            return Self::arrived(call);
        }
        let default_timeout = Duration::from_millis(self.config.default_timeout_ms);
        let mut call = if open {
            metadata::read_anonymous(request.headers(), default_timeout)?
        } else {
            (self.gate).check(request.headers(), request.extensions(), method)?;
            metadata::read(request.headers(), default_timeout)?
        };
        let left = call.time_left();
        let ahead = (left / 10).clamp(LEAST_AHEAD_OF_TONIC, MOST_AHEAD_OF_TONIC);
        call.deadline -= ahead.min(left);
        Self::arrived(call)
    }

    /// The call as this server answers it, with a span of its own.
    fn arrived(mut call: Call) -> Result<Call, Refusal> {
        if call.acting_users.len() > MAX_ACTING_USERS {
            return Err(metadata::malformed("a call acts for at most 32 users"));
        }
        call.trace = call.trace.child();
        Ok(call)
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let services = self.clone();
        Box::pin(async move { Ok(services.answer(request).await) })
    }
}

/// Whether everybody may call this, and at any load: health and reflection.
fn is_open(path: &str) -> bool {
    [
        "/grpc.health.v1.Health/",
        "/grpc.reflection.v1.ServerReflection/",
        "/grpc.reflection.v1alpha.ServerReflection/",
    ]
    .iter()
    .any(|service| path.starts_with(service))
}

fn shed() -> Refusal {
    metrics::counter!("drivers_grpc_server_shed_total").increment(1);
    Refusal {
        retry_after: Some(Duration::from_millis(100)),
        ..Refusal::of_layer(
            Code::Unavailable,
            "OVERLOADED",
            "the server has as many requests at work as it takes",
        )
    }
}

/// One request, from its start until it is answered or its caller is gone.
struct Measure {
    method: Option<&'static Method>,
    started: Instant,
    code: Code,
}

impl Measure {
    fn begin(method: Option<&'static Method>) -> Self {
        metrics::gauge!("drivers_grpc_server_in_flight").increment(1);
        Self {
            method,
            started: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        // Paths that are none of the contract's are one label: anyone can invent them.
        let (service, method) = self.method.map_or(("other", "other"), |m| {
            (m.service.as_str(), m.name.as_str())
        });
        metrics::gauge!("drivers_grpc_server_in_flight").decrement(1);
        metrics::counter!("drivers_grpc_server_requests_total",
            "service" => service, "method" => method, "code" => status::code_name(self.code))
        .increment(1);
        metrics::histogram!("drivers_grpc_server_request_seconds",
            "service" => service, "method" => method)
        .record(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
