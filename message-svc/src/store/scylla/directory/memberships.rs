//! Who is where: the partition of a user is the authority on all his memberships.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use chassis::{
    call::DEFAULT_TIMEOUT,
    cql::{Applied, Conditional, Cql, Part, Read, ReadsTogether, Values, Write},
    id::{Seq, TopicId, UserId},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use scylla::DeserializeRow;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use super::{
    AT_ONCE, ChangeId, TRIES, changed_ms, contended,
    members::{Members, Row},
    pause, rows_at_most,
};
use crate::store::{Joined, MAX_MEMBERSHIPS, Membership, StoreError};

pub(super) struct Memberships {
    cql: Cql,
    members: Members,
    begin: Conditional,
    change: Conditional,
    put: Write,
    remove: Write,
    /// The whole partition.
    all: Read,
    /// The row about all, and that of one topic.
    with_one: Read,
    state: Read,
    state_serial: Read,
    versions: Read,
    versions_together: ReadsTogether,
    written: Read,
    one: Read,
    page: Read,
    turns: Turns,
}

/// What is known of all memberships of a user together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    version: i64,
    topics: usize,
    enrolled: bool,
}

/// A user's partition as it was read: its state, and as many memberships as were asked for.
#[derive(Debug, Default)]
pub(super) struct Seen {
    state: State,
    memberships: Vec<Membership>,
}

impl Seen {
    /// The version of the user's memberships.
    pub(super) fn version(&self) -> i64 {
        self.state.version
    }

    /// His membership of a topic that was asked for.
    pub(super) fn of(&self, topic: TopicId) -> Option<Membership> {
        let mut all = self.memberships.iter();
        all.find(|membership| membership.topic == topic).copied()
    }
}

/// What is to become of a user's memberships.
#[derive(Default)]
struct Change {
    joins: Vec<Membership>,
    leaves: Option<TopicId>,
    enrols: bool,
}

#[derive(DeserializeRow)]
struct AnyRow {
    topic_id: i64,
    joined_at: Option<i64>,
    join_time_ms: Option<i64>,
    version: Option<i64>,
    topics: Option<i32>,
    enrolled: Option<bool>,
}

#[derive(DeserializeRow)]
struct MembershipRow {
    topic_id: i64,
    joined_at: i64,
    join_time_ms: i64,
}

#[derive(DeserializeRow)]
struct StateRow {
    version: i64,
    last_change: Vec<u8>,
}

/// The row about all memberships: ids of topics begin at 1.
const ALL: i64 = 0;

impl Memberships {
    pub(super) fn open(cql: &Cql, members: Members) -> Self {
        let seen = "SELECT topic_id, joined_at, join_time_ms, version, topics, enrolled FROM memberships WHERE user_id = ?";
        let state = format!(
            "SELECT version, last_change FROM memberships WHERE user_id = ? AND topic_id = {ALL}"
        );
        Self {
            cql: cql.clone(),
            members,
            begin: cql
                .conditional(
                    "membership_change",
                    &format!(
                        "INSERT INTO memberships (user_id, topic_id, version, topics, enrolled, last_change) \
                         VALUES (?, {ALL}, ?, ?, ?, ?) IF NOT EXISTS"
                    ),
                ),
            change: cql
                .conditional(
                    "membership_change",
                    &format!(
                        "UPDATE memberships SET version = ?, topics = ?, enrolled = ?, last_change = ? \
                         WHERE user_id = ? AND topic_id = {ALL} IF version = ?"
                    ),
                ),
            put: cql
                .write(
                    "membership_change",
                    "INSERT INTO memberships (user_id, topic_id, joined_at, join_time_ms) VALUES (?, ?, ?, ?)",
                ),
            remove: cql
                .write(
                    "membership_change",
                    "DELETE FROM memberships WHERE user_id = ? AND topic_id = ?",
                ),
            all: cql.read("memberships_all", seen),
            with_one: cql
                .read(
                    "membership_with_state",
                    &format!("{seen} AND topic_id IN ({ALL}, ?)"),
                ),
            state: cql.read("membership_state", &state),
            state_serial: cql.serial_read("membership_state_serial", &state),
            versions: cql
                .read(
                    "membership_versions",
                    &format!(
                        "SELECT user_id, version FROM memberships WHERE user_id IN ? AND topic_id = {ALL}"
                    ),
                ),
            versions_together: ReadsTogether::default(),
            written: cql
                .read(
                    "membership_written",
                    &format!(
                        "SELECT version, WRITETIME(version) FROM memberships WHERE user_id = ? AND topic_id = {ALL}"
                    ),
                ),
            one: cql
                .read(
                    "membership",
                    "SELECT topic_id, joined_at, join_time_ms FROM memberships WHERE user_id = ? AND topic_id = ?",
                ),
            page: cql
                .read(
                    "memberships_page",
                    "SELECT topic_id, joined_at, join_time_ms FROM memberships WHERE user_id = ? AND topic_id > ? LIMIT ?",
                ),
            turns: Turns::default(),
        }
    }

