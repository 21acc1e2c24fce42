//! Messages on their way from sockets here to message-svc: one call at a time
//! for a topic, in the order in which they came.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chassis::{
    call::{ActingUser, Call},
    id::{Seq, TopicId},
};
use proto::message::v1::{
    ErrorReason, OutgoingMessage, SendFailure, SendMessagesRequest, Sent, outgoing_message::Stamp,
    send_result::Outcome,
};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    concurrency::Place,
    error::FailCode,
    hub::{Services, SessionId},
    message::message_failure,
    outbox::Reply,
    rules::{NewMessage, SessionHandle},
};

/// Most bytes and senders of one call.
const MAX_BYTES: usize = 1 << 20;
const MAX_SENDERS: usize = 32;

/// Least time of a call, however little a message of it has left: that of one try.
const SHORTEST_CALL: Duration = Duration::from_secs(1);

/// Most time of a call: that of a try at a replica that is silent, and of one at another. What
/// was too large for both would be too large for a third.
const LONGEST_CALL: Duration = Duration::from_secs(2);

/// A message that a socket here has emitted and that is not answered yet.
pub(crate) struct Outgoing {
    pub(super) session: Arc<SessionHandle>,
    pub(super) reply: Reply,
    /// What the feed had let out when the message came in.
    pub(super) emitted_at: Seq,
    message: NewMessage,
    /// The client's, or one made up where he gave none, so that a repeated call appends once.
    stamp: Stamp,
    pub(super) came_at: Instant,
    deadline: Instant,
}

impl Outgoing {
    pub(crate) fn new(
        session: &Arc<SessionHandle>,
        message: NewMessage,
        reply: Reply,
        limit: Duration,
    ) -> Self {
        let stamp = match &message.stamp_id {
            Some(stamp) => Stamp::StampId(stamp.clone()),
            None => Stamp::EdgeStamp(format!("{:032x}", rand::random::<u128>())),
        };
        let now = Instant::now();
        Self {
            session: Arc::clone(session),
            reply,
            emitted_at: Seq::ZERO,
            message,
            stamp,
            came_at: now,
            deadline: now + limit,
        }
    }

    /// Tells the sender, and him alone, that it failed.
    pub(crate) fn fail(self, code: FailCode, sentence: &str) {
        metrics::counter!("drivers_gateway_sends_failed_total", "code" => code.as_str())
            .increment(1);
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("swallow_failures") {
            return;
        }
        let frame = message_failure(code, sentence, self.message.stamp_id.as_deref());
        self.reply.answer(&frame);
    }

    /// The same where there is no more to say than that it may be sent again.
    pub(crate) fn fail_unavailable(self) {
        self.fail(FailCode::Unavailable, FailCode::Unavailable.sentence());
    }

