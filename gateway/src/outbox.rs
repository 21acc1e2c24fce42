//! What one socket still has to be sent. The sender never waits: a socket that
//! falls too far behind is ended, so that nobody is skipped in silence.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use engineioxide::Str;
use socketioxide_core::packet::Packet;
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::frame::{Frame, Generation};

/// How far a socket may fall behind.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Packets that wait for the transport.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How long they may wait while the transport takes nothing at all.
    pub stall: Duration,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            packets: 8_192,
            bytes: 8 << 20,
            stall: Duration::from_secs(10),
        }
    }
}

/// Why a socket was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// It did not take what was sent to it.
    SlowReader,
    /// It emitted faster than it could be served.
    Flood,
    /// It did not sign in in time.
    AuthTimeout,
    /// It failed to sign in too often.
    TooManyFailures,
    /// It emitted something else before it signed in.
    NotAuthenticated,
    /// It sent what is no Socket.IO, or more than is allowed.
    Protocol,
    /// Its token was revoked.
    Revoked,
    /// The client left.
    Left,
    /// This gateway stops.
    Shutdown,
}

impl EndReason {
    /// As a label of a metric and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::Flood => "flood",
            Self::AuthTimeout => "auth_timeout",
            Self::TooManyFailures => "too_many_failures",
            Self::NotAuthenticated => "not_authenticated",
            Self::Protocol => "protocol",
            Self::Revoked => "revoked",
            Self::Left => "left",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether the client, who is there and listens, is told goodbye.
    pub(crate) const fn is_told(self) -> bool {
        !matches!(self, Self::SlowReader | Self::Left)
    }
}

/// The transport below an outbox.
pub trait Wire: Send + Sync + 'static {
    /// Takes from what waits, oldest first, what it has room for now. Whoever leaves
    /// something comes back for it, by [`Outbox::pump`] or by fetching it.
    fn take(&self, waiting: &mut Waiting);
}

impl Wire for Sender<Str> {
    fn take(&self, waiting: &mut Waiting) {
        let generation = waiting.generation;
        while let Some(frame) = waiting.front() {
            match self.try_send(frame.text(generation).clone()) {
                Ok(()) => drop(waiting.pop()),
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => return,
            }
        }
    }
}

/// What waits for the transport.
#[derive(Debug)]
pub struct Waiting {
    generation: Generation,
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Waiting {
    /// Which generation its client speaks.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The oldest, that goes next.
    #[must_use]
    pub fn front(&self) -> Option<&Frame> {
        self.frames.front()
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(frame.len(self.generation));
        Some(frame)
    }

    fn push(&mut self, frame: Frame) {
        self.bytes += frame.len(self.generation);
        self.frames.push_back(frame);
    }

    fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }
}

/// The bounded outgoing queue of one socket. Clones are the same queue.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    generation: Generation,
    limits: OutboxLimits,
    wire: Box<dyn Wire>,
    ended: CancellationToken,
    /// The same, for those who ask at each delivery: the token has a lock inside.
    is_ended: AtomicBool,
    /// Replies that somebody holds.
    owed: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    waiting: Waiting,
    /// When the transport last took something, while packets wait.
    moved_at: Option<Instant>,
    end: Option<EndReason>,
}

impl Outbox {
    /// An empty one above `wire`.
    #[must_use]
    pub fn new(generation: Generation, limits: OutboxLimits, wire: impl Wire) -> Self {
        Self(Arc::new(Shared {
            generation,
            limits,
            wire: Box::new(wire),
            ended: CancellationToken::new(),
            is_ended: AtomicBool::new(false),
            owed: AtomicUsize::new(0),
            state: Mutex::new(State {
                waiting: Waiting {
                    generation,
                    frames: VecDeque::new(),
                    bytes: 0,
                },
                moved_at: None,
                end: None,
            }),
        }))
    }

    /// Which generation its client speaks.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Sends a frame after those before. Never waits; a socket that is over its
    /// bounds is ended, and one that has ended swallows it.
    pub fn push(&self, frame: &Frame) {
        self.push_all(std::iter::once(frame));
    }

    /// The same for several, which are handed over together.
    pub(crate) fn push_all<'a>(&self, frames: impl Iterator<Item = &'a Frame>) {
        let over = {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            for frame in frames {
                state.waiting.push(frame.clone());
            }
            self.0.pump(&mut state);
            let (waiting, limits) = (&state.waiting, &self.0.limits);
            waiting.frames.len() > limits.packets || waiting.bytes > limits.bytes
        };
        if over {
            self.end(EndReason::SlowReader);
        }
    }

    /// Hands over what the transport has room for now.
    pub fn pump(&self) {
        self.0.pump(&mut self.state());
    }

    /// Takes the oldest, if it may: at most that many frames, and only what begins within
    /// the next bytes. Nothing goes another way while it is asked whether it may.
    pub(crate) fn take_if(
        &self,
        may: impl FnOnce() -> bool,
        (frames, bytes): (usize, usize),
        into: &mut VecDeque<Frame>,
    ) {
        let mut state = self.state();
        if state.waiting.frames.is_empty() || !may() {
            return;
        }
        let rest = state.waiting.bytes.saturating_sub(bytes);
        for _ in 0..frames {
            let Some(frame) = state.waiting.pop() else {
                break;
            };
            into.push_back(frame);
            if state.waiting.bytes <= rest {
                break;
            }
        }
        state.moved(true);
    }

    /// Whether nobody holds a [`Reply`] to this socket.
    #[must_use]
    pub fn owes_nothing(&self) -> bool {
        self.0.owed.load(Ordering::Acquire) == 0
    }

    /// How many packets the transport has not taken yet.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.state().waiting.frames.len()
    }

    /// Ends the socket, if packets have waited too long while the transport took none.
    pub fn end_if_stalled(&self, now: Instant) {
        let stalled = self
            .state()
            .moved_at
            .is_some_and(|moved_at| now.saturating_duration_since(moved_at) >= self.0.limits.stall);
        if stalled {
            self.end(EndReason::SlowReader);
        }
    }

    /// Ends the socket: what comes after is neither sent nor heard. Who is still there is
    /// told what waits, and goodbye. Only the first reason counts.
    pub fn end(&self, reason: EndReason) {
        {
            let mut state = self.state();
            if state.end.is_some() {
                return;
            }
            state.end = Some(reason);
            if reason.is_told() {
                state.waiting.push(Frame::packet(Packet::disconnect("/")));
                self.0.pump(&mut state);
            } else {
                state.waiting.clear();
            }
            state.moved_at = None;
            self.0.is_ended.store(true, Ordering::Release);
        }
        self.0.ended.cancel();
        metrics::counter!("drivers_gateway_sockets_ended_total", "reason" => reason.as_str())
            .increment(1);
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }

    /// Why, once it was.
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.state().end
    }

    /// Waits until it is ended. Cancel-safe.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Every critical section leaves the state whole, so a poisoned lock means nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn pump(&self, state: &mut State) {
        let before = state.waiting.frames.len();
        self.wire.take(&mut state.waiting);
        let moved = state.waiting.frames.len() < before;
        state.moved(moved);
    }
}

