//! Played services: a log and its members, tokens, and presence, in memory.

mod log;
mod presence;

use std::{sync::Arc, time::Duration};

use chassis::{
    bus::{
        Bus,
        memory::MemoryBus,
        misbehaving::{MisbehavingBus, Misbehaviour},
    },
    client::Channel,
    id::{TopicId, UserId},
    identity::Gate,
    server::{ServerConfig, Services as Server},
};
use engineioxide::Str;
use proto::{
    message::v1::message_service_server as message_server,
    presence::v1::presence_service_server as presence_server,
    user::v1::user_service_server as user_server,
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

pub(super) use self::{
    log::{Log, Trouble},
    presence::PlayedPresence,
};
use crate::{
    frame::Generation,
    hub::{Hub, HubConfig, Services},
    outbox::{EndReason, Outbox, OutboxLimits, Reply},
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

/// RPCs that the gateway does not call.
macro_rules! not_played {
    ($pb:ident: $($method:ident($request:ident) -> $response:ident),* $(,)?) => {
        $(fn $method<'a, 'b>(
            &'a self,
            _: Request<$pb::$request>,
        ) -> futures::future::BoxFuture<'b, Answer<$pb::$response>>
        where
            'a: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        })*
    };
}
use not_played;

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
        self.log.issue(&session);
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
        let reply = Reply::new(socket.session.outbox.clone(), None);
        self.rules.send(&socket.session, message, reply);
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
