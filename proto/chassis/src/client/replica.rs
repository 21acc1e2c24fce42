//! One replica of a service: its connection, how much it is at work on, and whether it
//! is well. That is learnt from calls; where one goes wrong a background task asks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, request::Parts};
use metrics::Gauge;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, body::Body, transport};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{BoxError, ServiceExt as _};

use super::{
    Credentials,
    connector::{Destination, Dialer},
};
use crate::call::{Call, metadata};

/// How long the first question after a replica's health may take. With the second of a try
/// that made somebody ask, a replica that hangs is left within two.
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// And one to a replica that is left already: the connection may have to be made, and on a
/// busy machine its handshake must not be begun again and again.
const LATER_PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Pause after a question; each is twice the one before, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What a call says about the replica that it was made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered.
    Answered,
    /// It answered that it can't, or the caller had less time than a try has: no proof
    /// of anything, and a reason to ask.
    Doubtful,
    /// There was no connection, or it broke.
    Broken,
    /// It did not answer in the time of a try.
    TimedOut,
}

/// What a replica says of its health.
enum Health {
    Serving,
    NotServing,
    Silent,
}

/// A replica. Dropping it ends its background task; calls under way go on.
pub(super) struct Replica {
    destination: Destination,
    line: Arc<Line>,
    _watch: AbortOnDropHandle<()>,
}

struct Line {
    name: String,
    dialer: Dialer,
    credentials: Credentials,
    connection: Mutex<Connection>,
    in_flight: AtomicUsize,
    answers: AtomicU64,
    down: AtomicBool,
    /// That it is down was logged.
    told: AtomicBool,
    /// A call went wrong.
    trouble: Notify,
    /// Told when a replica is left: another may stand in its place.
    left: Arc<Notify>,
    gauges: Gauges,
}

/// What calls are made over; once it is made again it has another number.
#[derive(Clone)]
struct Connection {
    channel: transport::Channel,
    number: u64,
}

/// How many replicas there are, and how many of them are well.
#[derive(Clone)]
pub(super) struct Gauges {
    known: Gauge,
    healthy: Gauge,
    service: &'static str,
}

impl Gauges {
    pub(super) fn new(service: &'static str) -> Self {
        Self {
            known: metrics::gauge!("drivers_grpc_client_replicas", "service" => service),
            healthy: metrics::gauge!("drivers_grpc_client_replicas_healthy", "service" => service),
            service,
        }
    }
}

