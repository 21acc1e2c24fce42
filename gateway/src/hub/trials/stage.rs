//! Played services: a log and its members, tokens, and presence, in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chassis::{
    bus::{
        Bus, Subject,
        memory::MemoryBus,
        misbehaving::{MisbehavingBus, Misbehaviour},
    },
    call::Call,
    client::Channel,
    id::{TopicId, UserId},
    identity::Gate,
    server::{ServerConfig, Services as Server},
    status::Refusal,
};
use engineioxide::Str;
use futures::future::BoxFuture;
use prost::Message as _;
use proto::{
    event::v1::{EntriesAppended, TopicEvent, topic_event::Event},
    message::v1::{self as pb, message_service_server as message_server},
    presence::v1::{self as presence_pb, presence_service_server as presence_server},
    user::v1::{self as user_pb, user_service_server as user_server},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::{
    frame::Generation,
    hub::{Hub, HubConfig, Services},
    outbox::{EndReason, Outbox, OutboxLimits},
    rules::{NewMessage, Rules, SessionHandle, SignedIn},
};

type Answer<T> = Result<Response<T>, Status>;

pub(super) fn topic() -> TopicId {
    TopicId::new(1).unwrap()
}

pub(super) fn message(stamp: &str, body: &str) -> NewMessage {
    NewMessage {
        topic_id: topic(),
        stamp_id: Some(stamp.into()),
        body: body.into(),
        reply_to: None,
        attrs: None,
        has_media: false,
    }
}

/// How the log fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// Calls are refused.
    Away,
    /// What is sent is appended, and the answer lost.
    AnswersLost,
    /// Messages are refused, each by itself.
    NotStored,
}

/// A listener whose socket takes everything at once.
pub(super) struct Socket {
    pub(super) session: Arc<SessionHandle>,
    frames: mpsc::Receiver<Str>,
}

impl Socket {
    /// The seq and the body of the next message.
    pub(super) async fn sent(&mut self, limit: Duration) -> (i64, String) {
        let payload = self.hears("sent", limit).await;
        let data = &payload["data"];
        (
            data["seq"].as_i64().unwrap(),
            data["body"].as_str().unwrap().to_owned(),
        )
    }

    /// The stamp of the message that fails next, for nothing is known of it.
    pub(super) async fn failed(&mut self, limit: Duration) -> String {
        let payload = self.hears("fail", limit).await;
        assert_eq!(payload["code"], "unavailable");
        payload["stamp_id"].as_str().unwrap().to_owned()
    }

    /// The stamp of the next message that is answered in this time, and whether it is sent.
    pub(super) async fn answered(&mut self, limit: Duration) -> Option<(String, bool)> {
        let packet = tokio::time::timeout(limit, self.frames.recv()).await.ok()?;
        let payload = payload_of(&packet.unwrap());
        let sent = payload["event_type"] == "sent";
        let holder = if sent { &payload["data"] } else { &payload };
        Some((holder["stamp_id"].as_str().unwrap().to_owned(), sent))
    }

    async fn hears(&mut self, event_type: &str, limit: Duration) -> serde_json::Value {
        let packet = tokio::time::timeout(limit, self.frames.recv()).await;
        let payload = payload_of(&packet.unwrap().unwrap());
        assert_eq!(payload["event_type"], event_type, "{payload}");
        payload
    }

    pub(super) async fn hears_nothing(&mut self) {
        let more = tokio::time::timeout(Duration::from_millis(150), self.frames.recv()).await;
        assert!(more.is_err(), "unexpected: {more:?}");
    }
}

fn payload_of(packet: &Str) -> serde_json::Value {
    let (name, payload): (String, serde_json::Value) =
        serde_json::from_str(&packet.as_str()[1..]).unwrap();
    assert_eq!(name, "message_events");
    payload
}

pub(super) struct Stage {
    pub(super) log: Arc<Log>,
    pub(super) presence: Arc<PlayedPresence>,
    rules: Arc<dyn Rules>,
    house: Arc<crate::hub::House>,
    running: JoinHandle<()>,
    stop: CancellationToken,
}

impl Stage {
    pub(super) fn new(misbehaviour: Misbehaviour) -> Self {
        Self::with(misbehaviour, HubConfig::default())
    }

    /// Sends that are not answered in this time fail.
    pub(super) fn with_send_limit(misbehaviour: Misbehaviour, limit: Duration) -> Self {
        let config = HubConfig {
            send_limit_ms: u64::try_from(limit.as_millis()).unwrap(),
            ..HubConfig::default()
        };
        Self::with(misbehaviour, config)
    }

