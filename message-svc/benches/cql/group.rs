//! What the group commit gains, and what it costs.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chassis::id::{MessageId, Seq, TopicId};
use message_svc::{
    entry::{Entry, Segment, SegmentId},
    store::{AppendError, Appended, FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

use crate::{
    raw::Raw,
    rig::{Pairs, Rig, log_over, percentile, send, throughput},
};

const SPAN: Duration = Duration::from_secs(2);

pub(crate) async fn sixteen_senders(rig: &Rig) {
    let (raw, log, pairs) = (Raw::new(rig).await, rig.log().await, Pairs::default());
    for _ in 0..Pairs::count() {
        let ours = throughput(&log, &[rig.fresh_topic()], 16, SPAN).await;
        pairs.add(ours, raw.single_rows(SPAN).await);
    }
    pairs.report(
        "one topic, 16 senders with one message outstanding, against single-row appends",
        "messages/s",
        "at least 6",
    );
}

pub(crate) async fn lone_message(rig: &Rig) {
    const MESSAGES: usize = 300;
    let (raw, log, pairs) = (Raw::new(rig).await, rig.log().await, Pairs::default());
    for _ in 0..Pairs::count() {
        let topic = rig.fresh_topic();
        send(&log, topic, 1).await;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let mut partition = Raw::partition();
        for _ in 0..MESSAGES {
            ours.push(send(&log, topic, 1).await);
            let begun = Instant::now();
            raw.append(&mut partition, 1).await;
            bare.push(begun.elapsed());
        }
        let ms = |values: &mut [Duration]| percentile(values, 0.5).as_secs_f64() * 1_000.0;
        pairs.add(ms(&mut ours), ms(&mut bare));
    }
    pairs.report("a lone message, median latency", "ms", "at most 1.3");
}

pub(crate) async fn sixty_four_topics(rig: &Rig) {
    let (raw, pairs) = (Raw::new(rig).await, Pairs::default());
    for _ in 0..Pairs::count() {
        let store = Arc::new(Recording {
            inner: rig.store().await,
            sizes: Mutex::default(),
        });
        let log = log_over(Arc::clone(&store) as _);
        let topics: Vec<TopicId> = (0..64).map(|_| rig.fresh_topic()).collect();
        for topic in &topics {
            send(&log, *topic, 1).await;
        }
        store.sizes.lock().unwrap().clear();
        let ours = throughput(&log, &topics, 16, SPAN).await;
        let sizes = std::mem::take(&mut *store.sizes.lock().unwrap());
        pairs.add(ours, raw.batches(sizes.into_values().collect()).await);
    }
    pairs.report(
        "64 topics with 16 senders each, against raw batches of the same sizes",
        "messages/s",
        "at least 0.85",
    );
}

/// A store that notes how large each append is.
struct Recording {
    inner: Arc<dyn LogStore>,
    sizes: Mutex<HashMap<TopicId, Vec<usize>>>,
}

impl Recording {
    fn note(&self, topic: TopicId, entries: usize) {
        let mut sizes = self.sizes.lock().unwrap();
        sizes.entry(topic).or_default().push(entries);
    }
}

#[async_trait]
impl LogStore for Recording {
    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError> {
        self.inner.load(topic).await
    }

    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError> {
        self.inner
            .open_segment(topic, after, first_seq, capacity)
            .await
    }

    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError> {
        self.note(segment.topic, entries.len());
        self.inner.append(segment, head, entries).await
    }

    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError> {
        self.inner.read(segment, slots).await
    }

    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError> {
        self.inner.stamps(segment, slots).await
    }

    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        self.inner.segment_at(topic, seq).await
    }

    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError> {
        self.inner.find(id).await
    }

    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError> {
        self.inner.heads(topics).await
    }

    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        self.inner.full_segments(topic, before, limit).await
    }

    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError> {
        self.inner.put_filter(segment, filter).await
    }
}
