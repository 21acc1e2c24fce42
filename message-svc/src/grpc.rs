//! The gRPC face of the service: checks each request, calls the rules, converts
//! the answer.

pub(crate) mod convert;
mod fields;
mod outgoing;
mod paging;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chassis::{
    call::{ActingUser, Call},
    id::{RoomId, Seq, TopicId, UserId},
    status::Refusal,
};
use prost::Message as _;
use proto::message::v1::{
    self as pb, message_service_server::MessageService, send_result::Outcome,
};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use self::{
    fields::{invalid, room_id, topic_id, user_id},
    paging::Listing,
};
use crate::{
    directory::Directory,
    error::Error,
    log::{Direction, Log, Sent},
    store::{StoreError, TopicChange},
};

/// Most messages of one call.
const MAX_MESSAGES: usize = 256;

/// By so much of his time, and at most by so much, before the caller stops waiting the log has
/// to say what it knows of each message. On a machine with too much to do an answer is long on
/// its way, and one that comes too late is asked for again, of another replica.
const ANSWER_MARGIN: f64 = 0.2;
const MAX_ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// A page of entries ends with the one that fills this, well below what gRPC carries in one message.
const PAGE_BYTES: usize = 1024 * 1024;

/// Entries that are read at a time, so that a page of long ones reads few that do not fit.
const READ_AHEAD: usize = 100;

/// `drivers.message.v1.MessageService` over the rules.
pub struct Api {
    directory: Arc<Directory>,
    log: Log,
    changes: TaskTracker,
}

type Answer<T> = Result<Response<T>, Status>;

impl Api {
    /// `changes` has the changes under way, which do not end with their callers.
    pub(crate) fn new(directory: Arc<Directory>, log: Log, changes: TaskTracker) -> Self {
        Self {
            directory,
            log,
            changes,
        }
    }