    fn bytes(&self) -> usize {
        let attrs = self
            .message
            .attrs
            .as_ref()
            .map_or(0, |json| json.get().len());
        self.message.body.len() + attrs + 256
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// When it is late.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Gives it more time.
    pub(super) fn extend(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// The client's own stamp.
    pub(super) fn stamp_id(&self) -> Option<&str> {
        self.message.stamp_id.as_deref()
    }

    fn to_wire(&self, acting_user_index: usize) -> OutgoingMessage {
        let message = &self.message;
        OutgoingMessage {
            acting_user_index: u32::try_from(acting_user_index).unwrap_or(u32::MAX),
            stamp: Some(self.stamp.clone()),
            body: message.body.clone(),
            reply_to: message.reply_to.map_or(0, |id| id.get()),
            attrs_json: message
                .attrs
                .as_ref()
                .map_or_else(String::new, |json| json.get().to_owned()),
            has_media: message.has_media,
        }
    }
}

/// The messages of one call, each with the place of its sender among the acting users.
#[derive(Default)]
pub(super) struct Batch {
    messages: Vec<(Outgoing, usize)>,
    senders: Vec<ActingUser>,
    bytes: usize,
}

/// What became of the messages of one call, in their order.
pub(super) type Answered = Vec<(Outgoing, Result<Outcome, Status>)>;

/// Answers those in front that have waited too long.
pub(super) fn refuse_the_late(queue: &mut VecDeque<Outgoing>, now: Instant) {
    while let Some(late) = queue.pop_front_if(|first| first.is_late(now)) {
        late.fail_unavailable();
    }
}

impl Batch {
    /// Takes from the front of a queue what fits into one call, of so many messages at
    /// most. What has waited too long already is answered, by the same clock by which others
    /// were given more time.
    pub(super) fn take(queue: &mut VecDeque<Outgoing>, now: Instant, most: usize) -> Self {
        let mut batch = Self::default();
        loop {
            refuse_the_late(queue, now);
            let fits =
                |next: &mut Outgoing| batch.messages.len() < most && batch.has_room_for(next);
            match queue.pop_front_if(fits) {
                Some(next) => batch.push(next),
                None => return batch,
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The sessions whose messages these are, as often as they have one.
    pub(super) fn senders(&self) -> impl Iterator<Item = SessionId> {
        let messages = self.messages.iter();
        messages.map(|(outgoing, _)| outgoing.session.session_id)
    }

    fn has_room_for(&self, outgoing: &Outgoing) -> bool {
        self.messages.is_empty()
            || self.bytes + outgoing.bytes() <= MAX_BYTES
                && (self.senders.len() < MAX_SENDERS || self.place_of(outgoing).is_some())
    }

    fn push(&mut self, outgoing: Outgoing) {
        let place = self.place_of(&outgoing).unwrap_or_else(|| {
            let user = &outgoing.session.user;
            self.senders.push(ActingUser {
                id: user.user_id,
                username: user.username.clone(),
            });
            self.senders.len() - 1
        });
        self.bytes += outgoing.bytes();
        self.messages.push((outgoing, place));
    }

    fn place_of(&self, outgoing: &Outgoing) -> Option<usize> {
        let user = &outgoing.session.user;
        (self.senders.iter())
            .position(|sender| sender.id == user.user_id && sender.username == user.username)
    }

    /// Sends them, and says what became of each.
    pub(super) async fn send(self, services: Services, topic: TopicId, place: Place) -> Answered {
        let messages = self.messages.iter();
        // Who has waited longest is not kept waiting for those who came last.
        let due = (messages.clone()).map(|(outgoing, _)| outgoing.deadline);
        let limit = due.min().map_or(SHORTEST_CALL, |at| {
            at.saturating_duration_since(Instant::now())
                .clamp(SHORTEST_CALL, LONGEST_CALL)
        });
        let call = Call::within(limit).about(topic);
        let call = (self.senders.into_iter()).fold(call, Call::acting_for);
        let request = call.request(SendMessagesRequest {
            topic_id: topic.get(),
            messages: messages
                .map(|(outgoing, index)| outgoing.to_wire(*index))
                .collect(),
        });
        let outcomes = place
            .hold(services.send_messages(request))
            .await
            .map(|answer| {
                let results = answer.results.into_iter();
                results.map(|result| result.outcome.ok_or_else(unanswered))
            });
        let mut answered = Vec::with_capacity(self.messages.len());
        match outcomes {
            Ok(mut outcomes) => {
                for (outgoing, _) in self.messages {
                    let outcome = outcomes.next().unwrap_or_else(|| Err(unanswered()));
                    answered.push((outgoing, outcome));
                }
            }
            Err(status) => {
                for (outgoing, _) in self.messages {
                    answered.push((outgoing, Err(status.clone())));
                }
            }
        }
        answered
    }
}

fn unanswered() -> Status {
    Status::unavailable("the message was not answered")
}

/// What is to be done about one message.
pub(super) enum Verdict {
    Sent(Box<Sent>),
    Failed(FailCode, String),
    /// Nothing is known, or nothing was stored for a reason that may pass.
    Again,
    /// Nothing was stored, for there is more to do than is done in time.
    Busy,
}

pub(super) fn judge(outcome: Result<Outcome, Status>) -> Verdict {
    match outcome {
        Ok(Outcome::Sent(sent)) => Verdict::Sent(Box::new(sent)),
        Ok(Outcome::Failure(failure)) => judge_failure(&failure),
        Err(status) => match status.code() {
            tonic::Code::InvalidArgument => {
                tracing::error!(error = %status, "message-svc finds our call malformed");
                failed(FailCode::InvalidMessage)
            }
            tonic::Code::NotFound => failed(FailCode::TopicNotFound),
            _ => Verdict::Again,
        },
    }
}

fn judge_failure(failure: &SendFailure) -> Verdict {
    match failure.reason() {
        ErrorReason::FieldInvalid | ErrorReason::MessageInvalid => {
            Verdict::Failed(FailCode::InvalidMessage, failure.message.clone())
        }
        ErrorReason::TopicNotFound | ErrorReason::RoomNotFound => failed(FailCode::TopicNotFound),
        ErrorReason::TopicClosed => failed(FailCode::TopicClosed),
        ErrorReason::NotAMember => failed(FailCode::NotAMember),
        ErrorReason::MembershipsFull => Verdict::Failed(
            FailCode::NotAMember,
            "you are a member of as many topics as a user can be".into(),
        ),
        ErrorReason::ReplyNotFound => failed(FailCode::ReplyNotFound),
        ErrorReason::StampReused => failed(FailCode::StampReused),
        ErrorReason::NotStored => Verdict::Busy,
        ErrorReason::Unspecified | ErrorReason::OutcomeUnknown | ErrorReason::StoreUnavailable => {
            Verdict::Again
        }
    }
}

fn failed(code: FailCode) -> Verdict {
    Verdict::Failed(code, code.sentence().into())
}
