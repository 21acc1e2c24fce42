//! message-svc and user-svc in one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chassis::{
    bus::{Bus, Subject},
    call::Call,
    id::TopicId,
};
use prost::Message as _;
use proto::{
    event::v1::{EntriesAppended, TopicEvent, topic_event::Event},
    message::v1::{self as pb, message_service_server as message_server},
    user::v1::{self as user_pb, user_service_server as user_server},
};
use tonic::{Request, Response, Status};

use super::{Answer, not_played, topic};
use crate::rules::SessionHandle;

/// How the log fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Calls are refused.
    Away,
    /// What is sent is appended, and the answer lost.
    AnswersLost,
    /// Messages are refused, each by itself.
    NotStored,
}

pub(crate) struct Log {
    bus: Arc<dyn Bus>,
    world: Mutex<World>,
    /// Calls that send messages are served one after the other.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct World {
    entries: BTreeMap<TopicId, Vec<pb::Entry>>,
    members: HashMap<i64, (i64, BTreeMap<TopicId, i64>)>,
    never_enrolled: HashSet<i64>,
    tokens: HashSet<Vec<u8>>,
    trouble: Option<(Trouble, u32)>,
    open_of: Option<i64>,
    heads_away: bool,
    entries_away: bool,
    /// What is asked about this one is out of reach.
    topic_out_of_reach: Option<TopicId>,
    user_out_of_reach: Option<i64>,
    tokens_out_of_reach: bool,
    call_takes: Duration,
    message_takes: Duration,
    send_calls: usize,
}

impl World {
    fn member(&mut self, user: i64) -> &mut (i64, BTreeMap<TopicId, i64>) {
        let default = (1, BTreeMap::from([(topic(), 0)]));
        self.members.entry(user).or_insert(default)
    }

    fn append(&mut self, topic: TopicId, owner: i64, stamp: &str, body: &str) -> (pb::Entry, bool) {
        let entries = self.entries.entry(topic).or_default();
        let twin = |entry: &&pb::Entry| {
            let Some(pb::entry::Kind::Message(message)) = &entry.kind else {
                return false;
            };
            message.stamp_id == stamp && entry.owner.as_ref().unwrap().id == owner
        };
        if let Some(entry) = entries.iter().find(twin) {
            return (entry.clone(), true);
        }
        let seq = entries.len() as i64 + 1;
        entries.push(pb::Entry {
            id: topic.get() * 1_000_000 + seq,
            topic_id: topic.get(),
            seq,
            sent_at_ms: seq,
            owner: Some(pb::Author {
                id: owner,
                username: format!("user {owner}"),
            }),
            kind: Some(pb::entry::Kind::Message(pb::Message {
                stamp_id: stamp.into(),
                body: body.into(),
                ..pb::Message::default()
            })),
        });
        (entries.last().unwrap().clone(), false)
    }
}

