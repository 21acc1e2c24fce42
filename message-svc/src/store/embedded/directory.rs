//! Rooms, topics and members.

use async_trait::async_trait;
use chassis::id::{RoomId, Seq, TopicId, UserId};
use prost::Message;
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{Answer, EmbeddedStore};
use crate::store::{
    DirectoryStore, FIRST_FREE_ID, Joined, MAX_MEMBERSHIPS, Membership, NewTopic, Room, StoreError,
    Topic, TopicChange, Visibility,
};

const ROOMS: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("rooms");
const TOPICS: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("topics");
/// By room and topic.
const TOPICS_OF_ROOMS: TableDefinition<'_, (i64, i64), ()> =
    TableDefinition::new("topics_of_rooms");
const DEFAULT_TOPICS: TableDefinition<'_, i64, ()> = TableDefinition::new("default_topics");
/// By topic and user: the seq at which he joined, and when, in ms.
const MEMBERS: TableDefinition<'_, (i64, i64), (i64, i64)> = TableDefinition::new("members");
/// The same by user and topic.
const MEMBERSHIPS: TableDefinition<'_, (i64, i64), (i64, i64)> =
    TableDefinition::new("memberships");
/// By user: the version of his memberships, their number, whether he was enrolled.
const MEMBERS_STATE: TableDefinition<'_, i64, (i64, u64, bool)> =
    TableDefinition::new("members_state");

pub(super) fn make_tables(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(ROOMS)?;
    txn.open_table(TOPICS)?;
    txn.open_table(TOPICS_OF_ROOMS)?;
    txn.open_table(DEFAULT_TOPICS)?;
    txn.open_table(MEMBERS)?;
    txn.open_table(MEMBERSHIPS)?;
    txn.open_table(MEMBERS_STATE)?;
    Ok(())
}

/// A room as it is stored, under its id.
#[derive(Clone, PartialEq, Message)]
struct RoomRow {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(int64, tag = "2")]
    create_time_ms: i64,
}

/// A topic as it is stored, under its id.
#[derive(Clone, PartialEq, Message)]
struct TopicRow {
    #[prost(int64, tag = "1")]
    room: i64,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(bool, tag = "3")]
    private: bool,
    #[prost(bool, tag = "4")]
    closed: bool,
    #[prost(bool, tag = "5")]
    is_default: bool,
    #[prost(int64, tag = "6")]
    create_time_ms: i64,
}

fn damaged(what: &str, id: i64) -> StoreError {
    StoreError::Damaged(format!("{what} {id} does not parse"))
}

fn room(id: i64, bytes: &[u8]) -> Result<Room, StoreError> {
    match (RoomId::new(id), RoomRow::decode(bytes)) {
        (Some(id), Ok(row)) => Ok(Room {
            id,
            title: row.title,
            create_time_ms: row.create_time_ms,
        }),
        _ => Err(damaged("room", id)),
    }
}

fn topic(id: i64, bytes: &[u8]) -> Result<Topic, StoreError> {
    let damaged = || damaged("topic", id);
    let row = TopicRow::decode(bytes).map_err(|_| damaged())?;
    Ok(Topic {
        id: TopicId::new(id).ok_or_else(damaged)?,
        room: RoomId::new(row.room).ok_or_else(damaged)?,
        title: row.title,
        visibility: if row.private {
            Visibility::Private
        } else {
            Visibility::Open
        },
        closed: row.closed,
        is_default: row.is_default,
        create_time_ms: row.create_time_ms,
    })
}

fn membership(topic: i64, user: i64, row: (i64, i64)) -> Result<Membership, StoreError> {
    match (TopicId::new(topic), UserId::new(user)) {
        (Some(topic), Some(user)) => Ok(Membership {
            topic,
            user,
            joined_at: Seq::new(row.0),
            join_time_ms: row.1,
        }),
        _ => Err(damaged("a membership of user", user)),
    }
}

/// The id that follows the last one given.
fn free_id(table: &impl ReadableTable<i64, &'static [u8]>) -> Result<i64, redb::Error> {
    let last = table.last()?.map_or(0, |(id, _)| id.value());
    Ok(FIRST_FREE_ID.max(last + 1))
}

