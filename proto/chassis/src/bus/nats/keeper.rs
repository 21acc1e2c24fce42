//! Keeps watch over the connection: says when it is there and when it came back, and
//! makes sure that the broker has taken what it was sent.

use std::{future::pending, sync::Arc, sync::atomic::Ordering, time::Duration};

use async_nats::{Client, SubscribeError, Subscriber, client::Statistics, connection::State};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use super::{FLUSHES, NatsUrl, door::Door, signs::Signs};

/// How often the connection is looked at when nothing is heard of it.
const LOOK: Duration = Duration::from_millis(250);

/// After this a mark that did not come back is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// What it says.
pub(super) struct Said {
    pub(super) connected: watch::Receiver<bool>,
    pub(super) reconnects: watch::Receiver<u64>,
}

pub(super) struct Keeper {
    broker: String,
    link: Link,
    door: Arc<Door>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    /// Who waits for the mark that is under way.
    waiting: Vec<oneshot::Sender<()>>,
    marks: Marks,
    connected: watch::Sender<bool>,
    reconnects: watch::Sender<u64>,
}

/// The client's connections, which are numbered from 1.
struct Link {
    client: Client,
    statistics: Arc<Statistics>,
    signs: Arc<Signs>,
}

/// The client's own flush ends at the socket. A message to oneself that has come back has
/// been at the broker, and so has all that was sent before it.
struct Marks {
    subject: String,
    coming: Subscriber,
    last: u64,
}

impl Keeper {
    pub(super) async fn new(
        url: &NatsUrl,
        client: Client,
        signs: Arc<Signs>,
        door: Arc<Door>,
        flushes: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> Result<(Self, Said), SubscribeError> {
        let subject = format!("{}.v1.mark.{:016x}", url.prefix, rand::random::<u64>());
        let marks = Marks {
            coming: client.subscribe(subject.clone()).await?,
            subject,
            last: 0,
        };
        let (connected, is_connected) = watch::channel(false);
        let (reconnects, came_back) = watch::channel(0);
        let keeper = Self {
            broker: url.to_string(),
            link: Link {
                statistics: client.statistics(),
                client,
                signs,
            },
            door,
            flushes,
            waiting: Vec::new(),
            marks,
            connected,
            reconnects,
        };
        let said = Said {
            connected: is_connected,
            reconnects: came_back,
        };
        Ok((keeper, said))
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut was_there = false;
        loop {
            metrics::gauge!("drivers_bus_connected").set(0.0);
            let number = self.link.arrival(&self.broker, was_there).await;
            self.door.open(&self.link.client).await;
            // Only now it is sure that the subscriptions are back.
            if self.marks.round_trip(&self.link, number).await {
                tracing::info!(broker = self.broker, "the broker is there");
                metrics::gauge!("drivers_bus_connected").set(1.0);
                self.connected.send_replace(true);
                if was_there {
                    self.reconnects.send_modify(|times| *times += 1);
                }
                was_there = true;
                self.flush(number).await;
                self.connected.send_replace(false);
            }
            self.door.shut();
        }
    }

    /// Answers who wants to know that the broker has taken what he sent, until the
    /// connection is gone. Who is not answered then is by the next one.
    async fn flush(&mut self, number: u64) {
        loop {
            for done in self.waiting.drain(..) {
                let _gave_up = done.send(());
            }
            let more = self.flushes.recv_many(&mut self.waiting, FLUSHES);
            tokio::select! {
                () = self.link.gone(number) => return,
                asked = more => if asked == 0 { return pending().await },
            }
            if !self.marks.round_trip(&self.link, number).await {
                return;
            }
        }
    }
}

impl Link {
    /// Waits for a connection, and says its number.
    async fn arrival(&self, broker: &str, was_there: bool) -> u64 {
        let mut is_said = false;
        while self.client.connection_state() != State::Connected {
            let why = self.signs.take_error();
            if !is_said && (why.is_some() || was_there) {
                is_said = true;
                let why = why.unwrap_or_else(|| "the connection was lost".to_owned());
                tracing::warn!(
                    broker,
                    why,
                    "the broker is away; it is tried until it is there"
                );
            }
            self.look().await;
        }
        // Of a connection that is lost later it would be no reason.
        let _past = self.signs.take_error();
        self.number()
    }

    /// Waits until this connection is gone.
    async fn gone(&self, number: u64) {
        while self.client.connection_state() == State::Connected && self.number() == number {
            self.look().await;
        }
    }

    /// Waits until there may be something new.
    async fn look(&self) {
        tokio::select! {
            () = self.signs.changed.notified() => {}
            () = sleep(LOOK) => {}
        }
    }

    fn number(&self) -> u64 {
        self.statistics.connects.load(Ordering::Relaxed)
    }
}

impl Marks {
    /// Whether a mark came back before this connection was gone.
    async fn round_trip(&mut self, link: &Link, number: u64) -> bool {
        self.last += 1;
        let mark = Bytes::copy_from_slice(&self.last.to_be_bytes());
        let trip = async {
            loop {
                let again = sleep(AGAIN);
                let sent = link.client.publish(self.subject.clone(), mark.clone());
                if sent.await.is_ok() && timeout(AGAIN, back(&mut self.coming, &mark)).await.is_ok()
                {
                    return;
                }
                again.await;
            }
        };
        tokio::select! {
            () = link.gone(number) => false,
            () = trip => true,
        }
    }
}

async fn back(coming: &mut Subscriber, mark: &Bytes) {
    while let Some(message) = coming.next().await {
        if message.payload == *mark {
            return;
        }
    }
    pending().await
}
