//! What a subscriber hears of a subscription at the broker.

use std::{
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use async_nats::{Message, Subscriber};
use futures::{Stream, StreamExt as _};
use tokio::task::coop::{poll_proceed, unconstrained};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::door::Ticket;
use crate::bus::{QUEUE, Received};

/// A subscription, as soon as there is one.
pub(super) enum Listening {
    Later(Ticket),
    Now(Heard<Subscriber>),
}

/// A subscription until the bus is closed.
pub(super) struct ListeningUntil {
    listening: Listening,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Says where events were lost, which the client does not: it drops what does not fit into
/// the queue of a subscription. Whoever was behind by the whole queue then reads as many
/// events without finding it empty. So after that many it is said that events were lost;
/// never too rarely, and too often only to who is always behind.
pub(super) struct Heard<S> {
    messages: S,
    queue: usize,
    since_empty: usize,
}

impl Listening {
    pub(super) fn now(subscriber: Subscriber) -> Self {
        Self::Now(Heard::new(subscriber, QUEUE))
    }

    pub(super) fn later(ticket: Ticket) -> Self {
        Self::Later(ticket)
    }

    pub(super) fn until(self, closed: CancellationToken) -> ListeningUntil {
        ListeningUntil {
            listening: self,
            closed: Box::pin(closed.cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        loop {
            match self {
                Self::Now(heard) => return heard.poll_next_unpin(cx),
                Self::Later(ticket) => match ready!(ticket.poll(cx)) {
                    Ok(subscriber) => *self = Self::now(subscriber),
                    Err(_) => return Poll::Ready(None),
                },
            }
        }
    }
}

impl Stream for ListeningUntil {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        match self.listening.poll(cx) {
            Poll::Pending => self.closed.as_mut().poll(cx).map(|()| None),
            heard => heard,
        }
    }
}

impl<S> Heard<S> {
    fn new(messages: S, queue: usize) -> Self {
        Self {
            messages,
            queue,
            since_empty: 0,
        }
    }
}

impl<S: Stream<Item = Message> + Unpin> Stream for Heard<S> {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        // A queue says that it is empty, too, when a task has worked for too long. So that
        // is asked first, and does not count in it.
        let turn = ready!(poll_proceed(cx));
        if self.since_empty >= self.queue {
            self.since_empty = 0;
            turn.made_progress();
            return Poll::Ready(Some(Received::Lost));
        }
        let next = unconstrained(poll_fn(|cx| self.messages.poll_next_unpin(cx)));
        match pin!(next).poll(cx) {
            Poll::Pending => {
                self.since_empty = 0;
                Poll::Pending
            }
            Poll::Ready(message) => {
                turn.made_progress();
                self.since_empty += 1;
                Poll::Ready(message.map(|message| Received::Event(message.payload)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::stream;
    use tokio::time::sleep;

    use super::*;

    /// Messages as the client hands them out.
    fn messages(count: usize) -> Vec<Message> {
        let message = Message {
            subject: "s".into(),
            reply: None,
            payload: Bytes::from_static(b"event"),
            headers: None,
            status: None,
            description: None,
            length: 6,
        };
        vec![message; count]
    }

    #[tokio::test]
    async fn whoever_reads_a_full_queue_hears_that_it_was_full() {
        let full = Heard::new(stream::iter(messages(QUEUE)), QUEUE);
        let heard: Vec<_> = full.collect().await;
        assert_eq!(heard.len(), QUEUE + 1);
        assert_eq!(heard.last(), Some(&Received::Lost));
    }

    #[tokio::test]
    async fn whoever_finds_it_empty_in_between_has_lost_nothing() {
        let later = stream::once(sleep(Duration::from_millis(1))).filter_map(async |()| None);
        let twice = stream::iter(messages(QUEUE - 1))
            .chain(later)
            .chain(stream::iter(messages(QUEUE - 1)));
        let heard: Vec<_> = Heard::new(Box::pin(twice), QUEUE).collect().await;
        assert_eq!(heard.len(), 2 * (QUEUE - 1));
        assert!(!heard.contains(&Received::Lost));
    }
}
