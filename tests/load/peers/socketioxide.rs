//! Bare socketioxide: rooms, default settings. Its own adapter loses a packet where a queue is
//! full, and does not say whose that was; the other one cuts that connection off.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use socketioxide::adapter::{Adapter, Emitter};
use socketioxide::extract::{Data, SocketRef, State};
use socketioxide::{SocketIo, SocketIoBuilder};
use socketioxide_core::adapter::errors::BroadcastError;
use socketioxide_core::adapter::{
    BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, SocketEmitter,
};
use socketioxide_core::packet::Packet;
use tokio::net::TcpListener;

use super::{Event, Incoming, OK, SignIn, Typing};

/// The newest seq of each topic.
type Seqs = Arc<Mutex<HashMap<i64, u64>>>;

pub(super) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    serve_with(SocketIo::builder(), listener).await
}

/// With the adapter that notices full queues.
pub(super) async fn serve_noticing(listener: TcpListener) -> std::io::Result<()> {
    let builder = SocketIo::builder().with_adapter::<Noticing>(());
    serve_with(builder, listener).await
}

async fn serve_with<A: Adapter + DefinedAdapter>(
    builder: SocketIoBuilder<A>,
    listener: TcpListener,
) -> std::io::Result<()> {
    let (layer, io) = builder.with_state(Seqs::default()).build_layer();
    let _initialized = io.ns("/", async |socket: SocketRef<A>| {
        socket.on(
            "signin_request",
            async |socket: SocketRef<A>, Data(sign_in): Data<SignIn>| {
                socket.join(sign_in.topics().map(room).collect::<Vec<_>>());
                let _full = socket.emit("signin_response", &OK);
            },
        );
        socket.on("message_events", take::<A>);
        socket.on(
            "typing_event",
            async |socket: SocketRef<A>, Data(typing): Data<Typing>| {
                let others = socket.to(room(typing.topic_id));
                let _queued = others.emit("typing_event", &typing).await;
            },
        );
    });
    let tapped = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _gone = stream.set_nodelay(true);
    });
    axum::serve(tapped, axum::Router::new().layer(layer)).await
}

/// Numbered and queued under one lock: one order.
async fn take<A: Adapter>(
    socket: SocketRef<A>,
    Data(incoming): Data<Incoming>,
    State(seqs): State<Seqs>,
) {
    let mut seqs = seqs.lock().unwrap_or_else(PoisonError::into_inner);
    let seq = seqs.entry(incoming.topic_id).or_default();
    *seq += 1;
    let room = room(incoming.topic_id);
    let event = Event::new(incoming, *seq);
    let _queued = socket
        .within(room)
        .emit("message_events", &event)
        .now_or_never();
}

fn room(topic: i64) -> String {
    topic.to_string()
}

/// Sends to one socket after the other: whose queue is full is known then.
struct Noticing(CoreLocalAdapter<Emitter>);

impl CoreAdapter<Emitter> for Noticing {
    type Error = Infallible;
    type State = ();
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    fn new((): &(), local: CoreLocalAdapter<Emitter>) -> Self {
        Self(local)
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        on_success();
    }

    async fn broadcast(
        &self,
        packet: Packet,
        options: BroadcastOptions,
    ) -> Result<(), BroadcastError> {
        for sid in self.0.sockets(options) {
            let one = || BroadcastOptions::new(sid);
            if self.0.broadcast(packet.clone(), one()).is_err() {
                let _gone = self.0.disconnect_socket(one());
            }
        }
        Ok(())
    }

    async fn broadcast_with_ack(
        &self,
        packet: Packet,
        options: BroadcastOptions,
        timeout: Option<std::time::Duration>,
    ) -> Result<Self::AckStream, Infallible> {
        Ok(self.0.broadcast_with_ack(packet, options, timeout).0)
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        &self.0
    }
}

impl DefinedAdapter for Noticing {}
