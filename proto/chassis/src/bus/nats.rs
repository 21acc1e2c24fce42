//! The bus over NATS, as it is without JetStream: at most once, and nothing is kept.
//!
//! Each subscription here is one at the broker, so that nobody hears of what he did not
//! ask for, and one that is slow loses nothing of another. (A gateway has one feed for
//! a topic and one task for a user: there is nothing to share.)
//!
//! The client reconnects by itself and never gives up. It keeps up to 8,192 commands and
//! 32 MiB of events that are on their way to the socket; what is published beyond that, or
//! while the broker is away, is lost and counted.

use std::{path::Path, sync::Arc, time::Duration};

use async_nats::{
    AuthError, Client, ConnectOptions, HeaderMap, PublishError, PublishErrorKind, ServerAddr,
    connection::State,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::{spawn_blocking, unconstrained},
    time::{timeout, timeout_at},
};
use tokio_rustls::rustls::crypto::ring;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use super::{Bus, BusError, QUEUE, Subject, Subscription, lost};
use crate::{call::TraceContext, tls};

mod door;
mod keeper;
mod listening;
mod login;
mod signs;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod url;

pub use self::url::{NatsTls, NatsUrl};
use self::{
    door::Door,
    keeper::{Keeper, Said},
    listening::Listening,
    signs::Signs,
};

/// The third ping that finds two unanswered ends a connection: a broker that hangs
/// is left after 3 to 4 seconds.
const PING: Duration = Duration::from_secs(1);

/// Longest time of one attempt to connect.
const CONNECTING: Duration = Duration::from_secs(2);

/// Pauses between attempts: from the first to the longest, which is shortened by up to
/// a half, so that not all replicas come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Commands on their way to the socket.
const COMMANDS: usize = 8_192;

/// Bytes of events on their way to the socket.
const ROOM: usize = 32 * 1024 * 1024;

/// How long a subscription waits for its turn behind what is published.
const TURN: Duration = Duration::from_secs(1);

/// Callers of `flush` that wait at a time; more of them wait for their turn.
const FLUSHES: usize = 1_024;

/// A bus that a broker carries. Ends its subscriptions when it is dropped.
pub struct NatsBus {
    client: Client,
    prefix: String,
    room: Arc<Semaphore>,
    door: Arc<Door>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    said: Said,
    closed: CancellationToken,
    _end: DropGuard,
    _keeper: AbortOnDropHandle<()>,
}

impl NatsBus {
    /// A bus on this broker, which may be away: it is tried until it is there. Needs
    /// a tokio runtime.
    ///
    /// # Errors
    /// A sentence that names the file of the URL which can't be used.
    pub async fn connect(url: &NatsUrl) -> Result<Self, String> {
        check_files(url.clone()).await?;
        // The client takes the process's provider, and there is none unless it is told:
        // of two that are built in it takes neither. Whoever installed one before wins.
        let _ = ring::default_provider().install_default();
        let signs = Arc::new(Signs::default());
        let client = client(url, &signs).await?;
        let door = Arc::new(Door::default());
        let (flushes, flushing) = mpsc::channel(FLUSHES);
        let (keeper, said) = Keeper::new(url, client.clone(), signs, Arc::clone(&door), flushing)
            .await
            .map_err(|error| error.to_string())?;
        let closed = CancellationToken::new();
        Ok(Self {
            client,
            prefix: url.prefix.clone(),
            room: Arc::new(Semaphore::new(ROOM)),
            door,
            flushes,
            said,
            _end: closed.clone().drop_guard(),
            closed,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())),
        })
    }

    fn try_publish(&self, subject: Subject, event: Bytes) -> Result<(), &'static str> {
        if self.client.connection_state() != State::Connected {
            return Err("away");
        }
        let bytes = u32::try_from(event.len()).map_err(|_| "too_large")?;
        let permit = Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| "full")?;
        let event = Bytes::from_owner(Underway {
            event,
            _permit: permit,
        });
        let trace = TraceContext::current().map_or_else(TraceContext::fresh, TraceContext::child);
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", trace.to_traceparent());
        let handing_over =
            self.client
                .publish_with_headers(subject.under(&self.prefix), headers, event);
        // Where there is no room it would wait. That this task has worked for long is no
        // reason to.
        match unconstrained(handing_over).now_or_never() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(why(&error)),
            None => Err("full"),
        }
    }
}

