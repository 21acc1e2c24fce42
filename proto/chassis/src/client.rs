//! The transport under a generated client: a socket, or the services themselves.
//!
//! Deadline, identity, trace and retries are the same for both, so that a caller
//! can't tell them apart. Calls are made by [`crate::call::Call::request`].

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{
    BoxError, Service, ServiceExt as _,
    retry::budget::{Budget as _, TpsBudget},
};

use crate::{
    call::{Call, DEFAULT_TIMEOUT, metadata},
    id::TopicId,
    identity::{InProcess, Secret},
    methods::{self, Method},
    server::Services,
    status::{self, Refusal, TOO_LATE},
    tls::{Mutual, PeerName, Reloaded},
};

mod connector;
mod names;
mod peers;
mod replica;
mod replicas;
mod serving;

pub use peers::{Address, InvalidEndpoint, Peers, Scheme};

use names::Names;
use replica::{InFlight, Outcome};
use replicas::{Replicas, Tried};

/// Longest answer that is taken: tonic's own limit for a message, and its prefix.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024 + 5;

/// First pause before a retry; each is twice the one before, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Connections of one replica that may be closed under one try before it is sent.
const MAX_CLOSED: u32 = 3;

/// tonic's channel has a timer of its own for the same deadline, and its error
/// is one of the transport; timers are exact to a millisecond.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// Limits of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// Longest time of one try, 1 to 1,000 milliseconds.
    pub try_limit_ms: u64,
    /// Retries allowed each second whatever the traffic.
    pub retries_per_second: u32,
    /// Retries allowed beyond that, for each call made within the last 10 seconds: 0 to 1.
    pub retries_per_call: f32,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            try_limit_ms: 1_000,
            retries_per_second: 10,
            retries_per_call: 0.2,
        }
    }
}

/// What a caller shows of himself over a socket.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The bearer secret of the services, to addresses that are `http://…`.
    Secret(Secret),
    /// A certificate, to addresses that are `https://…`.
    Certificate {
        /// His own, and by which authorities he knows the service.
        own: Reloaded<Mutual>,
        /// The name in the service's; else it is that in the address.
        service: Option<PeerName>,
    },
}

impl Credentials {
    /// The same for a service whose certificate has this name.
    #[must_use]
    pub fn to_be_shown_to(self, name: Option<PeerName>) -> Self {
        match self {
            Self::Certificate { own, .. } => Self::Certificate { own, service: name },
            secret @ Self::Secret(_) => secret,
        }
    }
}

/// What a generated client runs on: `UserServiceClient::new(channel)`. Clones
/// share their connections and one retry budget.
#[derive(Clone, Debug)]
pub struct Channel {
    transport: Transport,
    try_limit: Duration,
    budget: Arc<TpsBudget>,
}

#[derive(Clone)]
enum Transport {
    Local(Services),
    Remote(Arc<Replicas>),
}

/// Where one try goes.
enum Target {
    Local(Services),
    Remote(InFlight),
}

impl Channel {
    /// To services in this process: no socket, no HTTP/2.
    #[must_use]
    pub fn local(services: Services) -> Self {
        Self::over(Transport::Local(services))
    }

    /// To the replicas of a service; `service` is what metrics and the log call it. A
    /// connection is made by the first call, and made again when it is lost, with at
    /// most a second's pause. Has to be called within a runtime.
    ///
    /// # Errors
    /// When a host is none, or the addresses are of another scheme than the credentials.
    pub fn to(
        service: &'static str,
        peers: &Peers,
        credentials: Credentials,
    ) -> Result<Self, InvalidEndpoint> {
        let replicas = Replicas::new(service, peers, credentials, Names::of_the_system())?;
        Ok(Self::over(Transport::Remote(Arc::new(replicas))))
    }

    /// The same for several services at one place.
    ///
    /// # Errors
    /// When `peers` is not what [`Peers`] is written like.
    pub fn connect(peers: &str, secret: Secret) -> Result<Self, InvalidEndpoint> {
        Self::to("services", &peers.parse()?, Credentials::Secret(secret))
    }

    /// The same channel with these limits. Values out of range are brought into it.
    #[must_use]
    pub fn with_limits(self, config: &ClientConfig) -> Self {
        Self {
            transport: self.transport,
            try_limit: Duration::from_millis(config.try_limit_ms.clamp(1, 1_000)),
            budget: Arc::new(TpsBudget::new(
                Duration::from_secs(10),
                config.retries_per_second.min(1_000_000),
                config.retries_per_call.clamp(0.0, 1.0),
            )),
        }
    }

    fn over(transport: Transport) -> Self {
        let unlimited = Self {
            transport,
            try_limit: MAX_PAUSE,
            budget: Arc::new(TpsBudget::default()),
        };
        unlimited.with_limits(&ClientConfig::default())
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let method = methods::find(request.uri().path());
        let mut measure = Measure::begin(method);
        let response = self
            .tries(method, request)
            .await
            .unwrap_or_else(Status::into_http);
        measure.code = code_of(&response);
        response
    }

