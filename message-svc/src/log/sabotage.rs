//! Bugs of the log that the trial has to find; see [`chassis::sabotage`]. And
//! `unsure`, which is none: a store that often does not say what became of an append.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use chassis::{
    id::{MessageId, Seq, TopicId},
    sabotage::{is, strikes},
};

use super::{Sent, Shared, knowledge::Knowledge, topic::Waiting, writer::place};
use crate::{
    entry::{Entry, Placed, Segment, SegmentId},
    store::{AppendError, Appended, FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

/// `publish_before_commit` tells the listeners, `acknowledge_before_commit` the senders,
/// before the store has anything.
pub(super) fn before_the_append(
    shared: &Shared,
    knowledge: &Knowledge,
    entries: &[Entry],
    waiting: &mut VecDeque<Waiting>,
) {
    let placed = (knowledge.head..)
        .zip(entries)
        .filter_map(|(slot, entry)| place(&knowledge.segment, slot, entry.clone()));
    if is("publish_before_commit") {
        shared.announcer.appended(&placed.collect::<Vec<_>>());
    } else if is("acknowledge_before_commit") {
        for (waiting, placed) in waiting.iter_mut().zip(placed) {
            waiting.answer_early(Sent {
                placed,
                duplicate: false,
            });
        }
    }
}

/// `fresh_id_on_retry`: the answer to a retry has an id of its own.
pub(super) fn afresh(mut placed: Placed) -> Placed {
    if is("fresh_id_on_retry") {
        placed.id = MessageId::new(placed.id.get() + 1).unwrap_or(placed.id);
    }
    placed
}

/// `back_in_time`: the clock of an entry is behind that of the entry before.
pub(super) fn back_in_time(mut entry: Entry) -> Entry {
    if strikes("back_in_time", 0.05) {
        entry.sent_at_ms -= 3_000;
    }
    entry
}

/// `turn_round`: what a sender sent last comes first.
pub(super) fn turned_round(batch: &mut VecDeque<Waiting>) {
    if is("turn_round") {
        batch.make_contiguous().reverse();
    }
}

/// `swap_in_page`: two entries of a page change places.
pub(super) fn swapped(mut page: Vec<Placed>) -> Vec<Placed> {
    if is("swap_in_page") && page.len() >= 2 {
        page.swap(0, 1);
    }
    page
}

/// A store that answers a part of all appends with "unknown": of those it executes a third
/// at once, a third some time later, and a third never.
pub(crate) struct UnsureStore(Arc<dyn LogStore>);

/// That part, and how much later; milliseconds.
const UNSURE: f64 = 0.4;
const LATER: std::ops::Range<u64> = 5..1_200;

impl UnsureStore {
    /// `unsure`: over this store, or the store as it is.
    pub(crate) fn over(store: Arc<dyn LogStore>) -> Arc<dyn LogStore> {
        if is("unsure") {
            Arc::new(Self(store))
        } else {
            store
        }
    }
}

#[async_trait]
impl LogStore for UnsureStore {
    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError> {
        if !strikes("unsure", UNSURE) {
            return self.0.append(segment, head, entries).await;
        }
        match rand::random_range(0..3) {
            0 => drop(self.0.append(segment, head, entries).await),
            1 => {
                let (store, segment) = (Arc::clone(&self.0), *segment);
                let entries = entries.to_vec();
                let delay = Duration::from_millis(rand::random_range(LATER));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _unheard = store.append(&segment, head, &entries).await;
                });
            }
            _ => {}
        }
        Err(AppendError::Unknown("unsure on purpose".into()))
    }

    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError> {
        self.0.load(topic).await
    }

    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError> {
        self.0.open_segment(topic, after, first_seq, capacity).await
    }

    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError> {
        self.0.read(segment, slots).await
    }

    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError> {
        self.0.stamps(segment, slots).await
    }

    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        self.0.segment_at(topic, seq).await
    }

    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError> {
        self.0.find(id).await
    }

    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError> {
        self.0.heads(topics).await
    }

    async fn heads_in_reach(&self, topics: &[TopicId]) -> Result<Vec<Option<Seq>>, StoreError> {
        self.0.heads_in_reach(topics).await
    }

    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        self.0.full_segments(topic, before, limit).await
    }

    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError> {
        self.0.put_filter(segment, filter).await
    }
}
