//! The end of a socket. Leaving the namespace is a packet that a client may
//! ignore, so the transport is ended too.

use std::time::Duration;

use engineioxide::DisconnectReason;
use tokio::time::timeout;

use crate::{
    outbox::EndReason,
    socket::{Peer, Slot},
};

/// How long the client has to go by itself, and then the engine to let it go.
const GRACE: Duration = Duration::from_millis(500);
/// After which a session that can't be closed is a bug to be seen.
const LIMIT: Duration = Duration::from_secs(5);

/// Ends the transport of a socket that was ended.
pub(super) async fn close(peer: &Peer) {
    let Some(socket) = peer.wire.socket() else {
        return;
    };
    if peer.outbox.end_reason().is_some_and(EndReason::is_told) {
        // Until he is gone his bytes are read and ignored: closing on unread bytes
        // resets the connection, and what was sent last would not arrive.
        let _ = timeout(GRACE, peer.gone.cancelled()).await;
    }
    finish(peer, &socket).await;
}

async fn finish(peer: &Peer, socket: &engineioxide::Socket<Slot>) {
    if peer.gone.is_cancelled() {
        return;
    }
    let stuck = peer.outbox.end_reason() == Some(EndReason::SlowReader);
    if stuck && let Some(control) = peer.control() {
        control.kill();
    }
    socket.close(DisconnectReason::TransportClose);
    if timeout(GRACE, peer.gone.cancelled()).await.is_ok() {
        return;
    }
    // A writer that waits for a client who does not read.
    if let Some(control) = peer.control() {
        control.kill();
    }
    if timeout(LIMIT, peer.gone.cancelled()).await.is_err() {
        tracing::error!("an ended session was not let go");
    }
}
