//! A directory store in memory for tests: counts reads, and holds one back on command.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use chassis::id::{RoomId, TopicId, UserId};
use tokio::sync::Notify;

use crate::store::{
    DirectoryStore, FIRST_FREE_ID, Joined, MAX_MEMBERSHIPS, Membership, NewTopic, Room, StoreError,
    Topic, TopicChange,
};

#[derive(Default)]
pub(crate) struct Double {
    state: Mutex<State>,
    /// How many topics and memberships were read.
    reads: AtomicUsize,
    /// Whether every call fails.
    pub(crate) is_away: AtomicBool,
    /// Whether nobody else changes it.
    pub(crate) is_alone: AtomicBool,
    held: Mutex<Option<Arc<Held>>>,
    /// What is said of the last change.
    pub(crate) changed_ms: AtomicI64,
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<RoomId, Room>,
    topics: BTreeMap<TopicId, Topic>,
    members: BTreeMap<(TopicId, UserId), Membership>,
    versions: HashMap<UserId, i64>,
    enrolled: HashSet<UserId>,
}

/// A read of a membership whose answer is held back.
#[derive(Default)]
pub(crate) struct Held {
    /// Told when the store has been read.
    pub(crate) read: Notify,
    /// Lets the answer out.
    pub(crate) release: Notify,
}

impl Double {
    /// Holds back the answer to the next read of a membership.
    pub(crate) fn hold_next_membership(&self) -> Arc<Held> {
        let held = Arc::new(Held::default());
        *self.held.lock().unwrap() = Some(Arc::clone(&held));
        held
    }

    /// How many topics and memberships were read since this was asked last.
    pub(crate) fn take_reads(&self) -> usize {
        self.reads.swap(0, SeqCst)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        if self.is_away.load(SeqCst) {
            return Err(StoreError::Unavailable("10.1.2.3 timed out".into()));
        }
        Ok(self.state.lock().unwrap())
    }
}

impl State {
    fn changed(&mut self, user: UserId) -> i64 {
        let version = self.versions.entry(user).or_default();
        *version += 1;
        *version
    }

    fn memberships(&self, user: UserId) -> Vec<Membership> {
        let all = self.members.values().filter(|row| row.user == user);
        all.copied().collect()
    }
}

fn behind<I: Copy + Ord, V: Clone>(
    rows: &BTreeMap<I, V>,
    after: Option<I>,
) -> impl Iterator<Item = V> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    rows.range((start, Bound::Unbounded))
        .map(|(_, row)| row.clone())
}

#[async_trait]
impl DirectoryStore for Double {
    fn is_shared(&self) -> bool {
        !self.is_alone.load(SeqCst)
    }

    async fn create_room(&self, title: &str, create_time_ms: i64) -> Result<Room, StoreError> {
        let mut state = self.state()?;
        let last = state.rooms.keys().map(|id| id.get()).max().unwrap_or(0);
        let room = Room {
            id: RoomId::new((last + 1).max(FIRST_FREE_ID)).unwrap(),
            title: title.to_owned(),
            create_time_ms,
        };
        state.rooms.insert(room.id, room.clone());
        Ok(room)
    }

    async fn seed_room(&self, room: &Room) -> Result<bool, StoreError> {
        let mut state = self.state()?;
        let is_new = !state.rooms.contains_key(&room.id);
        state.rooms.entry(room.id).or_insert_with(|| room.clone());
        Ok(is_new)
    }

    async fn room(&self, id: RoomId) -> Result<Option<Room>, StoreError> {
        Ok(self.state()?.rooms.get(&id).cloned())
    }

