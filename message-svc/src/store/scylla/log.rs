//! The log of each topic.
//!
//! A segment is a partition. Its static row holds the next free slot, `head`, and is
//! the condition of each append, which writes entries and moves it in one batch: so
//! whoever appends knew everything in front of his entries. The first append writes
//! the static row whole; a segment without one is empty.
//!
//! How a crash between two steps looks to readers:
//!
//! - A number that was taken for a segment and never listed is lost, and nothing else.
//! - A segment that was listed and never appended to is the newest one, and empty:
//!   whoever comes next appends to it.
//! - An append is one batch of one partition: all of it is seen, or nothing. Where a
//!   round of its consensus was left half done, a plain read may miss it until the
//!   next conditional write or serial read of the segment completes it, or outbids it
//!   for ever; it was not acknowledged to anybody before that.
//! - A full segment without a successor is followed by whoever appends next; one
//!   without a filter gets it from whoever needs it.

mod filters;
mod rows;
mod segments;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, ops::Range};

use async_trait::async_trait;
use chassis::{
    cql::{Applied, Conditional, Cql, CqlError, Part, Read, ReadsTogether, Write},
    id::{MessageId, Seq, TopicId},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use scylla::deserialize::row::DeserializeRow;

use self::{
    filters::Filters,
    rows::{ENTRY_COLUMNS, EntryRow, HeadRow, InSlot, StampRow},
    segments::Segments,
};
use super::ScyllaStore;
use crate::{
    entry::{Entry, Segment, SegmentId},
    store::{AppendError, Appended, FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

/// How often slots are read again that miss one below another.
const LOOKS: usize = 4;

/// Heads of topics that are asked for at a time, for one caller.
const HEADS_AT_A_TIME: usize = 16;

/// The log of each topic.
pub(super) struct Log {
    cql: Cql,
    segments: Segments,
    filters: Filters,
    head: Read,
    head_now: Read,
    heads: Read,
    heads_together: ReadsTogether,
    entries: Read,
    stamps: Read,
    begin: Conditional,
    advance: Conditional,
    insert: Write,
    #[cfg(feature = "sabotage")]
    always: Conditional,
}

impl Log {
    pub(super) fn open(cql: &Cql) -> Self {
        let head = "SELECT segment, topic_id, first_seq, capacity, head FROM message_log WHERE segment = ? LIMIT 1";
        let slots = "FROM message_log WHERE segment = ? AND slot >= ? AND slot < ?";
        let markers = ENTRY_COLUMNS.split(", ").map(|_| ", ?").collect::<String>();
        Self {
            segments: Segments::open(cql),
            filters: Filters::open(cql),
            head: cql.read("log_head", head),
            head_now: cql.serial_read("log_head_now", head),
            heads: cql.read(
                "log_heads",
                "SELECT DISTINCT segment, topic_id, first_seq, capacity, head FROM message_log WHERE segment IN ?",
            ),
            heads_together: ReadsTogether::default(),
            entries: cql
                .read("log_entries", &format!("SELECT {ENTRY_COLUMNS} {slots}")),
            stamps: cql
                .read(
                    "log_stamps",
                    &format!("SELECT slot, owner, stamp, stamp_made_up, sent_at_ms {slots}"),
                ),
            begin: cql
                .conditional(
                    "log_begin",
                    "UPDATE message_log SET topic_id = ?, first_seq = ?, capacity = ?, head = ? WHERE segment = ? IF head = NULL",
                ),
            advance: cql
                .conditional(
                    "log_advance",
                    "UPDATE message_log SET head = ? WHERE segment = ? IF head = ?",
                ),
            insert: cql
                .write(
                    "log_insert",
                    &format!("INSERT INTO message_log (segment, {ENTRY_COLUMNS}) VALUES (?{markers})"),
                ),
            #[cfg(feature = "sabotage")]
            always: cql
                .conditional(
                    "log_always",
                    "UPDATE message_log SET topic_id = ?, first_seq = ?, capacity = ?, head = ? WHERE segment = ? IF head != -1",
                ),
            cql: cql.clone(),
        }
    }

    /// The head of a segment, by one of the two statements that read it.
    async fn head(&self, read: &Read, segment: &Segment) -> Result<u32, StoreError> {
        let row: Option<HeadRow> = self.cql.row(read, (segment.id.get(),)).await?;
        row.map_or(Ok(0), |row| row.head(segment))
    }

    /// The heads of those segments that have one.
    async fn heads(&self, segments: &[Segment]) -> Result<HashMap<SegmentId, u32>, StoreError> {
        if segments.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<i64> = segments.iter().map(|segment| segment.id.get()).collect();
        let rows: Vec<HeadRow> = self.cql.rows(&self.heads, (&ids,)).await?;
        let rows: HashMap<i64, HeadRow> = rows.into_iter().map(|row| (row.segment, row)).collect();
        segments
            .iter()
            .filter_map(|segment| {
                let row = rows.get(&segment.id.get())?;
                Some(row.head(segment).map(|head| (segment.id, head)))
            })
            .collect()
    }

    /// The rows of `slots` without a hole.
    ///
    /// A node that missed commits may miss a slot and have a later one; a serial read
    /// makes a quorum have what was decided.
    async fn rows<R>(
        &self,
        read: &Read,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<R>, StoreError>
    where
        R: InSlot + for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let (from, to) = (slots.start, slots.end.min(segment.capacity));
        if from >= to {
            return Ok(Vec::new());
        }
        for look in 0..LOOKS {
            if look > 0 {
                metrics::counter!("drivers_message_holes_total").increment(1);
                self.head(&self.head_now, segment).await?;
            }
            let values = (segment.id.get(), from.cast_signed(), to.cast_signed());
            let rows: Vec<R> = self.cql.rows(read, values).await?;
            if rows
                .iter()
                .map(InSlot::slot)
                .eq((from.cast_signed()..).take(rows.len()))
            {
                return Ok(rows);
            }
        }
        Err(StoreError::Damaged(format!(
            "segment {} has a hole between the slots {from} and {to}",
            segment.id.get()
        )))
    }

    /// The newest seq of each topic.
    async fn newest_seqs(&self, topics: Vec<TopicId>) -> Result<Vec<Seq>, StoreError> {
        let seen = topics.iter().map(|topic| self.segments.newest_seen(*topic));
        let seen: Vec<Option<Segment>> = seen.collect();
        let segments: Vec<Segment> = seen.iter().flatten().copied().collect();
        let heads = self.heads(&segments).await?;
        let seqs = topics.into_iter().zip(seen).map(|(topic, seen)| {
            let seq = seen.and_then(|segment| {
                let head = heads.get(&segment.id).copied().unwrap_or(0);
                (head < segment.capacity).then(|| last_seq(&segment, head))
            });
            async move {
                match seq {
                    Some(seq) => Ok(seq),
                    None => self.newest_seq(topic).await,
                }
            }
        });
        stream::iter(seqs)
            .buffered(HEADS_AT_A_TIME)
            .try_collect()
            .await
    }

    /// The newest seq of a topic. Its newest segment is the one that was seen last, for
    /// as long as that has a free slot.
    async fn newest_seq(&self, topic: TopicId) -> Result<Seq, StoreError> {
        if let Some(segment) = self.segments.newest_seen(topic) {
            let head = self.head(&self.head, &segment).await?;
            if head < segment.capacity {
                return Ok(last_seq(&segment, head));
            }
        }
        match self.segments.newest(topic).await? {
            Some(segment) => Ok(last_seq(&segment, self.head(&self.head, &segment).await?)),
            None => Ok(Seq::ZERO),
        }
    }
}

/// The seq in front of a slot.
fn last_seq(segment: &Segment, head: u32) -> Seq {
    Seq::new(segment.seq(head).get() - 1)
}

#[async_trait]
impl LogStore for ScyllaStore {
    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError> {
        let log = &self.log;
        let Some(segment) = log.segments.newest(topic).await? else {
            return Ok(None);
        };
        let head = log.head(&log.head_now, &segment).await?;
        Ok(Some(Tail { segment, head }))
    }

    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError> {
        let log = &self.log;
        let (segment, is_new) = log
            .segments
            .open_segment(topic, after, first_seq, capacity)
            .await?;
        let head = if is_new {
            0
        } else {
            log.head(&log.head_now, &segment).await?
        };
        Ok(Tail { segment, head })
    }

    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError> {
        let log = &self.log;
        let id = segment.id.get();
        let room = segment.capacity.saturating_sub(head);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if !(1..=room).contains(&count) {
            return Err(AppendError::Refused(format!(
                "segment {id} has {room} free slots, not {count}"
            )));
        }
        let new_head = (head + count).cast_signed();
        let rows: Vec<_> = (head..)
            .zip(entries)
            .map(|(slot, entry)| rows::new_entry(segment.id, slot, entry))
            .collect();
        let begin = (
            segment.topic.get(),
            segment.first_seq.get(),
            segment.capacity.cast_signed(),
            new_head,
            id,
        );
        let advance = (new_head, id, head.cast_signed());
        let condition = if head == 0 {
            Part::If(&log.begin, &begin)
        } else {
            Part::If(&log.advance, &advance)
        };
        #[cfg(feature = "sabotage")]
        let condition = match chassis::sabotage::is("skip_head_condition") {
            true => Part::If(&log.always, &begin),
            false => condition,
        };
        let rows = rows.iter().map(|row| Part::Also(&log.insert, row));
        let parts: Vec<Part<'_>> = std::iter::once(condition).chain(rows).collect();
        match log.cql.apply_batch_once("log_append", &parts).await? {
            Applied::Yes => Ok(Appended::Applied),
            Applied::No { old, .. } => {
                let head = match old.int("head").and_then(|head| u32::try_from(head).ok()) {
                    Some(head) => head,
                    None => log
                        .head(&log.head_now, segment)
                        .await
                        .map_err(|error| AppendError::Unavailable(error.to_string()))?,
                };
                Ok(Appended::Stale { head })
            }
        }
    }

    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError> {
        let rows: Vec<EntryRow> = self.log.rows(&self.log.entries, segment, slots).await?;
        rows.into_iter().map(|row| row.decode(segment.id)).collect()
    }

    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError> {
        let rows: Vec<StampRow> = self.log.rows(&self.log.stamps, segment, slots).await?;
        rows.into_iter().map(|row| row.decode(segment.id)).collect()
    }

    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        self.log.segments.at(topic, seq).await
    }

    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError> {
        let log = &self.log;
        let Some((number, slot)) = SegmentId::of(id) else {
            return Ok(None);
        };
        let slot = slot.cast_signed();
        let row: Option<EntryRow> = log
            .cql
            .row(&log.entries, (number.get(), slot, slot + 1))
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let head: Option<HeadRow> = log.cql.row(&log.head, (number.get(),)).await?;
        let (segment, _) = head
            .ok_or_else(|| StoreError::Damaged(format!("segment {} has no head", number.get())))?
            .decode(number)?;
        Ok(Some((segment, row.decode(number)?)))
    }

    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError> {
        stream::iter(topics.to_vec())
            .map(|topic| self.log.newest_seq(topic))
            .buffered(HEADS_AT_A_TIME)
            .try_collect()
            .await
    }

    async fn heads_in_reach(&self, topics: &[TopicId]) -> Result<Vec<Option<Seq>>, StoreError> {
        let log = &self.log;
        let together = |topics| log.newest_seqs(topics);
        let alone = |topic| log.newest_seq(topic);
        let is_out = StoreError::is_unavailable;
        let reads = &log.heads_together;
        reads
            .read(topics, HEADS_AT_A_TIME, together, alone, is_out)
            .await
    }

    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        let log = &self.log;
        let mut kept = log.filters.before(topic, before, limit).await?;
        let mut end = before;
        let in_row = kept
            .iter()
            .take_while(|full| {
                let follows = full.segment.end() == end;
                end = full.segment.first_seq;
                follows
            })
            .count();
        if in_row > 0 {
            kept.truncate(in_row);
            return Ok(kept);
        }
        // The filters of those in front of `before` are lost, up to the first one kept.
        let from = kept.first().map_or(Seq::ZERO, |kept| kept.segment.end());
        let lost = log.segments.before(topic, from, before, limit).await?;
        Ok(lost
            .into_iter()
            .map(|segment| FullSegment {
                segment,
                filter: None,
            })
            .collect())
    }

    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError> {
        self.log.filters.put(segment, filter).await
    }
}

impl From<CqlError> for AppendError {
    fn from(error: CqlError) -> Self {
        match error {
            CqlError::Unavailable(why) => Self::Unavailable(why),
            CqlError::Refused(why) => Self::Refused(why),
            // An answer that can't be read leaves open what it said.
            CqlError::Unknown(why) | CqlError::Damaged(why) => Self::Unknown(why),
        }
    }
}