    /// Makes a change to its end, even if the caller stops waiting: one that is
    /// stored and not announced would not be announced by a retry either.
    async fn change<T, F>(&self, change: impl FnOnce(Arc<Directory>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let change = change(Arc::clone(&self.directory)).in_current_span();
        match self.changes.spawn(change).await {
            Ok(changed) => changed,
            Err(died) => Err(StoreError::Unavailable(died.to_string()).into()),
        }
    }

    /// Entries from `start` on, at most `limit` and [`PAGE_BYTES`] but at least one
    /// if there is one, and the seq at which the next page starts.
    async fn page(
        &self,
        topic: TopicId,
        direction: Direction,
        mut start: Option<Seq>,
        limit: usize,
    ) -> Result<(Vec<pb::Entry>, Option<Seq>), Error> {
        let mut page = Vec::new();
        let mut bytes = 0;
        loop {
            let wanted = (limit - page.len()).min(READ_AHEAD);
            let mut placed = self
                .log
                .page(topic, direction, start, wanted + 1)
                .await?
                .into_iter();
            for placed in placed.by_ref().take(wanted) {
                let entry = convert::entry(&placed);
                bytes += entry.encoded_len();
                if bytes > PAGE_BYTES && !page.is_empty() {
                    return Ok((page, Some(placed.seq)));
                }
                page.push(entry);
            }
            start = placed.next().map(|next| next.seq);
            if start.is_none() || page.len() >= limit {
                return Ok((page, start));
            }
        }
    }

    /// Sends those messages whose form is right; what became of each, in order.
    async fn send(
        &self,
        call: &Call,
        topic: TopicId,
        messages: Vec<(pb::OutgoingMessage, &ActingUser)>,
    ) -> Vec<Result<Sent, Error>> {
        let mut well_formed = Vec::with_capacity(messages.len());
        let faults: Vec<_> = messages
            .into_iter()
            .map(|(message, owner)| outgoing::check(message, owner))
            .map(|checked| checked.map(|message| well_formed.push(message)).err())
            .collect();
        let mut sent = Vec::new();
        if !well_formed.is_empty() {
            let margin = call.time_left().mul_f64(ANSWER_MARGIN);
            let deadline = call.deadline - margin.min(MAX_ANSWER_MARGIN);
            sent = self.log.send(topic, well_formed, deadline).await;
        }
        let mut sent = sent.into_iter();
        faults
            .into_iter()
            .map(|fault| match fault {
                Some(fault) => Err(fault),
                None => sent.next().unwrap_or(Err(Error::OutcomeUnknown)),
            })
            .inspect(count)
            .collect()
    }
}

fn count(result: &Result<Sent, Error>) {
    let label = match result {
        Ok(sent) if sent.duplicate => "DUPLICATE",
        Ok(_) => "SENT",
        Err(error) => error.reason().as_str_name(),
    };
    metrics::counter!("drivers_message_send_results_total", "result" => label).increment(1);
}

/// A caller is told less than the store said, so that is logged here.
fn note(error: &Error) {
    if let Error::Store(error) = error {
        tracing::warn!(%error, "the store failed a call");
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        note(&error);
        Refusal::from(error).into()
    }
}

/// In `SendMessage` the message is a field of the request.
fn refuse_message(error: Error) -> Status {
    note(&error);
    let names_its_own_field = matches!(error, Error::MessageInvalid { .. });
    let mut refusal = Refusal::from(error);
    if names_its_own_field {
        for (field, _) in &mut refusal.fields {
            field.insert_str(0, "message.");
        }
    }
    refusal.into()
}

#[tonic::async_trait]
impl MessageService for Api {
    async fn send_messages(
        &self,
        request: Request<pb::SendMessagesRequest>,
    ) -> Answer<pb::SendMessagesResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        if !(1..=MAX_MESSAGES).contains(&request.messages.len()) {
            return Err(invalid("messages", format!("must hold 1 to {MAX_MESSAGES}")).into());
        }
        let mut messages = Vec::with_capacity(request.messages.len());
        for (place, message) in request.messages.into_iter().enumerate() {
            let owner = usize::try_from(message.acting_user_index)
                .ok()
                .and_then(|index| call.acting_users.get(index));
            let owner = owner.ok_or_else(|| {
                let field = format!("messages[{place}].acting_user_index");
                invalid(field, "must name one of the call's acting users")
            })?;
            messages.push((message, owner));
        }
        let results = self.send(&call, topic, messages).await;
        let results = results.into_iter().map(|result| pb::SendResult {
            outcome: Some(match result {
                Ok(sent) => Outcome::Sent(convert::sent(&sent)),
                Err(error) => {
                    note(&error);
                    Outcome::Failure(error.into())
                }
            }),
        });
        Ok(Response::new(pb::SendMessagesResponse {
            results: results.collect(),
        }))
    }

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Answer<pb::SendMessageResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let message = request
            .message
            .ok_or_else(|| invalid("message", "must be set"))?;
        let ([owner], 0) = (call.acting_users.as_slice(), message.acting_user_index) else {
            let field = "message.acting_user_index";
            return Err(invalid(field, "must name the call's only acting user").into());
        };
        let mut results = self.send(&call, topic, vec![(message, owner)]).await;
        let result = results.pop().unwrap_or(Err(Error::OutcomeUnknown));
        let sent = result.map_err(refuse_message)?;
        Ok(Response::new(pb::SendMessageResponse {
            sent: Some(convert::sent(&sent)),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Answer<pb::ListEntriesResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let direction = fields::direction(request.direction)?;
        if request.start_seq < 0 {
            return Err(invalid("start_seq", "must not be negative").into());
        }
        let start = Seq::new(request.start_seq);
        let listing = Listing::Entries(topic, direction, start);
        let limit = listing.limit(request.page_size)?;
        let next = listing.place(&request.page_token, |seq| Some(Seq::new(seq)))?;
        self.directory.check_readers(topic, &readers(&call)).await?;

        let start = next.or((start > Seq::ZERO).then_some(start));
        let (entries, next) = self.page(topic, direction, start, limit).await?;
        Ok(Response::new(pb::ListEntriesResponse {
            entries,
            next_page_token: next.map_or_else(String::new, |seq| listing.token(seq.get())),
        }))
    }

    async fn batch_get_heads(
        &self,
        request: Request<pb::BatchGetHeadsRequest>,
    ) -> Answer<pb::BatchGetHeadsResponse> {
        let request = request.into_inner();
        let topics = fields::topic_ids(&request.topic_ids)?;
        let max_age = fields::max_age(request.max_age_ms)?;
        let heads = self.log.heads(&topics, max_age).await?;
        check_whole(&heads, request.partial)?;
        let heads = topics.into_iter().zip(heads);
        let (heads, unread): (Vec<_>, Vec<_>) = heads.partition(|(_, seq)| seq.is_some());
        let heads = heads.into_iter();
        let heads: Vec<_> = heads
            .filter_map(|(topic, seq)| Some((topic, seq?)))
            .collect();
        // A topic with an entry exists; only of the others it has to be asked.
        let empty = heads.iter().filter(|(_, seq)| *seq == Seq::ZERO);
        let empty: Vec<_> = empty.map(|(topic, _)| *topic).collect();
        let mut exist = self.directory.existing(&empty).await?.into_iter();
        let heads = heads
            .into_iter()
            .filter(|(_, seq)| *seq > Seq::ZERO || exist.next() == Some(true))
            .map(|(topic, seq)| convert::head(topic, seq));
        Ok(Response::new(pb::BatchGetHeadsResponse {
            heads: heads.collect(),
            unread_topic_ids: unread.iter().map(|(topic, _)| topic.get()).collect(),
        }))
    }

    async fn create_room(
        &self,
        request: Request<pb::CreateRoomRequest>,
    ) -> Answer<pb::CreateRoomResponse> {
        let request = request.into_inner();
        let room = self.directory.create_room(&request.title).await?;
        Ok(Response::new(pb::CreateRoomResponse {
            room: Some(convert::room(room)),
        }))
    }

    async fn list_rooms(
        &self,
        request: Request<pb::ListRoomsRequest>,
    ) -> Answer<pb::ListRoomsResponse> {
        let request = request.into_inner();
        let listing = Listing::Rooms;
        let limit = listing.limit(request.page_size)?;
        let after = listing.place(&request.page_token, RoomId::new)?;
        let mut rooms = self.directory.rooms(after, limit + 1).await?;
        let next_page_token = listing.cut(&mut rooms, limit, |room| room.id.get());
        Ok(Response::new(pb::ListRoomsResponse {
            rooms: rooms.into_iter().map(convert::room).collect(),
            next_page_token,
        }))
    }

    async fn create_topic(
        &self,
        request: Request<pb::CreateTopicRequest>,
    ) -> Answer<pb::CreateTopicResponse> {
        let request = request.into_inner();
        let room = room_id(request.room_id)?;
        let visibility = fields::visibility(request.visibility)?
            .ok_or_else(|| invalid("visibility", "must be open or private"))?;
        let topic = self
            .directory
            .create_topic(room, &request.title, visibility, request.is_default)
            .await?;
        Ok(Response::new(pb::CreateTopicResponse {
            topic: Some(convert::topic(topic)),
        }))
    }

    async fn update_topic(
        &self,
        request: Request<pb::UpdateTopicRequest>,
    ) -> Answer<pb::UpdateTopicResponse> {
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let change = TopicChange {
            title: request.title,
            visibility: fields::visibility(request.visibility)?,
            closed: request.closed,
        };
        let topic = self
            .change(|directory| async move { directory.update_topic(topic, &change).await })
            .await?;
        Ok(Response::new(pb::UpdateTopicResponse {
            topic: Some(convert::topic(topic)),
        }))
    }

    async fn get_topic(
        &self,
        request: Request<pb::GetTopicRequest>,
    ) -> Answer<pb::GetTopicResponse> {
        let topic = topic_id(request.into_inner().topic_id)?;
        let topic = self.directory.topic(topic).await?;
        Ok(Response::new(pb::GetTopicResponse {
            topic: Some(convert::topic(topic)),
        }))
    }

    async fn list_topics(
        &self,
        request: Request<pb::ListTopicsRequest>,
    ) -> Answer<pb::ListTopicsResponse> {
        let request = request.into_inner();
        let room = room_id(request.room_id)?;
        let listing = Listing::Topics(room);
        let limit = listing.limit(request.page_size)?;
        let after = listing.place(&request.page_token, TopicId::new)?;
        let mut topics = self.directory.topics(room, after, limit + 1).await?;
        let next_page_token = listing.cut(&mut topics, limit, |topic| topic.id.get());
        Ok(Response::new(pb::ListTopicsResponse {
            topics: topics.into_iter().map(convert::topic).collect(),
            next_page_token,
        }))
    }

    async fn enrol_user(
        &self,
        request: Request<pb::EnrolUserRequest>,
    ) -> Answer<pb::EnrolUserResponse> {
        let user = user_id(request.into_inner().user_id)?;
        let version = self
            .change(|directory| async move { directory.enrol(user).await })
            .await?;
        Ok(Response::new(pb::EnrolUserResponse { version }))
    }

    async fn join_topic(
        &self,
        request: Request<pb::JoinTopicRequest>,
    ) -> Answer<pb::JoinTopicResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let user = user_id(request.user_id)?;
        let asker = fields::asker(&call, user)?;
        let membership = self
            .change(|directory| async move { directory.join(topic, user, asker).await })
            .await?;
        Ok(Response::new(pb::JoinTopicResponse {
            membership: Some(convert::membership(membership)),
        }))
    }

    async fn leave_topic(
        &self,
        request: Request<pb::LeaveTopicRequest>,
    ) -> Answer<pb::LeaveTopicResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let user = user_id(request.user_id)?;
        fields::asker(&call, user)?;
        self.change(|directory| async move { directory.leave(topic, user).await })
            .await?;
        Ok(Response::new(pb::LeaveTopicResponse {}))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Answer<pb::RemoveMemberResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let user = user_id(request.user_id)?;
        // Nobody has been given power over others, so only a service can mean this.
        if !call.acting_users.is_empty() {
            let rule = "can't be removed by a call that acts for a person";
            return Err(invalid("user_id", rule).into());
        }
        self.change(|directory| async move { directory.remove(topic, user).await })
            .await?;
        Ok(Response::new(pb::RemoveMemberResponse {}))
    }

