//! What a writer knows of its topic, and how a batch gets into the log.
//!
//! The knowledge is exact at the moment of an append, whoever else writes: the
//! store's condition refuses it otherwise. So it can be thrown away at any time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use chassis::{
    clock::now_ms,
    id::{MessageId, Seq, TopicId, UserId},
};

use super::{
    Sent, Shared,
    pages::read_whole,
    settle::{Settled, settle},
    topic::{Waiting, late},
};
use crate::{
    entry::{Entry, Kind, Placed, Segment, SegmentId, Stamp},
    error::Error,
    stamps::{CurrentStamps, FilterBits, FullStamps},
    store::{FullSegment, LogStore, StampFilter, StoreError, Tail},
};

/// What is known of a topic up to the head.
pub(super) struct Knowledge {
    segment: Segment,
    head: u32,
    last_sent_at_ms: i64,
    current: CurrentStamps,
    /// Of the full segments within the memory of stamps, newest first.
    full: VecDeque<FullStamps>,
}

impl Knowledge {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> u32 {
        let full: usize = self.full.iter().map(FullStamps::weight).sum();
        u32::try_from(size_of::<Self>() + self.current.weight() + full).unwrap_or(u32::MAX)
    }

    /// Reads what the store holds of a topic; a topic without a segment gets its first.
    async fn load(shared: &Shared, topic: TopicId) -> Result<Self, StoreError> {
        let _permit = shared.loads.acquire().await.map_err(closed)?;
        let Tail { segment, head } = match shared.store.load(topic).await? {
            Some(tail) => tail,
            None => {
                let capacity = shared.config.segment_capacity;
                let first = Seq::ZERO.next();
                shared
                    .store
                    .open_segment(topic, None, first, capacity)
                    .await?
            }
        };
        let now = now_ms();
        let mut full = VecDeque::new();
        let since_ms = oldest_remembered(shared, now);
        for found in shared
            .store
            .full_segments(topic, segment.first_seq, since_ms)
            .await?
        {
            let stamps = full_stamps(shared, found).await?;
            let remembered = stamps.last_sent_at_ms >= since_ms;
            full.push_back(stamps);
            if !remembered {
                break;
            }
        }
        let mut knowledge = Self {
            segment,
            head: 0,
            last_sent_at_ms: full.front().map_or(0, |newest| newest.last_sent_at_ms),
            current: CurrentStamps::default(),
            full,
        };
        knowledge.catch_up(shared.store.as_ref(), head).await?;
        Ok(knowledge)
    }

    /// Reads what others appended to the segment, up to `head`.
    async fn catch_up(&mut self, store: &dyn LogStore, head: u32) -> Result<(), StoreError> {
        if head < self.head || head > self.segment.capacity {
            return Err(StoreError::Damaged(format!(
                "segment {} has its head at {head}, known to be at least {} and at most {}",
                self.segment.id.get(),
                self.head,
                self.segment.capacity
            )));
        }
        let entries = read_whole(store, &self.segment, self.head..head).await?;
        self.append(&entries);
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.current.insert(entry, self.head);
            self.last_sent_at_ms = self.last_sent_at_ms.max(entry.sent_at_ms);
            self.head += 1;
        }
    }

    /// Goes on to the next segment; the full one's stamps become a filter.
    async fn turn_over(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let full = self.segment;
        let next = shared
            .store
            .open_segment(
                full.topic,
                Some(full.id),
                full.end(),
                shared.config.segment_capacity,
            )
            .await?;
        let bits = self.current.filter();
        let filter = StampFilter {
            last_sent_at_ms: self.last_sent_at_ms,
            bytes: bits.encode(),
        };
        keep_filter(shared, full, filter);
        self.full.push_front(FullStamps {
            segment: full,
            last_sent_at_ms: self.last_sent_at_ms,
            bits,
        });
        let since_ms = oldest_remembered(shared, now_ms());
        while (self.full.back()).is_some_and(|oldest| oldest.last_sent_at_ms < since_ms) {
            self.full.pop_back();
        }
        self.segment = next.segment;
        self.head = 0;
        self.current = CurrentStamps::default();
        self.catch_up(shared.store.as_ref(), next.head).await
    }

    /// The entry that has this stamp, if there is one.
    async fn stamped(
        &self,
        store: &dyn LogStore,
        owner: UserId,
        stamp: &Stamp,
    ) -> Result<Option<Placed>, StoreError> {
        if let Some(slot) = self.current.slot(owner, stamp) {
            let found = read_whole(store, &self.segment, slot..slot + 1).await?;
            return Ok(found
                .into_iter()
                .next()
                .and_then(|entry| place(&self.segment, slot, entry)));
        }
        for full in &self.full {
            if !full.may_hold(owner, stamp) {
                continue;
            }
            let entries = read_whole(store, &full.segment, 0..full.segment.capacity).await?;
            let found = (0..)
                .zip(entries)
                .find(|(_, entry)| entry.owner == owner && entry.stamp == *stamp);
            if let Some((slot, entry)) = found {
                return Ok(place(&full.segment, slot, entry));
            }
        }
        Ok(None)
    }

    /// Whether a message of this topic has this id.
    async fn holds(&self, store: &dyn LogStore, id: MessageId) -> Result<bool, StoreError> {
        match SegmentId::of(id) {
            Some((segment, slot)) if segment == self.segment.id => Ok(slot < self.head),
            Some(_) => Ok((store.find(id).await?)
                .is_some_and(|(segment, _)| segment.topic == self.segment.topic)),
            None => Ok(false),
        }
    }
}