    pub(super) async fn join(&self, wish: &Membership) -> Result<Joined, StoreError> {
        let decide = |seen: &Seen| {
            if let Some(membership) = seen.of(wish.topic) {
                return ControlFlow::Break(Joined::Already(membership));
            }
            if seen.state.topics >= MAX_MEMBERSHIPS {
                return ControlFlow::Break(Joined::Full);
            }
            ControlFlow::Continue(Change {
                joins: vec![*wish],
                ..Change::default()
            })
        };
        Ok(
            match self.decided(wish.user, Some(wish.topic), decide).await? {
                ControlFlow::Break(answer) => answer,
                ControlFlow::Continue(version) => Joined::New(*wish, version),
            },
        )
    }

    pub(super) async fn leave(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<i64>, StoreError> {
        let decide = |seen: &Seen| match seen.of(topic) {
            None => ControlFlow::Break(()),
            Some(_) => ControlFlow::Continue(Change {
                leaves: Some(topic),
                ..Change::default()
            }),
        };
        let version = self.decided(user, Some(topic), decide).await?;
        Ok(version.continue_value())
    }

    pub(super) async fn enrol(
        &self,
        user: UserId,
        memberships: &[Membership],
    ) -> Result<i64, StoreError> {
        let decide = |seen: &Seen| {
            if seen.state.enrolled {
                return ControlFlow::Break(seen.version());
            }
            let joined: HashSet<TopicId> = seen.memberships.iter().map(|row| row.topic).collect();
            let new = memberships
                .iter()
                .filter(|row| !joined.contains(&row.topic));
            ControlFlow::Continue(Change {
                joins: new.copied().collect(),
                enrols: true,
                ..Change::default()
            })
        };
        match self.decided(user, None, decide).await? {
            ControlFlow::Break(version) | ControlFlow::Continue(version) => Ok(version),
        }
    }

    /// Decides on a change from what is there, and makes it; decides anew when another
    /// change came in between. The version that it made, or the answer if nothing is to change.
    async fn decided<T>(
        &self,
        user: UserId,
        topic: Option<TopicId>,
        decide: impl Fn(&Seen) -> ControlFlow<T, Change>,
    ) -> Result<ControlFlow<T, i64>, StoreError> {
        let _turn = self.turns.take(user).await?;
        for attempt in 0..TRIES {
            let seen = self.seen(user, topic).await?;
            let change = match decide(&seen) {
                ControlFlow::Break(answer) => return Ok(ControlFlow::Break(answer)),
                ControlFlow::Continue(change) => change,
            };
            let version = seen.version() + 1;
            let joins = change
                .joins
                .iter()
                .map(|row| (row.topic, Row::Member(*row)));
            let leaves = change.leaves.iter().map(|topic| (*topic, Row::None));
            let rows: Vec<(TopicId, Row)> = joins.chain(leaves).collect();
            self.members.question(user, version, &rows).await?;
            if self.make(user, seen.state, &change).await? {
                self.members.settle_all(user, version, &rows).await;
                return Ok(ControlFlow::Continue(version));
            }
            metrics::counter!("drivers_message_membership_conflicts_total").increment(1);
            pause(attempt).await;
        }
        Err(contended("the memberships"))
    }

    /// Makes a change, if the user's partition still has this state; whether it had.
    async fn make(&self, user: UserId, old: State, change: &Change) -> Result<bool, StoreError> {
        let id = ChangeId::of(old.version);
        let topics =
            (old.topics + change.joins.len()).saturating_sub(usize::from(change.leaves.is_some()));
        let topics = rows_at_most(topics);
        let enrolled = old.enrolled || change.enrols;
        let (user, token) = (user.get(), id.token.as_slice());

        let begin = (user, id.version, topics, enrolled, token);
        let update = (id.version, topics, enrolled, token, user, old.version);
        let puts = change.joins.iter().map(|row| {
            let (joined_at, joined_ms) = (row.joined_at.get(), row.join_time_ms);
            (user, row.topic.get(), joined_at, joined_ms)
        });
        let puts: Vec<_> = puts.collect();
        let remove = change.leaves.map(|topic| (user, topic.get()));
        let mut parts = Vec::with_capacity(puts.len() + 2);
        parts.push(if old.version == 0 {
            Part::If(&self.begin, &begin)
        } else {
            Part::If(&self.change, &update)
        });
        let puts = puts
            .iter()
            .map(|row| Part::Also(&self.put, row as &dyn Values));
        parts.extend(puts);
        parts.extend(remove.iter().map(|row| Part::Also(&self.remove, row)));

        match self.cql.apply_batch("membership_change", &parts).await? {
            Applied::Yes => Ok(true),
            Applied::No { unsure: false, .. } => Ok(false),
            Applied::No { .. } => {
                let now: Option<StateRow> = self.cql.row(&self.state_serial, (user,)).await?;
                match now {
                    Some(now) => id.was_made(now.version, &now.last_change),
                    None => Ok(false),
                }
            }
        }
    }

    /// The state of a user's memberships, and of these the one of `topic`, or all.
    pub(super) async fn seen(
        &self,
        user: UserId,
        topic: Option<TopicId>,
    ) -> Result<Seen, StoreError> {
        let rows: Vec<AnyRow> = match topic {
            Some(topic) => {
                let values = (user.get(), topic.get());
                self.cql.rows(&self.with_one, values).await?
            }
            None => self.cql.rows(&self.all, (user.get(),)).await?,
        };
        let mut seen = Seen::default();
        for row in rows {
            let damaged = || damaged(user, row.topic_id);
            if row.topic_id != ALL {
                let (Some(joined_at), Some(join_time_ms)) = (row.joined_at, row.join_time_ms)
                else {
                    return Err(damaged());
                };
                seen.memberships
                    .push(membership(user, row.topic_id, joined_at, join_time_ms)?);
                continue;
            }
            let (Some(version), Some(topics), Some(enrolled)) =
                (row.version, row.topics, row.enrolled)
            else {
                return Err(damaged());
            };
            seen.state = State {
                version,
                topics: usize::try_from(topics).map_err(|_| damaged())?,
                enrolled,
            };
        }
        Ok(seen)
    }

    /// When a user's memberships were changed last, if they ever were.
    pub(super) async fn changed_ms(&self, user: UserId) -> Result<Option<i64>, StoreError> {
        let written = self.cql.row(&self.written, (user.get(),)).await?;
        Ok(changed_ms(written))
    }

    pub(super) async fn one(
        &self,
        topic: TopicId,
        user: UserId,
    ) -> Result<Option<Membership>, StoreError> {
        let values = (user.get(), topic.get());
        let row: Option<MembershipRow> = self.cql.row(&self.one, values).await?;
        row.map(|row| row.membership(user)).transpose()
    }

    pub(super) async fn page(
        &self,
        user: UserId,
        after: Option<TopicId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let after = after.map_or(ALL, TopicId::get);
        let values = (user.get(), after, rows_at_most(limit));
        let rows: Vec<MembershipRow> = self.cql.rows(&self.page, values).await?;
        rows.iter().map(|row| row.membership(user)).collect()
    }

    pub(super) async fn versions(&self, users: &[UserId]) -> Result<Vec<i64>, StoreError> {
        stream::iter(users.to_vec())
            .map(|user| self.version(user))
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    pub(super) async fn versions_in_reach(
        &self,
        users: &[UserId],
    ) -> Result<Vec<Option<i64>>, StoreError> {
        let together = |users| self.versions_of(users);
        let alone = |user| self.version(user);
        let reads = &self.versions_together;
        reads
            .read(users, AT_ONCE, together, alone, StoreError::is_unavailable)
            .await
    }

    async fn versions_of(&self, users: Vec<UserId>) -> Result<Vec<i64>, StoreError> {
        let ids: Vec<i64> = users.iter().map(|user| user.get()).collect();
        let rows: Vec<(i64, i64)> = self.cql.rows(&self.versions, (&ids,)).await?;
        let versions: HashMap<i64, i64> = rows.into_iter().collect();
        let version = |id| versions.get(id).copied().unwrap_or(0);
        Ok(ids.iter().map(version).collect())
    }

    async fn version(&self, user: UserId) -> Result<i64, StoreError> {
        let state: Option<StateRow> = self.cql.row(&self.state, (user.get(),)).await?;
        Ok(state.map_or(0, |state| state.version))
    }

    pub(super) async fn members(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<Membership>, StoreError> {
        let authority = |user| self.seen(user, Some(topic));
        self.members.page(topic, after, limit, authority).await
    }
}

impl MembershipRow {
    fn membership(&self, user: UserId) -> Result<Membership, StoreError> {
        membership(user, self.topic_id, self.joined_at, self.join_time_ms)
    }
}

fn membership(
    user: UserId,
    topic: i64,
    joined_at: i64,
    join_time_ms: i64,
) -> Result<Membership, StoreError> {
    Ok(Membership {
        topic: TopicId::new(topic).ok_or_else(|| damaged(user, topic))?,
        user,
        joined_at: Seq::new(joined_at),
        join_time_ms,
    })
}

fn damaged(user: UserId, topic: i64) -> StoreError {
    StoreError::Damaged(format!(
        "the row of topic {topic} in the memberships of user {user}"
    ))
}

/// Changes of one user's memberships take turns within this process, so that many at once do
/// not keep each other from ending. Users share locks, so that there are not too many of these.
struct Turns([Mutex<()>; 256]);

impl Default for Turns {
    fn default() -> Self {
        Self([const { Mutex::const_new(()) }; 256])
    }
}

impl Turns {
    async fn take(&self, user: UserId) -> Result<MutexGuard<'_, ()>, StoreError> {
        let busy = || StoreError::Unavailable("too many changes of memberships".to_owned());
        let lock = user.get().unsigned_abs() % 256;
        let lock = usize::try_from(lock).ok().and_then(|lock| self.0.get(lock));
        let lock = lock.ok_or_else(busy)?;
        // No call waits longer.
        timeout(DEFAULT_TIMEOUT, lock.lock())
            .await
            .map_err(|_| busy())
    }
}
