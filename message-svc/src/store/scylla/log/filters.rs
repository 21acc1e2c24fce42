//! The stamp filters of full segments: `topic_stamps`.

use bytes::Bytes;
use chassis::{
    cql::{Cql, Read, Write},
    id::{Seq, TopicId},
};
use scylla::DeserializeRow;

use super::rows;
use crate::{
    entry::Segment,
    store::{FullSegment, StampFilter, StoreError},
};

/// Seqs whose filters lie in one partition: 1,024 full-sized segments.
const BUCKET_BITS: u32 = 20;

#[derive(DeserializeRow)]
struct Row {
    first_seq: i64,
    segment: Option<i64>,
    capacity: Option<i32>,
    last_sent_at_ms: Option<i64>,
    filter: Option<Bytes>,
}

pub(super) struct Filters {
    cql: Cql,
    before: Read,
    put: Write,
}

impl Filters {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            before: cql
                .read(
                    "log_filters",
                    "SELECT first_seq, segment, capacity, last_sent_at_ms, filter FROM topic_stamps \
                     WHERE topic_id = ? AND bucket = ? AND first_seq < ? LIMIT ?",
                ),
            put: cql
                .write(
                    "log_put_filter",
                    "INSERT INTO topic_stamps (topic_id, bucket, first_seq, segment, capacity, last_sent_at_ms, filter) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                ),
            cql: cql.clone(),
        }
    }

    /// Up to `limit` segments in front of `before` that have filters, newest first; some
    /// unless the one right in front of it has none.
    pub(super) async fn before(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        // A segment is smaller than a bucket, so it begins in the one that it ends in, or
        // in that below.
        let last = bucket(Seq::new(before.get() - 1));
        for bucket in [last, last - 1] {
            let values = (topic.get(), bucket, before.get(), limit.cast_signed());
            let rows: Vec<Row> = self.cql.rows(&self.before, values).await?;
            if !rows.is_empty() || bucket == 0 {
                return rows
                    .into_iter()
                    .map(|row| full_segment(topic, row))
                    .collect();
            }
        }
        Ok(Vec::new())
    }

    pub(super) async fn put(
        &self,
        segment: &Segment,
        filter: &StampFilter,
    ) -> Result<(), StoreError> {
        let values = (
            segment.topic.get(),
            bucket(segment.first_seq),
            segment.first_seq.get(),
            segment.id.get(),
            segment.capacity.cast_signed(),
            filter.last_sent_at_ms,
            filter.bytes.as_ref(),
        );
        Ok(self.cql.run(&self.put, values).await?)
    }
}

fn bucket(seq: Seq) -> i64 {
    seq.get() >> BUCKET_BITS
}

fn full_segment(topic: TopicId, row: Row) -> Result<FullSegment, StoreError> {
    let parts = || {
        let segment = rows::segment(topic, row.first_seq, row.segment?, row.capacity?)?;
        let filter = StampFilter {
            last_sent_at_ms: row.last_sent_at_ms?,
            bytes: row.filter?,
        };
        Some(FullSegment {
            segment,
            filter: Some(filter),
        })
    };
    let first_seq = row.first_seq;
    parts().ok_or_else(|| {
        StoreError::Damaged(format!(
            "the filter of topic {topic} at seq {first_seq} can't be"
        ))
    })
}
