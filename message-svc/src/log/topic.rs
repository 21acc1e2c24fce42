//! The queue of one topic: what waits for its next append, and who writes it.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use chassis::{call::ActingUser, id::TopicId};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{Outgoing, Sent, Shared, knowledge::Knowledge, lookup::LookedUp, writer::write};
use crate::{
    entry::{Content, Stamp},
    error::Error,
};

/// One topic, as far as this replica has to do with it.
pub(super) struct TopicLog {
    topic: TopicId,
    queue: Mutex<Queue>,
    weight: AtomicU32,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    writer: Writer,
}

/// A task writes while there is something to write, and none exists otherwise.
enum Writer {
    Idle(Option<Knowledge>),
    Busy,
}

impl Default for Writer {
    fn default() -> Self {
        Self::Idle(None)
    }
}

/// A message that waits for its turn.
pub(super) struct Waiting {
    pub(super) owner: ActingUser,
    pub(super) stamp: Stamp,
    pub(super) content: Content,
    pub(super) deadline: Instant,
    /// Whether an append with it was tried whose outcome is not known.
    pub(super) tried: bool,
    answer: oneshot::Sender<Result<Sent, Error>>,
    claim: Claim,
}

/// Decides who comes first: the writer who takes a message into a batch, or the
/// caller who stops waiting. What its caller took back is never stored.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Waiting {
    pub(super) fn answer(self, result: Result<Sent, Error>) {
        // Who asked may have gone; the log does not depend on him.
        let _gone = self.answer.send(result);
    }

    /// Answers early, and once more later, in vain.
    #[cfg(feature = "sabotage")]
    pub(super) fn answer_early(&mut self, sent: Sent) {
        let answer = std::mem::replace(&mut self.answer, oneshot::channel().0);
        let _gone = answer.send(Ok(sent));
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn weight(&self) -> usize {
        self.content.body.len() + self.content.attrs.as_ref().map_or(0, String::len)
    }
}

/// The answer to one message, to come.
pub(super) enum Answer {
    Ready(Error),
    Coming(oneshot::Receiver<Result<Sent, Error>>, Claim),
}

impl Answer {
    pub(super) async fn wait(self, deadline: Instant) -> Result<Sent, Error> {
        match self {
            Self::Ready(error) => Err(error),
            Self::Coming(answer, claim) => match timeout_at(deadline, answer).await {
                Ok(Ok(result)) => result,
                Err(_) if claim.take() => Err(late()),
                Ok(Err(_)) | Err(_) => Err(Error::OutcomeUnknown),
            },
        }
    }
}

impl TopicLog {
    pub(super) fn of(shared: &Shared, topic: TopicId) -> Arc<Self> {
        shared.topics.get_with(topic, || {
            Arc::new(Self {
                topic,
                queue: Mutex::default(),
                weight: AtomicU32::new(BASE_WEIGHT),
            })
        })
    }

