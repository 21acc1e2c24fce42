//! Which segments a topic's log is cut into: `topic_segments`.
//!
//! A segment that was seen stays where it is for ever, so what was read of it is kept.

use chassis::{
    cql::{Applied, Conditional, Cql, Read, blocks::Blocks},
    id::{Seq, TopicId},
};
use moka::sync::Cache;
use scylla::DeserializeRow;

use super::rows;
use crate::{
    entry::{MAX_CAPACITY, Segment, SegmentId},
    store::StoreError,
};

/// Segment numbers that are taken at a time.
const BLOCK: u16 = 32;

/// Places that are kept, of about 100 bytes each.
const KEPT: u64 = 100_000;

#[derive(DeserializeRow)]
struct Row {
    first_seq: i64,
    segment: i64,
    capacity: i32,
}

pub(super) struct Segments {
    cql: Cql,
    newest: Read,
    at: Read,
    before: Read,
    open: Conditional,
    numbers: Blocks,
    /// The newest segment that was seen of each topic. There may be a newer one.
    newest_seen: Cache<TopicId, Segment>,
    /// Segments that were looked up, by their topic and a seq within, in units of a
    /// full-sized segment. Of smaller ones that share a unit one is kept.
    seen: Cache<(TopicId, i64), Segment>,
}

impl Segments {
    pub(super) fn open(cql: &Cql) -> Self {
        let read = |name, condition: &str| {
            let text = format!(
                "SELECT first_seq, segment, capacity FROM topic_segments WHERE topic_id = ? {condition}"
            );
            cql.read(name, &text)
        };
        Self {
            newest: read("log_newest_segment", "LIMIT 1"),
            at: read("log_segment_at", "AND first_seq <= ? LIMIT 1"),
            before: read("log_segments_before", "AND first_seq >= ? AND first_seq < ? LIMIT ?"),
            open: cql
                .conditional(
                    "log_open_segment",
                    "INSERT INTO topic_segments (topic_id, first_seq, segment, capacity) VALUES (?, ?, ?, ?) IF NOT EXISTS",
                ),
            numbers: Blocks::new(cql, "message_ids", "segment", 1, BLOCK),
            newest_seen: Cache::new(KEPT),
            seen: Cache::new(KEPT),
            cql: cql.clone(),
        }
    }

    /// The newest segment of a topic. One that is being made may not be seen yet: then
    /// that in front of it is, which is full.
    pub(super) async fn newest(&self, topic: TopicId) -> Result<Option<Segment>, StoreError> {
        let row = self.cql.row(&self.newest, (topic.get(),)).await?;
        self.decode(topic, row)
    }

    /// The same, as far as it was seen here.
    pub(super) fn newest_seen(&self, topic: TopicId) -> Option<Segment> {
        self.newest_seen.get(&topic)
    }

    /// The last segment that starts at `seq` or before.
    pub(super) async fn at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        let place = (topic, unit(seq));
        let holds = |segment: &Segment| segment.slot(seq).is_some();
        let seen = self.newest_seen(topic).filter(holds);
        if let Some(segment) = seen.or_else(|| self.seen.get(&place).filter(holds)) {
            return Ok(Some(segment));
        }
        let row = self.cql.row(&self.at, (topic.get(), seq.get())).await?;
        let found = self.decode(topic, row)?;
        if let Some(segment) = found.filter(holds) {
            self.seen.insert(place, segment);
        }
        Ok(found)
    }

    /// Up to `limit` segments that start from `from` on and before `before`, newest first.
    pub(super) async fn before(
        &self,
        topic: TopicId,
        from: Seq,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        let values = (topic.get(), from.get(), before.get(), limit.cast_signed());
        let rows: Vec<Row> = self.cql.rows(&self.before, values).await?;
        rows.into_iter().map(|row| segment(topic, &row)).collect()
    }

    /// The segment that starts at `first_seq`, and whether it was made by this call.
    pub(super) async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<(Segment, bool), StoreError> {
        let floor = after.map_or(0, SegmentId::get);
        let fresh = Row {
            first_seq: first_seq.get(),
            segment: self.numbers.next_above(floor).await?,
            capacity: capacity.cast_signed(),
        };
        let fresh = segment(topic, &fresh)?;
        let values = (
            topic.get(),
            fresh.first_seq.get(),
            fresh.id.get(),
            fresh.capacity.cast_signed(),
        );
        let there = match self.cql.apply(&self.open, values).await? {
            Applied::Yes => fresh,
            Applied::No { old, .. } => {
                let (Some(id), Some(capacity)) = (old.bigint("segment"), old.int("capacity"))
                else {
                    return Err(damaged(topic, first_seq.get()));
                };
                let there = Row {
                    first_seq: first_seq.get(),
                    segment: id,
                    capacity,
                };
                segment(topic, &there)?
            }
        };
        self.keep_newest(there);
        // After a lost answer its own row may be what stood in the way.
        Ok((there, there.id == fresh.id))
    }

    fn decode(&self, topic: TopicId, row: Option<Row>) -> Result<Option<Segment>, StoreError> {
        let found = row.map(|row| segment(topic, &row)).transpose()?;
        if let Some(found) = found {
            self.keep_newest(found);
        }
        Ok(found)
    }

    fn keep_newest(&self, segment: Segment) {
        let newer = |seen: Segment| seen.first_seq >= segment.first_seq;
        if !self.newest_seen(segment.topic).is_some_and(newer) {
            self.newest_seen.insert(segment.topic, segment);
        }
    }
}

fn unit(seq: Seq) -> i64 {
    seq.get() / i64::from(MAX_CAPACITY)
}

fn segment(topic: TopicId, row: &Row) -> Result<Segment, StoreError> {
    rows::segment(topic, row.first_seq, row.segment, row.capacity)
        .ok_or_else(|| damaged(topic, row.first_seq))
}

fn damaged(topic: TopicId, first_seq: i64) -> StoreError {
    StoreError::Damaged(format!(
        "the segment of topic {topic} at seq {first_seq} can't be"
    ))
}