    async fn list_memberships(
        &self,
        request: Request<pb::ListMembershipsRequest>,
    ) -> Answer<pb::ListMembershipsResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let user = user_id(request.user_id)?;
        fields::asker(&call, user)?;
        let listing = Listing::Memberships(user);
        let limit = listing.limit(request.page_size)?;
        let after = listing.place(&request.page_token, TopicId::new)?;
        let (version, mut memberships) = self.directory.memberships(user, after, limit + 1).await?;
        let next_page_token = listing.cut(&mut memberships, limit, |row| row.topic.get());
        Ok(Response::new(pb::ListMembershipsResponse {
            memberships: memberships.into_iter().map(convert::membership).collect(),
            next_page_token,
            version,
        }))
    }

    async fn batch_get_membership_versions(
        &self,
        request: Request<pb::BatchGetMembershipVersionsRequest>,
    ) -> Answer<pb::BatchGetMembershipVersionsResponse> {
        let request = request.into_inner();
        let users = fields::user_ids(&request.user_ids)?;
        let versions = self.directory.membership_versions(&users).await?;
        check_whole(&versions, request.partial)?;
        let versions = versions.into_iter().map(|version| version.unwrap_or(-1));
        Ok(Response::new(pb::BatchGetMembershipVersionsResponse {
            versions: versions.collect(),
        }))
    }

    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Answer<pb::ListMembersResponse> {
        let call = Call::of(&request);
        let request = request.into_inner();
        let topic = topic_id(request.topic_id)?;
        let listing = Listing::Members(topic);
        let limit = listing.limit(request.page_size)?;
        let after = listing.place(&request.page_token, UserId::new)?;
        self.directory.check_readers(topic, &readers(&call)).await?;
        let mut members = self.directory.members(topic, after, limit + 1).await?;
        let next_page_token = listing.cut(&mut members, limit, |row| row.user.get());
        Ok(Response::new(pb::ListMembersResponse {
            members: members.into_iter().map(convert::membership).collect(),
            next_page_token,
        }))
    }
}

fn readers(call: &Call) -> Vec<UserId> {
    call.acting_users.iter().map(|acting| acting.id).collect()
}

/// Refuses what lacks something, unless the caller takes a part.
fn check_whole<T>(read: &[Option<T>], partial: bool) -> Result<(), Error> {
    if partial || read.iter().all(Option::is_some) {
        return Ok(());
    }
    let why = "some of what was asked for is out of reach".to_owned();
    Err(StoreError::Unavailable(why).into())
}
