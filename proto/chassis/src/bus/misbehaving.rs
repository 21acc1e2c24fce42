//! A bus that loses, doubles, delays and reorders on purpose: a bus that never
//! loses proves nothing about healing. For tests; chosen by URL, as any other.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Bus, BusError, Subject, Subscription};

/// Events on their way at once; more are lost.
const MAX_ON_THE_WAY: usize = 65_536;

/// How far an event that is reordered may fall back when nothing else is delayed.
const SHORTEST_DETOUR: Duration = Duration::from_millis(20);

/// How a bus misbehaves. The same seed makes the same choices for the same
/// events in the same order.
#[derive(Clone, Debug, PartialEq)]
pub struct Misbehaviour {
    /// Share of events that are lost, 0 to 1.
    pub drop: f64,
    /// Share of events that are delivered twice, 0 to 1.
    pub double: f64,
    /// Share of events that later ones overtake, 0 to 1.
    pub reorder: f64,
    /// Delay of every event.
    pub delay: Duration,
    /// Where the choices start.
    pub seed: u64,
}

/// A bus that hands events to another one, not all of them, and not at once.
pub struct MisbehavingBus {
    inner: Arc<dyn Bus>,
    plan: Misbehaviour,
    choices: Mutex<StdRng>,
    outgoing: mpsc::Sender<Event>,
    _courier: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Event {
    due: Instant,
    subject: Subject,
    payload: Bytes,
}

impl MisbehavingBus {
    /// A bus that misbehaves in front of another. Needs a tokio runtime.
    #[must_use]
    pub fn new(inner: Arc<dyn Bus>, plan: Misbehaviour) -> Self {
        let (outgoing, events) = mpsc::channel(1_024);
        let courier = tokio::spawn(deliver(inner.clone(), events));
        Self {
            inner,
            choices: Mutex::new(StdRng::seed_from_u64(plan.seed)),
            plan,
            outgoing,
            _courier: AbortOnDropHandle::new(courier),
        }
    }
}

impl fmt::Debug for MisbehavingBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MisbehavingBus")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Bus for MisbehavingBus {
    fn publish(&self, subject: Subject, event: Bytes) {
        let mut choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        if choices.random_bool(self.plan.drop) {
            lost();
            return;
        }
        let copies = 1 + usize::from(choices.random_bool(self.plan.double));
        for _ in 0..copies {
            let mut delay = self.plan.delay;
            if choices.random_bool(self.plan.reorder) {
                let detour = self.plan.delay.max(SHORTEST_DETOUR);
                delay += detour.mul_f64(choices.random_range(0.1..1.0));
            }
            let event = Event {
                due: Instant::now() + delay,
                subject,
                payload: event.clone(),
            };
            if self.outgoing.try_send(event).is_err() {
                lost();
            }
        }
    }

    async fn subscribe(&self, subject: Subject) -> Result<Subscription, BusError> {
        self.inner.subscribe(subject).await
    }

    async fn flush(&self, limit: Duration) -> Result<(), BusError> {
        self.inner.flush(limit).await
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.inner.connected()
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.inner.reconnects()
    }
}

fn lost() {
    metrics::counter!("drivers_bus_lost_on_purpose_total").increment(1);
}

/// Hands each event on when it is due, until the bus is gone.
async fn deliver(bus: Arc<dyn Bus>, mut events: mpsc::Receiver<Event>) {
    // By when it is due, then by when it came.
    let mut on_the_way = BTreeMap::new();
    let mut number = 0_u64;
    loop {
        let next_due = on_the_way.first_key_value().map(|((due, _), _)| *due);
        tokio::select! {
            event = events.recv(), if on_the_way.len() < MAX_ON_THE_WAY => {
                let Some(event) = event else { return };
                number += 1;
                on_the_way.insert((event.due, number), event);
            }
            () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {
                if let Some((_, event)) = on_the_way.pop_first() {
                    bus.publish(event.subject, event.payload);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bus::{Received, memory::MemoryBus};

    fn behaved() -> Misbehaviour {
        Misbehaviour {
            drop: 0.0,
            double: 0.0,
            reorder: 0.0,
            delay: Duration::ZERO,
            seed: 7,
        }
    }

    /// What comes of the events 0 to 799: few enough, doubled ones too, for the
    /// subscription to hold them all.
    async fn received(plan: Misbehaviour) -> Vec<u16> {
        let bus = MisbehavingBus::new(Arc::new(MemoryBus::new()), plan);
        let mut subscription = bus.subscribe(Subject::Heads).await.unwrap();
        for number in 0..800_u16 {
            bus.publish(
                Subject::Heads,
                Bytes::copy_from_slice(&number.to_be_bytes()),
            );
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let mut received = Vec::new();
        let quiet = Duration::from_secs(10);
        while let Ok(next) = tokio::time::timeout(quiet, subscription.recv()).await {
            let Some(Received::Event(event)) = next else {
                continue;
            };
            received.push(u16::from_be_bytes(event[..].try_into().unwrap()));
        }
        received
    }

    #[tokio::test(start_paused = true)]
    async fn it_behaves_when_told_to() {
        assert_eq!(received(behaved()).await, (0..800).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn it_loses_its_share_and_the_same_share_again() {
        let plan = Misbehaviour {
            drop: 0.2,
            ..behaved()
        };
        let first = received(plan.clone()).await;
        assert!((560..720).contains(&first.len()), "{}", first.len());
        assert_eq!(received(plan).await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn it_doubles_and_reorders_without_losing() {
        let plan = Misbehaviour {
            double: 0.1,
            reorder: 0.1,
            delay: Duration::from_millis(50),
            ..behaved()
        };
        let mut received = received(plan).await;
        assert!(received.len() > 840, "{}", received.len());
        assert!(!received.is_sorted());
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), 800);
    }

    #[tokio::test(start_paused = true)]
    async fn it_delays() {
        let plan = Misbehaviour {
            delay: Duration::from_millis(50),
            ..behaved()
        };
        let bus = MisbehavingBus::new(Arc::new(MemoryBus::new()), plan);
        let mut subscription = bus.subscribe(Subject::Heads).await.unwrap();
        let sent = Instant::now();
        bus.publish(Subject::Heads, Bytes::new());
        subscription.recv().await.unwrap();
        assert!(sent.elapsed() >= Duration::from_millis(50));
    }
}
