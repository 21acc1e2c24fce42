//! What was read of the store, shared by all who ask at the same time.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;

use crate::store::StoreError;

/// A change makes the other keys of its stripe be read again too, so the more
/// stripes, the fewer needless reads; each takes 8 bytes.
const STRIPES: usize = 4096;

/// Values of the store that may be some moments old; that there is no value is never kept.
///
/// The generation of a key is part of what its value is kept under. Whoever changes
/// the value moves the generation on, so that a read which started before the
/// change, and ends after it, puts the old value where nobody looks any more.
pub(super) struct Known<K, V> {
    values: Cache<(K, u64), V>,
    generations: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl<K, V> Known<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps at most `capacity` values, none for longer than `ttl` if there is one.
    pub(super) fn new(capacity: u64, ttl: Option<Duration>) -> Self {
        let values = Cache::builder().max_capacity(capacity);
        Self {
            values: match ttl {
                Some(ttl) => values.time_to_live(ttl).build(),
                None => values.build(),
            },
            generations: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The value that is kept, or else what `read` finds; of all who ask for one key
    /// at the same time, one reads.
    pub(super) async fn get(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>, StoreError>>,
    ) -> Result<Option<V>, StoreError> {
        let generation = self
            .generation(&key)
            .map_or(0, |generation| generation.load(Ordering::Acquire));
        let found = self
            .values
            .try_get_with((key, generation), async {
                match read.await {
                    Ok(Some(value)) => Ok(value),
                    Ok(None) => Err(NotKept::Absent),
                    Err(error) => Err(NotKept::Failed(error)),
                }
            })
            .await;
        match found.map_err(Arc::unwrap_or_clone) {
            Ok(value) => Ok(Some(value)),
            Err(NotKept::Absent) => Ok(None),
            Err(NotKept::Failed(error)) => Err(error),
        }
    }

    /// Whoever asks from now on has it read again. Called behind the change.
    pub(super) fn forget(&self, key: &K) {
        if let Some(generation) = self.generation(key) {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn generation(&self, key: &K) -> Option<&AtomicU64> {
        let stripe = self.hasher.hash_one(key) % STRIPES as u64;
        self.generations.get(usize::try_from(stripe).ok()?)
    }
}

#[derive(Clone)]
enum NotKept {
    Absent,
    Failed(StoreError),
}
