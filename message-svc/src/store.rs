//! The ports to the store: the log of each topic, and the directory of rooms,
//! topics and members. The rules stand above them; any backend passes
//! `conformance`.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chassis::id::{MessageId, RoomId, Seq, TopicId, UserId};

use crate::entry::{Entry, Segment, SegmentId, Stamp};

#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
pub mod scylla;

/// A store did not do what it was asked; nothing is known of why that matters to the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, overloaded or too slow. For writes: the outcome is not known.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It holds something that can't be: a row that does not parse, a hole that a
    /// fresh read does not fill.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// How an append failed to get a definite answer of the store's condition.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// It was refused before it was executed, and never will be: too large, or malformed.
    #[error("the store refused the batch: {0}")]
    Refused(String),
    /// It was not executed and never will be, for the store is away or takes no more: any other
    /// batch would fare the same.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It may have been executed, or may be yet.
    #[error("the outcome of the batch is not known: {0}")]
    Unknown(String),
}

/// The definite answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All entries are in their slots, durably, and `head` stands behind them.
    Applied,
    /// Nothing was written: `head` is not what the caller thought but this.
    Stale {
        /// The next free slot in truth.
        head: u32,
    },
}

/// The newest segment of a topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The segment.
    pub segment: Segment,
    /// Its next free slot; equal to its capacity when it is full.
    pub head: u32,
}

/// What the rules keep of an entry, to know its retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// Who appended it.
    pub owner: UserId,
    /// Its stamp.
    pub stamp: Stamp,
    /// When it was appended; milliseconds since the Unix epoch.
    pub sent_at_ms: i64,
}

impl From<&Entry> for Stamped {
    fn from(entry: &Entry) -> Self {
        Self {
            owner: entry.owner,
            stamp: entry.stamp.clone(),
            sent_at_ms: entry.sent_at_ms,
        }
    }
}

/// What is kept of a full segment so that its stamps need not be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullSegment {
    /// The segment.
    pub segment: Segment,
    /// Its stamp filter, as the rules encode it; `None` where it was never written or got lost.
    pub filter: Option<StampFilter>,
}

/// The stamps of a full segment, derived from its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampFilter {
    /// When the segment's last entry was sent; milliseconds since the Unix epoch.
    pub last_sent_at_ms: i64,
    /// The filter, opaque to the store; about 2.5 KB for 1,024 stamps.
    pub bytes: Bytes,
}

/// The log of each topic. See `design.md`, "The message log".
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// The newest segment of a topic; `None` when it has none yet. The head is
    /// read so that every append which was answered before is in it.
    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError>;

    /// The segment that starts at `first_seq`: the one that is there, whoever
    /// made it, or a new and empty one of `capacity` slots with a fresh number
    /// above `after`'s. Callers do so only for seq 1, or for the end of a segment
    /// that a definite answer showed to be full.
    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError>;

    /// Writes entries into the slots from `head` on and moves the segment's head
    /// behind them, if the head is `head`: all or nothing, durable before the answer.
    /// The caller keeps within the segment's capacity.
    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError>;

    /// The entries of `slots`, in order, as far as they are written: a prefix of
    /// the range without a hole.
    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError>;

    /// The same of the entries' stamps alone, for less than their bodies cost.
    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError>;

    /// The segment that holds `seq`, or would: the last one whose `first_seq` is
    /// at most `seq`; `None` when the topic has none.
    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError>;

    /// The entry with this id and its segment; `None` when there is none.
    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError>;

    /// The newest seq of each topic, in the order asked; 0 for a topic without entries.
    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError>;

    /// The same; `None` for a topic whose replicas are out of reach now, unless all are.
    async fn heads_in_reach(&self, topics: &[TopicId]) -> Result<Vec<Option<Seq>>, StoreError> {
        let heads = self.heads(topics).await?;
        Ok(heads.into_iter().map(Some).collect())
    }

    /// Up to `limit` segments of a topic, newest first, with their filters, from the one
    /// that ends in front of `before` on, without a gap. There may be fewer; there are
    /// none only in front of the first segment.
    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError>;

    /// Keeps the filter of a full segment; derived data, it may get lost.
    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError>;
}

/// A set of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// 1 to 128 characters.
    pub title: String,
    /// Milliseconds since the Unix epoch.
    pub create_time_ms: i64,
}

/// Who may join a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody; posting joins.
    Open,
    /// Whom an internal service makes a member.
    Private,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its room.
    pub room: RoomId,
    /// 1 to 128 characters.
    pub title: String,
    /// Who may join.
    pub visibility: Visibility,
    /// Whether it takes no more messages.
    pub closed: bool,
    /// Whether new users become members.
    pub is_default: bool,
    /// Milliseconds since the Unix epoch.
    pub create_time_ms: i64,
}

