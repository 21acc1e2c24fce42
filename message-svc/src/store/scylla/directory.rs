//! Rooms, topics and members.
//!
//! How a crash between two steps looks to readers:
//!
//! - Making a topic writes what lists it first, and the topic last: until then, and for
//!   ever after a crash, listings skip what lists a topic that is not there.
//! - A user's memberships are one partition, and a change of them is one conditional
//!   batch: made or not. The listing of a topic's members is derived from it; see
//!   [`members`] for why it is right wherever a change was cut off.
//!
//! What can be changed has a version, which is the condition of its next change, and the
//! random number of the change that made it. So a change that is sent twice is made once,
//! and one that went unanswered is known by its number; see [`ChangeId`].

mod members;
mod memberships;
mod rooms;
#[cfg(test)]
mod tests;
mod topics;
#[cfg(test)]
mod upgrade;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use chassis::{
    cql::Cql,
    id::{RoomId, TopicId, UserId},
};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join, stream};
use tokio::time::sleep;

use self::{members::Members, memberships::Memberships, rooms::Rooms, topics::Topics};
use super::ScyllaStore;
use crate::store::{
    DirectoryStore, Joined, Membership, NewTopic, Room, StoreError, Topic, TopicChange,
};

/// The counters of ids.
const IDS: &str = "message_ids";

/// Ids are taken one by one: rooms and topics are made rarely, and listed by id.
const ID_BLOCK: u16 = 1;

/// How many rows of different partitions are asked for, or written, at a time.
const AT_ONCE: usize = 16;

/// How much the clocks of machines may differ.
const MAX_SKEW: Duration = Duration::from_secs(1);

/// How often a change is decided anew when others changed the same meanwhile.
const TRIES: u32 = 12;

/// Rooms, topics and members.
pub(super) struct Directory {
    rooms: Rooms,
    topics: Topics,
    memberships: Memberships,
    /// Of one request.
    timeout: Duration,
}

impl Directory {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            rooms: Rooms::open(cql),
            topics: Topics::open(cql),
            memberships: Memberships::open(cql, Members::open(cql)),
            timeout: cql.url().timeout,
        }
    }
}

#[async_trait]
impl DirectoryStore for ScyllaStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn create_room(&self, title: &str, create_time_ms: i64) -> Result<Room, StoreError> {
        self.directory.rooms.create(title, create_time_ms).await
    }

    async fn seed_room(&self, room: &Room) -> Result<bool, StoreError> {
        self.directory.rooms.seed(room).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<Room>, StoreError> {
        self.directory.rooms.one(id).await
    }

    async fn rooms(&self, after: Option<RoomId>, limit: usize) -> Result<Vec<Room>, StoreError> {
        self.directory.rooms.page(after, limit).await
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, StoreError> {
        self.directory.topics.create(topic).await
    }

    async fn seed_topic(&self, topic: &Topic) -> Result<bool, StoreError> {
        self.directory.topics.seed(topic).await
    }

    async fn update_topic(
        &self,
        id: TopicId,
        change: &TopicChange,
    ) -> Result<Option<Topic>, StoreError> {
        self.directory.topics.update(id, change).await
    }

    async fn topic(&self, id: TopicId) -> Result<Option<Topic>, StoreError> {
        self.directory.topics.one(id).await
    }

    async fn topics(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError> {
        self.directory.topics.page(room, after, limit).await
    }

    async fn default_topics(&self) -> Result<Vec<TopicId>, StoreError> {
        self.directory.topics.defaults().await
    }

    async fn join(&self, membership: &Membership) -> Result<Joined, StoreError> {
        self.directory.memberships.join(membership).await
    }

    async fn leave(&self, topic: TopicId, user: UserId) -> Result<Option<i64>, StoreError> {
        self.directory.memberships.leave(topic, user).await
    }

    async fn enrol(&self, user: UserId, memberships: &[Membership]) -> Result<i64, StoreError> {
        self.directory.memberships.enrol(user, memberships).await
    }

    async fn membership(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<Membership>, StoreError> {
        self.directory.memberships.one(topic, user).await
    }

    async fn memberships(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        self.directory.memberships.page(user, after, limit).await
    }

    async fn changed_ms(&self, topic: TopicId, user: UserId) -> Result<i64, StoreError> {
        let directory = &self.directory;
        let (of_topic, of_user) = try_join(
            directory.topics.changed_ms(topic),
            directory.memberships.changed_ms(user),
        )
        .await?;
        let longest = directory.timeout + MAX_SKEW;
        let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        Ok(of_topic
            .max(of_user)
            .map_or(0, |changed| changed.saturating_add(longest)))
    }

    async fn membership_versions(&self, users: &[UserId]) -> Result<Vec<i64>, StoreError> {
        self.directory.memberships.versions(users).await
    }

    async fn membership_versions_in_reach(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Option<i64>>, StoreError> {
        self.directory.memberships.versions_in_reach(users).await
    }

    async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        self.directory
            .memberships
            .members(topic, after, limit)
            .await
    }
}

/// Names one change of something that has a version.
struct ChangeId {
    /// The version that it makes.
    version: i64,
    /// A random number; no two changes have the same.
    token: [u8; 16],
}

impl ChangeId {
    /// A change of what had `version`.
    fn of(version: i64) -> Self {
        Self {
            version: version + 1,
            token: rand::random(),
        }
    }

    /// Whether it was made, if it went unanswered, was then refused, and a serial read behind
    /// that shows this version and who made it.
    ///
    /// # Errors
    /// `Unavailable` when others have made later changes: then nobody can tell.
    fn was_made(&self, version: i64, token: &[u8]) -> Result<bool, StoreError> {
        if version == self.version {
            return Ok(token == self.token);
        }
        Err(StoreError::Unavailable(
            "a change went unanswered and others followed, so its outcome is not known".to_owned(),
        ))
    }
}

/// Waits before what others changed meanwhile is decided anew, longer each time.
async fn pause(attempt: u32) {
    let longest = 5 << attempt.min(6);
    sleep(Duration::from_millis(rand::random_range(1..=longest))).await;
}

fn contended(what: &str) -> StoreError {
    StoreError::Unavailable(format!("others changed {what} each time just before"))
}

/// The first `limit` rows of partitions that follow each other.
async fn first_rows<R, F>(
    buckets: impl IntoIterator<Item = i64>,
    limit: usize,
    page: impl Fn(i64) -> F,
) -> Result<Vec<R>, StoreError>
where
    F: Future<Output = Result<Vec<R>, StoreError>>,
{
    let mut pages = stream::iter(buckets).map(page).buffered(AT_ONCE);
    let mut rows = Vec::new();
    while rows.len() < limit
        && let Some(page) = pages.try_next().await?
    {
        rows.extend(page);
    }
    rows.truncate(limit);
    Ok(rows)
}

/// Version and time of writing, in microseconds, of what can be changed.
type Written = (i64, i64);

/// When something was changed last, in milliseconds, if it ever was.
fn changed_ms(written: Option<Written>) -> Option<i64> {
    let (version, at_us) = written?;
    (version > 1).then_some(at_us / 1_000)
}

/// A number of rows, as a statement takes it.
fn rows_at_most(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}
