//! The replicas of a service, and which of them a call goes to.
//!
//! Any of them that is well, by two random choices of which the less busy one is taken;
//! what belongs to a topic goes to the topic's own, by rendezvous hashing. tower's
//! `Balance` was looked at: it knows neither keys nor replicas to be avoided.

use std::{net::SocketAddr, sync::Arc};

use rand::seq::IndexedRandom as _;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Credentials,
    connector::{Destination, Dialer},
    names::{Names, follow},
    peers::{Address, InvalidEndpoint, Peers, Scheme},
    replica::{Gauges, InFlight, Replica},
};
use crate::id::TopicId;

/// The replicas of one service.
pub(super) struct Replicas {
    set: Arc<Set>,
    _follower: Option<AbortOnDropHandle<()>>,
}

/// Those that a call was made to already, in order.
#[derive(Default)]
pub(super) struct Tried {
    replicas: Vec<Arc<Replica>>,
    has_stayed: bool,
}

impl Tried {
    pub(super) fn push(&mut self, replica: &Arc<Replica>) {
        self.replicas.push(Arc::clone(replica));
    }

    /// The last one is only busy: the next try goes to it, too, if it is the first to do so.
    /// What it has begun for a topic another would begin again, and stand in its way.
    pub(super) fn stay(&mut self) {
        if !std::mem::replace(&mut self.has_stayed, true) {
            self.replicas.pop();
        }
    }
}

struct Set {
    known: watch::Sender<Vec<Arc<Replica>>>,
    credentials: Credentials,
    gauges: Gauges,
    left: Arc<Notify>,
}

impl Replicas {
    /// Those of `peers`. `service` is what metrics and the log call it.
    pub(super) fn new(
        service: &'static str,
        peers: &Peers,
        credentials: Credentials,
        names: Names,
    ) -> Result<Self, InvalidEndpoint> {
        let set = Arc::new(Set {
            known: watch::Sender::default(),
            credentials,
            gauges: Gauges::new(service),
            left: Arc::default(),
        });
        let follower = match peers {
            Peers::At(scheme, addresses) => {
                match (scheme, &set.credentials) {
                    (Scheme::Http, Credentials::Secret(_))
                    | (Scheme::Https, Credentials::Certificate { .. }) => {}
                    (Scheme::Http, _) => return Err(InvalidEndpoint::Plain(peers.to_string())),
                    (Scheme::Https, _) => {
                        return Err(InvalidEndpoint::NoCertificate(peers.to_string()));
                    }
                }
                for address in addresses {
                    let replica = set.replica(address, Destination::Host(address.clone()))?;
                    set.known.send_modify(|known| known.push(replica));
                }
                None
            }
            Peers::Named(name) => {
                // Whether it makes a URL is known before anything is looked up.
                Dialer::new(name, Destination::Host(name.clone()), &set.credentials)?;
                let (name, set) = (name.clone(), Arc::clone(&set));
                let following = async move {
                    let left = Arc::clone(&set.left);
                    follow(service, &name, &names, &left, |found| {
                        set.replace(&name, found);
                    })
                    .await;
                };
                Some(AbortOnDropHandle::new(tokio::spawn(following)))
            }
        };
        Ok(Self {
            set,
            _follower: follower,
        })
    }

    /// The replica that a call goes to next. Waits while none is known.
    pub(super) async fn pick(&self, topic: Option<TopicId>, tried: &Tried) -> InFlight {
        loop {
            if let Some(replica) = choose(&self.set.known.borrow(), topic, tried) {
                return replica.begin();
            }
            let mut known = self.set.known.subscribe();
            // The sender is borrowed here, so the channel can't close meanwhile.
            let _ = known.wait_for(|known| !known.is_empty()).await;
        }
    }
}

impl Set {
    fn replica(
        &self,
        name: &Address,
        destination: Destination,
    ) -> Result<Arc<Replica>, InvalidEndpoint> {
        Ok(Arc::new(Replica::new(
            Dialer::new(name, destination.clone(), &self.credentials)?,
            destination,
            self.credentials.clone(),
            self.gauges.clone(),
            Arc::clone(&self.left),
        )))
    }

    /// Those who stay keep their connections; those who are gone finish what they are at.
    fn replace(&self, name: &Address, found: Vec<SocketAddr>) {
        let before = self.known.borrow().clone();
        let found = found.into_iter().map(Destination::Resolved);
        let now = found.filter_map(|destination| {
            let stays = (before.iter()).find(|replica| *replica.destination() == destination);
            (stays.map(Arc::clone)).or_else(|| self.replica(name, destination).ok())
        });
        self.known.send_replace(now.collect());
    }
}

/// Among those who are well, if any is, the ones that the call was not made to, or not
/// lately; among them the topic's own, or the less busy one of two.
fn choose(known: &[Arc<Replica>], topic: Option<TopicId>, tried: &Tried) -> Option<Arc<Replica>> {
    let is = |one: &Arc<Replica>, other: &Arc<Replica>| Arc::ptr_eq(one, other);
    let rank = |replica: &Arc<Replica>| {
        let is_last = tried.replicas.last().is_some_and(|last| is(last, replica));
        let times = tried
            .replicas
            .iter()
            .filter(|other| is(other, replica))
            .count();
        (replica.is_down(), is_last, times)
    };
    // Another task may change what is well, so each is ranked once.
    let ranked: Vec<_> = known.iter().map(|it| (rank(it), it)).collect();
    let best = ranked.iter().map(|(rank, _)| *rank).min()?;
    let candidates = (ranked.into_iter()).filter_map(|(rank, it)| (rank == best).then_some(it));
    let chosen = match topic {
        Some(topic) => candidates.max_by_key(|it| weight(topic, it.name())),
        // Two in random order: of equals the first is taken.
        None => (candidates.collect::<Vec<_>>())
            .sample(&mut rand::rng(), 2)
            .copied()
            .min_by_key(|replica| replica.in_flight()),
    };
    chosen.map(Arc::clone)
}

/// How much a replica is a topic's own. It depends on these two alone, so all gateways
/// find the same one, and when a replica goes, only its topics move.
fn weight(topic: TopicId, replica: &str) -> u64 {
    xxh3_64_with_seed(replica.as_bytes(), topic.get().cast_unsigned())
}

#[cfg(test)]
mod tests;