/// Writes a batch and answers every message of it. Returns what is known of the
/// topic then; nothing, where a failure left that open.
pub(super) async fn write(
    shared: &Arc<Shared>,
    topic: TopicId,
    knowledge: Option<Knowledge>,
    mut batch: VecDeque<Waiting>,
) -> Option<Knowledge> {
    let mut knowledge = match knowledge {
        Some(knowledge) => knowledge,
        None => match Knowledge::load(shared, topic).await {
            Ok(knowledge) => knowledge,
            Err(error) => return give_up(topic, batch, &error),
        },
    };
    let mut admitted = HashMap::new();
    while !batch.is_empty() {
        if let Err(error) = write_run(shared, &mut knowledge, &mut admitted, &mut batch).await {
            return give_up(topic, batch, &error);
        }
    }
    Some(knowledge)
}

/// Answers a batch of which nothing more can be done.
fn give_up(topic: TopicId, batch: VecDeque<Waiting>, error: &StoreError) -> Option<Knowledge> {
    tracing::warn!(%topic, messages = batch.len(), %error, "messages could not be appended");
    for waiting in batch {
        let answer = if waiting.tried {
            Error::OutcomeUnknown
        } else {
            Error::NotStored("the store is unavailable")
        };
        waiting.answer(Err(answer));
    }
    None
}

/// Answers messages from the front of the batch, up to one append.
///
/// What has to be looked at again, because the append was not or only partly
/// applied, goes back to the front.
async fn write_run(
    shared: &Arc<Shared>,
    knowledge: &mut Knowledge,
    admitted: &mut HashMap<UserId, Result<(), Error>>,
    batch: &mut VecDeque<Waiting>,
) -> Result<(), StoreError> {
    if knowledge.head == knowledge.segment.capacity {
        knowledge.turn_over(shared).await?;
    }
    let mut run = Run::new(shared, knowledge);
    while let Some(waiting) = batch.front() {
        if !run.has_room_for(waiting) {
            break;
        }
        let verdict = judge(shared, knowledge, admitted, waiting).await?;
        let Some(waiting) = batch.pop_front() else {
            break;
        };
        match verdict {
            Verdict::New => run.push(waiting),
            Verdict::Answer(result) => waiting.answer(result),
            Verdict::Written(sent) => {
                shared
                    .announcer
                    .appended(std::slice::from_ref(&sent.placed));
                waiting.answer(Ok(sent));
            }
        }
    }
    let Run {
        entries,
        mut waiting,
        ..
    } = run;
    if entries.is_empty() {
        return Ok(());
    }
    let settled = settle(
        shared.store.as_ref(),
        &knowledge.segment,
        knowledge.head,
        &entries,
        &mut waiting,
    )
    .await;
    let outcome = match settled {
        Settled::Applied(count) => {
            let first = knowledge.head;
            let written = entries.get(..count).unwrap_or_default();
            knowledge.append(written);
            let placed: Vec<Placed> = (first..)
                .zip(written)
                .filter_map(|(slot, entry)| place(&knowledge.segment, slot, entry.clone()))
                .collect();
            shared.announcer.appended(&placed);
            for (waiting, placed) in waiting.drain(..count).zip(placed) {
                waiting.answer(Ok(Sent {
                    placed,
                    duplicate: false,
                }));
            }
            Ok(())
        }
        Settled::Stale(head) => {
            metrics::counter!("drivers_message_conflicts_total").increment(1);
            knowledge.catch_up(shared.store.as_ref(), head).await
        }
        Settled::Refused(why) => {
            if let Some(refused) = waiting.pop_front() {
                tracing::warn!(topic = %knowledge.segment.topic, why, "the store refused a message");
                refused.answer(Err(Error::NotStored("the store refused the message")));
            }
            Ok(())
        }
        Settled::Unknown(why) => Err(StoreError::Unavailable(why)),
    };
    waiting.append(batch);
    *batch = waiting;
    outcome
}

/// New messages for one append, within its bounds.
struct Run {
    entries: Vec<Entry>,
    waiting: VecDeque<Waiting>,
    room: usize,
    bytes_left: usize,
    sent_at_ms: i64,
}

impl Run {
    fn new(shared: &Shared, knowledge: &Knowledge) -> Self {
        let slots = (knowledge.segment.capacity - knowledge.head) as usize;
        Self {
            entries: Vec::new(),
            waiting: VecDeque::new(),
            room: slots.min(shared.config.batch_entries),
            bytes_left: shared.config.batch_bytes,
            sent_at_ms: now_ms().max(knowledge.last_sent_at_ms),
        }
    }