    async fn tries(
        self,
        method: Option<&'static Method>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let call = match parts.extensions.remove::<Call>() {
            Some(call) => call,
            None => metadata::read(&parts.headers, DEFAULT_TIMEOUT)?,
        };
        let mut tried = Tried::default();
        let Some(method) = method.filter(|method| method.unary) else {
            return Ok(self.stream(parts, body, &call).await);
        };
        let message = body.collect().await?.to_bytes();
        self.budget.deposit();
        let mut pause = FIRST_PAUSE;
        loop {
            let response = self
                .one_try(parts.clone(), message.clone(), &call, &mut tried)
                .await;
            if !method.idempotent || code_of(&response) != Code::Unavailable {
                return Ok(response);
            }
            let wait = pause
                .mul_f64(rand::random_range(0.5..1.0))
                .max(asked_to_wait(&response));
            if call.time_left() <= wait {
                return Ok(response);
            }
            if !self.budget.withdraw() {
                count("drivers_grpc_client_retries_refused_total", method);
                return Ok(response);
            }
            sleep(wait).await;
            pause = (pause * 2).min(MAX_PAUSE);
            count("drivers_grpc_client_retries_total", method);
        }
    }

    /// A stream, and what is none of the contract's: sent as it comes, for it can't be
    /// sent twice, and has no time limit but the call's.
    async fn stream(&self, parts: Parts, body: Body, call: &Call) -> Response<Body> {
        let mut tried = Tried::default();
        let picked = self.transport.pick(None, &mut tried);
        let Ok(target) = timeout_at(call.deadline, picked).await else {
            return nobody_there();
        };
        let sent = target.send(parts, body, call).await;
        if call.time_left() <= TIMER_SLACK {
            target.note(Outcome::Doubtful);
        } else {
            target.note(outcome_of(&sent));
        }
        sent.unwrap_or_else(|error| transport_failed(&error))
    }

    /// One try, answered whole. Whatever goes wrong on the way is UNAVAILABLE.
    ///
    /// The server is told how long the try lasts, so that it can say in time how far it got.
    async fn one_try(
        &self,
        parts: Parts,
        message: Bytes,
        call: &Call,
        tried: &mut Tried,
    ) -> Response<Body> {
        let end = call.deadline.min(Instant::now() + self.try_limit);
        let this_try = Call {
            // Behind ours, as tonic's own timer is to be.
            deadline: call.deadline.min(end + 2 * TIMER_SLACK),
            ..call.clone()
        };
        let picked = self.transport.pick(call.topic, tried);
        let Ok(target) = timeout_at(end, picked).await else {
            return nobody_there();
        };
        let answered = async {
            let response = target.send_once(&parts, &message, &this_try).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await?;
            Ok(whole(parts, body))
        };
        // A task that was woken late finds tonic's timer over, too: no fault of the connection.
        let answered = (timeout_at(end, answered).await.ok())
            .filter(|answer| answer.is_ok() || Instant::now() < end);
        let too_late = call.time_left() <= TIMER_SLACK;
        target.note(match &answered {
            Some(answer) if answer.is_ok() || !too_late => outcome_of(answer),
            None if !too_late => Outcome::TimedOut,
            _ => Outcome::Doubtful,
        });
        if answered.is_none() && call.topic.is_some() && target.is_only_busy() {
            tried.stay();
        }
        match answered {
            Some(Ok(response)) if end == call.deadline || !is_too_late(&response) => response,
            Some(Err(_)) | None if too_late => Refusal::too_late().into_response(),
            Some(Err(error)) => transport_failed(&error),
            // The service has noticed it, or has not.
            Some(Ok(_)) | None => {
                unavailable("TRY_TIMED_OUT", "the service did not answer in time")
            }
        }
    }
}

impl Transport {
    /// Where the next try goes.
    async fn pick(&self, topic: Option<TopicId>, tried: &mut Tried) -> Target {
        match self {
            Self::Local(services) => Target::Local(services.clone()),
            Self::Remote(replicas) => {
                let picked = replicas.pick(topic, tried).await;
                tried.push(picked.replica());
                Target::Remote(picked)
            }
        }
    }
}

impl Target {
    async fn send(
        &self,
        mut parts: Parts,
        body: Body,
        call: &Call,
    ) -> Result<Response<Body>, BoxError> {
        match self {
            Self::Local(services) => {
                parts.extensions.insert(InProcess(call.clone()));
                let request = Request::from_parts(parts, body);
                services.clone().oneshot(request).await.map_err(Into::into)
            }
            Self::Remote(replica) => replica.send(parts, body, call).await,
        }
    }

