//! How a cluster is found again that was lost whole.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use scylla::client::session::Session;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Cql, CqlError, Inner, connect};

/// How far apart attempts begin, and the longest that one takes: a node that has just
/// started is slow.
const PAUSE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

/// The attempt that was begun last.
#[derive(Default)]
pub(super) struct Revival(Option<(Instant, AbortOnDropHandle<()>)>);

impl Cql {
    /// Begins to connect anew if no connection is left.
    ///
    /// The driver goes on trying too, but with pauses that grow to ten seconds and can't be
    /// set in its stable interface. As long as it has one node it learns at once
    /// of others that are back.
    pub(super) fn revive(&self) {
        let mut revival = (self.0.revival.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some((begun, attempt)) = &revival.0
            && (!attempt.is_finished() || begun.elapsed() < PAUSE)
        {
            return;
        }
        if is_connected(&self.session()) {
            return;
        }
        let (url, writes) = (self.0.url.clone(), self.0.writes.clone());
        // The last clone of this ends the attempt, so the attempt must be none.
        let inner = Arc::downgrade(&self.0);
        let attempt = tokio::spawn(async move {
            let connecting = async {
                let session = connect::session(&url, &writes).await?;
                let keyspace = session.use_keyspace(&url.keyspace, false).await;
                keyspace.map_err(|error| CqlError::Unavailable(error.to_string()))?;
                Ok(session)
            };
            match timeout(LIMIT, connecting).await {
                Ok(Ok(session)) => {
                    if let Some(inner) = inner.upgrade() {
                        inner.replace(session);
                    }
                }
                Ok(Err::<_, CqlError>(error)) => {
                    tracing::debug!(%error, "the cluster is still away");
                }
                Err(_) => tracing::debug!("the cluster does not answer in time"),
            }
        });
        revival.0 = Some((Instant::now(), AbortOnDropHandle::new(attempt)));
    }
}

impl Inner {
    fn replace(&self, session: Session) {
        tracing::info!("connected to the cluster anew");
        let mut current = (self.session.write()).unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(session);
    }
}

fn is_connected(session: &Session) -> bool {
    session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .any(|node| node.is_connected())
}
