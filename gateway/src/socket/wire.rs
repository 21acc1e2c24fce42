//! The way into Engine.IO's queue of one session, never filled to the brim: a
//! heartbeat that finds it full ends the session.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use engineioxide::{Str, TransportType, socket::Socket};
use tokio::sync::mpsc::error::TrySendError;

use crate::{connection::Control, outbox::Wire, socket::Slot};

/// Packets that Engine.IO's queue holds.
pub(super) const QUEUE: usize = 128;
/// Packets that go into the queue of a websocket before the next flush. When it
/// ends, at most those behind the flush before are still there: twice this and
/// Engine.IO's own packets must fit the queue.
const PER_FLUSH: usize = 60;
/// Packets of ours in one polling payload. Python's engineio refuses more than 16
/// in all, and Engine.IO may add a heartbeat, a no-op and our goodbye.
const PER_POLL: usize = 13;
/// Their bytes. What is over Engine.IO's own limit for a payload it keeps aside,
/// and forgets when the session upgrades.
const BYTES_PER_POLL: usize = 1 << 20;

pub(super) struct EngineWire {
    socket: Weak<Socket<Slot>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// On polling: what is in the queue.
    queued: usize,
    queued_bytes: usize,
    /// On websocket: what went in since the last flush that counts.
    since_flush: usize,
    /// How many flushes there had been when the window was used up.
    flushes: u64,
    control: Option<Arc<Control>>,
}

impl EngineWire {
    pub(super) fn new(socket: &Arc<Socket<Slot>>) -> Self {
        Self {
            socket: Arc::downgrade(socket),
            state: Mutex::default(),
        }
    }

    /// Engine.IO's session, while there is one.
    pub(super) fn socket(&self) -> Option<Arc<Socket<Slot>>> {
        self.socket.upgrade()
    }

    pub(super) fn attach(&self, control: Arc<Control>) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .control = Some(control);
    }

    /// A poll took that many packets of ours.
    pub(super) fn polled(&self, packets: usize, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queued = state.queued.saturating_sub(packets);
        state.queued_bytes = match state.queued {
            0 => 0,
            _ => state.queued_bytes.saturating_sub(bytes),
        };
    }
}

impl State {
    fn has_room(&mut self, transport: TransportType, bytes: usize) -> bool {
        match transport {
            TransportType::Polling => {
                self.queued == 0
                    || (self.queued < PER_POLL && self.queued_bytes + bytes <= BYTES_PER_POLL)
            }
            TransportType::Websocket => {
                let flushes = self.control.as_ref().map_or(0, |control| control.flushes());
                if self.since_flush >= PER_FLUSH {
                    if flushes <= self.flushes {
                        return false;
                    }
                    self.since_flush = 0;
                }
                // Read before the last packet goes in: so a flush is still to come.
                if self.since_flush + 1 == PER_FLUSH {
                    self.flushes = flushes;
                }
                true
            }
        }
    }
}

impl Wire for Arc<EngineWire> {
    fn try_send(&self, packet: Str) -> Result<(), Str> {
        let Some(socket) = self.socket.upgrade() else {
            return Err(packet);
        };
        let transport = socket.transport_type();
        let bytes = packet.len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.has_room(transport, bytes) {
            return Err(packet);
        }
        match socket.emit(packet) {
            Ok(()) => {
                match transport {
                    TransportType::Polling => {
                        state.queued += 1;
                        state.queued_bytes += bytes;
                    }
                    TransportType::Websocket => state.since_flush += 1,
                }
                Ok(())
            }
            Err(TrySendError::Full(packet) | TrySendError::Closed(packet)) => Err(packet),
        }
    }
}
