//! The bus within one process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{Bus, BusError, QUEUE, Received, Subject, Subscription, lost};

/// Delivers to the subscribers of this process.
#[derive(Debug)]
pub struct MemoryBus {
    subscribers: Arc<Mutex<Subscribers>>,
    next_key: AtomicU64,
    connected: watch::Sender<bool>,
    reconnects: watch::Sender<u64>,
}

type Subscribers = HashMap<Subject, Vec<Subscriber>>;

#[derive(Debug)]
struct Subscriber {
    key: u64,
    events: mpsc::Sender<Received>,
    /// Whether the newest thing in its queue says that events were lost.
    behind: bool,
}

impl MemoryBus {
    /// A bus that nobody has subscribed to yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            subscribers: Arc::default(),
            next_key: AtomicU64::new(0),
            connected: watch::Sender::new(true),
            reconnects: watch::Sender::new(0),
        }
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Bus for MemoryBus {
    fn publish(&self, subject: Subject, event: Bytes) {
        metrics::counter!("drivers_bus_published_total").increment(1);
        if let Some(subscribers) = locked(&self.subscribers).get_mut(&subject) {
            for subscriber in subscribers {
                subscriber.deliver(event.clone());
            }
        }
    }

    async fn subscribe(&self, subject: Subject) -> Result<Subscription, BusError> {
        // The last place of the queue is kept for saying that events were lost.
        let (events, queue) = mpsc::channel(QUEUE + 1);
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        locked(&self.subscribers)
            .entry(subject)
            .or_default()
            .push(Subscriber {
                key,
                events,
                behind: false,
            });
        let guard = Unsubscribe {
            subscribers: Arc::downgrade(&self.subscribers),
            subject,
            key,
        };
        Ok(Subscription::new(queue, guard))
    }

    async fn flush(&self, _: Duration) -> Result<(), BusError> {
        Ok(())
    }

    fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.subscribe()
    }
}

impl Subscriber {
    /// Only publishers add to the queue, and they hold the lock: what fits now
    /// fits still when it is sent.
    fn deliver(&mut self, event: Bytes) {
        if self.events.capacity() > 1 {
            self.behind = false;
            let _ = self.events.try_send(Received::Event(event));
            return;
        }
        lost("slow_subscriber");
        if !self.behind {
            self.behind = true;
            let _ = self.events.try_send(Received::Lost);
        }
    }
}

/// Ends a subscription when it is dropped.
struct Unsubscribe {
    subscribers: Weak<Mutex<Subscribers>>,
    subject: Subject,
    key: u64,
}

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        let Some(subscribers) = self.subscribers.upgrade() else {
            return;
        };
        let mut subscribers = locked(&subscribers);
        if let Some(of_subject) = subscribers.get_mut(&self.subject) {
            of_subject.retain(|subscriber| subscriber.key != self.key);
            if of_subject.is_empty() {
                subscribers.remove(&self.subject);
            }
        }
    }
}

fn locked(subscribers: &Mutex<Subscribers>) -> MutexGuard<'_, Subscribers> {
    subscribers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    bus_conformance!(async || Arc::new(MemoryBus::new()) as Arc<dyn Bus>);

    #[tokio::test]
    async fn nothing_is_kept_of_a_dropped_subscription() {
        let bus = MemoryBus::new();
        let first = bus.subscribe(Subject::Heads).await.unwrap();
        let second = bus.subscribe(Subject::Heads).await.unwrap();
        drop(first);
        assert_eq!(locked(&bus.subscribers).len(), 1);
        drop(second);
        assert!(locked(&bus.subscribers).is_empty());
    }

    #[tokio::test]
    async fn a_subscription_ends_with_the_bus() {
        let bus = MemoryBus::new();
        let mut subscription = bus.subscribe(Subject::Heads).await.unwrap();
        bus.publish(Subject::Heads, Bytes::from_static(b"last"));
        drop(bus);
        assert_eq!(
            subscription.recv().await,
            Some(Received::Event(Bytes::from_static(b"last")))
        );
        assert_eq!(subscription.recv().await, None);
    }

    #[tokio::test]
    async fn a_subscriber_that_is_behind_hears_of_each_gap_once() {
        let bus = MemoryBus::new();
        let mut subscription = bus.subscribe(Subject::Heads).await.unwrap();
        let mut heard = Vec::new();
        for round in 0..2 {
            for _ in 0..QUEUE + 100 {
                bus.publish(Subject::Heads, Bytes::from_static(&[0]));
            }
            for _ in 0..=QUEUE {
                heard.push(subscription.recv().await.unwrap());
            }
            let gaps = heard.iter().filter(|r| **r == Received::Lost).count();
            assert_eq!(gaps, round + 1);
            assert_eq!(heard.last(), Some(&Received::Lost));
        }
    }
}