fn out_of_ids() -> StoreError {
    StoreError::Unavailable("out of ids".to_owned())
}

fn put_room(rooms: &mut Table<'_, i64, &'static [u8]>, room: &Room) -> Result<(), redb::Error> {
    let row = RoomRow {
        title: room.title.clone(),
        create_time_ms: room.create_time_ms,
    };
    rooms.insert(room.id.get(), row.encode_to_vec().as_slice())?;
    Ok(())
}

fn put_topic(
    txn: &WriteTransaction,
    topics: &mut Table<'_, i64, &'static [u8]>,
    topic: &Topic,
) -> Result<(), redb::Error> {
    let (id, room) = (topic.id.get(), topic.room.get());
    let row = TopicRow {
        room,
        title: topic.title.clone(),
        private: topic.visibility == Visibility::Private,
        closed: topic.closed,
        is_default: topic.is_default,
        create_time_ms: topic.create_time_ms,
    };
    topics.insert(id, row.encode_to_vec().as_slice())?;
    txn.open_table(TOPICS_OF_ROOMS)?.insert((room, id), ())?;
    if topic.is_default {
        txn.open_table(DEFAULT_TOPICS)?.insert(id, ())?;
    }
    Ok(())
}

/// The tables that hold who is where.
struct Members<'txn> {
    members: Table<'txn, (i64, i64), (i64, i64)>,
    memberships: Table<'txn, (i64, i64), (i64, i64)>,
    state: Table<'txn, i64, (i64, u64, bool)>,
}

impl<'txn> Members<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            members: txn.open_table(MEMBERS)?,
            memberships: txn.open_table(MEMBERSHIPS)?,
            state: txn.open_table(MEMBERS_STATE)?,
        })
    }

    fn state(&self, user: UserId) -> Result<(i64, u64, bool), redb::Error> {
        Ok(self
            .state
            .get(user.get())?
            .map_or((0, 0, false), |row| row.value()))
    }

    /// Whether he was no member before; if he was, nothing changes.
    fn add(&mut self, membership: &Membership) -> Result<bool, redb::Error> {
        let (topic, user) = (membership.topic.get(), membership.user.get());
        if self.members.get((topic, user))?.is_some() {
            return Ok(false);
        }
        let row = (membership.joined_at.get(), membership.join_time_ms);
        self.members.insert((topic, user), row)?;
        self.memberships.insert((user, topic), row)?;
        Ok(true)
    }
}

