//! The log of each topic.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chassis::{
    embedded::EmbeddedError,
    id::{MessageId, Seq, TopicId, UserId},
};
use prost::Message;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};

use super::{Answer, EmbeddedStore};
use crate::{
    entry::{Content, Entry, Kind, Segment, SegmentId, Stamp},
    store::{AppendError, Appended, FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

/// The entries, by segment and slot.
const ENTRIES: TableDefinition<'_, (i64, u32), &[u8]> = TableDefinition::new("entries");
/// Topic, first seq, capacity and head.
type SegmentRow = (i64, i64, u32, u32);
/// The segments by their numbers.
const SEGMENTS: TableDefinition<'_, i64, SegmentRow> = TableDefinition::new("segments");
/// The segment at each topic and first seq.
const SEGMENTS_OF_TOPICS: TableDefinition<'_, (i64, i64), i64> =
    TableDefinition::new("segments_of_topics");
/// When the last entry of a full segment was sent, and its filter.
const FILTERS: TableDefinition<'_, i64, (i64, &[u8])> = TableDefinition::new("filters");

pub(super) fn make_tables(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(ENTRIES)?;
    txn.open_table(SEGMENTS)?;
    txn.open_table(SEGMENTS_OF_TOPICS)?;
    txn.open_table(FILTERS)?;
    Ok(())
}

/// An entry as it is stored.
#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(int64, tag = "1")]
    owner: i64,
    #[prost(string, tag = "2")]
    owner_name: String,
    #[prost(int64, tag = "3")]
    sent_at_ms: i64,
    #[prost(oneof = "StampRow", tags = "4, 5")]
    stamp: Option<StampRow>,
    #[prost(oneof = "KindRow", tags = "16")]
    kind: Option<KindRow>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum StampRow {
    #[prost(string, tag = "4")]
    Given(String),
    #[prost(string, tag = "5")]
    MadeUp(String),
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum KindRow {
    #[prost(message, tag = "16")]
    Message(ContentRow),
}

#[derive(Clone, PartialEq, Message)]
struct ContentRow {
    #[prost(string, tag = "1")]
    body: String,
    /// 0 for none.
    #[prost(int64, tag = "2")]
    reply_to: i64,
    #[prost(string, optional, tag = "3")]
    attrs: Option<String>,
    #[prost(bool, tag = "4")]
    has_media: bool,
}

fn encode(entry: &Entry) -> Vec<u8> {
    let Kind::Message(content) = &entry.kind;
    Row {
        owner: entry.owner.get(),
        owner_name: entry.owner_name.clone(),
        sent_at_ms: entry.sent_at_ms,
        stamp: Some(match &entry.stamp {
            Stamp::Given(text) => StampRow::Given(text.clone()),
            Stamp::MadeUp(text) => StampRow::MadeUp(text.clone()),
        }),
        kind: Some(KindRow::Message(ContentRow {
            body: content.body.clone(),
            reply_to: content.reply_to.map_or(0, MessageId::get),
            attrs: content.attrs.clone(),
            has_media: content.has_media,
        })),
    }
    .encode_to_vec()
}

fn decode(segment: i64, slot: u32, bytes: &[u8]) -> Result<Entry, StoreError> {
    let damaged = |what| StoreError::Damaged(format!("segment {segment}, slot {slot}: {what}"));
    let row = Row::decode(bytes).map_err(|_| damaged("the row does not parse"))?;
    let KindRow::Message(content) = row.kind.ok_or_else(|| damaged("no known kind"))?;
    Ok(Entry {
        owner: UserId::new(row.owner).ok_or_else(|| damaged("no owner"))?,
        owner_name: row.owner_name,
        stamp: match row.stamp.ok_or_else(|| damaged("no stamp"))? {
            StampRow::Given(text) => Stamp::Given(text),
            StampRow::MadeUp(text) => Stamp::MadeUp(text),
        },
        sent_at_ms: row.sent_at_ms,
        kind: Kind::Message(Content {
            body: content.body,
            reply_to: MessageId::new(content.reply_to),
            attrs: content.attrs,
            has_media: content.has_media,
        }),
    })
}

/// What is written of a segment at a time: that it exists, or entries behind those it has.
/// It is written as it is, and from the store's journal again after a crash.
#[derive(Clone, PartialEq, Message)]
struct Written {
    #[prost(int64, tag = "1")]
    segment: i64,
    #[prost(int64, tag = "2")]
    topic: i64,
    #[prost(int64, tag = "3")]
    first_seq: i64,
    #[prost(uint32, tag = "4")]
    capacity: u32,
    /// The slot of the first row.
    #[prost(uint32, tag = "5")]
    slot: u32,
    /// None in a segment that is new.
    #[prost(bytes = "vec", repeated, tag = "6")]
    rows: Vec<Vec<u8>>,
}

impl Written {
    fn write(&self, txn: &WriteTransaction) -> Result<(), redb::Error> {
        let mut head = self.slot;
        if self.rows.is_empty() {
            let place = (self.topic, self.first_seq);
            txn.open_table(SEGMENTS_OF_TOPICS)?
                .insert(place, self.segment)?;
        } else {
            let mut entries = txn.open_table(ENTRIES)?;
            for row in &self.rows {
                entries.insert((self.segment, head), row.as_slice())?;
                head += 1;
            }
        }
        let row = (self.topic, self.first_seq, self.capacity, head);
        txn.open_table(SEGMENTS)?.insert(self.segment, row)?;
        Ok(())
    }
}

/// Writes again what the journal says was written.
pub(super) fn write_again(txn: &WriteTransaction, record: &[u8]) -> Result<(), redb::Error> {
    Written::decode(record)
        .map_err(|_| redb::Error::Corrupted("a record of the journal does not parse".to_owned()))?
        .write(txn)
}

/// The segment of this number, from its row.
fn tail(id: i64, row: SegmentRow) -> Result<Tail, StoreError> {
    let (topic, first_seq, capacity, head) = row;
    match (TopicId::new(topic), SegmentId::new(id)) {
        (Some(topic), Some(id)) if head <= capacity => Ok(Tail {
            segment: Segment {
                topic,
                id,
                first_seq: Seq::new(first_seq),
                capacity,
            },
            head,
        }),
        _ => Err(StoreError::Damaged(format!("segment {id} can't be"))),
    }
}

fn missing(id: i64) -> StoreError {
    StoreError::Damaged(format!("segment {id} is missing"))
}

/// The tables that say where a topic's entries are.
struct Map {
    of_topics: ReadOnlyTable<(i64, i64), i64>,
    segments: ReadOnlyTable<i64, SegmentRow>,
}

impl Map {
    fn open(txn: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            of_topics: txn.open_table(SEGMENTS_OF_TOPICS)?,
            segments: txn.open_table(SEGMENTS)?,
        })
    }

    /// The last segment of a topic that starts at `upto` or before.
    fn last(&self, topic: TopicId, upto: Seq) -> Answer<Option<Tail>> {
        let topic = topic.get();
        let mut found = self.of_topics.range((topic, 0)..=(topic, upto.get()))?;
        match found.next_back().transpose()? {
            Some((_, id)) => self.segment(id.value()),
            None => Ok(Ok(None)),
        }
    }

    fn newest(&self, topic: TopicId) -> Answer<Option<Tail>> {
        self.last(topic, Seq::new(i64::MAX))
    }

    /// A segment that is listed in a topic.
    fn segment(&self, id: i64) -> Answer<Option<Tail>> {
        let row = self.segments.get(id)?.map(|row| row.value());
        Ok(match row {
            Some(row) => tail(id, row).map(Some),
            None => Err(missing(id)),
        })
    }
}

/// Entries of a segment, still encoded.
type Rows = Vec<(u32, Vec<u8>)>;

fn rows(
    entries: &impl ReadableTable<(i64, u32), &'static [u8]>,
    id: i64,
    slots: Range<u32>,
) -> Result<Rows, StorageError> {
    if slots.is_empty() {
        return Ok(Rows::new());
    }
    entries
        .range((id, slots.start)..(id, slots.end))?
        .map(|row| row.map(|(key, row)| (key.value().1, row.value().to_owned())))
        .collect()
}

#[async_trait]
impl LogStore for EmbeddedStore {
    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError> {
        self.db.read_now(|txn| Map::open(txn)?.newest(topic))?
    }

    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError> {
        self.db
            .write_journaled(move |txn| {
                let place = (topic.get(), first_seq.get());
                let segments = txn.open_table(SEGMENTS)?;
                let of_topics = txn.open_table(SEGMENTS_OF_TOPICS)?;
                if let Some(id) = of_topics.get(place)?.map(|id| id.value()) {
                    let row = segments.get(id)?.map(|row| row.value());
                    let found = row.ok_or_else(|| missing(id));
                    return Ok((found.and_then(|row| tail(id, row)), None));
                }
                // Segments are never deleted: the last number is the highest ever given.
                let last = segments.last()?.map_or(0, |(id, _)| id.value());
                let id = last.max(after.map_or(0, SegmentId::get)) + 1;
                let fresh = tail(id, (place.0, place.1, capacity, 0));
                if fresh.is_err() {
                    return Ok((fresh, None));
                }
                drop((segments, of_topics));
                let written = Written {
                    segment: id,
                    topic: place.0,
                    first_seq: place.1,
                    capacity,
                    slot: 0,
                    rows: Vec::new(),
                };
                written.write(txn)?;
                Ok((fresh, Some(written.encode_to_vec())))
            })
            .await?
    }

    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError> {
        let id = segment.id.get();
        let rows: Vec<Vec<u8>> = entries.iter().map(encode).collect();
        let appended = self.db.write_journaled(move |txn| {
            let row = (txn.open_table(SEGMENTS)?.get(id)?).map(|row| row.value());
            let Some((topic, first_seq, capacity, found)) = row else {
                let refused = format!("there is no segment {id}");
                return Ok((Err(AppendError::Refused(refused)), None));
            };
            let stale = found != head;
            #[cfg(feature = "sabotage")]
            let stale = stale && !chassis::sabotage::is("skip_head_condition");
            if stale {
                return Ok((Ok(Appended::Stale { head: found }), None));
            }
            if rows.len() > (head..capacity).len() {
                let refused = format!("segment {id} has no room");
                return Ok((Err(AppendError::Refused(refused)), None));
            }
            if rows.is_empty() {
                return Ok((Ok(Appended::Applied), None));
            }
            let written = Written {
                segment: id,
                topic,
                first_seq,
                capacity,
                slot: head,
                rows,
            };
            written.write(txn)?;
            Ok((Ok(Appended::Applied), Some(written.encode_to_vec())))
        });
        appended.await.unwrap_or_else(|error| {
            Err(match error {
                EmbeddedError::Misused(_) => AppendError::Refused(error.to_string()),
                EmbeddedError::Busy | EmbeddedError::Closed => {
                    AppendError::Unavailable(error.to_string())
                }
                // A store that failed comes back by itself, and an unknown outcome makes
                // the caller try the same once more.
                EmbeddedError::Unavailable(_)
                | EmbeddedError::Damaged(_)
                | EmbeddedError::Unknown(_) => AppendError::Unknown(error.to_string()),
            })
        })
    }

    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError> {
        let id = segment.id.get();
        let (written, rows) = self
            .db
            .read(move |txn| {
                let row = txn.open_table(SEGMENTS)?.get(id)?.map(|row| row.value());
                let head = row.map_or(0, |(_, _, _, head)| head);
                let written = slots.start..slots.end.min(head);
                let rows = rows(&txn.open_table(ENTRIES)?, id, written.clone())?;
                Ok((written, rows))
            })
            .await?;
        if !written.clone().eq(rows.iter().map(|(slot, _)| *slot)) {
            return Err(StoreError::Damaged(format!("segment {id} has a hole")));
        }
        rows.iter()
            .map(|(slot, row)| decode(id, *slot, row))
            .collect()
    }

    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError> {
        let entries = self.read(segment, slots).await?;
        Ok(entries.iter().map(Stamped::from).collect())
    }

    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        let found = self.db.read_now(|txn| Map::open(txn)?.last(topic, seq))??;
        Ok(found.map(|tail| tail.segment))
    }

    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError> {
        let Some((number, slot)) = SegmentId::of(id) else {
            return Ok(None);
        };
        let number = number.get();
        let found = self.db.read_now(|txn| {
            let segment = txn
                .open_table(SEGMENTS)?
                .get(number)?
                .map(|row| row.value());
            let entries = txn.open_table(ENTRIES)?;
            let row = entries
                .get((number, slot))?
                .map(|row| row.value().to_owned());
            Ok(segment.zip(row))
        })?;
        found
            .map(|(segment, row)| Ok((tail(number, segment)?.segment, decode(number, slot, &row)?)))
            .transpose()
    }

    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError> {
        let topics = topics.to_vec();
        let newest = self.db.read(move |txn| {
            let map = Map::open(txn)?;
            topics
                .iter()
                .map(|topic| map.newest(*topic))
                .collect::<Result<Vec<_>, _>>()
        });
        newest
            .await?
            .into_iter()
            .map(|tail| {
                Ok(tail?.map_or(Seq::ZERO, |Tail { segment, head }| {
                    Seq::new(segment.first_seq.get() - 1 + i64::from(head))
                }))
            })
            .collect()
    }

    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        self.db
            .read(move |txn| -> Answer<Vec<FullSegment>> {
                let map = Map::open(txn)?;
                let filters = txn.open_table(FILTERS)?;
                let topic = topic.get();
                let mut found = Vec::new();
                for row in map
                    .of_topics
                    .range((topic, 0)..(topic, before.get()))?
                    .rev()
                    .take(limit as usize)
                {
                    let id = row?.1.value();
                    let segment = match map.segment(id)? {
                        Ok(Some(tail)) => tail.segment,
                        Ok(None) => return Ok(Err(missing(id))),
                        Err(error) => return Ok(Err(error)),
                    };
                    let filter = filters.get(id)?.map(|row| {
                        let (last_sent_at_ms, bytes) = row.value();
                        StampFilter {
                            last_sent_at_ms,
                            bytes: Bytes::copy_from_slice(bytes),
                        }
                    });
                    found.push(FullSegment { segment, filter });
                }
                Ok(Ok(found))
            })
            .await?
    }

    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError> {
        let (id, filter) = (segment.id.get(), filter.clone());
        self.db
            .write(move |txn| {
                let row = (filter.last_sent_at_ms, filter.bytes.as_ref());
                txn.open_table(FILTERS)?.insert(id, row)?;
                Ok(())
            })
            .await?;
        Ok(())
    }
}