impl Log {
    pub(super) fn new(bus: Arc<dyn Bus>) -> Self {
        let mut world = World::default();
        world.entries.insert(topic(), Vec::new());
        Self {
            bus,
            world: Mutex::new(world),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn publish(&self, entry: pb::Entry) {
        let topic = TopicId::new(entry.topic_id).unwrap();
        let event = TopicEvent {
            event: Some(Event::EntriesAppended(EntriesAppended {
                entries: vec![entry],
            })),
        };
        self.bus
            .publish(Subject::Topic(topic), event.encode_to_vec().into());
    }

    pub(crate) fn append_elsewhere(&self, topic: TopicId, owner: i64, stamp: &str) {
        let (entry, _) = self.world().append(topic, owner, stamp, stamp);
        self.publish(entry);
    }

    pub(crate) fn open_topic(&self, id: i64) -> TopicId {
        let topic = TopicId::new(id).unwrap();
        self.world().entries.insert(topic, Vec::new());
        topic
    }

    pub(crate) fn stamps(&self, topic: TopicId) -> Vec<String> {
        let world = self.world();
        let messages = world.entries[&topic].iter().map(|entry| {
            let Some(pb::entry::Kind::Message(message)) = &entry.kind else {
                panic!()
            };
            message.stamp_id.clone()
        });
        messages.collect()
    }

    pub(crate) fn trouble(&self, trouble: Trouble, calls: u32) {
        self.world().trouble = Some((trouble, calls));
    }

    /// What this user sends stays open.
    pub(crate) fn keep_open(&self, user: Option<i64>) {
        self.world().open_of = user;
    }

    /// How long each call takes, whatever it brings.
    pub(crate) fn each_call_takes(&self, time: Duration) {
        self.world().call_takes = time;
    }

    /// How long each message of a call takes besides.
    pub(crate) fn each_message_takes(&self, time: Duration) {
        self.world().message_takes = time;
    }

    /// How many calls came that send messages.
    pub(crate) fn send_calls(&self) -> usize {
        self.world().send_calls
    }

    /// Whether heads can't be read, so that no topic can be opened.
    pub(crate) fn heads_are_away(&self, away: bool) {
        self.world().heads_away = away;
    }

    /// Whether entries can't be read, so that no hole is filled.
    pub(crate) fn entries_are_away(&self, away: bool) {
        self.world().entries_away = away;
    }

    /// Whose head can't be read, whatever is asked besides.
    pub(crate) fn topic_is_out_of_reach(&self, topic: Option<TopicId>) {
        self.world().topic_out_of_reach = topic;
    }

    /// The version of whose memberships can't be read.
    pub(crate) fn user_is_out_of_reach(&self, user: Option<i64>) {
        self.world().user_out_of_reach = user;
    }

    /// Whether no token can be told to be live or not.
    pub(crate) fn tokens_are_out_of_reach(&self, out_of_reach: bool) {
        self.world().tokens_out_of_reach = out_of_reach;
    }

    /// Makes a user a member and tells nobody.
    pub(crate) fn join(&self, user: i64, topic: TopicId) {
        let mut world = self.world();
        let head = world.entries[&topic].len() as i64;
        let (version, topics) = world.member(user);
        topics.insert(topic, head);
        *version += 1;
    }

    pub(crate) fn leave(&self, user: i64, topic: TopicId) {
        let mut world = self.world();
        let (version, topics) = world.member(user);
        topics.remove(&topic);
        *version += 1;
    }

    /// Makes the token of this session one that is live.
    pub(super) fn issue(&self, session: &SessionHandle) {
        let token = session.token_sha256.to_vec();
        self.world().tokens.insert(token);
    }

    pub(crate) fn revoke(&self, session: &SessionHandle) {
        self.world().tokens.remove(session.token_sha256.as_slice());
    }

    pub(crate) fn forget(&self, user: i64) {
        self.world().never_enrolled.insert(user);
    }
}

#[tonic::async_trait]
impl message_server::MessageService for Log {
    async fn send_messages(
        &self,
        request: Request<pb::SendMessagesRequest>,
    ) -> Answer<pb::SendMessagesResponse> {
        let users = Call::of(&request).acting_users;
        let request = request.into_inner();
        let topic = TopicId::new(request.topic_id).unwrap();
        let takes = {
            let mut world = self.world();
            world.send_calls += 1;
            world.call_takes + world.message_takes * request.messages.len() as u32
        };
        let turn = self.turn.lock().await;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        drop(turn);
        let mut world = self.world();
        let trouble = match &mut world.trouble {
            Some((trouble, calls)) if *calls > 0 => {
                *calls -= 1;
                Some(*trouble)
            }
            _ => None,
        };
        if matches!(trouble, Some(Trouble::Away)) {
            return Err(Status::unavailable("away"));
        }
        let mut results = Vec::new();
        let mut published = Vec::new();
        for message in request.messages {
            let owner = users[message.acting_user_index as usize].id.get();
            let failure = match trouble {
                Some(Trouble::NotStored) => Some(pb::ErrorReason::NotStored),
                _ if world.open_of == Some(owner) => Some(pb::ErrorReason::OutcomeUnknown),
                _ => None,
            };
            let outcome = if let Some(reason) = failure {
                pb::send_result::Outcome::Failure(pb::SendFailure {
                    reason: reason.into(),
                    ..pb::SendFailure::default()
                })
            } else {
                let head = world.entries[&topic].len() as i64;
                let (version, topics) = world.member(owner);
                topics.entry(topic).or_insert_with(|| {
                    *version += 1;
                    head
                });
                let Some(pb::outgoing_message::Stamp::StampId(stamp)) = message.stamp else {
                    panic!()
                };
                let (entry, duplicate) = world.append(topic, owner, &stamp, &message.body);
                if !duplicate {
                    published.push(entry.clone());
                }
                pb::send_result::Outcome::Sent(pb::Sent {
                    entry: Some(entry),
                    duplicate,
                })
            };
            results.push(pb::SendResult {
                outcome: Some(outcome),
            });
        }
        drop(world);
        published.into_iter().for_each(|entry| self.publish(entry));
        if matches!(trouble, Some(Trouble::AnswersLost)) {
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(pb::SendMessagesResponse { results }))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Answer<pb::ListEntriesResponse> {
        let request = request.into_inner();
        let topic = TopicId::new(request.topic_id).unwrap();
        let world = self.world();
        if world.entries_away {
            return Err(Status::unavailable("entries can't be read"));
        }
        let from = request.start_seq as usize - 1;
        let entries = world.entries[&topic]
            .iter()
            .skip(from)
            .take(request.page_size as usize);
        Ok(Response::new(pb::ListEntriesResponse {
            entries: entries.cloned().collect(),
            next_page_token: String::new(),
        }))
    }

    async fn batch_get_heads(
        &self,
        request: Request<pb::BatchGetHeadsRequest>,
    ) -> Answer<pb::BatchGetHeadsResponse> {
        let world = self.world();
        if world.heads_away {
            return Err(Status::unavailable("away"));
        }
        let out_of_reach = world.topic_out_of_reach.map(TopicId::get);
        let (unread, read): (Vec<_>, Vec<_>) =
            (request.into_inner().topic_ids.into_iter()).partition(|id| Some(*id) == out_of_reach);
        if read.is_empty() && !unread.is_empty() {
            return Err(Status::unavailable("out of reach"));
        }
        let heads = read.into_iter().filter_map(|id| {
            let entries = world.entries.get(&TopicId::new(id)?)?;
            Some(pb::Head {
                topic_id: id,
                seq: entries.len() as i64,
            })
        });
        Ok(Response::new(pb::BatchGetHeadsResponse {
            heads: heads.collect(),
            unread_topic_ids: unread,
        }))
    }

    async fn enrol_user(
        &self,
        request: Request<pb::EnrolUserRequest>,
    ) -> Answer<pb::EnrolUserResponse> {
        let mut world = self.world();
        let user = request.into_inner().user_id;
        world.never_enrolled.remove(&user);
        let version = world.member(user).0;
        Ok(Response::new(pb::EnrolUserResponse { version }))
    }

    async fn list_memberships(
        &self,
        request: Request<pb::ListMembershipsRequest>,
    ) -> Answer<pb::ListMembershipsResponse> {
        let mut world = self.world();
        let user_id = request.into_inner().user_id;
        if world.never_enrolled.contains(&user_id) {
            return Ok(Response::new(pb::ListMembershipsResponse::default()));
        }
        let (version, topics) = world.member(user_id);
        Ok(Response::new(pb::ListMembershipsResponse {
            memberships: topics
                .iter()
                .map(|(topic, joined_at)| pb::Membership {
                    topic_id: topic.get(),
                    user_id,
                    joined_at_seq: *joined_at,
                    join_time_ms: 0,
                })
                .collect(),
            next_page_token: String::new(),
            version: *version,
        }))
    }

    async fn batch_get_membership_versions(
        &self,
        request: Request<pb::BatchGetMembershipVersionsRequest>,
    ) -> Answer<pb::BatchGetMembershipVersionsResponse> {
        let mut world = self.world();
        let users = request.into_inner().user_ids.into_iter();
        let out_of_reach = world.user_out_of_reach;
        let versions = users.map(|user| match Some(user) == out_of_reach {
            true => -1,
            false => world.member(user).0,
        });
        let versions = versions.collect();
        Ok(Response::new(pb::BatchGetMembershipVersionsResponse {
            versions,
        }))
    }

    not_played! { pb:
        send_message(SendMessageRequest) -> SendMessageResponse,
        create_room(CreateRoomRequest) -> CreateRoomResponse,
        list_rooms(ListRoomsRequest) -> ListRoomsResponse,
        create_topic(CreateTopicRequest) -> CreateTopicResponse,
        update_topic(UpdateTopicRequest) -> UpdateTopicResponse,
        get_topic(GetTopicRequest) -> GetTopicResponse,
        list_topics(ListTopicsRequest) -> ListTopicsResponse,
        join_topic(JoinTopicRequest) -> JoinTopicResponse,
        leave_topic(LeaveTopicRequest) -> LeaveTopicResponse,
        remove_member(RemoveMemberRequest) -> RemoveMemberResponse,
        list_members(ListMembersRequest) -> ListMembersResponse,
    }
}

#[tonic::async_trait]
impl user_server::UserService for Log {
    async fn batch_check_tokens(
        &self,
        request: Request<user_pb::BatchCheckTokensRequest>,
    ) -> Answer<user_pb::BatchCheckTokensResponse> {
        let world = self.world();
        let hashes = request.into_inner().token_sha256s.into_iter();
        let out_of_reach = world.tokens_out_of_reach;
        let (live, unknown) = hashes
            .map(|hash| match out_of_reach {
                true => (false, true),
                false => (world.tokens.contains(&hash.to_vec()), false),
            })
            .unzip();
        Ok(Response::new(user_pb::BatchCheckTokensResponse {
            live,
            unknown,
        }))
    }

    not_played! { user_pb:
        sign_up(SignUpRequest) -> SignUpResponse,
        authenticate(AuthenticateRequest) -> AuthenticateResponse,
        get_user(GetUserRequest) -> GetUserResponse,
        batch_get_users(BatchGetUsersRequest) -> BatchGetUsersResponse,
        issue_token(IssueTokenRequest) -> IssueTokenResponse,
        revoke_tokens(RevokeTokensRequest) -> RevokeTokensResponse,
    }
}