    fn with(misbehaviour: Misbehaviour, config: HubConfig) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(MisbehavingBus::new(
            Arc::new(MemoryBus::new()),
            misbehaviour,
        ));
        let log = Arc::new(Log::new(Arc::clone(&bus)));
        let presence = Arc::new(PlayedPresence::default());
        let server = Server::new(ServerConfig::default(), Gate::Shut)
            .with(message_server::MessageServiceServer::from_arc(Arc::clone(
                &log,
            )))
            .with(user_server::UserServiceServer::from_arc(Arc::clone(&log)))
            .with(presence_server::PresenceServiceServer::from_arc(
                Arc::clone(&presence),
            ));
        let channel = Channel::local(server);
        let services = Services::new(channel.clone(), channel.clone(), channel);
        let hub = Hub::new(services, bus, config);
        let stop = CancellationToken::new();
        Self {
            log,
            presence,
            rules: hub.rules(),
            house: Arc::clone(&hub.house),
            running: tokio::spawn(hub.run(stop.clone())),
            stop,
        }
    }

    /// A new socket of this user, listening.
    pub(super) async fn sign_in(&self, user: i64) -> Socket {
        let (wire, frames) = mpsc::channel(10_000);
        let session = Arc::new(SessionHandle {
            session_id: rand::random(),
            user: SignedIn {
                user_id: UserId::new(user).unwrap(),
                username: format!("user {user}"),
                roles: Vec::new(),
            },
            token_sha256: rand::random(),
            outbox: Outbox::new(Generation::Eio4, OutboxLimits::default(), wire),
        });
        self.log
            .world()
            .tokens
            .insert(session.token_sha256.to_vec());
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.rules.join(Arc::clone(&session)).await.is_err() {
            assert!(Instant::now() < deadline, "joined in time");
        }
        Socket { session, frames }
    }

    pub(super) fn leave(&self, socket: Socket) {
        socket.session.outbox.end(EndReason::Left);
        self.rules.leave(&socket.session);
    }

    pub(super) fn send(&self, socket: &Socket, message: NewMessage) {
        self.rules.send(&socket.session, message, None);
    }

    pub(super) fn is_member(&self, socket: &Socket, topic: TopicId) -> bool {
        let user = socket.session.user.user_id;
        self.house.members.is_member(user, topic)
    }

    /// The heads of these, asked for at once.
    pub(super) async fn heads(&self, topics: [TopicId; 2]) -> [Option<i64>; 2] {
        let [one, other] = topics.map(|topic| self.house.heads.ask(topic));
        let (one, other) = tokio::join!(one, other);
        [one, other].map(|head| head.ok().map(|seq| seq.get()))
    }

    pub(super) fn listens_only_to(&self, socket: &Socket, topic: TopicId) -> bool {
        self.is_member(socket, topic) && self.house.feeds.followed() == [topic]
    }

    pub(super) async fn until(&self, limit: Duration, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            assert!(Instant::now() < deadline, "it did not come about in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.running)
            .await
            .unwrap()
            .unwrap();
    }
}

