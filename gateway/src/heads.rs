//! Asks for heads: what many feeds want to know at once is one call.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chassis::{
    call::Call,
    id::{Seq, TopicId},
};
use proto::message::v1::BatchGetHeadsRequest;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::hub::House;

/// Topics of one call; what message-svc takes at most.
pub(crate) const MAX_TOPICS: usize = 1_000;
/// Questions that wait; more are refused.
const MAX_WAITING: usize = 16_384;
/// Longest time of one call, retries included.
const LIMIT: Duration = Duration::from_secs(3);

type Question = (TopicId, oneshot::Sender<Result<Seq, Status>>);

/// The way to the task that asks.
pub(crate) struct Heads {
    questions: mpsc::Sender<Question>,
}

/// The task's half.
pub(crate) struct HeadsAsker {
    questions: mpsc::Receiver<Question>,
}

impl Heads {
    pub(crate) fn new() -> (Self, HeadsAsker) {
        let (ask, questions) = mpsc::channel(MAX_WAITING);
        (Self { questions: ask }, HeadsAsker { questions })
    }

    /// The newest seq of a topic, read after this was called; 0 for a topic that
    /// has no entry or does not exist.
    pub(crate) async fn ask(&self, topic: TopicId) -> Result<Seq, Status> {
        let (answer, coming) = oneshot::channel();
        (self.questions.try_send((topic, answer)))
            .map_err(|_| Status::unavailable("too many topics are being opened"))?;
        coming
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("the gateway stops")))
    }
}

impl HeadsAsker {
    /// Answers until the gateway stops. What is asked during a call goes into the next.
    pub(crate) async fn run(mut self, house: Arc<House>) {
        let mut asked = Vec::new();
        loop {
            let next = self.questions.recv_many(&mut asked, MAX_TOPICS);
            tokio::select! {
                () = house.stopped.cancelled() => return,
                count = next => if count == 0 { return },
            }
            let topics = asked.iter().map(|(topic, _)| *topic).collect();
            let heads = read(&house, Call::within(LIMIT), topics, Duration::ZERO).await;
            for (topic, answer) in asked.drain(..) {
                let head = match &heads {
                    Ok(heads) if heads.unread.contains(&topic) => {
                        Err(Status::unavailable("the topic can't be read now"))
                    }
                    Ok(heads) => Ok(heads.read.get(&topic).copied().unwrap_or(Seq::ZERO)),
                    Err(status) => Err(status.clone()),
                };
                // Whoever asked may have gone.
                let _gone = answer.send(head);
            }
        }
    }
}

/// What was found out about topics; nothing of those that do not exist.
pub(crate) struct Found {
    pub(crate) read: HashMap<TopicId, Seq>,
    /// Those that message-svc can't read now.
    pub(crate) unread: HashSet<TopicId>,
}

/// The heads of up to [`MAX_TOPICS`] topics, read by message-svc no longer ago than `max_age`.
pub(crate) async fn read(
    house: &House,
    call: Call,
    mut topics: Vec<TopicId>,
    max_age: Duration,
) -> Result<Found, Status> {
    topics.sort_unstable();
    topics.dedup();
    let request = call.request(BatchGetHeadsRequest {
        topic_ids: topics.iter().map(|topic| topic.get()).collect(),
        max_age_ms: i32::try_from(max_age.as_millis()).unwrap_or(i32::MAX),
        partial: true,
    });
    let mut client = house.services.message.clone();
    let found = client.batch_get_heads(request).await?.into_inner();
    let read = found.heads.into_iter();
    let unread = found.unread_topic_ids.into_iter();
    Ok(Found {
        read: read
            .filter_map(|head| Some((TopicId::new(head.topic_id)?, Seq::new(head.seq))))
            .collect(),
        unread: unread.filter_map(TopicId::new).collect(),
    })
}
