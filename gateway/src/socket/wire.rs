//! The way of our packets to one client. On polling they go into Engine.IO's queue,
//! never filled to the brim: a heartbeat that finds it full ends the session. A
//! websocket's [`Connection`](crate::connection::Connection) fetches them by itself,
//! as frames that are encoded already: Engine.IO would encode them for each client.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use engineioxide::{TransportType, socket::Socket};

use crate::{
    connection::{Control, Frames, PER_WRITE},
    frame::{Frame, Generation},
    outbox::{Waiting, Wire},
    socket::{Peer, Slot},
    turns::Line,
};

/// Packets that Engine.IO's queue holds.
pub(super) const QUEUE: usize = 32;
/// Packets of ours in one polling payload. Python's engineio refuses more than 16
/// in all, and Engine.IO may add a heartbeat and a no-op.
const PER_POLL: usize = 14;
/// Their bytes. What is over Engine.IO's own limit for a payload it keeps aside,
/// and forgets when the session upgrades.
const BYTES_PER_POLL: usize = 1 << 20;
/// A websocket fetches what it writes at once, up to the frame with the last of these.
const BYTES_PER_WRITE: usize = 64 << 10;

pub(super) struct EngineWire {
    socket: Weak<Socket<Slot>>,
    /// What went into Engine.IO's queue while the session was on polling.
    queue: Mutex<Queue>,
    /// The connection of the websocket that the session is on.
    websocket: OnceLock<Arc<Control>>,
    line: Arc<Line>,
}

#[derive(Default)]
struct Queue {
    packets: usize,
    bytes: usize,
}

impl EngineWire {
    pub(super) fn new(socket: &Arc<Socket<Slot>>, line: Arc<Line>) -> Self {
        Self {
            socket: Arc::downgrade(socket),
            queue: Mutex::default(),
            websocket: OnceLock::new(),
            line,
        }
    }

    /// Engine.IO's session, while there is one.
    pub(super) fn socket(&self) -> Option<Arc<Socket<Slot>>> {
        self.socket.upgrade()
    }

    /// A poll took that many packets of ours.
    pub(super) fn polled(&self, packets: usize, bytes: usize) {
        let mut queue = self.queue();
        queue.packets = queue.packets.saturating_sub(packets);
        queue.bytes = match queue.packets {
            0 => 0,
            _ => queue.bytes.saturating_sub(bytes),
        };
    }

    fn is_on_websocket(&self) -> bool {
        self.socket()
            .is_some_and(|socket| socket.transport_type() == TransportType::Websocket)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_room(&self, bytes: usize) -> bool {
        self.packets == 0 || (self.packets < PER_POLL && self.bytes + bytes <= BYTES_PER_POLL)
    }
}

impl Wire for Arc<EngineWire> {
    fn take(&self, waiting: &mut Waiting) {
        if let Some(websocket) = self.websocket.get() {
            self.line.wake(websocket);
            return;
        }
        let Some(socket) = self.socket() else { return };
        let generation = waiting.generation();
        let mut queue = self.queue();
        while let Some(frame) = waiting.front() {
            let bytes = frame.len(generation);
            // One that goes in just as the upgrade ends is written by Engine.IO still.
            if socket.transport_type() == TransportType::Websocket
                || !queue.has_room(bytes)
                || socket.emit(frame.text(generation).clone()).is_err()
            {
                return;
            }
            queue.packets += 1;
            queue.bytes += bytes;
            waiting.pop();
        }
    }
}

/// What the connection of a websocket sends for a client.
pub(super) struct PeerFrames {
    peer: Weak<Peer>,
    generation: Generation,
}

impl PeerFrames {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        Self {
            peer: Arc::downgrade(peer),
            generation: peer.outbox.generation(),
        }
    }
}

impl Frames for PeerFrames {
    fn generation(&self) -> Generation {
        self.generation
    }

    fn have_begun(&self, connection: &Arc<Control>) -> bool {
        let Some(peer) = self.peer.upgrade() else {
            return false;
        };
        let begun = peer.wire.is_on_websocket();
        if begun {
            let _ = peer.wire.websocket.set(connection.clone());
        }
        begun
    }

    fn take(&self, messages: u64, into: &mut VecDeque<Frame>) {
        if let Some(peer) = self.peer.upgrade() {
            // First what is in Engine.IO's queue since the session was on polling.
            let is_our_turn = || messages >= peer.wire.queue().packets as u64;
            (peer.outbox).take_if(is_our_turn, (PER_WRITE, BYTES_PER_WRITE), into);
        }
    }
}
