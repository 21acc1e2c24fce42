//! Those who are to listen to a topic that is not followed yet.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem::take,
    sync::Arc,
};

use chassis::id::Seq;
use tokio::sync::oneshot;

use crate::{hub::SessionId, rules::SessionHandle};

/// Somebody who is to listen, from behind `since` on, or from when he is let in.
pub(super) struct Arrival {
    pub(super) session: Arc<SessionHandle>,
    pub(super) since: Option<Seq>,
    /// Told once he is let in.
    pub(super) listening: Option<oneshot::Sender<()>>,
}

/// They wait as long as their sockets live: most are not asked for again.
#[derive(Default)]
pub(super) struct Arrivals(HashMap<SessionId, Arrival>);

impl Arrivals {
    pub(super) fn wait(&mut self, arrival: Arrival) {
        match self.0.entry(arrival.session.session_id) {
            Entry::Vacant(place) => {
                place.insert(arrival);
            }
            // From where on he listens was settled when he came first.
            Entry::Occupied(place) => {
                let waiting = place.into_mut();
                waiting.listening = arrival.listening.or(waiting.listening.take());
            }
        }
    }

    pub(super) fn withdraw(&mut self, id: SessionId) {
        self.0.remove(&id);
    }

    pub(super) fn forget_the_ended(&mut self) {
        self.0
            .retain(|_, arrival| !arrival.session.outbox.is_ended());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, who wait no more.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Arrival> + use<> {
        take(&mut self.0).into_values()
    }
}
