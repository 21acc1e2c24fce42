//! The sockets: from Engine.IO's sessions to ours and back.
//!
//! Built on socketioxide's own engine and packet parser, not on its façade. The
//! façade spawns a task for each event (order is lost), drops a packet when its
//! queue is full without saying whose, leaves the transport open on disconnect,
//! never runs the disconnect handlers on close, and closes a client that sends
//! its first event right behind CONNECT. One level below, none of this is so.

mod affinity;
mod ending;
mod inbound;
mod payload;
pub(crate) mod requests;
mod wire;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use engineioxide::{
    DisconnectReason, ProtocolVersion, Str, TransportType,
    handler::EngineIoHandler,
    socket::{Sid, Socket},
};
use socketioxide_core::packet::Packet;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    connection::Control,
    double_utf8::DoubleUtf8,
    frame::{Frame, Generation},
    outbox::{EndReason, Outbox},
    rate_limit::Limiter,
    rules::Rules,
    session::Session,
    turns::Turns,
    turnstile::Turnstile,
};
pub(crate) use inbound::{Inbound, Receiver};
use wire::{EngineWire, PeerFrames};

/// The most that one packet may have.
pub(crate) const MAX_FRAME: usize = 256 << 10;

/// Our part of an Engine.IO session, set when it connects.
pub(crate) type Slot = OnceLock<Arc<Peer>>;

/// All sockets of this gateway.
pub(crate) struct Sockets {
    pub(crate) rules: Arc<dyn Rules>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) config: Config,
    pub(crate) turnstile: Turnstile,
    pub(crate) turns: Turns,
    peers: RwLock<HashMap<Sid, Arc<Peer>>>,
    tasks: TaskTracker,
    draining: AtomicBool,
}

/// One client.
pub(crate) struct Peer {
    pub(crate) outbox: Outbox,
    wire: Arc<EngineWire>,
    inbound: inbound::Sender,
    double_utf8: DoubleUtf8,
    signed_in: AtomicBool,
    /// What comes is ignored, what was taken is still answered.
    deaf: AtomicBool,
    /// Engine.IO has let go of the session.
    gone: CancellationToken,
    /// The connection of its websocket.
    control: Mutex<Option<Arc<Control>>>,
}

impl Sockets {
    pub(crate) fn new(config: Config, rules: Arc<dyn Rules>, limiter: Arc<Limiter>) -> Self {
        Self {
            rules,
            limiter,
            config,
            turnstile: Turnstile::new(),
            turns: Turns::new(),
            peers: RwLock::default(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// The client of this session.
    pub(crate) fn peer(&self, sid: Sid) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&sid)
            .cloned()
    }

    /// Everybody who is connected now.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Whether one more may connect.
    pub(crate) fn has_room(&self) -> bool {
        let connected = self
            .peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        !self.draining.load(Ordering::Acquire) && connected < self.config.max_sockets
    }

    /// Lets nobody in any more.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.tasks.close();
    }

    /// Waits until every session has ended, after [`Self::begin_drain`].
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Cuts off who has taken nothing for too long.
    pub(crate) fn end_stalled(&self) {
        let now = Instant::now();
        let peers = self.peers();
        for peer in &peers {
            peer.outbox.end_if_stalled(now);
        }
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("drivers_gateway_sockets").set(peers.len() as f64);
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

impl EngineIoHandler for Sockets {
    type Data = Slot;

    fn on_connect(self: Arc<Self>, socket: Arc<Socket<Slot>>) {
        let generation = match socket.protocol {
            ProtocolVersion::V3 => Generation::Eio3,
            ProtocolVersion::V4 => Generation::Eio4,
        };
        let wire = Arc::new(EngineWire::new(&socket, self.turns.line()));
        let (inbound, received) = inbound::queue();
        let peer = Arc::new(Peer {
            outbox: Outbox::new(generation, self.config.outbox_limits(), wire.clone()),
            wire,
            inbound,
            double_utf8: DoubleUtf8::default(),
            signed_in: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            gone: CancellationToken::new(),
            control: Mutex::new(None),
        });
        // On polling this connection only happened to bring the first request.
        if socket.transport_type() == TransportType::Websocket
            && let Some(control) = socket.req_parts.extensions.get::<Arc<Control>>()
        {
            peer.attach(control.clone());
        }
        let _ = socket.data.set(peer.clone());
        self.peers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(socket.id, peer.clone());
        metrics::counter!("drivers_gateway_sockets_opened_total").increment(1);
        if generation == Generation::Eio3 {
            peer.outbox.push(&Frame::packet(Packet::connect("/", None)));
        }
        let session = Session::new(&self, peer.clone(), received);
        self.tasks.spawn(async move {
            session.run().await;
            ending::close(&peer).await;
        });
    }

    fn on_disconnect(&self, socket: Arc<Socket<Slot>>, _: DisconnectReason) {
        self.peers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&socket.id);
        if let Some(peer) = socket.data.get() {
            let stalled = peer.control().is_some_and(|control| control.has_stalled());
            peer.outbox.end(if stalled {
                EndReason::SlowReader
            } else {
                EndReason::Left
            });
            peer.gone.cancel();
        }
    }

    fn on_message(self: &Arc<Self>, text: Str, socket: Arc<Socket<Slot>>) {
        if let Some(peer) = socket.data.get() {
            let text = match socket.transport_type() {
                TransportType::Polling if peer.outbox.generation() == Generation::Eio3 => {
                    match peer.double_utf8.undo(&text) {
                        std::borrow::Cow::Borrowed(_) => text,
                        std::borrow::Cow::Owned(meant) => Str::from(meant),
                    }
                }
                _ => text,
            };
            peer.hear(Inbound::Text(text));
        }
    }

    fn on_binary(self: &Arc<Self>, bytes: Bytes, socket: Arc<Socket<Slot>>) {
        if let Some(peer) = socket.data.get() {
            peer.hear(Inbound::Binary(bytes));
        }
    }
}

impl Peer {
    /// Puts something into the queue of the session, which ends when it is full.
    fn hear(&self, inbound: Inbound) {
        if self.deaf.load(Ordering::Relaxed) || self.outbox.is_ended() {
            return;
        }
        if inbound.len() > MAX_FRAME {
            self.outbox.end(EndReason::Protocol);
        } else if self.inbound.send(inbound).is_err() {
            self.outbox.end(EndReason::Flood);
        }
    }

    /// From now on ignores what comes.
    pub(crate) fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Whether all that came was taken in and answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.inbound.is_empty() && self.outbox.owes_nothing()
    }

    pub(crate) fn set_signed_in(&self) {
        self.signed_in.store(true, Ordering::Release);
    }

    fn is_signed_in(&self) -> bool {
        self.signed_in.load(Ordering::Acquire)
    }

    fn control(&self) -> Option<Arc<Control>> {
        self.control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Runs `enter`, unless the session is on its way from polling to a websocket;
    /// that way can't begin meanwhile.
    fn unless_upgrading<T>(&self, enter: impl FnOnce() -> T) -> Option<T> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let upgrades = control.as_ref().is_some_and(|control| !control.is_dead())
            && (self.wire.socket())
                .is_some_and(|socket| socket.transport_type() == TransportType::Polling);
        if upgrades { None } else { Some(enter()) }
    }

    /// Takes the connection of its websocket; false when it has a living one already.
    fn attach(self: &Arc<Self>, control: Arc<Control>) -> bool {
        let mut current = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| !current.is_dead()) {
            return false;
        }
        control.carry(PeerFrames::new(self));
        *current = Some(control);
        true
    }
}