    /// Bytes it takes in the cache.
    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Puts messages behind those that wait, in their order.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        messages: Vec<Outgoing>,
        deadline: Instant,
    ) -> Vec<Answer> {
        if shared.appends.is_closed() {
            return messages
                .iter()
                .map(|_| Answer::Ready(Error::NotStored("the service is shutting down")))
                .collect();
        }
        let mut queue = self.queue();
        let answers = messages
            .into_iter()
            .map(|message| {
                if queue.waiting.len() >= shared.config.queue_entries {
                    return Answer::Ready(Error::NotStored(
                        "too many messages wait for this topic",
                    ));
                }
                let (answer, coming) = oneshot::channel();
                let claim = Claim::default();
                queue.waiting.push_back(Waiting {
                    owner: message.owner,
                    stamp: message.stamp.unwrap_or_else(made_up_stamp),
                    content: message.content,
                    deadline,
                    tried: false,
                    answer,
                    claim: claim.clone(),
                });
                Answer::Coming(coming, claim)
            })
            .collect();
        if let Writer::Idle(knowledge) = &mut queue.writer {
            let knowledge = knowledge.take();
            queue.writer = Writer::Busy;
            drop(queue);
            let turn = Turn {
                topic: Arc::clone(self),
                shared: Arc::clone(shared),
                knowledge,
                looked_up: LookedUp::default(),
            };
            shared.appends.spawn(turn.run());
        }
        answers
    }

    /// The next messages to write, within the bounds of one append.
    ///
    /// Whoever has gone can't be told, and sends his again if he comes back: while the
    /// store is slow, what was given up must not stand in front of its own retry.
    fn next_batch(queue: &mut Queue, shared: &Shared) -> VecDeque<Waiting> {
        let config = &shared.config;
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            let is_wanted = !next.is_abandoned();
            if is_wanted {
                bytes += next.weight();
                let has_room = batch.len() < config.batch_entries && bytes <= config.batch_bytes;
                if !has_room && !batch.is_empty() {
                    break;
                }
            }
            batch.extend((queue.waiting.pop_front()).filter(|next| is_wanted && next.claim.take()));
        }
        #[cfg(feature = "sabotage")]
        super::sabotage::turned_round(&mut batch);
        batch
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a topic takes that has nothing waiting and of which nothing is known.
const BASE_WEIGHT: u32 = 512;

/// How long a topic is counted among those that are written to: one that hangs keeps no
/// other from its turn.
const PLACE: Duration = Duration::from_millis(500);

/// The task that writes for a topic until nothing waits.
struct Turn {
    topic: Arc<TopicLog>,
    shared: Arc<Shared>,
    knowledge: Option<Knowledge>,
    /// Kept from batch to batch: where a store is so slow that callers give up before
    /// their retries are looked up, the next time finds them here.
    looked_up: LookedUp,
}

impl Turn {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while self.has_work() {
            // What comes until then goes along.
            let place = shared.writes.acquire().await;
            let batch = TopicLog::next_batch(&mut self.topic.queue(), &shared);
            metrics::histogram!("drivers_message_batch_entries").record(batch.len() as f64);
            let knowledge = self.knowledge.take();
            let topic = self.topic.topic;
            let mut written = pin!(write(&shared, topic, knowledge, &mut self.looked_up, batch));
            self.knowledge = match timeout(PLACE, &mut written).await {
                Ok(knowledge) => knowledge,
                Err(_) => {
                    drop(place);
                    written.await
                }
            };
        }
    }

    /// Whether something waits; when nothing does, gives the knowledge back within the
    /// same lock, so that no message is left without a writer.
    fn has_work(&mut self) -> bool {
        let mut queue = self.topic.queue();
        if !queue.waiting.is_empty() {
            return true;
        }
        let weight = BASE_WEIGHT + self.knowledge.as_ref().map_or(0, Knowledge::weight);
        queue.writer = Writer::Idle(self.knowledge.take());
        drop(queue);
        let known = self.topic.weight.swap(weight, Ordering::Relaxed);
        if weight.abs_diff(known) > known / 4 {
            // The cache weighs an entry when it is put in.
            self.shared
                .topics
                .insert(self.topic.topic, Arc::clone(&self.topic));
        }
        false
    }
}

impl Drop for Turn {
    /// A turn that ends early must not leave its topic without a writer for ever:
    /// those who wait are told that nothing is known.
    fn drop(&mut self) {
        let mut queue = self.topic.queue();
        if matches!(queue.writer, Writer::Busy) && std::thread::panicking() {
            queue.writer = Writer::Idle(None);
            queue.waiting.clear();
        }
    }
}

/// The answer to a message whose time ran out before a batch took it.
pub(super) fn late() -> Error {
    Error::NotStored("the time ran out before its turn")
}

fn made_up_stamp() -> Stamp {
    Stamp::MadeUp(format!("{:032x}", rand::random::<u128>()))
}
