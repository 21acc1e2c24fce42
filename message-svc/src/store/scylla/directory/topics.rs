//! Topics, and what lists them.

use std::ops::RangeInclusive;

use chassis::{
    cql::{Applied, Conditional, Cql, Read, blocks::Blocks},
    id::{RoomId, TopicId},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use moka::sync::Cache;
use scylla::DeserializeRow;

use super::{
    AT_ONCE, ChangeId, ID_BLOCK, IDS, TRIES, changed_ms, contended, first_rows, pause, rows_at_most,
};
use crate::store::{
    FIRST_FREE_ID, MAX_MEMBERSHIPS, NewTopic, StoreError, Topic, TopicChange, Visibility,
};

/// A bucket of a room's topics: their ids without these bits.
const BUCKET_BITS: u32 = 16;

/// The one partition of the default topics.
const PART: i32 = 0;

pub(super) struct Topics {
    cql: Cql,
    ids: Blocks,
    insert: Conditional,
    list_in_room: Conditional,
    list_as_default: Conditional,
    update: Conditional,
    one: Read,
    one_serial: Read,
    written: Read,
    page: Read,
    defaults: Read,
    /// Default topics that were seen: they never go, and never cease to be that.
    seen_defaults: Cache<TopicId, ()>,
}

#[derive(DeserializeRow)]
struct TopicRow {
    id: i64,
    room_id: i64,
    title: String,
    is_private: bool,
    closed: bool,
    is_default: bool,
    create_time_ms: i64,
    version: i64,
    last_change: Vec<u8>,
}

impl TopicRow {
    fn topic(&self) -> Result<Topic, StoreError> {
        let (Some(id), Some(room)) = (TopicId::new(self.id), RoomId::new(self.room_id)) else {
            return Err(StoreError::Damaged(format!(
                "the topic {} is in the room {}",
                self.id, self.room_id
            )));
        };
        Ok(Topic {
            id,
            room,
            title: self.title.clone(),
            visibility: if self.is_private {
                Visibility::Private
            } else {
                Visibility::Open
            },
            closed: self.closed,
            is_default: self.is_default,
            create_time_ms: self.create_time_ms,
        })
    }
}

const SELECT: &str = "SELECT id, room_id, title, is_private, closed, is_default, create_time_ms, version, last_change FROM topics WHERE id = ?";

impl Topics {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            ids: Blocks::new(cql, IDS, "topic", FIRST_FREE_ID, ID_BLOCK),
            insert: cql
                .conditional(
                    "topic_insert",
                    "INSERT INTO topics (id, room_id, title, is_private, closed, is_default, create_time_ms, version, last_change) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS",
                ),
            list_in_room: cql
                .conditional(
                    "topic_list_in_room",
                    "INSERT INTO topics_of_rooms (room_id, bucket, topic_id) VALUES (?, ?, ?) IF NOT EXISTS",
                ),
            list_as_default: cql
                .conditional(
                    "topic_list_as_default",
                    "INSERT INTO default_topics (part, topic_id) VALUES (?, ?) IF NOT EXISTS",
                ),
            update: cql
                .conditional(
                    "topic_update",
                    "UPDATE topics SET title = ?, is_private = ?, closed = ?, version = ?, last_change = ? WHERE id = ? IF version = ?",
                ),
            one: cql.read("topic", SELECT),
            one_serial: cql.serial_read("topic_serial", SELECT),
            written: cql
                .read(
                    "topic_written",
                    "SELECT version, WRITETIME(version) FROM topics WHERE id = ?",
                ),
            page: cql
                .read(
                    "topics_of_room",
                    "SELECT topic_id FROM topics_of_rooms WHERE room_id = ? AND bucket = ? AND topic_id > ? LIMIT ?",
                ),
            defaults: cql
                .read(
                    "default_topics",
                    "SELECT topic_id FROM default_topics WHERE part = ?",
                ),
            seen_defaults: Cache::new(MAX_MEMBERSHIPS as u64),
        }
    }

    pub(super) async fn create(&self, new: &NewTopic) -> Result<Topic, StoreError> {
        let id = TopicId::new(self.ids.next().await?)
            .ok_or_else(|| StoreError::Unavailable("out of ids".to_owned()))?;
        let topic = Topic {
            id,
            room: new.room,
            title: new.title.clone(),
            visibility: new.visibility,
            closed: false,
            is_default: new.is_default,
            create_time_ms: new.create_time_ms,
        };
        if self.insert(&topic).await? {
            return Ok(topic);
        }
        Err(StoreError::Damaged(format!(
            "the topic {id} was there before its id was given"
        )))
    }

    pub(super) async fn seed(&self, topic: &Topic) -> Result<bool, StoreError> {
        match self.one(topic.id).await? {
            Some(_) => Ok(false),
            None => self.insert(topic).await,
        }
    }

    /// Whether the id was free. What lists the topic is written first: it may be there
    /// already, from a try that was cut short.
    async fn insert(&self, topic: &Topic) -> Result<bool, StoreError> {
        let (id, room) = (topic.id.get(), topic.room.get());
        let place = (room, id >> BUCKET_BITS, id);
        self.cql.apply(&self.list_in_room, place).await?;
        if topic.is_default {
            self.cql.apply(&self.list_as_default, (PART, id)).await?;
        }
        let change = ChangeId::of(0);
        let values = (
            id,
            room,
            topic.title.as_str(),
            topic.visibility == Visibility::Private,
            topic.closed,
            topic.is_default,
            topic.create_time_ms,
            change.version,
            change.token.as_slice(),
        );
        match self.cql.apply(&self.insert, values).await? {
            Applied::Yes => Ok(true),
            Applied::No { unsure: false, .. } => Ok(false),
            Applied::No { .. } => {
                let Some(row) = self.row(&self.one_serial, topic.id).await? else {
                    return Err(StoreError::Damaged(format!(
                        "the topic {id} is and is not there"
                    )));
                };
                change.was_made(row.version, &row.last_change)
            }
        }
    }

    pub(super) async fn update(
        &self,
        id: TopicId,
        change: &TopicChange,
    ) -> Result<Option<Topic>, StoreError> {
        for attempt in 0..TRIES {
            let Some(row) = self.row(&self.one, id).await? else {
                return Ok(None);
            };
            let old = row.topic()?;
            let new = Topic {
                title: change.title.clone().unwrap_or_else(|| old.title.clone()),
                visibility: change.visibility.unwrap_or(old.visibility),
                closed: change.closed.unwrap_or(old.closed),
                ..old.clone()
            };
            if new == old || self.replace(row.version, &new).await? {
                return Ok(Some(new));
            }
            pause(attempt).await;
        }
        Err(contended("the topic"))
    }

    /// Whether the topic still had this version.
    async fn replace(&self, version: i64, new: &Topic) -> Result<bool, StoreError> {
        let change = ChangeId::of(version);
        let values = (
            new.title.as_str(),
            new.visibility == Visibility::Private,
            new.closed,
            change.version,
            change.token.as_slice(),
            new.id.get(),
            version,
        );
        match self.cql.apply(&self.update, values).await? {
            Applied::Yes => Ok(true),
            Applied::No { unsure: false, .. } => Ok(false),
            Applied::No { .. } => match self.row(&self.one_serial, new.id).await? {
                Some(row) => change.was_made(row.version, &row.last_change),
                None => Ok(false),
            },
        }
    }

    pub(super) async fn one(&self, id: TopicId) -> Result<Option<Topic>, StoreError> {
        let row = self.row(&self.one, id).await?;
        row.map(|row| row.topic()).transpose()
    }

    /// When a topic was changed last, if it ever was.
    pub(super) async fn changed_ms(&self, id: TopicId) -> Result<Option<i64>, StoreError> {
        let written = self.cql.row(&self.written, (id.get(),)).await?;
        Ok(changed_ms(written))
    }

    async fn row(&self, read: &Read, id: TopicId) -> Result<Option<TopicRow>, StoreError> {
        Ok(self.cql.row(read, (id.get(),)).await?)
    }

    pub(super) async fn page(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError> {
        let after = after.map_or(0, TopicId::get);
        let first = after >> BUCKET_BITS;
        let mut topics = self.page_of(room, first, after, limit).await?;
        if topics.len() < limit {
            let rest = limit - topics.len();
            let more: RangeInclusive<i64> = first + 1..=self.ids.end().await? >> BUCKET_BITS;
            let page = |bucket| self.page_of(room, bucket, after, rest);
            topics.extend(first_rows(more, rest, page).await?);
        }
        Ok(topics)
    }

    /// Up to `limit` topics of one bucket.
    async fn page_of(
        &self,
        room: RoomId,
        bucket: i64,
        mut after: i64,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError> {
        let mut topics = Vec::new();
        loop {
            let wanted = limit - topics.len();
            let values = (room.get(), bucket, after, rows_at_most(wanted));
            let listed: Vec<(i64,)> = self.cql.rows(&self.page, values).await?;
            let read = listed.len();
            if let Some((last,)) = listed.last() {
                after = *last;
            }
            topics.extend(
                self.listed(listed)
                    .await?
                    .filter(|topic| topic.room == room),
            );
            if read < wanted || topics.len() >= limit {
                return Ok(topics);
            }
        }
    }

    pub(super) async fn defaults(&self) -> Result<Vec<TopicId>, StoreError> {
        let listed: Vec<(i64,)> = self.cql.rows(&self.defaults, (PART,)).await?;
        let mut defaults = Vec::new();
        let mut unseen = Vec::new();
        for (id,) in listed {
            match TopicId::new(id).filter(|id| self.seen_defaults.contains_key(id)) {
                Some(id) => defaults.push(id),
                None => unseen.push((id,)),
            }
        }
        let unseen = self.listed(unseen).await?;
        for topic in unseen.filter(|topic| topic.is_default) {
            self.seen_defaults.insert(topic.id, ());
            defaults.push(topic.id);
        }
        defaults.sort_unstable();
        defaults.truncate(MAX_MEMBERSHIPS);
        Ok(defaults)
    }

    /// Those of the topics listed that are there.
    async fn listed(
        &self,
        ids: Vec<(i64,)>,
    ) -> Result<impl Iterator<Item = Topic> + use<>, StoreError> {
        let topics: Vec<Option<Topic>> = stream::iter(ids)
            .map(|(id,)| async move {
                let id = TopicId::new(id)
                    .ok_or_else(|| StoreError::Damaged(format!("a topic {id} is listed")))?;
                self.one(id).await
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(topics.into_iter().flatten())
    }
}