fn why(error: &PublishError) -> &'static str {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => "too_large",
        PublishErrorKind::InvalidSubject | PublishErrorKind::Send => "closed",
    }
}

/// An event that takes room until it is in the socket.
struct Underway {
    event: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Underway {
    fn as_ref(&self) -> &[u8] {
        &self.event
    }
}

#[async_trait]
impl Bus for NatsBus {
    fn publish(&self, subject: Subject, event: Bytes) {
        match self.try_publish(subject, event) {
            Ok(()) => metrics::counter!("drivers_bus_published_total").increment(1),
            Err(why) => lost(why),
        }
    }

    async fn subscribe(&self, subject: Subject) -> Result<Subscription, BusError> {
        let subject = subject.under(&self.prefix);
        let events = match self.door.enter(&subject) {
            Some(ticket) => Listening::later(ticket),
            None => match timeout(TURN, self.client.subscribe(subject)).await {
                Ok(Ok(subscriber)) => Listening::now(subscriber),
                Ok(Err(error)) => return Err(BusError::Unavailable(error.to_string())),
                Err(_) => return Err(BusError::TimedOut(TURN)),
            },
        };
        Ok(Subscription::of(events.until(self.closed.clone())))
    }

    async fn flush(&self, limit: Duration) -> Result<(), BusError> {
        let deadline = tokio::time::Instant::now() + limit;
        let (done, flushed) = oneshot::channel();
        let flushing = async {
            self.flushes.send(done).await.ok()?;
            flushed.await.ok()
        };
        match timeout_at(deadline, flushing).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(BusError::Unavailable("it has shut down".to_owned())),
            Err(_) => Err(BusError::TimedOut(limit)),
        }
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.said.connected.clone()
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.said.reconnects.clone()
    }
}

async fn client(url: &NatsUrl, signs: &Arc<Signs>) -> Result<Client, String> {
    let mut options = match url.login.clone() {
        None => ConnectOptions::new(),
        Some(login) => ConnectOptions::with_auth_callback(move |nonce| {
            let login = login.clone();
            async move {
                let reading = spawn_blocking(move || login.auth(&nonce));
                let read = reading
                    .await
                    .unwrap_or_else(|_| Err("it was not read".to_owned()));
                read.map_err(AuthError::new)
            }
        }),
    };
    if let Some(tls) = &url.tls {
        options = options
            .require_tls(true)
            .add_root_certificates(tls.ca.clone());
        if let Some((chain, key)) = &tls.identity {
            options = options.add_client_certificate(chain.clone(), key.clone());
        }
    }
    let signs = Arc::clone(signs);
    options = options
        .name(program())
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(pause)
        .connection_timeout(CONNECTING)
        .ping_interval(PING)
        // The hosts of the URL are those that its certificates and networks are made for.
        .ignore_discovered_servers()
        .client_capacity(COMMANDS)
        .subscription_capacity(QUEUE)
        .event_callback(move |event| {
            signs.hear(&event);
            std::future::ready(())
        });
    let scheme = if url.tls.is_some() { "tls" } else { "nats" };
    let servers = url
        .hosts
        .iter()
        .map(|host| format!("{scheme}://{host}").parse::<ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    options
        .connect(servers)
        .await
        .map_err(|error| error.to_string())
}

/// Attempts count from 1.
fn pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.5..1.0))
}

/// What the broker calls us where it lists its connections.
fn program() -> String {
    std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::file_name)
        .map_or_else(
            || "drivers".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
}

/// Files are read for each connection, where a fault looks like a broker that is away:
/// so they are read once at start, where it can be said.
async fn check_files(url: NatsUrl) -> Result<(), String> {
    let check = move || {
        if let Some(login) = &url.login {
            login.auth(b"")?;
        }
        if let Some(tls) = &url.tls {
            tls::certificates(&tls.ca).map_err(|error| error.to_string())?;
            if let Some((chain, key)) = &tls.identity {
                tls::certificates(chain).map_err(|error| error.to_string())?;
                tls::private_key(key).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    };
    spawn_blocking(check)
        .await
        .unwrap_or_else(|_| Err("the files were not read".to_owned()))
}