impl Replica {
    /// Well, as long as nothing else is known of it.
    pub(super) fn new(
        dialer: Dialer,
        destination: Destination,
        credentials: Credentials,
        gauges: Gauges,
        left: Arc<Notify>,
    ) -> Self {
        gauges.known.increment(1);
        gauges.healthy.increment(1);
        let line = Arc::new(Line {
            name: destination.to_string(),
            connection: Mutex::new(Connection {
                channel: dialer.channel(),
                number: 0,
            }),
            dialer,
            credentials,
            in_flight: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
            down: AtomicBool::new(false),
            told: AtomicBool::new(false),
            trouble: Notify::new(),
            left,
            gauges,
        });
        let watch = tokio::spawn(watch(Arc::clone(&line)));
        Self {
            destination,
            line,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Where it is, which tells it from others.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The same as a text.
    pub(super) fn name(&self) -> &str {
        &self.line.name
    }

    /// Whether it is known to be down, to hang, or not to serve yet or any more.
    pub(super) fn is_down(&self) -> bool {
        self.line.down.load(Ordering::Relaxed)
    }

    /// Calls under way.
    pub(super) fn in_flight(&self) -> usize {
        self.line.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more call as under way, until the guard is dropped.
    pub(super) fn begin(self: Arc<Self>) -> InFlight {
        self.line.in_flight.fetch_add(1, Ordering::Relaxed);
        let connection = self.line.lock().clone();
        InFlight {
            connection,
            answers_before: self.line.answers.load(Ordering::Relaxed),
            replica: self,
        }
    }
}

/// A call that is under way.
pub(super) struct InFlight {
    replica: Arc<Replica>,
    connection: Connection,
    answers_before: u64,
}

impl InFlight {
    pub(super) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub(super) async fn send(
        &self,
        mut parts: Parts,
        body: Body,
        call: &Call,
    ) -> Result<Response<Body>, BoxError> {
        let line = &self.replica.line;
        metadata::write(call, &mut parts.headers);
        if let Credentials::Secret(secret) = &line.credentials {
            secret.write(&mut parts.headers);
        }
        let request = Request::from_parts(parts, body);
        let channel = self.connection.channel.clone();
        channel.oneshot(request).await.map_err(Into::into)
    }

    /// Takes it in what the call says about the replica.
    /// Whether the replica has answered others since this call began.
    pub(super) fn answers_others(&self) -> bool {
        self.replica.line.has_answered_since(self.answers_before)
    }

    pub(super) fn note(&self, outcome: Outcome) {
        let line = &self.replica.line;
        match outcome {
            Outcome::Answered => {
                line.answers.fetch_add(1, Ordering::Relaxed);
                return line.is_well();
            }
            Outcome::Doubtful => {}
            Outcome::Broken => line.is_not_well("broken"),
            // One that answers others meanwhile is busy; were it left, its work would fall to
            // the rest, who are no less so.
            Outcome::TimedOut if self.answers_others() => {}
            Outcome::TimedOut => {
                line.is_not_well("timed_out");
                line.connect_again(self.connection.number);
            }
        }
        line.trouble.notify_one();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.replica.line.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    /// Gives a connection up that answers nothing: behind the same address another may
    /// answer, and sooner than the keepalive finds out. Calls under way on it go on.
    fn connect_again(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number {
            *connection = Connection {
                channel: self.dialer.channel(),
                number: number + 1,
            };
        }
    }

    /// A connection is swapped whole, so a poisoned lock means nothing.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn has_answered_since(&self, answers_before: u64) -> bool {
        self.answers.load(Ordering::Relaxed) != answers_before
    }

    fn is_well(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            self.gauges.healthy.increment(1);
            if self.told.swap(false, Ordering::Relaxed) {
                tracing::info!(
                    service = self.gauges.service,
                    replica = self.name,
                    "a replica is back"
                );
            }
        }
    }

    fn is_not_well(&self, why: &'static str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            let service = self.gauges.service;
            self.gauges.healthy.decrement(1);
            metrics::counter!("drivers_grpc_client_replicas_left_total", "service" => service, "why" => why)
                .increment(1);
            self.left.notify_one();
        }
    }

    /// The same, found by asking: one that was only slow for a call is back at once, and
    /// not worth a line.
    fn is_found_down(&self, why: &'static str) {
        self.is_not_well(why);
        if !self.told.swap(true, Ordering::Relaxed) {
            let service = self.gauges.service;
            tracing::warn!(
                service,
                why,
                replica = self.name,
                "a replica is left until it answers"
            );
        }
    }

    async fn health(&self, connection: &Connection, limit: Duration) -> Health {
        let mut client = HealthClient::new(connection.channel.clone());
        let asked = client.check(HealthCheckRequest::default());
        match timeout(limit, asked).await {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
                Health::Serving
            }
            Ok(Ok(_)) => Health::NotServing,
            Ok(Err(status)) if is_an_answer(&status) => Health::Serving,
            Ok(Err(_)) | Err(_) => Health::Silent,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.gauges.known.decrement(1);
        if !*self.down.get_mut() {
            self.gauges.healthy.decrement(1);
        }
    }
}

/// Whether a status comes from somebody who has no health to tell, and not from the
/// transport, for which tonic has several codes.
fn is_an_answer(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unimplemented | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied
    )
}

/// Asks a replica after its health when a call went wrong, until it is well.
async fn watch(line: Arc<Line>) {
    loop {
        line.trouble.notified().await;
        let (mut limit, mut pause) = (PROBE_LIMIT, FIRST_PAUSE);
        loop {
            // The pauses here are enough; those of the connector would come on top.
            line.dialer.hurry();
            let connection = line.lock().clone();
            let answers_before = line.answers.load(Ordering::Relaxed);
            match line.health(&connection, limit).await {
                Health::Silent if line.has_answered_since(answers_before) => break,
                Health::Serving => {
                    line.is_well();
                    break;
                }
                Health::NotServing => line.is_found_down("not_serving"),
                Health::Silent => {
                    line.is_found_down("silent");
                    line.connect_again(connection.number);
                }
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(MAX_PAUSE);
            limit = LATER_PROBE_LIMIT;
            if !line.down.load(Ordering::Relaxed) {
                break;
            }
        }
        // Many calls that go wrong at once ask for one question.
        sleep(FIRST_PAUSE).await;
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(address) => address.fmt(f),
            Self::Resolved(address) => address.fmt(f),
        }
    }
}
