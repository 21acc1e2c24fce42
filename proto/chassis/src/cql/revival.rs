//! How a cluster is found again that was lost whole.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use scylla::client::session::Session;
use tokio::time::timeout;

use super::{Cql, connect};

/// How far apart attempts begin.
const PAUSE: Duration = Duration::from_millis(500);

impl Cql {
    /// Connects anew if no connection is left, on the time of a request that failed for it.
    ///
    /// The driver goes on trying too, but with pauses that grow to ten seconds and can't be
    /// set in its stable interface. As long as it has one node it learns at once
    /// of others that are back.
    pub(super) async fn revive(&self) {
        // One at a time is enough, and nobody waits for it.
        let Ok(mut last) = self.0.revival.try_lock() else {
            return;
        };
        if is_connected(&self.session()) || last.is_some_and(|begun| begun.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        let url = &self.0.url;
        let connecting = async {
            let session = connect::session(url, &self.0.writes).await.ok()?;
            session.use_keyspace(&url.keyspace, false).await.ok()?;
            Some(session)
        };
        if let Ok(Some(session)) = timeout(url.timeout, connecting).await {
            tracing::info!("connected to the cluster anew");
            *self
                .0
                .session
                .write()
                .unwrap_or_else(PoisonError::into_inner) = Arc::new(session);
        }
    }
}

fn is_connected(session: &Session) -> bool {
    session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .any(|node| node.is_connected())
}
