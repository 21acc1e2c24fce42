//! Heads that were read a moment ago: many gateways ask after the same topics.

use std::time::Duration;

use chassis::id::{Seq, TopicId};
use moka::sync::Cache;
use tokio::{sync::Mutex, time::Instant};

use crate::store::{LogStore, StoreError};

/// How old an answer may be at most.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// Topics whose heads are kept for that long, some 100 bytes each.
const MAX_TOPICS: u64 = 200_000;

pub(super) struct RecentHeads {
    /// Each with when it was asked for.
    read: Cache<TopicId, (Seq, Instant)>,
    /// Whoever waits for his turn finds what the one before him has read.
    turn: Mutex<()>,
}

impl RecentHeads {
    pub(super) fn new() -> Self {
        Self {
            read: Cache::builder()
                .max_capacity(MAX_TOPICS)
                .time_to_live(MAX_AGE)
                .build(),
            turn: Mutex::default(),
        }
    }

    /// The newest seq of each topic, in the order asked, none read longer ago than `max_age`;
    /// `None` for one that is out of reach.
    pub(super) async fn get(
        &self,
        store: &dyn LogStore,
        topics: &[TopicId],
        max_age: Duration,
    ) -> Result<Vec<Option<Seq>>, StoreError> {
        if max_age.is_zero() {
            return store.heads_in_reach(topics).await;
        }
        let _turn = self.turn.lock().await;
        let now = Instant::now();
        let known = topics.iter().map(|topic| {
            let (seq, at) = self.read.get(topic)?;
            (now.duration_since(at) < max_age).then_some(seq)
        });
        let known: Vec<Option<Seq>> = known.collect();
        let unknown = topics.iter().zip(&known).filter(|(_, seq)| seq.is_none());
        let unknown: Vec<TopicId> = unknown.map(|(topic, _)| *topic).collect();
        let count = |found, heads: usize| {
            metrics::counter!("drivers_message_heads_asked_total", "found" => found)
                .increment(heads as u64);
        };
        count("hit", topics.len() - unknown.len());
        if unknown.is_empty() {
            return Ok(known);
        }
        count("miss", unknown.len());
        let mut read = store.heads_in_reach(&unknown).await?.into_iter();
        let heads = topics.iter().zip(known).map(|(topic, seq)| {
            seq.or_else(|| {
                let seq = read.next()??;
                self.read.insert(*topic, (seq, now));
                Some(seq)
            })
        });
        Ok(heads.collect())
    }
}
