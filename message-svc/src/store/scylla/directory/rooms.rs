//! Rooms, in buckets of ids that follow each other.

use chassis::{
    cql::{Applied, Conditional, Cql, Read, blocks::Blocks},
    id::RoomId,
};
use scylla::DeserializeRow;

use super::{ID_BLOCK, IDS, first_rows, rows_at_most};
use crate::store::{FIRST_FREE_ID, Room, StoreError};

/// Ids of a bucket.
const BUCKET: i64 = 1_024;

pub(super) struct Rooms {
    cql: Cql,
    ids: Blocks,
    insert: Conditional,
    one: Read,
    page: Read,
}

#[derive(DeserializeRow)]
struct RoomRow {
    id: i64,
    title: String,
    create_time_ms: i64,
}

impl RoomRow {
    fn room(self) -> Result<Room, StoreError> {
        let id = RoomId::new(self.id)
            .ok_or_else(|| StoreError::Damaged(format!("a room has the id {}", self.id)))?;
        Ok(Room {
            id,
            title: self.title,
            create_time_ms: self.create_time_ms,
        })
    }
}

impl Rooms {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            ids: Blocks::new(cql, IDS, "room", FIRST_FREE_ID, ID_BLOCK),
            insert: cql
                .conditional(
                    "room_insert",
                    "INSERT INTO rooms (bucket, id, title, create_time_ms) VALUES (?, ?, ?, ?) IF NOT EXISTS",
                ),
            one: cql
                .read(
                    "room",
                    "SELECT id, title, create_time_ms FROM rooms WHERE bucket = ? AND id = ?",
                ),
            page: cql
                .read(
                    "rooms_page",
                    "SELECT id, title, create_time_ms FROM rooms WHERE bucket = ? AND id > ? LIMIT ?",
                ),
        }
    }

    pub(super) async fn create(
        &self,
        title: &str,
        create_time_ms: i64,
    ) -> Result<Room, StoreError> {
        let id = RoomId::new(self.ids.next().await?)
            .ok_or_else(|| StoreError::Unavailable("out of ids".to_owned()))?;
        let room = Room {
            id,
            title: title.to_owned(),
            create_time_ms,
        };
        if self.insert(&room).await? {
            return Ok(room);
        }
        Err(StoreError::Damaged(format!(
            "the room {id} was there before its id was given"
        )))
    }

    pub(super) async fn seed(&self, room: &Room) -> Result<bool, StoreError> {
        match self.one(room.id).await? {
            Some(_) => Ok(false),
            None => self.insert(room).await,
        }
    }

    /// Whether the id was free.
    async fn insert(&self, room: &Room) -> Result<bool, StoreError> {
        let id = room.id.get();
        let values = (id / BUCKET, id, room.title.as_str(), room.create_time_ms);
        match self.cql.apply(&self.insert, values).await? {
            Applied::Yes => Ok(true),
            Applied::No { old, unsure } => Ok(unsure
                && old.text("title") == Some(&room.title)
                && old.bigint("create_time_ms") == Some(room.create_time_ms)),
        }
    }

    pub(super) async fn one(&self, id: RoomId) -> Result<Option<Room>, StoreError> {
        let values = (id.get() / BUCKET, id.get());
        let row: Option<RoomRow> = self.cql.row(&self.one, values).await?;
        row.map(RoomRow::room).transpose()
    }

    pub(super) async fn page(
        &self,
        after: Option<RoomId>,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError> {
        let after = after.map_or(0, RoomId::get);
        let first = after / BUCKET;
        let mut rooms = self.page_of(first, after, limit).await?;
        if rooms.len() < limit {
            let last = self.ids.end().await? / BUCKET;
            let rest = limit - rooms.len();
            let page = |bucket| self.page_of(bucket, after, rest);
            rooms.extend(first_rows(first + 1..=last, rest, page).await?);
        }
        Ok(rooms)
    }

    async fn page_of(
        &self,
        bucket: i64,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Room>, StoreError> {
        let values = (bucket, after, rows_at_most(limit));
        let rows: Vec<RoomRow> = self.cql.rows(&self.page, values).await?;
        rows.into_iter().map(RoomRow::room).collect()
    }
}
