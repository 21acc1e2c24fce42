//! How a batch gets into the log.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::Arc,
};

use chassis::{
    clock::now_ms,
    id::{TopicId, UserId},
};
use tokio::time::Instant;

#[cfg(feature = "sabotage")]
use super::sabotage;
use super::{
    ADMITTED_FOR, Sent, Shared,
    knowledge::Knowledge,
    lookup::LookedUp,
    settle::{Senders, Settled, settle},
    topic::{Waiting, late},
};
use crate::{
    entry::{Entry, Kind, Placed, Segment},
    error::Error,
    store::{Stamped, StoreError},
};

/// Writes a batch and answers every message of it. Returns what is known of the
/// topic then; nothing, where a failure left that open.
pub(super) async fn write(
    shared: &Arc<Shared>,
    topic: TopicId,
    knowledge: Option<Knowledge>,
    looked_up: &mut LookedUp,
    mut batch: VecDeque<Waiting>,
) -> Option<Knowledge> {
    let found = if knowledge.is_some() { "hit" } else { "miss" };
    metrics::counter!("drivers_message_knowledge_total", "found" => found).increment(1);
    let mut knowledge = match knowledge {
        Some(knowledge) => knowledge,
        None => match Knowledge::load(shared, topic).await {
            Ok(knowledge) => knowledge,
            Err(error) => return give_up(topic, batch, &error),
        },
    };
    let mut asked = Asked {
        admitted: HashMap::new(),
        looked_up,
        is_caught_up: false,
    };
    while !batch.is_empty() {
        if let Err(error) = write_run(shared, &mut knowledge, &mut asked, &mut batch).await {
            return give_up(topic, batch, &error);
        }
    }
    Some(knowledge)
}

/// What was asked for a batch.
struct Asked<'a> {
    admitted: HashMap<UserId, Admitted>,
    looked_up: &'a mut LookedUp,
    /// Everything is known that was appended before the batch was taken.
    is_caught_up: bool,
}

/// Whether somebody may post.
struct Admitted {
    verdict: Result<(), Error>,
    /// Until when something may be appended by it.
    until: Instant,
    /// Everything is known that was appended before the verdict.
    is_behind_all: bool,
}

impl Asked<'_> {
    /// Asks for somebody, unless he was asked for and that holds still.
    async fn admit(&mut self, shared: &Shared, topic: TopicId, owner: UserId) -> &Admitted {
        let now = Instant::now();
        match self.admitted.entry(owner) {
            hash_map::Entry::Occupied(known) if now < known.get().until => known.into_mut(),
            entry => {
                let fresh = Admitted {
                    verdict: shared.admission.admit(topic, owner).await,
                    until: now + ADMITTED_FOR,
                    is_behind_all: false,
                };
                entry.insert_entry(fresh).into_mut()
            }
        }
    }
}

