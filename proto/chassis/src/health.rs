//! Readiness: what a program still waits for before it takes traffic.
//!
//! A program is ready once every latch it took was dropped, and until it drains.
//! A shared dependency that is lost later never takes readiness away: all
//! replicas would leave at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

/// Whether the program is ready, and what it waits for. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness {
    waits: Arc<watch::Sender<BTreeMap<u64, &'static str>>>,
    next: Arc<AtomicU64>,
}

/// Keeps the program from being ready until it is dropped.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    key: u64,
}

impl Readiness {
    /// Nothing is waited for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waits: Arc::new(watch::Sender::new(BTreeMap::new())),
            next: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Waits for one more thing, until the latch is dropped. The name is shown
    /// by `/readyz`.
    #[must_use]
    pub fn latch(&self, name: &'static str) -> Latch {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.waits.send_modify(|waits| {
            waits.insert(key, name);
        });
        Latch {
            readiness: self.clone(),
            key,
        }
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waits.borrow().is_empty()
    }

    /// The names of what is waited for, in the order in which it was begun.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.waits.borrow().values().copied().collect()
    }

    /// Waits until readiness is other than `was`, and says what it is. Cancel-safe.
    pub async fn changed(&self, was: bool) -> bool {
        let mut waits = self.waits.subscribe();
        // The sender is borrowed here, so the channel can't close meanwhile.
        let _ = waits.wait_for(|waits| waits.is_empty() != was).await;
        !was
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.readiness.waits.send_modify(|waits| {
            waits.remove(&self.key);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn ready_is_when_every_latch_was_dropped() {
        let readiness = Readiness::new();
        let store = readiness.latch("store");
        let bus = readiness.latch("bus");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.waiting_for(), ["store", "bus"]);

        drop(store);
        assert_eq!(readiness.waiting_for(), ["bus"]);
        let waiting = readiness.clone();
        let changed = tokio::spawn(async move { waiting.changed(false).await });
        drop(bus);
        let changed = tokio::time::timeout(Duration::from_secs(5), changed).await;
        assert!(matches!(changed, Ok(Ok(true))));
        assert!(readiness.is_ready());

        let _draining = readiness.latch("drain");
        assert!(!readiness.is_ready());
    }
}
