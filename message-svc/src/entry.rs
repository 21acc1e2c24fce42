//! What the log holds: entries, their stamps, and the segments they lie in.

use chassis::id::{MAX_ID, MessageId, Seq, TopicId, UserId};

/// Slots of a segment are numbered from 0 and there are never more than this,
/// whatever its capacity: the id of a message leaves ten bits for the slot.
pub const MAX_CAPACITY: u32 = 1024;

/// Names a segment, unique among all topics; ascends within one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(i64);

impl SegmentId {
    /// The segment of this number, if its messages have ids that JSON keeps exact.
    #[must_use]
    pub const fn new(number: i64) -> Option<Self> {
        if number >= 1 && number <= MAX_ID / MAX_CAPACITY as i64 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The segment and the slot of a message: `id = segment × 1024 + slot`.
    #[must_use]
    pub const fn of(id: MessageId) -> Option<(Self, u32)> {
        let slot = (id.get() % MAX_CAPACITY as i64) as u32;
        match Self::new(id.get() / MAX_CAPACITY as i64) {
            Some(segment) => Some((segment, slot)),
            None => None,
        }
    }
}

/// A run of a topic's log that lies in one partition of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its topic.
    pub topic: TopicId,
    /// Its number.
    pub id: SegmentId,
    /// Seq of its slot 0.
    pub first_seq: Seq,
    /// How many slots it has, from 1 to [`MAX_CAPACITY`]; fixed when it was made.
    pub capacity: u32,
}

impl Segment {
    /// Seq of a slot.
    #[must_use]
    pub const fn seq(&self, slot: u32) -> Seq {
        Seq::new(self.first_seq.get() + slot as i64)
    }

    /// Slot of a seq, if it lies in this segment.
    #[must_use]
    pub fn slot(&self, seq: Seq) -> Option<u32> {
        u32::try_from(seq.get() - self.first_seq.get())
            .ok()
            .filter(|slot| *slot < self.capacity)
    }

    /// Id of the message in a slot, if the slot can exist.
    #[must_use]
    pub const fn message_id(&self, slot: u32) -> Option<MessageId> {
        if slot >= self.capacity {
            return None;
        }
        MessageId::new(self.id.get() * MAX_CAPACITY as i64 + slot as i64)
    }

    /// First seq behind this segment.
    #[must_use]
    pub const fn end(&self) -> Seq {
        Seq::new(self.first_seq.get() + self.capacity as i64)
    }
}

/// Names a message for its sender within a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stamp {
    /// Given by the sender, 1 to 64 characters.
    Given(String),
    /// Made up at the edge because the sender gave none; never shown.
    MadeUp(String),
}

impl Stamp {
    /// The text, whoever made it.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Given(text) | Self::MadeUp(text) => text,
        }
    }
}

/// What a person wrote; two sends of one stamp must agree in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Text, 1 to 4,096 characters.
    pub body: String,
    /// The message of the same topic that it answers.
    pub reply_to: Option<MessageId>,
    /// JSON text, compact, at most 8,192 bytes.
    pub attrs: Option<String>,
    /// Whether media go with it.
    pub has_media: bool,
}

/// What an entry is. A store keeps the kind of each row from the start, so that
/// later kinds (edit, delete, receipt) need no new log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Message(Content),
}

/// One entry of a log, as the store holds it in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who appended it.
    pub owner: UserId,
    /// His name at that time.
    pub owner_name: String,
    /// Its stamp.
    pub stamp: Stamp,
    /// When it was appended; milliseconds since the Unix epoch.
    pub sent_at_ms: i64,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// About how many bytes its row takes, for the bounds of a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        let Kind::Message(content) = &self.kind;
        64 + self.owner_name.len()
            + self.stamp.text().len()
            + content.body.len()
            + content.attrs.as_ref().map_or(0, String::len)
    }
}

/// An entry with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its topic.
    pub topic: TopicId,
    /// Its id.
    pub id: MessageId,
    /// Its seq.
    pub seq: Seq,
    /// The entry.
    pub entry: Entry,
}
