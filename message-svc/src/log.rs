//! The message log: what is appended to a topic, in which order, exactly once.
//!
//! Each topic has at most one append under way here; what arrives meanwhile goes
//! into the next one, so that its cost is shared. Nothing in here needs to be the
//! only writer: the store's condition on the head decides, and whoever is behind
//! reads what he missed.

mod heads;
mod knowledge;
mod lookup;
mod pages;
#[cfg(feature = "sabotage")]
pub(crate) mod sabotage;
mod settle;
mod topic;
#[cfg(test)]
pub(crate) mod trials;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chassis::{
    call::ActingUser,
    id::{Seq, TopicId, UserId},
};
use moka::sync::Cache;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

pub use self::{heads::MAX_AGE, pages::Direction};
use self::{heads::RecentHeads, topic::TopicLog};
use crate::{
    entry::{Content, MAX_CAPACITY, Placed, Stamp},
    error::Error,
    store::LogStore,
};

/// A message that is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Who sends it.
    pub owner: ActingUser,
    /// Names it for its sender; `None` makes one up, and a retry appends again.
    pub stamp: Option<Stamp>,
    /// What it says.
    pub content: Content,
}

/// A message that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its entry.
    pub placed: Placed,
    /// Whether an earlier call had appended it.
    pub duplicate: bool,
}

/// The rules that a new message must pass besides those of its form; a retry of
/// a message that is in the log need not.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Lets `owner` post to `topic`, making him a member where posting joins; whoever is
    /// let in may have what he sends appended for [`ADMITTED_FOR`].
    ///
    /// # Errors
    /// `TopicNotFound`, `TopicClosed`, `NotAMember`, `MembershipsFull`, `Store`;
    /// `OutcomeUnknown` while something may still be appended that he was let in with
    /// elsewhere, before he would have been refused.
    async fn admit(&self, topic: TopicId, owner: UserId) -> Result<(), Error>;
}

/// How old an admission may be when an append begins that rests on it.
pub const ADMITTED_FOR: Duration = Duration::from_secs(2);

/// Hears of what was appended.
pub trait Announcer: Send + Sync + 'static {
    /// These consecutive entries of one topic are in the log, durably. Called in
    /// their order; must not block.
    fn appended(&self, entries: &[Placed]);
}

/// The bounds within which the log works.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Slots of a segment that is made from now on: 1 to [`MAX_CAPACITY`].
    pub segment_capacity: u32,
    /// Most entries of one append.
    pub batch_entries: usize,
    /// Most bytes of one append, rows counted by [`crate::entry::Entry::weight`].
    pub batch_bytes: usize,
    /// Most messages that wait for one topic; past that they are refused.
    pub queue_entries: usize,
    /// Most bytes of what is known of topics (head, stamps, filters). Less only costs reads.
    pub knowledge_bytes: u64,
    /// Most topics that are loaded from the store at a time.
    pub loads: usize,
    /// Most topics that are written to at a time; the others' messages wait together.
    pub writes: usize,
    /// How long stamps are known: a retry after this may be appended again.
    pub stamp_memory: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_capacity: MAX_CAPACITY,
            batch_entries: 256,
            batch_bytes: 256 * 1024,
            queue_entries: 4_096,
            knowledge_bytes: 256 * 1024 * 1024,
            loads: 64,
            writes: 128,
            stamp_memory: Duration::from_hours(24 * 31),
        }
    }
}

/// The log of every topic. Clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// What all topics of a log share.
struct Shared {
    store: Arc<dyn LogStore>,
    admission: Arc<dyn Admission>,
    announcer: Arc<dyn Announcer>,
    config: LogConfig,
    topics: Cache<TopicId, Arc<TopicLog>>,
    recent_heads: RecentHeads,
    loads: Semaphore,
    writes: Semaphore,
    appends: TaskTracker,
}

impl Log {
    /// A log over this store.
    #[must_use]
    pub fn new(
        store: Arc<dyn LogStore>,
        admission: Arc<dyn Admission>,
        announcer: Arc<dyn Announcer>,
        config: LogConfig,
    ) -> Self {
        let topics = Cache::builder()
            .weigher(|_, topic: &Arc<TopicLog>| topic.weight())
            .max_capacity(config.knowledge_bytes)
            .build();
        Self {
            shared: Arc::new(Shared {
                store,
                admission,
                announcer,
                topics,
                recent_heads: RecentHeads::new(),
                loads: Semaphore::new(config.loads),
                writes: Semaphore::new(config.writes),
                appends: TaskTracker::new(),
                config,
            }),
        }
    }

    /// Appends messages to a topic in the given order, and answers each; those
    /// that are refused do not hold up the others. What is answered as sent is durable.
    ///
    /// At `deadline` a message that is still waiting is answered `NotStored`, one
    /// that is being written `OutcomeUnknown`.
    pub async fn send(
        &self,
        topic: TopicId,
        messages: Vec<Outgoing>,
        deadline: Instant,
    ) -> Vec<Result<Sent, Error>> {
        let answers = TopicLog::of(&self.shared, topic).enqueue(&self.shared, messages, deadline);
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(answer.wait(deadline).await);
        }
        results
    }

    /// The newest seq of each topic, in the order asked; 0 for one without entries, `None`
    /// for one that can't be read now. Read no longer ago than `max_age`, of which no more
    /// than [`MAX_AGE`] counts.
    ///
    /// # Errors
    /// `Store`, when none can be read.
    pub async fn heads(
        &self,
        topics: &[TopicId],
        max_age: Duration,
    ) -> Result<Vec<Option<Seq>>, Error> {
        let (store, recent) = (&self.shared.store, &self.shared.recent_heads);
        Ok(recent.get(store.as_ref(), topics, max_age).await?)
    }

    /// Takes no more messages, and waits until every append under way is decided.
    pub async fn shut_down(&self) {
        self.shared.appends.close();
        self.shared.appends.wait().await;
    }
}
