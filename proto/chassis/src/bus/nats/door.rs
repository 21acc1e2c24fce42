//! Subscriptions that are made while the broker is away. They wait here, not in the
//! client's queue: so there are never more of them than subscribers.

use std::{
    collections::BTreeMap,
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use async_nats::{Client, Subscriber};
use tokio::sync::oneshot::{self, error::RecvError};

/// Open while the broker is there.
#[derive(Default)]
pub(super) struct Door(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    is_open: bool,
    next: u64,
    outside: BTreeMap<u64, (String, oneshot::Sender<Subscriber>)>,
}

/// A place in front of the door, given up when it is dropped.
pub(super) struct Ticket {
    coming: oneshot::Receiver<Subscriber>,
    door: Weak<Door>,
    key: u64,
}

impl Door {
    /// A ticket unless the door is open.
    pub(super) fn enter(self: &Arc<Self>, subject: &str) -> Option<Ticket> {
        let mut waiting = self.locked();
        if waiting.is_open {
            return None;
        }
        let key = waiting.next;
        waiting.next += 1;
        let (coming, ticket) = oneshot::channel();
        waiting.outside.insert(key, (subject.to_owned(), coming));
        Some(Ticket {
            coming: ticket,
            door: Arc::downgrade(self),
            key,
        })
    }

    /// Subscribes for those who wait, and opens once nobody does.
    pub(super) async fn open(&self, client: &Client) {
        while let Some((subject, coming)) = self.first_or_open() {
            match client.subscribe(subject).await {
                // Who left meanwhile drops it, which ends it.
                Ok(subscriber) => drop(coming.send(subscriber)),
                Err(error) => tracing::warn!(%error, "a subscription is refused by the client"),
            }
        }
    }

    fn first_or_open(&self) -> Option<(String, oneshot::Sender<Subscriber>)> {
        let mut waiting = self.locked();
        let first = waiting.outside.pop_first();
        waiting.is_open = first.is_none();
        first.map(|(_, one)| one)
    }

    pub(super) fn shut(&self) {
        self.locked().is_open = false;
    }

    fn locked(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn outside(&self) -> usize {
        self.locked().outside.len()
    }
}

impl Ticket {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Subscriber, RecvError>> {
        Pin::new(&mut self.coming).poll(cx)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(door) = self.door.upgrade() {
            door.locked().outside.remove(&self.key);
        }
    }
}
