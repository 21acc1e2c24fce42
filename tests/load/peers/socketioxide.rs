//! Bare socketioxide: rooms, its own adapter, default settings. A full queue loses its packet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef, State};
use tokio::net::TcpListener;

use super::{Event, Incoming, OK, SignIn, Typing};

/// The newest seq of each topic.
type Seqs = Arc<Mutex<HashMap<i64, u64>>>;

pub(super) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let (layer, io) = SocketIo::builder()
        .with_state(Seqs::default())
        .build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on(
            "signin_request",
            async |socket: SocketRef, Data(sign_in): Data<SignIn>| {
                socket.join(sign_in.topics().map(room).collect::<Vec<_>>());
                let _full = socket.emit("signin_response", &OK);
            },
        );
        socket.on("message_events", take);
        socket.on(
            "typing_event",
            async |socket: SocketRef, Data(typing): Data<Typing>| {
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
async fn take(socket: SocketRef, Data(incoming): Data<Incoming>, State(seqs): State<Seqs>) {
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
