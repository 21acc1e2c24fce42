//! The members of a topic, derived from the memberships of users.
//!
//! A change that gives a user's memberships the version `v` writes the rows of the topics
//! that it touches twice: before it is made as a question, with the timestamp `2v`, and behind
//! that as settled, with `2v + 1`: the member, or none. Of two writes of a cell the one with
//! the higher timestamp wins, whatever order they arrive in. A listing believes a settled row
//! and asks the authority about a question.
//!
//! So a listing is right wherever changes were cut off, raced, or arrived late:
//!
//! - Every change that was made has its questions in place, for they come first; only writes
//!   with a timestamp above `2v` hide them. Those belong to this change or to a later version.
//! - Of the changes that the row's user tried to make with the version `v` one at most was made.
//!   The others left questions with `2v`; a question has nothing in it that could be believed.
//! - What is settled with `2v + 1` is what the authority says at version `v`, and there is but one
//!   such answer, whoever writes it: the change itself or a listing that found the question.
//!   As long as it is what the row says, no later change of this row was made, for the
//!   question of that would be above it.
//!
//! A listing settles the questions that it finds, so they do not gather. One whose change was
//! never made stays until the user's memberships reach its version, for until then that change
//! may still arrive; it costs each listing one read.

use std::future::Future;

use chassis::{
    cql::{Cql, Read, Write},
    id::{Seq, TopicId, UserId},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use moka::sync::Cache;
use scylla::DeserializeRow;

use super::{AT_ONCE, first_rows, memberships::Seen, rows_at_most};
use crate::store::{Membership, StoreError};

/// A bucket of a topic's members: their ids without these bits.
const BUCKET_BITS: u32 = 16;

/// How many buckets are remembered to be written down; some 32 bytes each.
const KNOWN_BUCKETS: u64 = 16_384;

/// Buckets of one read.
const BUCKETS: i32 = 256;

pub(super) struct Members {
    cql: Cql,
    question: Write,
    settle: Write,
    remove: Write,
    page: Read,
    add_bucket: Write,
    buckets: Read,
    known_buckets: Cache<(TopicId, i64), ()>,
}

/// What the authority says of a user in a topic.
#[derive(Clone, Copy)]
pub(super) enum Row {
    Member(Membership),
    None,
}

#[derive(DeserializeRow)]
struct MemberRow {
    user_id: i64,
    joined_at: Option<i64>,
    join_time_ms: Option<i64>,
    settled: Option<bool>,
    written: Option<i64>,
}

fn bucket(user: i64) -> i64 {
    user >> BUCKET_BITS
}

impl Members {
    pub(super) fn open(cql: &Cql) -> Self {
        Self {
            cql: cql.clone(),
            question: cql
                .write(
                    "member_question",
                    "INSERT INTO members (topic_id, bucket, user_id, settled) VALUES (?, ?, ?, false) USING TIMESTAMP ?",
                ),
            settle: cql
                .write(
                    "member_settle",
                    "INSERT INTO members (topic_id, bucket, user_id, joined_at, join_time_ms, settled) \
                     VALUES (?, ?, ?, ?, ?, true) USING TIMESTAMP ?",
                ),
            remove: cql
                .write(
                    "member_remove",
                    "DELETE FROM members USING TIMESTAMP ? WHERE topic_id = ? AND bucket = ? AND user_id = ?",
                ),
            page: cql
                .read(
                    "members_page",
                    "SELECT user_id, joined_at, join_time_ms, settled, WRITETIME(settled) AS written \
                     FROM members WHERE topic_id = ? AND bucket = ? AND user_id > ? LIMIT ?",
                ),
            add_bucket: cql
                .write(
                    "member_bucket",
                    "INSERT INTO member_buckets (topic_id, bucket) VALUES (?, ?)",
                ),
            buckets: cql
                .read(
                    "member_buckets",
                    "SELECT bucket FROM member_buckets WHERE topic_id = ? AND bucket > ? LIMIT ?",
                ),
            known_buckets: Cache::new(KNOWN_BUCKETS),
        }
    }

    /// Writes the questions of a change that would make `version`.
    pub(super) async fn question(
        &self,
        user: UserId,
        version: i64,
        rows: &[(TopicId, Row)],
    ) -> Result<(), StoreError> {
        stream::iter(rows.to_vec())
            .map(|(topic, _)| self.question_one(topic, user, version))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn question_one(
        &self,
        topic: TopicId,
        user: UserId,
        version: i64,
    ) -> Result<(), StoreError> {
        let bucket = bucket(user.get());
        if !self.known_buckets.contains_key(&(topic, bucket)) {
            self.cql
                .run(&self.add_bucket, (topic.get(), bucket))
                .await?;
            self.known_buckets.insert((topic, bucket), ());
        }
        let values = (topic.get(), bucket, user.get(), 2 * version);
        Ok(self.cql.run(&self.question, values).await?)
    }

    /// Settles what a change did that has been made. Where that fails the question stays.
    pub(super) async fn settle_all(&self, user: UserId, version: i64, rows: &[(TopicId, Row)]) {
        stream::iter(rows.to_vec())
            .map(|(topic, row)| self.settle_or_leave(topic, user, version, row))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn settle_or_leave(&self, topic: TopicId, user: UserId, version: i64, row: Row) {
        if let Err(error) = self.settle(topic, user, version, row).await {
            tracing::debug!(%error, "a row of a topic's members stays unsettled");
        }
    }

    /// Writes what the authority says at `version`.
    async fn settle(
        &self,
        topic: TopicId,
        user: UserId,
        version: i64,
        row: Row,
    ) -> Result<(), StoreError> {
        let (topic, user, timestamp) = (topic.get(), user.get(), 2 * version + 1);
        let bucket = bucket(user);
        match row {
            Row::Member(row) => {
                let (joined_at, joined_ms) = (row.joined_at.get(), row.join_time_ms);
                let values = (topic, bucket, user, joined_at, joined_ms, timestamp);
                self.cql.run(&self.settle, values).await?;
            }
            Row::None => {
                let values = (timestamp, topic, bucket, user);
                self.cql.run(&self.remove, values).await?;
            }
        }
        Ok(())
    }

    /// Up to `limit` members behind `after`; questions are put to `authority`.
    pub(super) async fn page<F>(
        &self,
        topic: TopicId,
        after: Option<UserId>,
        limit: usize,
        authority: impl Fn(UserId) -> F,
    ) -> Result<Vec<Membership>, StoreError>
    where
        F: Future<Output = Result<Seen, StoreError>>,
    {
        let after = after.map_or(0, UserId::get);
        let mut last = bucket(after);
        let mut members = self.page_of(topic, last, after, limit, &authority).await?;
        while members.len() < limit {
            let values = (topic.get(), last, BUCKETS);
            let buckets: Vec<(i64,)> = self.cql.rows(&self.buckets, values).await?;
            let Some((end,)) = buckets.last() else {
                break;
            };
            last = *end;
            let rest = limit - members.len();
            let buckets = buckets.into_iter().map(|(bucket,)| bucket);
            let page = |bucket| self.page_of(topic, bucket, after, rest, &authority);
            members.extend(first_rows(buckets, rest, page).await?);
        }
        Ok(members)
    }

    /// Up to `limit` members of one bucket.
    async fn page_of<F>(
        &self,
        topic: TopicId,
        bucket: i64,
        mut after: i64,
        limit: usize,
        authority: &impl Fn(UserId) -> F,
    ) -> Result<Vec<Membership>, StoreError>
    where
        F: Future<Output = Result<Seen, StoreError>>,
    {
        let mut members = Vec::new();
        loop {
            let wanted = limit - members.len();
            let values = (topic.get(), bucket, after, rows_at_most(wanted));
            let rows: Vec<MemberRow> = self.cql.rows(&self.page, values).await?;
            let read = rows.len();
            if let Some(row) = rows.last() {
                after = row.user_id;
            }
            let found: Vec<Option<Membership>> = stream::iter(rows)
                .map(|row| self.member(topic, row, authority))
                .buffered(AT_ONCE)
                .try_collect()
                .await?;
            members.extend(found.into_iter().flatten());
            if read < wanted || members.len() >= limit {
                return Ok(members);
            }
        }
    }

    /// The membership in a row, if it is one.
    async fn member<F>(
        &self,
        topic: TopicId,
        row: MemberRow,
        authority: &impl Fn(UserId) -> F,
    ) -> Result<Option<Membership>, StoreError>
    where
        F: Future<Output = Result<Seen, StoreError>>,
    {
        let damaged = || {
            let user = row.user_id;
            StoreError::Damaged(format!(
                "the row of user {user} in the members of topic {topic}"
            ))
        };
        let user = UserId::new(row.user_id).ok_or_else(damaged)?;
        if row.settled == Some(true) {
            let joined_at = Seq::new(row.joined_at.ok_or_else(damaged)?);
            let join_time_ms = row.join_time_ms.ok_or_else(damaged)?;
            return Ok(Some(Membership {
                topic,
                user,
                joined_at,
                join_time_ms,
            }));
        }
        let seen = authority(user).await?;
        let member = seen.of(topic);
        if row
            .written
            .is_none_or(|written| written <= 2 * seen.version())
        {
            let truth = member.map_or(Row::None, Row::Member);
            self.settle_or_leave(topic, user, seen.version(), truth)
                .await;
        }
        Ok(member)
    }
}