    /// Whether a message can join: there is a slot, its bytes fit, and none with
    /// its stamp is in here, for which is first is decided by the append.
    fn has_room_for(&self, waiting: &Waiting) -> bool {
        let twin = |entry: &Entry| entry.owner == waiting.owner.id && entry.stamp == waiting.stamp;
        self.entries.len() < self.room
            && (self.entries.is_empty() || entry(waiting, 0).weight() <= self.bytes_left)
            && !self.entries.iter().any(twin)
    }

    fn push(&mut self, waiting: Waiting) {
        let entry = entry(&waiting, self.sent_at_ms);
        self.bytes_left = self.bytes_left.saturating_sub(entry.weight());
        self.entries.push(entry);
        self.waiting.push_back(waiting);
    }
}

enum Verdict {
    New,
    /// It is in the log by an append of ours whose outcome was not known.
    Written(Sent),
    Answer(Result<Sent, Error>),
}

/// Looks a message up by its stamp before any other rule, then applies the rules.
async fn judge(
    shared: &Shared,
    knowledge: &Knowledge,
    admitted: &mut HashMap<UserId, Result<(), Error>>,
    waiting: &Waiting,
) -> Result<Verdict, StoreError> {
    let store = shared.store.as_ref();
    let owner = waiting.owner.id;
    if let Some(placed) = knowledge.stamped(store, owner, &waiting.stamp).await? {
        let Kind::Message(content) = &placed.entry.kind;
        return Ok(if *content != waiting.content {
            Verdict::Answer(Err(Error::StampReused))
        } else if waiting.tried {
            Verdict::Written(Sent {
                placed,
                duplicate: false,
            })
        } else {
            Verdict::Answer(Ok(Sent {
                placed,
                duplicate: true,
            }))
        });
    }
    if !waiting.tried && waiting.deadline <= Instant::now() {
        return Ok(Verdict::Answer(Err(late())));
    }
    let verdict = match admitted.get(&owner) {
        Some(known) => known.clone(),
        None => {
            let fresh = shared.admission.admit(knowledge.segment.topic, owner).await;
            admitted.insert(owner, fresh.clone());
            fresh
        }
    };
    if let Err(refused) = verdict {
        return Ok(Verdict::Answer(Err(refused)));
    }
    if let Some(id) = waiting.content.reply_to
        && !knowledge.holds(store, id).await?
    {
        return Ok(Verdict::Answer(Err(Error::ReplyNotFound)));
    }
    Ok(Verdict::New)
}

/// The stamps of a full segment: from its filter, or from its rows again.
async fn full_stamps(shared: &Shared, found: FullSegment) -> Result<FullStamps, StoreError> {
    let segment = found.segment;
    if let Some(filter) = found.filter
        && let Some(bits) = FilterBits::decode(&filter.bytes)
    {
        return Ok(FullStamps {
            segment,
            last_sent_at_ms: filter.last_sent_at_ms,
            bits,
        });
    }
    let entries = read_whole(shared.store.as_ref(), &segment, 0..segment.capacity).await?;
    let bits = FilterBits::of_entries(&entries);
    let last_sent_at_ms = entries.last().map_or(0, |entry| entry.sent_at_ms);
    let filter = StampFilter {
        last_sent_at_ms,
        bytes: bits.encode(),
    };
    if let Err(error) = shared.store.put_filter(&segment, &filter).await {
        tracing::debug!(%error, "a stamp filter was not kept; it is made again when needed");
    }
    Ok(FullStamps {
        segment,
        last_sent_at_ms,
        bits,
    })
}

/// Keeps the filter of a segment that has just become full, beside the appends
/// that go on: it can be made again from the rows.
fn keep_filter(shared: &Arc<Shared>, segment: Segment, filter: StampFilter) {
    let store = Arc::clone(&shared.store);
    shared.appends.spawn(async move {
        if let Err(error) = store.put_filter(&segment, &filter).await {
            tracing::debug!(%error, "a stamp filter was not kept; it is made again when needed");
        }
    });
}

fn entry(waiting: &Waiting, sent_at_ms: i64) -> Entry {
    Entry {
        owner: waiting.owner.id,
        owner_name: waiting.owner.username.clone(),
        stamp: waiting.stamp.clone(),
        sent_at_ms,
        kind: Kind::Message(waiting.content.clone()),
    }
}

pub(super) fn place(segment: &Segment, slot: u32, entry: Entry) -> Option<Placed> {
    Some(Placed {
        topic: segment.topic,
        id: segment.message_id(slot)?,
        seq: segment.seq(slot),
        entry,
    })
}

fn oldest_remembered(shared: &Shared, now_ms: i64) -> i64 {
    let memory = i64::try_from(shared.config.stamp_memory.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(memory)
}

fn closed(_: tokio::sync::AcquireError) -> StoreError {
    StoreError::Unavailable("the log is shut down".into())
}
