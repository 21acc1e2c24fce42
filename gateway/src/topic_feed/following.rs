//! Following a topic, once somebody listens: its events, what of them is next in order, and
//! when that is let out.

use std::{future::pending, time::Duration};

use chassis::{
    bus::{Received, Subscription},
    id::Seq,
};
use tokio::time::Instant;

use super::{
    sequence::Sequence,
    wave::{JOIN, Wave},
};
use crate::frame::Frame;

/// How long a hole may wait for an event that is on its way, before it is read.
const GRACE: Duration = Duration::from_millis(40);

pub(super) struct Following {
    /// Nothing once the bus has shut down: the heads still tell what is missing.
    subscription: Option<Subscription>,
    /// Entries with their frames; not each is told.
    sequence: Sequence<Option<Frame>>,
    /// What was let out last, and is on its way still.
    wave: Option<Wave>,
    /// Since when something is next in order and waits for more.
    next_since: Option<Instant>,
    hole_since: Option<Instant>,
}

/// What is next in order.
pub(super) enum Next {
    Nothing,
    /// It is to be let out now.
    Due,
    /// It waits for more to go out with it, until then.
    Waits(Instant),
}

impl Following {
    /// What comes behind `head`.
    pub(super) fn new(subscription: Subscription, head: Seq) -> Self {
        Self {
            subscription: Some(subscription),
            sequence: Sequence::behind(head),
            wave: None,
            next_since: None,
            hole_since: None,
        }
    }

    /// The next event; nothing when the bus has shut down.
    pub(super) async fn event(&mut self) -> Option<Received> {
        match &mut self.subscription {
            Some(subscription) => subscription.recv().await,
            None => pending().await,
        }
    }

    /// The bus has shut down.
    pub(super) fn end_events(&mut self) {
        self.subscription = None;
    }

    /// The seq of the entry that was let out last.
    pub(super) fn last(&self) -> Seq {
        self.sequence.last()
    }

    /// Takes an entry in, made by `frame` if it is wanted still.
    pub(super) fn offer(&mut self, seq: Seq, frame: impl FnOnce() -> Option<Frame>) {
        self.sequence.offer(seq, frame);
    }

    /// The frame of an entry that is here and not let out yet.
    pub(super) fn held(&self, seq: Seq) -> Option<&Option<Frame>> {
        self.sequence.held(seq)
    }

    /// Notes that an entry with this seq exists.
    pub(super) fn exists(&mut self, seq: Seq) {
        self.sequence.exists(seq);
    }

    /// Whether something is next in order and waits already.
    pub(super) fn has_next_waiting(&self) -> bool {
        self.next_since.is_some()
    }

    /// Whether something is next in order, and whether it waits: for the sockets that are
    /// still being written to, or a while for the call that brings more.
    pub(super) fn next(&mut self, now: Instant, call_brings_more: bool) -> Next {
        if !self.sequence.has_next() {
            return Next::Nothing;
        }
        let joins_until = *self.next_since.get_or_insert(now) + JOIN;
        let wave = self.wave.as_ref();
        let waits_until = wave
            .and_then(|wave| wave.lasts_until(now))
            .or_else(|| (call_brings_more && now < joins_until).then_some(joins_until));
        waits_until.map_or(Next::Due, Next::Waits)
    }

    /// All that is next in order.
    pub(super) fn take_next(&mut self) -> Vec<(Seq, Frame)> {
        self.next_since = None;
        let mut entries = Vec::new();
        while let Some((seq, frame)) = self.sequence.next() {
            entries.extend(frame.map(|frame| (seq, frame)));
        }
        entries
    }

    /// What was taken is on its way.
    pub(super) fn is_let_out(&mut self, wave: Option<Wave>) {
        self.wave = wave;
    }

    /// When the hole in front of what is here, or known to exist, is to be read; nothing
    /// while there is none.
    pub(super) fn hole_due(&mut self, now: Instant) -> Option<Instant> {
        if self.sequence.missing() == 0 {
            self.hole_since = None;
            return None;
        }
        Some(*self.hole_since.get_or_insert(now) + GRACE)
    }

    /// The hole was read, or could not be: what is missing still waits anew.
    pub(super) fn hole_is_read(&mut self) {
        self.hole_since = None;
    }

    /// Whether there is a hole that has not waited yet.
    #[cfg(feature = "sabotage")]
    pub(super) fn has_new_hole(&self) -> bool {
        self.hole_since.is_none() && self.sequence.missing() > 0
    }

    /// Goes on behind what is missing.
    #[cfg(feature = "sabotage")]
    pub(super) fn skip_hole(&mut self) {
        self.sequence.skip_hole();
    }
}