#[async_trait]
impl DirectoryStore for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn create_room(&self, title: &str, create_time_ms: i64) -> Result<Room, StoreError> {
        let title = title.to_owned();
        self.db
            .write(move |txn| -> Answer<Room> {
                let mut rooms = txn.open_table(ROOMS)?;
                let Some(id) = RoomId::new(free_id(&rooms)?) else {
                    return Ok(Err(out_of_ids()));
                };
                let room = Room {
                    id,
                    title,
                    create_time_ms,
                };
                put_room(&mut rooms, &room)?;
                Ok(Ok(room))
            })
            .await?
    }

    async fn seed_room(&self, room: &Room) -> Result<bool, StoreError> {
        let room = room.clone();
        let made = self.db.write(move |txn| {
            let mut rooms = txn.open_table(ROOMS)?;
            if rooms.get(room.id.get())?.is_some() {
                return Ok(false);
            }
            put_room(&mut rooms, &room)?;
            Ok(true)
        });
        Ok(made.await?)
    }

    async fn room(&self, id: RoomId) -> Result<Option<Room>, StoreError> {
        let id = id.get();
        self.db.read_now(|txn| {
            let row = txn.open_table(ROOMS)?.get(id)?;
            Ok(row.map(|row| room(id, row.value())).transpose())
        })?
    }

    async fn rooms(&self, after: Option<RoomId>, limit: usize) -> Result<Vec<Room>, StoreError> {
        let from = after.map_or(1, |id| id.get() + 1);
        self.db
            .read(move |txn| {
                let rooms = txn.open_table(ROOMS)?;
                let page = rooms.range(from..)?.take(limit);
                page.map(|row| row.map(|(id, row)| room(id.value(), row.value())))
                    .collect::<Result<Result<_, _>, _>>()
                    .map_err(redb::Error::from)
            })
            .await?
    }

    async fn create_topic(&self, new: &NewTopic) -> Result<Topic, StoreError> {
        let new = new.clone();
        self.db
            .write(move |txn| -> Answer<Topic> {
                let mut topics = txn.open_table(TOPICS)?;
                let Some(id) = TopicId::new(free_id(&topics)?) else {
                    return Ok(Err(out_of_ids()));
                };
                let topic = Topic {
                    id,
                    room: new.room,
                    title: new.title,
                    visibility: new.visibility,
                    closed: false,
                    is_default: new.is_default,
                    create_time_ms: new.create_time_ms,
                };
                put_topic(txn, &mut topics, &topic)?;
                Ok(Ok(topic))
            })
            .await?
    }

    async fn seed_topic(&self, topic: &Topic) -> Result<bool, StoreError> {
        let topic = topic.clone();
        let made = self.db.write(move |txn| {
            let mut topics = txn.open_table(TOPICS)?;
            if topics.get(topic.id.get())?.is_some() {
                return Ok(false);
            }
            put_topic(txn, &mut topics, &topic)?;
            Ok(true)
        });
        Ok(made.await?)
    }

    async fn update_topic(
        &self,
        id: TopicId,
        change: &TopicChange,
    ) -> Result<Option<Topic>, StoreError> {
        let (id, change) = (id.get(), change.clone());
        self.db
            .write(move |txn| -> Answer<Option<Topic>> {
                let mut topics = txn.open_table(TOPICS)?;
                let found = topics.get(id)?.map(|row| topic(id, row.value()));
                let mut topic = match found {
                    Some(Ok(topic)) => topic,
                    Some(Err(error)) => return Ok(Err(error)),
                    None => return Ok(Ok(None)),
                };
                topic.title = change.title.unwrap_or(topic.title);
                topic.visibility = change.visibility.unwrap_or(topic.visibility);
                topic.closed = change.closed.unwrap_or(topic.closed);
                put_topic(txn, &mut topics, &topic)?;
                Ok(Ok(Some(topic)))
            })
            .await?
    }

    async fn topic(&self, id: TopicId) -> Result<Option<Topic>, StoreError> {
        let id = id.get();
        self.db.read_now(|txn| {
            let row = txn.open_table(TOPICS)?.get(id)?;
            Ok(row.map(|row| topic(id, row.value())).transpose())
        })?
    }

    async fn topics(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError> {
        let (room, from) = (room.get(), after.map_or(1, |id| id.get() + 1));
        self.db
            .read(move |txn| -> Answer<Vec<Topic>> {
                let topics = txn.open_table(TOPICS)?;
                let of_rooms = txn.open_table(TOPICS_OF_ROOMS)?;
                let mut page = Vec::new();
                for key in of_rooms.range((room, from)..(room + 1, 0))?.take(limit) {
                    let id = key?.0.value().1;
                    let row = topics.get(id)?;
                    let found = row.map(|row| topic(id, row.value()));
                    match found.unwrap_or_else(|| Err(damaged("topic", id))) {
                        Ok(topic) => page.push(topic),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Ok(Ok(page))
            })
            .await?
    }

    async fn default_topics(&self) -> Result<Vec<TopicId>, StoreError> {
        let ids = self.db.read(|txn| {
            let topics = txn.open_table(DEFAULT_TOPICS)?;
            let ids = topics.range(1..)?.take(MAX_MEMBERSHIPS);
            ids.map(|row| Ok(TopicId::new(row?.0.value())))
                .collect::<Result<Vec<_>, redb::Error>>()
        });
        Ok(ids.await?.into_iter().flatten().collect())
    }

    async fn join(&self, wish: &Membership) -> Result<Joined, StoreError> {
        let wish = *wish;
        self.db
            .write(move |txn| -> Answer<Joined> {
                let mut members = Members::open(txn)?;
                let (topic, user) = (wish.topic.get(), wish.user.get());
                if let Some(row) = members.members.get((topic, user))?.map(|row| row.value()) {
                    return Ok(membership(topic, user, row).map(Joined::Already));
                }
                let (version, count, enrolled) = members.state(wish.user)?;
                if count >= MAX_MEMBERSHIPS as u64 {
                    return Ok(Ok(Joined::Full));
                }
                members.add(&wish)?;
                members
                    .state
                    .insert(user, (version + 1, count + 1, enrolled))?;
                Ok(Ok(Joined::New(wish, version + 1)))
            })
            .await?
    }

    async fn leave(&self, topic: TopicId, user: UserId) -> Result<Option<i64>, StoreError> {
        let version = self.db.write(move |txn| {
            let mut members = Members::open(txn)?;
            let (version, count, enrolled) = members.state(user)?;
            let (topic, user) = (topic.get(), user.get());
            if members.members.remove((topic, user))?.is_none() {
                return Ok(None);
            }
            members.memberships.remove((user, topic))?;
            let state = (version + 1, count.saturating_sub(1), enrolled);
            members.state.insert(user, state)?;
            Ok(Some(version + 1))
        });
        Ok(version.await?)
    }

    async fn enrol(&self, user: UserId, memberships: &[Membership]) -> Result<i64, StoreError> {
        let memberships = memberships.to_vec();
        let version = self.db.write(move |txn| {
            let mut members = Members::open(txn)?;
            let (version, mut count, enrolled) = members.state(user)?;
            if enrolled {
                return Ok(version);
            }
            for membership in &memberships {
                count += u64::from(members.add(membership)?);
            }
            members
                .state
                .insert(user.get(), (version + 1, count, true))?;
            Ok(version + 1)
        });
        Ok(version.await?)
    }

    async fn membership(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<Membership>, StoreError> {
        let (topic, user) = (topic.get(), user.get());
        let row = self.db.read_now(|txn| {
            let members = txn.open_table(MEMBERS)?;
            Ok(members.get((topic, user))?.map(|row| row.value()))
        })?;
        row.map(|row| membership(topic, user, row)).transpose()
    }

    async fn memberships(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let page = self.page(
            MEMBERSHIPS,
            user.get(),
            after.map_or(1, |id| id.get() + 1),
            limit,
        );
        let rows = page.await?.into_iter();
        rows.map(|((user, topic), row)| membership(topic, user, row))
            .collect()
    }

    async fn changed_ms(&self, _: TopicId, _: UserId) -> Result<i64, StoreError> {
        Ok(0)
    }

    async fn membership_versions(&self, users: &[UserId]) -> Result<Vec<i64>, StoreError> {
        let users = users.to_vec();
        let versions = self.db.read(move |txn| {
            let state = txn.open_table(MEMBERS_STATE)?;
            let version = |user: &UserId| Ok(state.get(user.get())?.map_or(0, |row| row.value().0));
            users
                .iter()
                .map(version)
                .collect::<Result<Vec<_>, redb::Error>>()
        });
        Ok(versions.await?)
    }

    async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let page = self.page(
            MEMBERS,
            topic.get(),
            after.map_or(1, |id| id.get() + 1),
            limit,
        );
        let rows = page.await?.into_iter();
        rows.map(|((topic, user), row)| membership(topic, user, row))
            .collect()
    }
}

type PairRow = ((i64, i64), (i64, i64));

impl EmbeddedStore {
    /// Rows of one first key, from a second key on.
    async fn page(
        &self,
        table: TableDefinition<'static, (i64, i64), (i64, i64)>,
        of: i64,
        from: i64,
        limit: usize,
    ) -> Result<Vec<PairRow>, StoreError> {
        let rows = self.db.read(move |txn| {
            let table = txn.open_table(table)?;
            let page = table.range((of, from)..(of + 1, 0))?.take(limit);
            page.map(|row| row.map(|(key, row)| (key.value(), row.value())))
                .collect::<Result<Vec<_>, _>>()
                .map_err(redb::Error::from)
        });
        Ok(rows.await?)
    }
}
