//! The rules of rooms, topics and their members.
//!
//! Whether a user may write to a topic is asked for each of his messages, so topics
//! and memberships that were read are kept for up to [`Limits::kept_for`], and until they
//! change where nobody else changes them. Only a yes is ever taken from there: before
//! anybody is refused the store is asked again.

#[cfg(test)]
pub(crate) mod double;
mod known;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chassis::{
    clock::now_ms,
    id::{RoomId, Seq, TopicId, UserId},
};
use futures::{StreamExt, TryStreamExt, stream};

use self::known::Known;
use crate::{
    error::Error,
    log::{ADMITTED_FOR, Admission},
    store::{
        DirectoryStore, Joined, LogStore, MAX_MEMBERSHIPS, Membership, NewTopic, Room, Topic,
        TopicChange, Visibility,
    },
};

/// Longest title of a room or a topic, in characters.
pub const MAX_TITLE_CHARS: usize = 128;

/// How many topics of one question are looked up at a time.
const LOOKUPS_AT_ONCE: usize = 16;

/// How much the directory keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most topics that are kept.
    pub topics: u64,
    /// Most memberships that are kept.
    pub memberships: u64,
    /// For how long in a store that others change, too: such a change is known here after that.
    pub kept_for: Duration,
}

/// For whom a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A person, who may join open topics only.
    Person,
    /// An internal service, which is trusted.
    Service,
}

/// What changed of a user's memberships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// He was entered into the default topics, several at once.
    Enrolled,
    /// He joined a topic, whose newest seq was this.
    Joined(TopicId, Seq),
    /// He left a topic.
    Left(TopicId),
    /// Another removed him from a topic.
    Removed(TopicId),
}

/// Who is told of changes of memberships.
pub trait MembershipAnnouncer: Send + Sync + 'static {
    /// Called behind each change with the version that it gave the user's
    /// memberships. Never waits.
    fn changed(&self, user: UserId, version: i64, change: MembershipChange);
}

/// Rooms, topics and members, by the rules.
pub struct Directory {
    store: Arc<dyn DirectoryStore>,
    log: Arc<dyn LogStore>,
    announcer: Arc<dyn MembershipAnnouncer>,
    known_topics: Known<TopicId, Arc<Topic>>,
    known_members: Known<(TopicId, UserId), ()>,
    /// None while it is known here what has changed.
    kept_for: Option<Duration>,
}

impl Directory {
    /// A directory over its stores. `log` is asked for heads only.
    pub fn new(
        store: Arc<dyn DirectoryStore>,
        log: Arc<dyn LogStore>,
        announcer: Arc<dyn MembershipAnnouncer>,
        limits: Limits,
    ) -> Self {
        let kept_for = store.is_shared().then_some(limits.kept_for);
        Self {
            store,
            log,
            announcer,
            known_topics: Known::new(limits.topics, kept_for),
            known_members: Known::new(limits.memberships, kept_for),
            kept_for,
        }
    }

    /// Makes a room.
    ///
    /// # Errors
    /// `FieldInvalid` for a bad title; `Store`.
    pub async fn create_room(&self, title: &str) -> Result<Room, Error> {
        check_title(title)?;
        Ok(self.store.create_room(title, now_ms()).await?)
    }