/// Answers a batch of which nothing more can be done.
fn give_up(topic: TopicId, batch: VecDeque<Waiting>, error: &StoreError) -> Option<Knowledge> {
    tracing::warn!(%topic, messages = batch.len(), %error, "messages could not be appended");
    for waiting in batch {
        let answer = if waiting.tried {
            #[cfg(feature = "sabotage")]
            if chassis::sabotage::is("unknown_is_refused") {
                waiting.answer(Err(Error::TopicClosed));
                continue;
            }
            Error::OutcomeUnknown
        } else {
            Error::Store(error.clone())
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
    asked: &mut Asked<'_>,
    batch: &mut VecDeque<Waiting>,
) -> Result<(), StoreError> {
    if knowledge.is_full() {
        knowledge.turn_over(shared).await?;
    }
    let mut run = Run::new(shared, knowledge);
    while let Some(waiting) = batch.front() {
        if !run.has_room_for(waiting) {
            break;
        }
        let verdict = judge(shared, knowledge, asked, waiting, batch).await?;
        if let Verdict::Refused = verdict {
            if run.entries.is_empty() {
                return catch_up_with_refusals(shared, knowledge, asked, batch).await;
            }
            break;
        }
        let Some(waiting) = batch.pop_front() else {
            break;
        };
        match verdict {
            Verdict::Refused => {}
            Verdict::New(until) => run.push(waiting, until),
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
        until,
        ..
    } = run;
    // Too old an admission is asked for again.
    if entries.is_empty() || Instant::now() >= until {
        waiting.append(batch);
        *batch = waiting;
        return Ok(());
    }
    let topic = knowledge.segment.topic;
    #[cfg(feature = "sabotage")]
    sabotage::before_the_append(shared, knowledge, &entries, &mut waiting);
    let settled = settle(
        shared.store.as_ref(),
        &knowledge.segment,
        knowledge.head,
        &entries,
        &mut waiting,
        Senders {
            admission: shared.admission.as_ref(),
            topic,
            until,
        },
    )
    .await;
    let outcome = match settled {
        Settled::Applied(count) => {
            let first = knowledge.head;
            let written = entries.get(..count).unwrap_or_default();
            knowledge.append(shared, written.iter().map(Stamped::from));
            let placed: Vec<Placed> = (first..)
                .zip(written)
                .filter_map(|(slot, entry)| place(&knowledge.segment, slot, entry.clone()))
                .collect();
            shared.announcer.appended(&placed);
            for (waiting, placed) in waiting.drain(..count).zip(placed) {
                // Whose caller has gone comes again.
                if waiting.is_abandoned() {
                    asked.looked_up.keep(placed.clone());
                }
                waiting.answer(Ok(Sent {
                    placed,
                    duplicate: false,
                }));
            }
            Ok(())
        }
        Settled::Stale(head) => {
            metrics::counter!("drivers_message_conflicts_total").increment(1);
            knowledge.catch_up(shared, head).await
        }
        Settled::Refused(why) => {
            if let Some(refused) = waiting.pop_front() {
                tracing::warn!(topic = %knowledge.segment.topic, why, "the store refused a message");
                refused.answer(Err(Error::NotStored("the store refused the message")));
            }
            Ok(())
        }
        Settled::Unavailable(why) | Settled::Unknown(why) => Err(StoreError::Unavailable(why)),
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
    /// Until when these may be appended.
    until: Instant,
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
            until: Instant::now() + ADMITTED_FOR,
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

    fn push(&mut self, waiting: Waiting, until: Instant) {
        let entry = entry(&waiting, self.sent_at_ms);
        #[cfg(feature = "sabotage")]
        let entry = sabotage::back_in_time(entry);
        self.bytes_left = self.bytes_left.saturating_sub(entry.weight());
        self.entries.push(entry);
        self.waiting.push_back(waiting);
        self.until = self.until.min(until);
    }
}

/// Asks for all senders of a batch of whom one is refused, and then reads what others have
/// appended up to then: whose message is in the log already is not refused.
async fn catch_up_with_refusals(
    shared: &Arc<Shared>,
    knowledge: &mut Knowledge,
    asked: &mut Asked<'_>,
    batch: &VecDeque<Waiting>,
) -> Result<(), StoreError> {
    for waiting in batch {
        let topic = knowledge.segment.topic;
        asked.admit(shared, topic, waiting.owner.id).await;
    }
    knowledge.refresh(shared).await?;
    asked.is_caught_up = true;
    for admitted in asked.admitted.values_mut() {
        admitted.is_behind_all = true;
    }
    Ok(())
}

enum Verdict {
    /// It may be appended until then.
    New(Instant),
    /// It is refused, unless what others have appended says otherwise.
    Refused,
    /// It is in the log by an append of ours whose outcome was not known.
    Written(Sent),
    Answer(Result<Sent, Error>),
}

/// Looks a message, the first of its batch, up by its stamp before any other rule, then
/// applies the rules.
async fn judge(
    shared: &Shared,
    knowledge: &Knowledge,
    asked: &mut Asked<'_>,
    waiting: &Waiting,
    batch: &VecDeque<Waiting>,
) -> Result<Verdict, StoreError> {
    let owner = waiting.owner.id;
    let stamps = batch.iter().map(|one| (one.owner.id, &one.stamp));
    if let Some(placed) = (knowledge.stamped(shared, asked.looked_up, stamps).await)? {
        #[cfg(feature = "sabotage")]
        let placed = sabotage::afresh(placed);
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
    let admitted = asked.admit(shared, knowledge.segment.topic, owner).await;
    let until = admitted.until;
    match &admitted.verdict {
        Ok(()) => {}
        Err(Error::Store(failed)) => return Err(failed.clone()),
        Err(_) if !admitted.is_behind_all => return Ok(Verdict::Refused),
        Err(refused) => return Ok(Verdict::Answer(Err(refused.clone()))),
    }
    if let Some(id) = waiting.content.reply_to
        && !knowledge.holds(shared.store.as_ref(), id).await?
    {
        return Ok(if asked.is_caught_up {
            Verdict::Answer(Err(Error::ReplyNotFound))
        } else {
            Verdict::Refused
        });
    }
    Ok(Verdict::New(until))
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