/// A topic that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its room.
    pub room: RoomId,
    /// 1 to 128 characters.
    pub title: String,
    /// Who may join.
    pub visibility: Visibility,
    /// Whether new users become members.
    pub is_default: bool,
    /// Milliseconds since the Unix epoch.
    pub create_time_ms: i64,
}

/// What is to change of a topic; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// New title.
    pub title: Option<String>,
    /// New visibility.
    pub visibility: Option<Visibility>,
    /// Whether it is to be closed.
    pub closed: Option<bool>,
}

/// A user's membership of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The topic.
    pub topic: TopicId,
    /// The user.
    pub user: UserId,
    /// The topic's newest seq when he joined.
    pub joined_at: Seq,
    /// Milliseconds since the Unix epoch.
    pub join_time_ms: i64,
}

/// What became of a wish to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// He is a member from now on; his memberships have this version.
    New(Membership, i64),
    /// He was a member already.
    Already(Membership),
    /// He is a member of as many topics as he can be.
    Full,
}

/// Rooms, topics and members. Ids below [`FIRST_FREE_ID`] are the seed file's.
#[async_trait]
pub trait DirectoryStore: Send + Sync + 'static {
    /// Whether others change it, too: then what was read holds only for a while.
    fn is_shared(&self) -> bool;

    /// Makes a room with an id of the store's choice.
    async fn create_room(&self, title: &str, create_time_ms: i64) -> Result<Room, StoreError>;
    /// Makes exactly this room unless its id is taken; says whether it did.
    async fn seed_room(&self, room: &Room) -> Result<bool, StoreError>;
    /// One room.
    async fn room(&self, id: RoomId) -> Result<Option<Room>, StoreError>;
    /// Up to `limit` rooms behind `after`, by ascending id.
    async fn rooms(&self, after: Option<RoomId>, limit: usize) -> Result<Vec<Room>, StoreError>;

    /// Makes a topic with an id of the store's choice; the caller has seen its room.
    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, StoreError>;
    /// Makes exactly this topic unless its id is taken; says whether it did.
    async fn seed_topic(&self, topic: &Topic) -> Result<bool, StoreError>;
    /// Changes a topic; `None` when there is none.
    async fn update_topic(
        &self,
        id: TopicId,
        change: &TopicChange,
    ) -> Result<Option<Topic>, StoreError>;
    /// One topic.
    async fn topic(&self, id: TopicId) -> Result<Option<Topic>, StoreError>;
    /// Up to `limit` topics of a room behind `after`, by ascending id.
    async fn topics(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError>;
    /// The default topics; there are at most [`MAX_MEMBERSHIPS`].
    async fn default_topics(&self) -> Result<Vec<TopicId>, StoreError>;

    /// Makes a user a member, unless he is one or has [`MAX_MEMBERSHIPS`].
    async fn join(&self, membership: &Membership) -> Result<Joined, StoreError>;
    /// Ends a membership; the new version of his memberships, `None` when he was no member.
    async fn leave(&self, topic: TopicId, user: UserId) -> Result<Option<i64>, StoreError>;
    /// Makes a user a member of all these topics and marks him enrolled, at once;
    /// the version of his memberships, as it was when he is enrolled already.
    async fn enrol(&self, user: UserId, memberships: &[Membership]) -> Result<i64, StoreError>;
    /// One membership.
    async fn membership(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<Membership>, StoreError>;
    /// Up to `limit` memberships of a user behind `after`, by ascending topic id.
    async fn memberships(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError>;
    /// The version of each user's memberships, in the order asked; 0 when never enrolled.
    /// Grows with each change, and is at least 1 from the enrolment or the first join on.
    async fn membership_versions(&self, users: &[UserId]) -> Result<Vec<i64>, StoreError>;
    /// The same; `None` for a user whose replicas are out of reach now, unless all are.
    async fn membership_versions_in_reach(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Option<i64>>, StoreError> {
        let versions = self.membership_versions(users).await?;
        Ok(versions.into_iter().map(Some).collect())
    }
    /// When the topic, or the memberships of the user, were changed last, in milliseconds
    /// since the Unix epoch, plus the longest time that a write may take that was begun
    /// before that; 0 if they are as they were made, or all who write are in this process.
    async fn changed_ms(&self, topic: TopicId, user: UserId) -> Result<i64, StoreError>;
    /// Up to `limit` members of a topic behind `after`, by ascending user id.
    async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError>;
}

/// The first id that a store gives by itself to rooms and topics.
pub const FIRST_FREE_ID: i64 = 1_000;

/// How many topics a user can be a member of.
pub const MAX_MEMBERSHIPS: usize = 1_000;