    /// Sends it again while it was not sent at all, as happens where a server closes a
    /// connection for its age just when a request is handed to it.
    async fn send_once(
        &self,
        parts: &Parts,
        message: &Bytes,
        call: &Call,
    ) -> Result<Response<Body>, BoxError> {
        let mut closed = 0;
        loop {
            let body = Body::new(Full::new(message.clone()));
            match self.send(parts.clone(), body, call).await {
                Err(error) if closed < MAX_CLOSED && was_not_sent(&error) => closed += 1,
                sent => return sent,
            }
        }
    }

    /// Whether who has not answered in time has answered others.
    fn is_only_busy(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(replica) => replica.answers_others(),
        }
    }

    fn note(&self, outcome: Outcome) {
        if let Self::Remote(replica) = self {
            replica.note(outcome);
        }
    }
}

/// Whether a request never left: that is what hyper means by "canceled" (1.12). tonic
/// does not try such a request again.
fn was_not_sent(error: &BoxError) -> bool {
    let mut error: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(this) = error {
        if let Some(this) = this.downcast_ref::<hyper::Error>() {
            return this.is_canceled();
        }
        error = this.source();
    }
    false
}

/// What an answer says of who gave it.
fn outcome_of(answer: &Result<Response<Body>, BoxError>) -> Outcome {
    match answer {
        Ok(response) if code_of(response) == Code::Unavailable => Outcome::Doubtful,
        Ok(_) => Outcome::Answered,
        Err(error) if error.is::<LengthLimitError>() => Outcome::Answered,
        Err(_) => Outcome::Broken,
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { Ok(channel.answer(request).await) })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::Remote(_) => "Remote",
        })
    }
}

/// The answer with all of its body. A proxy's answer that is not gRPC gets the
/// code that stands for its HTTP status.
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn whole(parts: http::response::Parts, body: http_body_util::Collected<Bytes>) -> Response<Body> {
    let trailers = body.trailers().and_then(Status::from_header_map);
    if let Some(status) = trailers.filter(|status| status.code() != Code::Ok) {
        return status.into_http();
    }
    let is_grpc = parts.headers.contains_key("grpc-status");
    if !is_grpc && matches!(parts.status.as_u16(), 429 | 502 | 503 | 504) {
        return unavailable("PROXY_REFUSED", "a proxy on the way refused the call");
    }
    Response::from_parts(parts, Body::new(body))
}

/// Whether the server's layers answer that the time is over; a method may mean another one.
fn is_too_late(response: &Response<Body>) -> bool {
    Status::from_header_map(response.headers()).is_some_and(|status| {
        status.code() == Code::DeadlineExceeded
            && status::reason(&status).as_deref() == Some(TOO_LATE)
    })
}

/// The code in the headers; an answer without one is good until its trailers.
fn code_of(response: &Response<Body>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

fn unavailable(reason: &'static str, message: &str) -> Response<Body> {
    Refusal::of_layer(Code::Unavailable, reason, message).into_response()
}

fn nobody_there() -> Response<Body> {
    unavailable("NO_REPLICA", "no replica of the service is known")
}

fn transport_failed(error: &BoxError) -> Response<Body> {
    if error.is::<LengthLimitError>() {
        return Refusal::of_layer(
            Code::OutOfRange,
            "ANSWER_TOO_LONG",
            "the answer is longer than 4 MiB",
        )
        .into_response();
    }
    tracing::debug!(error = %DisplayChain(error.as_ref()), "a call did not get through");
    unavailable("TRANSPORT_FAILED", "the service can't be reached")
}

/// An error and its sources: tonic's own text is "transport error" for all of them.
struct DisplayChain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for DisplayChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// What the server's RetryInfo asks for, within reason.
fn asked_to_wait(response: &Response<Body>) -> Duration {
    Status::from_header_map(response.headers())
        .and_then(|status| status.get_details_retry_info())
        .and_then(|info| info.retry_delay)
        .unwrap_or_default()
        .min(MAX_PAUSE)
}

fn count(name: &'static str, method: &'static Method) {
    metrics::counter!(name, "service" => method.service.as_str(), "method" => method.name.as_str())
        .increment(1);
}

/// One call with all of its tries, until it is answered or given up.
struct Measure {
    method: Option<&'static Method>,
    started: Instant,
    code: Code,
}

impl Measure {
    fn begin(method: Option<&'static Method>) -> Self {
        Self {
            method,
            started: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let Some(method) = self.method else { return };
        let (service, name) = (method.service.as_str(), method.name.as_str());
        metrics::counter!("drivers_grpc_client_requests_total",
            "service" => service, "method" => name, "code" => status::code_name(self.code))
        .increment(1);
        metrics::histogram!("drivers_grpc_client_request_seconds",
            "service" => service, "method" => name)
        .record(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