    /// Up to `limit` rooms behind `after`, by ascending id.
    ///
    /// # Errors
    /// `Store`.
    pub async fn rooms(&self, after: Option<RoomId>, limit: usize) -> Result<Vec<Room>, Error> {
        Ok(self.store.rooms(after, limit).await?)
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// `FieldInvalid` for a bad title, or one default topic too many; `RoomNotFound`; `Store`.
    pub async fn create_topic(
        &self,
        room: RoomId,
        title: &str,
        visibility: Visibility,
        is_default: bool,
    ) -> Result<Topic, Error> {
        check_title(title)?;
        self.check_room(room).await?;
        if is_default && self.store.default_topics().await?.len() >= MAX_MEMBERSHIPS {
            return Err(Error::FieldInvalid {
                field: "is_default".to_owned(),
                rule: format!("there are {MAX_MEMBERSHIPS} default topics already"),
            });
        }
        let topic = NewTopic {
            room,
            title: title.to_owned(),
            visibility,
            is_default,
            create_time_ms: now_ms(),
        };
        Ok(self.store.create_topic(&topic).await?)
    }

    /// Changes a topic; members stay members.
    ///
    /// # Errors
    /// `FieldInvalid` for a bad title; `TopicNotFound`; `Store`.
    pub async fn update_topic(&self, id: TopicId, change: &TopicChange) -> Result<Topic, Error> {
        if let Some(title) = &change.title {
            check_title(title)?;
        }
        let changed = self.store.update_topic(id, change).await;
        self.known_topics.forget(&id);
        changed?.ok_or(Error::TopicNotFound)
    }

    /// One topic as it is in the store.
    ///
    /// # Errors
    /// `TopicNotFound`; `Store`.
    pub async fn topic(&self, id: TopicId) -> Result<Topic, Error> {
        self.store.topic(id).await?.ok_or(Error::TopicNotFound)
    }

    /// Up to `limit` topics of a room behind `after`, by ascending id.
    ///
    /// # Errors
    /// `RoomNotFound`; `Store`.
    pub async fn topics(
        &self,
        room: RoomId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Topic>, Error> {
        self.check_room(room).await?;
        Ok(self.store.topics(room, after, limit).await?)
    }

    /// Which of these topics exist, in the order asked.
    ///
    /// # Errors
    /// `Store`.
    pub async fn existing(&self, topics: &[TopicId]) -> Result<Vec<bool>, Error> {
        stream::iter(topics.to_vec())
            .map(|topic| async move { Ok(self.known_topic(topic).await?.is_some()) })
            .buffered(LOOKUPS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Refuses readers of a topic who may not read it: of a private one, who are not members.
    ///
    /// # Errors
    /// `TopicNotFound`; `NotAMember`; `Store`.
    pub async fn check_readers(&self, topic: TopicId, readers: &[UserId]) -> Result<(), Error> {
        let known = self.known_topic(topic).await?;
        let is_open = match known {
            Some(known) if known.visibility == Visibility::Open => true,
            _ => self.topic(topic).await?.visibility == Visibility::Open,
        };
        if is_open {
            return Ok(());
        }
        for reader in readers {
            if !self.is_known_member(topic, *reader).await?
                && self.store.membership(topic, *reader).await?.is_none()
            {
                return Err(Error::NotAMember);
            }
        }
        Ok(())
    }

    /// Enters a user into the default topics, unless that was done before; the
    /// version of his memberships.
    ///
    /// # Errors
    /// `Store`.
    pub async fn enrol(&self, user: UserId) -> Result<i64, Error> {
        let versions = self.store.membership_versions(&[user]).await?;
        if let Some(version @ 1..) = versions.first().copied() {
            return Ok(version);
        }
        let mut topics = self.store.default_topics().await?;
        topics.truncate(MAX_MEMBERSHIPS);
        let heads = self.log.heads(&topics).await?;
        let join_time_ms = now_ms();
        let memberships: Vec<_> = topics
            .into_iter()
            .zip(heads)
            .map(|(topic, joined_at)| Membership {
                topic,
                user,
                joined_at,
                join_time_ms,
            })
            .collect();
        let version = self.store.enrol(user, &memberships).await?;
        self.announcer
            .changed(user, version, MembershipChange::Enrolled);
        Ok(version)
    }

    /// Makes a user a member, enrolling him first where that was never done, so
    /// that whoever is a member of anything is enrolled.
    ///
    /// # Errors
    /// `TopicNotFound`; `NotAMember` for a person and a private topic;
    /// `MembershipsFull`; `Store`.
    pub async fn join(
        &self,
        topic: TopicId,
        user: UserId,
        asker: Asker,
    ) -> Result<Membership, Error> {
        let topic = self.topic(topic).await?;
        self.join_as_read(&topic, user, asker).await
    }

    async fn join_as_read(
        &self,
        topic: &Topic,
        user: UserId,
        asker: Asker,
    ) -> Result<Membership, Error> {
        if let Some(membership) = self.store.membership(topic.id, user).await? {
            return Ok(membership);
        }
        self.enrol(user).await?;
        if topic.visibility == Visibility::Private && asker == Asker::Person {
            // The enrolment may have made him a member just now.
            let membership = self.store.membership(topic.id, user).await?;
            return membership.ok_or(Error::NotAMember);
        }
        let heads = self.log.heads(&[topic.id]).await?;
        let membership = Membership {
            topic: topic.id,
            user,
            joined_at: heads.first().copied().unwrap_or(Seq::ZERO),
            join_time_ms: now_ms(),
        };
        match self.store.join(&membership).await? {
            Joined::New(membership, version) => {
                let change = MembershipChange::Joined(topic.id, membership.joined_at);
                self.announcer.changed(user, version, change);
                Ok(membership)
            }
            Joined::Already(membership) => Ok(membership),
            Joined::Full => Err(Error::MembershipsFull),
        }
    }

    /// Ends a membership at the user's own wish, if there is one.
    ///
    /// # Errors
    /// `TopicNotFound`; `Store`.
    pub async fn leave(&self, topic: TopicId, user: UserId) -> Result<(), Error> {
        self.end(user, topic, MembershipChange::Left(topic)).await
    }

    /// Ends a membership at another's wish, if there is one.
    ///
    /// # Errors
    /// `TopicNotFound`; `Store`.
    pub async fn remove(&self, topic: TopicId, user: UserId) -> Result<(), Error> {
        self.end(user, topic, MembershipChange::Removed(topic))
            .await
    }

    async fn end(
        &self,
        user: UserId,
        topic: TopicId,
        change: MembershipChange,
    ) -> Result<(), Error> {
        if self.known_topic(topic).await?.is_none() {
            return Err(Error::TopicNotFound);
        }
        let left = self.store.leave(topic, user).await;
        self.known_members.forget(&(topic, user));
        if let Some(version) = left? {
            self.announcer.changed(user, version, change);
        }
        Ok(())
    }

    /// Up to `limit` memberships of a user behind `after`, by ascending topic id, and
    /// their version, which was read before them.
    ///
    /// # Errors
    /// `Store`.
    pub async fn memberships(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<(i64, Vec<Membership>), Error> {
        let versions = self.store.membership_versions(&[user]).await?;
        let memberships = self.store.memberships(user, after, limit).await?;
        Ok((versions.first().copied().unwrap_or(0), memberships))
    }

    /// The version of each user's memberships, in the order asked; 0 when never enrolled,
    /// `None` when it can't be read now.
    ///
    /// # Errors
    /// `Store`, when none can be read.
    pub async fn membership_versions(&self, users: &[UserId]) -> Result<Vec<Option<i64>>, Error> {
        Ok(self.store.membership_versions_in_reach(users).await?)
    }

    /// Up to `limit` members of a topic behind `after`, by ascending user id.
    ///
    /// # Errors
    /// `Store`.
    pub async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, Error> {
        Ok(self.store.members(topic, after, limit).await?)
    }

    async fn known_topic(&self, id: TopicId) -> Result<Option<Arc<Topic>>, Error> {
        let read = async { Ok(self.store.topic(id).await?.map(Arc::new)) };
        Ok(self.known_topics.get(id, read).await?)
    }

    async fn is_known_member(&self, topic: TopicId, user: UserId) -> Result<bool, Error> {
        let read = async { Ok(self.store.membership(topic, user).await?.map(|_| ())) };
        let known = self.known_members.get((topic, user), read).await?;
        Ok(known.is_some())
    }

    async fn check_room(&self, room: RoomId) -> Result<(), Error> {
        match self.store.room(room).await? {
            Some(_) => Ok(()),
            None => Err(Error::RoomNotFound),
        }
    }
}

#[async_trait]
impl Admission for Directory {
    async fn admit(&self, topic: TopicId, owner: UserId) -> Result<(), Error> {
        let known = self.known_topic(topic).await?;
        if known.is_some_and(|known| !known.closed) && self.is_known_member(topic, owner).await? {
            return Ok(());
        }
        match self.admit_as_read(topic, owner).await {
            Err(Error::TopicClosed | Error::NotAMember)
                if self.is_unsettled(topic, owner).await? =>
            {
                Err(Error::OutcomeUnknown)
            }
            answer => answer,
        }
    }
}

impl Directory {
    async fn admit_as_read(&self, topic: TopicId, owner: UserId) -> Result<(), Error> {
        let topic = self.topic(topic).await?;
        if topic.closed {
            return Err(Error::TopicClosed);
        }
        self.join_as_read(&topic, owner, Asker::Person).await?;
        Ok(())
    }

    /// Whether what was let in before the last change, here or by another replica, may still
    /// be appended.
    async fn is_unsettled(&self, topic: TopicId, owner: UserId) -> Result<bool, Error> {
        let changed_ms = self.store.changed_ms(topic, owner).await?;
        let admitted_for = self.kept_for.unwrap_or_default() + ADMITTED_FOR;
        let admitted_for = i64::try_from(admitted_for.as_millis()).unwrap_or(i64::MAX);
        Ok(now_ms() < changed_ms.saturating_add(admitted_for))
    }
}

/// Says what is wrong with the title of a room or a topic, if anything is.
#[must_use]
pub fn title_fault(title: &str) -> Option<String> {
    if title.trim().is_empty() {
        return Some("is blank".to_owned());
    }
    if title.chars().any(char::is_control) {
        return Some("has control characters".to_owned());
    }
    (title.chars().count() > MAX_TITLE_CHARS)
        .then(|| format!("is longer than {MAX_TITLE_CHARS} characters"))
}

fn check_title(title: &str) -> Result<(), Error> {
    match title_fault(title) {
        None => Ok(()),
        Some(rule) => Err(Error::FieldInvalid {
            field: "title".to_owned(),
            rule,
        }),
    }
}