    async fn rooms(&self, after: Option<RoomId>, limit: usize) -> Result<Vec<Room>, StoreError> {
        Ok(behind(&self.state()?.rooms, after).take(limit).collect())
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<Topic, StoreError> {
        let mut state = self.state()?;
        let last = state.topics.keys().map(|id| id.get()).max().unwrap_or(0);
        let topic = Topic {
            id: TopicId::new((last + 1).max(FIRST_FREE_ID)).unwrap(),
            room: topic.room,
            title: topic.title.clone(),
            visibility: topic.visibility,
            closed: false,
            is_default: topic.is_default,
            create_time_ms: topic.create_time_ms,
        };
        state.topics.insert(topic.id, topic.clone());
        Ok(topic)
    }

    async fn seed_topic(&self, topic: &Topic) -> Result<bool, StoreError> {
        let mut state = self.state()?;
        let is_new = !state.topics.contains_key(&topic.id);
        let entry = state.topics.entry(topic.id);
        entry.or_insert_with(|| topic.clone());
        Ok(is_new)
    }

    async fn update_topic(
        &self,
        id: TopicId,
        change: &TopicChange,
    ) -> Result<Option<Topic>, StoreError> {
        let mut state = self.state()?;
        let Some(topic) = state.topics.get_mut(&id) else {
            return Ok(None);
        };
        if let Some(title) = &change.title {
            topic.title.clone_from(title);
        }
        topic.visibility = change.visibility.unwrap_or(topic.visibility);
        topic.closed = change.closed.unwrap_or(topic.closed);
        Ok(Some(topic.clone()))
    }

    async fn topic(&self, id: TopicId) -> Result<Option<Topic>, StoreError> {
        self.reads.fetch_add(1, SeqCst);
        Ok(self.state()?.topics.get(&id).cloned())
    }

    async fn topics(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, StoreError> {
        let state = self.state()?;
        let topics = behind(&state.topics, after).filter(|topic| topic.room == room);
        Ok(topics.take(limit).collect())
    }

    async fn default_topics(&self) -> Result<Vec<TopicId>, StoreError> {
        let state = self.state()?;
        let defaults = state.topics.values().filter(|topic| topic.is_default);
        Ok(defaults.map(|topic| topic.id).collect())
    }

    async fn join(&self, membership: &Membership) -> Result<Joined, StoreError> {
        let mut state = self.state()?;
        let key = (membership.topic, membership.user);
        if let Some(row) = state.members.get(&key) {
            return Ok(Joined::Already(*row));
        }
        if state.memberships(membership.user).len() >= MAX_MEMBERSHIPS {
            return Ok(Joined::Full);
        }
        state.members.insert(key, *membership);
        Ok(Joined::New(*membership, state.changed(membership.user)))
    }

    async fn leave(&self, topic: TopicId, user: UserId) -> Result<Option<i64>, StoreError> {
        let mut state = self.state()?;
        let left = state.members.remove(&(topic, user));
        Ok(left.map(|_| state.changed(user)))
    }

    async fn enrol(&self, user: UserId, memberships: &[Membership]) -> Result<i64, StoreError> {
        let mut state = self.state()?;
        if !state.enrolled.insert(user) {
            return Ok(state.versions.get(&user).copied().unwrap_or(0));
        }
        for row in memberships {
            state.members.entry((row.topic, user)).or_insert(*row);
        }
        Ok(state.changed(user))
    }

    async fn membership(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<Membership>, StoreError> {
        self.reads.fetch_add(1, SeqCst);
        let found = self.state()?.members.get(&(topic, user)).copied();
        let held = self.held.lock().unwrap().take();
        if let Some(held) = held {
            held.read.notify_one();
            held.release.notified().await;
        }
        Ok(found)
    }

    async fn memberships(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let rows = self.state()?.memberships(user).into_iter();
        let rows = rows.filter(|row| after.is_none_or(|after| row.topic > after));
        Ok(rows.take(limit).collect())
    }

    async fn changed_ms(&self, _: TopicId, _: UserId) -> Result<i64, StoreError> {
        Ok(self.changed_ms.load(SeqCst))
    }

    async fn membership_versions(&self, users: &[UserId]) -> Result<Vec<i64>, StoreError> {
        let state = self.state()?;
        let versions = users.iter().map(|user| state.versions.get(user));
        Ok(versions.map(|v| v.copied().unwrap_or(0)).collect())
    }

    async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let state = self.state()?;
        let rows = state.members.values();
        let rows = rows.filter(|row| row.topic == topic);
        let rows = rows.filter(|row| after.is_none_or(|after| row.user > after));
        Ok(rows.copied().take(limit).collect())
    }
}

/// It is a store like any other.
mod conformance {
    use std::sync::Arc;

    use super::Double;

    async fn fresh() -> (Arc<Double>, ()) {
        (Arc::default(), ())
    }

    crate::store::conformance::directory_suite!(fresh);
}
