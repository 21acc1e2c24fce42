//! What clients send: a queue for each socket, from Engine.IO to the session.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use engineioxide::Str;
use tokio::sync::{Notify, futures::OwnedNotified, mpsc};

/// The most that may wait to be handled, for one socket.
const EVENTS: usize = 4_096;
const BYTES: usize = 4 << 20;

/// What a client sent, in its order.
#[derive(Debug)]
pub(crate) enum Inbound {
    Text(Str),
    Binary(Bytes),
}

impl Inbound {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A queue of one socket.
pub(super) fn queue() -> (Sender, Receiver) {
    let (sender, events) = mpsc::channel(EVENTS);
    let shared = Arc::new(Shared {
        bytes: AtomicUsize::new(0),
        taken: Arc::default(),
    });
    let sender = Sender {
        events: sender,
        shared: shared.clone(),
    };
    (sender, Receiver { events, shared })
}

#[derive(Debug)]
struct Shared {
    /// That wait.
    bytes: AtomicUsize,
    /// Told when the queue has room again, or is given up.
    taken: Arc<Notify>,
}

/// The end that Engine.IO fills. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    events: mpsc::Sender<Inbound>,
    shared: Arc<Shared>,
}

/// There is more than may wait, or nobody any more who handles it.
#[derive(Debug)]
pub(super) struct Full;

impl Sender {
    pub(super) fn send(&self, inbound: Inbound) -> Result<(), Full> {
        let bytes = inbound.len();
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if waiting > BYTES {
            return Err(Full);
        }
        self.events.try_send(inbound).map_err(|_| Full)
    }

    /// Whether all was taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.shared.bytes.load(Ordering::Acquire) == 0
    }

    fn has_room(&self) -> bool {
        let bytes = self.shared.bytes.load(Ordering::Acquire);
        let half_empty = bytes <= BYTES / 2 && self.events.capacity() >= EVENTS / 2;
        half_empty || self.events.is_closed()
    }
}

/// Waits for room in a queue: for those who have much to put into it at once.
#[derive(Debug)]
pub(super) struct Room {
    queue: Sender,
    taken: Option<Pin<Box<OwnedNotified>>>,
}

impl Room {
    pub(super) fn new(queue: Sender) -> Self {
        Self { queue, taken: None }
    }

    /// Ready while the queue is half empty, and when nobody will take anything out any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.queue.has_room() {
            match &mut self.taken {
                Some(taken) => {
                    ready!(taken.as_mut().poll(cx));
                    self.taken = None;
                }
                // First listen, then look again.
                None => {
                    let taken = self.queue.shared.taken.clone().notified_owned();
                    self.taken = Some(Box::pin(taken));
                }
            }
        }
        self.taken = None;
        Poll::Ready(())
    }
}

/// The end that the session empties.
#[derive(Debug)]
pub(crate) struct Receiver {
    events: mpsc::Receiver<Inbound>,
    shared: Arc<Shared>,
}

impl Receiver {
    /// The next one; `None` when no more can come. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Inbound> {
        let inbound = self.events.recv().await?;
        let bytes = inbound.len();
        self.shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.shared.taken.notify_waiters();
        Some(inbound)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.events.close();
        self.shared.taken.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn text(bytes: usize) -> Inbound {
        Inbound::Text("x".repeat(bytes).into())
    }

    async fn fill(queue: &Sender, events: usize, bytes: usize) -> Result<(), Full> {
        let mut room = Room::new(queue.clone());
        for _ in 0..events {
            poll_fn(|cx| room.poll(cx)).await;
            queue.send(text(bytes))?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn who_does_not_wait_for_room_is_told_that_there_is_none() {
        let (sender, _receiver) = queue();
        for _ in 0..EVENTS {
            sender.send(text(1)).unwrap();
        }
        sender.send(text(1)).unwrap_err();
        let (sender, _receiver) = queue();
        sender.send(text(BYTES)).unwrap();
        sender.send(text(1)).unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_room_fills_it_no_faster_than_it_is_emptied() {
        for (events, bytes) in [(20 * EVENTS, 1), (100, BYTES / 4)] {
            let (sender, mut receiver) = queue();
            let filling = tokio::spawn({
                let sender = sender.clone();
                async move { fill(&sender, events, bytes).await }
            });
            for _ in 0..events {
                assert_eq!(receiver.recv().await.unwrap().len(), bytes);
            }
            filling.await.unwrap().unwrap();
            assert!(sender.is_empty());
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_room_in_a_queue_that_is_given_up() {
        let (sender, receiver) = queue();
        let filling = tokio::spawn(async move { fill(&sender, EVENTS, 1).await });
        tokio::task::yield_now().await;
        assert!(!filling.is_finished());
        drop(receiver);
        let limit = Duration::from_secs(5);
        timeout(limit, filling).await.unwrap().unwrap().unwrap_err();
    }
}