impl State {
    /// Notes that the transport took something, or had the chance to.
    fn moved(&mut self, moved: bool) {
        if self.waiting.frames.is_empty() {
            self.moved_at = None;
        } else if self.end.is_none() && (moved || self.moved_at.is_none()) {
            self.moved_at = Some(Instant::now());
        }
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("generation", &self.0.generation)
            .field("end", &self.end_reason())
            .finish_non_exhaustive()
    }
}

/// What a socket is owed for an event of its client, until this is dropped.
#[derive(Debug)]
pub struct Reply {
    outbox: Outbox,
    ack: Option<i64>,
}

impl Reply {
    /// To an event that wants the acknowledgement `ack`, if any.
    #[must_use]
    pub fn new(outbox: Outbox, ack: Option<i64>) -> Self {
        outbox.0.owed.fetch_add(1, Ordering::AcqRel);
        Self { outbox, ack }
    }

    /// Whether the client wants an acknowledgement.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Acknowledges with the payload of `frame`, if that is wanted.
    pub fn acknowledge(&self, frame: &Frame) {
        if let Some(id) = self.ack {
            self.outbox.push(&frame.ack(id));
        }
    }

    /// Sends `frame`, and acknowledges with its payload if that is wanted.
    pub fn answer(self, frame: &Frame) {
        self.outbox.push(frame);
        self.acknowledge(frame);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.outbox.0.owed.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::mpsc;

    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits {
        packets: 4,
        bytes: 1_000,
        stall: Duration::from_secs(10),
    };

    fn frame(n: u32) -> Frame {
        Frame::event("e", &n)
    }

    #[test]
    fn packets_keep_their_order_over_a_full_wire() {
        let (wire, mut taken) = mpsc::channel(2);
        let outbox = Outbox::new(Generation::Eio4, LIMITS, wire);
        for n in 0..5 {
            outbox.push(&frame(n));
        }
        assert_eq!(outbox.backlog(), 3);
        let mut seen = Vec::new();
        while let Ok(packet) = taken.try_recv() {
            seen.push(packet.as_str().to_owned());
            outbox.pump();
        }
        let expected: Vec<_> = (0..5).map(|n| format!("2[\"e\",{n}]")).collect();
        assert_eq!(seen, expected);
        assert_eq!(outbox.backlog(), 0);
    }

    #[test]
    fn a_socket_over_its_packets_is_ended_and_lets_go_of_them() {
        let (wire, _taken) = mpsc::channel(1);
        let outbox = Outbox::new(Generation::Eio4, LIMITS, wire);
        for n in 0..6 {
            outbox.push(&frame(n));
        }
        assert_eq!(outbox.end_reason(), Some(EndReason::SlowReader));
        assert_eq!(outbox.backlog(), 0);
        outbox.push(&frame(9));
        assert_eq!(outbox.backlog(), 0);
    }

    #[test]
    fn a_socket_over_its_bytes_is_ended() {
        let (wire, _taken) = mpsc::channel(1);
        let outbox = Outbox::new(Generation::Eio4, LIMITS, wire);
        outbox.push(&frame(1));
        outbox.push(&Frame::event("e", &"x".repeat(1_001)));
        assert!(outbox.is_ended());
    }

    #[test]
    fn only_a_socket_that_takes_nothing_is_stalled() {
        let (wire, mut taken) = mpsc::channel(1);
        let outbox = Outbox::new(Generation::Eio4, LIMITS, wire);
        let later = || Instant::now() + LIMITS.stall;
        outbox.push(&frame(1));
        outbox.end_if_stalled(later());
        assert!(!outbox.is_ended(), "nothing waits");
        outbox.push(&frame(2));
        let first_stall = later();
        taken.try_recv().unwrap();
        outbox.push(&frame(3));
        outbox.end_if_stalled(first_stall - Duration::from_millis(1));
        assert!(!outbox.is_ended(), "it took one meanwhile");
        outbox.end_if_stalled(later());
        assert_eq!(outbox.end_reason(), Some(EndReason::SlowReader));
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let (wire, _taken) = mpsc::channel(1);
        let outbox = Outbox::new(Generation::Eio3, LIMITS, wire);
        outbox.end(EndReason::Revoked);
        outbox.end(EndReason::Shutdown);
        assert_eq!(outbox.end_reason(), Some(EndReason::Revoked));
    }
}