/// message-svc and user-svc in one.
pub(super) struct Log {
    bus: Arc<dyn Bus>,
    world: Mutex<World>,
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
    message_takes: Duration,
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
    fn new(bus: Arc<dyn Bus>) -> Self {
        let mut world = World::default();
        world.entries.insert(topic(), Vec::new());
        Self {
            bus,
            world: Mutex::new(world),
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

    pub(super) fn append_elsewhere(&self, topic: TopicId, owner: i64, stamp: &str) {
        let (entry, _) = self.world().append(topic, owner, stamp, stamp);
        self.publish(entry);
    }

    pub(super) fn open_topic(&self, id: i64) -> TopicId {
        let topic = TopicId::new(id).unwrap();
        self.world().entries.insert(topic, Vec::new());
        topic
    }

    pub(super) fn stamps(&self, topic: TopicId) -> Vec<String> {
        let world = self.world();
        let messages = world.entries[&topic].iter().map(|entry| {
            let Some(pb::entry::Kind::Message(message)) = &entry.kind else {
                panic!()
            };
            message.stamp_id.clone()
        });
        messages.collect()
    }

    pub(super) fn trouble(&self, trouble: Trouble, calls: u32) {
        self.world().trouble = Some((trouble, calls));
    }

    /// What this user sends stays open.
    pub(super) fn keep_open(&self, user: Option<i64>) {
        self.world().open_of = user;
    }

    /// How long each message of a call takes.
    pub(super) fn each_message_takes(&self, time: Duration) {
        self.world().message_takes = time;
    }

    /// Whether heads can't be read, so that no topic can be opened.
    pub(super) fn heads_are_away(&self, away: bool) {
        self.world().heads_away = away;
    }

    /// Whether entries can't be read, so that no hole is filled.
    pub(super) fn entries_are_away(&self, away: bool) {
        self.world().entries_away = away;
    }

    /// Whose head can't be read, whatever is asked besides.
    pub(super) fn topic_is_out_of_reach(&self, topic: Option<TopicId>) {
        self.world().topic_out_of_reach = topic;
    }

    /// The version of whose memberships can't be read.
    pub(super) fn user_is_out_of_reach(&self, user: Option<i64>) {
        self.world().user_out_of_reach = user;
    }

    /// Whether no token can be told to be live or not.
    pub(super) fn tokens_are_out_of_reach(&self, out_of_reach: bool) {
        self.world().tokens_out_of_reach = out_of_reach;
    }

    /// Makes a user a member and tells nobody.
    pub(super) fn join(&self, user: i64, topic: TopicId) {
        let mut world = self.world();
        let head = world.entries[&topic].len() as i64;
        let (version, topics) = world.member(user);
        topics.insert(topic, head);
        *version += 1;
    }

    pub(super) fn leave(&self, user: i64, topic: TopicId) {
        let mut world = self.world();
        let (version, topics) = world.member(user);
        topics.remove(&topic);
        *version += 1;
    }

    pub(super) fn revoke(&self, session: &SessionHandle) {
        self.world().tokens.remove(session.token_sha256.as_slice());
    }

    pub(super) fn forget(&self, user: i64) {
        self.world().never_enrolled.insert(user);
    }
}

/// RPCs that the gateway does not call.
macro_rules! not_played {
    ($pb:ident: $($method:ident($request:ident) -> $response:ident),* $(,)?) => {
        $(fn $method<'a, 'b>(
            &'a self,
            _: Request<$pb::$request>,
        ) -> BoxFuture<'b, Answer<$pb::$response>>
        where
            'a: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        })*
    };
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
        let takes = self.world().message_takes * request.messages.len() as u32;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
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

#[derive(Default)]
pub(super) struct PlayedPresence {
    leases: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    held: BTreeSet<Vec<u8>>,
    sessions: HashMap<Vec<u8>, i64>,
    released: bool,
}

impl PlayedPresence {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap()
    }

    pub(super) fn online(&self) -> Vec<i64> {
        let mut users: Vec<i64> = self.leases().sessions.values().copied().collect();
        users.sort_unstable();
        users
    }

    /// As the sweeper does when a lease has run out.
    pub(super) fn lose_lease(&self) {
        let mut leases = self.leases();
        leases.held.clear();
        leases.sessions.clear();
    }

    pub(super) fn was_released(&self) -> bool {
        self.leases().released
    }
}

fn check(leases: &Leases, lease: &[u8]) -> Result<(), Status> {
    if leases.held.contains(lease) {
        return Ok(());
    }
    Err(Refusal {
        code: Code::FailedPrecondition,
        reason: "LEASE_LOST",
        domain: "presence.drivers.uz",
        message: "the lease ran out".into(),
        fields: Vec::new(),
        retry_after: None,
    }
    .into())
}

#[tonic::async_trait]
impl presence_server::PresenceService for PlayedPresence {
    async fn renew_lease(
        &self,
        request: Request<presence_pb::RenewLeaseRequest>,
    ) -> Answer<presence_pb::RenewLeaseResponse> {
        let request = request.into_inner();
        let mut leases = self.leases();
        if request.take {
            leases.held.insert(request.lease_id.to_vec());
        }
        check(&leases, &request.lease_id)?;
        Ok(Response::new(presence_pb::RenewLeaseResponse::default()))
    }

    async fn release_lease(
        &self,
        request: Request<presence_pb::ReleaseLeaseRequest>,
    ) -> Answer<presence_pb::ReleaseLeaseResponse> {
        let mut leases = self.leases();
        leases.released = leases.held.remove(request.into_inner().lease_id.as_ref());
        Ok(Response::new(presence_pb::ReleaseLeaseResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<presence_pb::OpenSessionRequest>,
    ) -> Answer<presence_pb::OpenSessionResponse> {
        let request = request.into_inner();
        let mut leases = self.leases();
        check(&leases, &request.lease_id)?;
        for session in request.sessions {
            leases
                .sessions
                .insert(session.session_id.to_vec(), session.user_id);
        }
        Ok(Response::new(presence_pb::OpenSessionResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<presence_pb::CloseSessionRequest>,
    ) -> Answer<presence_pb::CloseSessionResponse> {
        let mut leases = self.leases();
        for session in request.into_inner().sessions {
            leases.sessions.remove(session.session_id.as_ref());
        }
        Ok(Response::new(presence_pb::CloseSessionResponse {}))
    }

    not_played! { presence_pb:
        report_typing(ReportTypingRequest) -> ReportTypingResponse,
        batch_get_presence(BatchGetPresenceRequest) -> BatchGetPresenceResponse,
    }
}
