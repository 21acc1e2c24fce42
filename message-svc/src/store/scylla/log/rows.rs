//! Entries and heads as rows of `message_log`.

use chassis::id::{MessageId, Seq, TopicId, UserId};
use scylla::{DeserializeRow, value::MaybeUnset};

use crate::{
    entry::{Content, Entry, Kind, MAX_CAPACITY, Segment, SegmentId, Stamp},
    store::{Stamped, StoreError},
};

/// `kind` of a message.
const MESSAGE: i8 = 1;

/// The columns of an entry, in the order in which it is written.
pub(super) const ENTRY_COLUMNS: &str = "slot, kind, owner, owner_name, stamp, stamp_made_up, body, reply_to, attrs, has_media, sent_at_ms";

/// A new entry: the segment, then [`ENTRY_COLUMNS`]. What is absent is left unset, for
/// a null would be kept as a tombstone.
pub(super) type NewEntry<'a> = (
    i64,
    i32,
    i8,
    i64,
    &'a str,
    &'a str,
    bool,
    &'a str,
    MaybeUnset<i64>,
    MaybeUnset<&'a str>,
    bool,
    i64,
);

pub(super) fn new_entry(segment: SegmentId, slot: u32, entry: &Entry) -> NewEntry<'_> {
    let Kind::Message(content) = &entry.kind;
    (
        segment.get(),
        slot.cast_signed(),
        MESSAGE,
        entry.owner.get(),
        &entry.owner_name,
        entry.stamp.text(),
        matches!(entry.stamp, Stamp::MadeUp(_)),
        &content.body,
        MaybeUnset::from_option(content.reply_to.map(MessageId::get)),
        MaybeUnset::from_option(content.attrs.as_deref()),
        content.has_media,
        entry.sent_at_ms,
    )
}

/// A row that lies in a slot.
pub(super) trait InSlot {
    fn slot(&self) -> i32;
}

/// An entry, as [`ENTRY_COLUMNS`] yield it.
#[derive(DeserializeRow)]
pub(super) struct EntryRow {
    slot: i32,
    kind: Option<i8>,
    owner: Option<i64>,
    owner_name: Option<String>,
    stamp: Option<String>,
    stamp_made_up: Option<bool>,
    body: Option<String>,
    reply_to: Option<i64>,
    attrs: Option<String>,
    has_media: Option<bool>,
    sent_at_ms: Option<i64>,
}

impl InSlot for EntryRow {
    fn slot(&self) -> i32 {
        self.slot
    }
}

impl EntryRow {
    pub(super) fn decode(self, segment: SegmentId) -> Result<Entry, StoreError> {
        let slot = self.slot;
        let lacks = |what| damaged(segment, slot, what);
        if self.kind != Some(MESSAGE) {
            return Err(lacks("known kind"));
        }
        let stamped = stamped(
            segment,
            slot,
            self.owner,
            self.stamp,
            self.stamp_made_up,
            self.sent_at_ms,
        )?;
        Ok(Entry {
            owner: stamped.owner,
            owner_name: self.owner_name.ok_or_else(|| lacks("name of its owner"))?,
            stamp: stamped.stamp,
            sent_at_ms: stamped.sent_at_ms,
            kind: Kind::Message(Content {
                body: self.body.ok_or_else(|| lacks("body"))?,
                reply_to: self.reply_to.and_then(MessageId::new),
                attrs: self.attrs,
                has_media: self.has_media.unwrap_or_default(),
            }),
        })
    }
}

/// The stamp of an entry.
#[derive(DeserializeRow)]
pub(super) struct StampRow {
    slot: i32,
    owner: Option<i64>,
    stamp: Option<String>,
    stamp_made_up: Option<bool>,
    sent_at_ms: Option<i64>,
}

impl InSlot for StampRow {
    fn slot(&self) -> i32 {
        self.slot
    }
}

impl StampRow {
    pub(super) fn decode(self, segment: SegmentId) -> Result<Stamped, StoreError> {
        stamped(
            segment,
            self.slot,
            self.owner,
            self.stamp,
            self.stamp_made_up,
            self.sent_at_ms,
        )
    }
}

fn stamped(
    segment: SegmentId,
    slot: i32,
    owner: Option<i64>,
    stamp: Option<String>,
    made_up: Option<bool>,
    sent_at_ms: Option<i64>,
) -> Result<Stamped, StoreError> {
    let lacks = |what| damaged(segment, slot, what);
    let stamp = stamp.ok_or_else(|| lacks("stamp"))?;
    Ok(Stamped {
        owner: owner.and_then(UserId::new).ok_or_else(|| lacks("owner"))?,
        stamp: if made_up.unwrap_or_default() {
            Stamp::MadeUp(stamp)
        } else {
            Stamp::Given(stamp)
        },
        sent_at_ms: sent_at_ms.ok_or_else(|| lacks("time"))?,
    })
}

fn damaged(segment: SegmentId, slot: i32, what: &str) -> StoreError {
    StoreError::Damaged(format!("segment {}, slot {slot}: no {what}", segment.get()))
}

/// The static row of a segment. It is written by the first append, so all of it is
/// there, or none.
#[derive(DeserializeRow)]
pub(super) struct HeadRow {
    pub(super) segment: i64,
    topic_id: Option<i64>,
    first_seq: Option<i64>,
    capacity: Option<i32>,
    head: Option<i32>,
}

impl HeadRow {
    /// The next free slot of `segment`, which this row has to be of.
    pub(super) fn head(&self, segment: &Segment) -> Result<u32, StoreError> {
        let (found, head) = self.decode(segment.id)?;
        if found != *segment {
            return Err(StoreError::Damaged(format!(
                "segment {} is at seq {} of topic {}, and listed at seq {} of topic {}",
                segment.id.get(),
                found.first_seq,
                found.topic,
                segment.first_seq,
                segment.topic
            )));
        }
        Ok(head)
    }

    /// The segment of this number and its next free slot.
    pub(super) fn decode(&self, id: SegmentId) -> Result<(Segment, u32), StoreError> {
        let parts = || {
            let segment = segment(
                TopicId::new(self.topic_id?)?,
                self.first_seq?,
                id.get(),
                self.capacity?,
            )?;
            let head = u32::try_from(self.head?).ok()?;
            (head <= segment.capacity).then_some((segment, head))
        };
        parts().ok_or_else(|| {
            StoreError::Damaged(format!("the head of segment {} can't be", id.get()))
        })
    }
}

/// The segment of these columns, if it can be.
pub(super) fn segment(topic: TopicId, first_seq: i64, id: i64, capacity: i32) -> Option<Segment> {
    let capacity = u32::try_from(capacity).ok()?;
    let can_be = first_seq >= 1 && (1..=MAX_CAPACITY).contains(&capacity);
    can_be.then_some(Segment {
        topic,
        id: SegmentId::new(id)?,
        first_seq: Seq::new(first_seq),
        capacity,
    })
}
