//! An edge on a free port, and rules that echo.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chassis::id::{MessageId, TopicId, UserId};
use chassis::tls::Reloaded;
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::{
    App,
    config::Config,
    frame::Frame,
    message::{MESSAGE_EVENTS, TYPING_EVENT},
    outbox::Reply,
    rules::{
        AuthError, NewMessage, Rules, SessionHandle, SignUp, SignUpError, SignUpKey, SignedIn,
        SignedUp, TypingError, Unavailable,
    },
    socket::Sockets,
};

/// No wait in these tests is as long when all is well.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) echo: Arc<Echo>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) shutdown: CancellationToken,
    pub(super) running: JoinHandle<()>,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub(super) async fn with(config: Config) -> Self {
        Self::with_tls(config, None).await
    }

    pub(super) async fn with_tls(config: Config, tls: Option<Reloaded<ServerConfig>>) -> Self {
        let echo = Arc::new(Echo::default());
        let app = App::new(config, echo.clone(), tls);
        let sockets = app.sockets.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { app.run(listener, shutdown).await.unwrap() }
        });
        Self {
            address,
            echo,
            sockets,
            shutdown,
            running,
        }
    }

    /// Waits until so many sockets are left.
    #[track_caller]
    pub(super) fn wait_for_sockets(&self, count: usize) -> impl Future<Output = ()> {
        let what = format!("{count} sockets, at {}", std::panic::Location::caller());
        async move { eventually(&what, || self.sockets.peers().len() == count).await }
    }
}

/// Waits for a condition.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// The live token of a user.
pub(super) fn token(user: i64) -> String {
    format!("{user:032x}")
}

#[derive(Serialize)]
struct Sent {
    event_type: &'static str,
    data: Data,
}

#[derive(Serialize)]
struct Data {
    id: i64,
    stamp_id: Option<String>,
    topic_id: TopicId,
    owner: serde_json::Value,
    reply_to: Option<MessageId>,
    body: String,
    attrs: Option<Box<RawValue>>,
    has_media: bool,
}

/// Delivers every message to everybody, at once or, if it says `later`, when that is asked for.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) away: AtomicBool,
    pub(super) asked: AtomicUsize,
    pub(super) listeners: Mutex<Vec<Arc<SessionHandle>>>,
    pub(super) left: AtomicUsize,
    /// Replies to `later`.
    later: Mutex<Vec<(Reply, Frame)>>,
    ids: AtomicI64,
}

impl Echo {
    /// Pushes a frame to all who listen.
    pub(super) fn broadcast(&self, frame: &Frame) {
        for listener in self.listeners.lock().unwrap().iter() {
            listener.outbox.push(frame);
        }
    }

    /// Whether somebody has said `later` and is not answered yet.
    pub(super) fn is_asked_later(&self) -> bool {
        !self.later.lock().unwrap().is_empty()
    }

    /// Answers `later`, and says to how many.
    pub(super) fn answer_later(&self) -> usize {
        let later = std::mem::take(&mut *self.later.lock().unwrap());
        for (reply, frame) in &later {
            self.broadcast(frame);
            reply.acknowledge(frame);
        }
        later.len()
    }
}

#[async_trait]
impl Rules for Echo {
    async fn authenticate(&self, token: &str, _: Instant) -> Result<SignedIn, AuthError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(AuthError::Unavailable);
        }
        match i64::from_str_radix(token, 16).ok().and_then(UserId::new) {
            Some(user_id) if user_id.get() <= 1_000 => Ok(SignedIn {
                user_id,
                username: format!("Имя {user_id}"),
                roles: vec!["driver".to_owned()],
            }),
            _ => Err(AuthError::Invalid),
        }
    }

    async fn join(&self, session: Arc<SessionHandle>) -> Result<(), Unavailable> {
        self.listeners.lock().unwrap().push(session);
        Ok(())
    }

    fn leave(&self, session: &SessionHandle) {
        let mut listeners = self.listeners.lock().unwrap();
        listeners.retain(|other| other.session_id != session.session_id);
        self.left.fetch_add(1, Ordering::SeqCst);
    }

    fn send(&self, session: &Arc<SessionHandle>, message: NewMessage, reply: Reply) {
        let later = message.body == "later";
        let sent = Sent {
            event_type: "sent",
            data: Data {
                id: self.ids.fetch_add(1, Ordering::SeqCst) + 1,
                stamp_id: message.stamp_id,
                topic_id: message.topic_id,
                owner: json!({"id": session.user.user_id, "username": session.user.username}),
                reply_to: message.reply_to,
                body: message.body,
                attrs: message.attrs,
                has_media: message.has_media,
            },
        };
        let frame = Frame::event(MESSAGE_EVENTS, &sent);
        self.later.lock().unwrap().push((reply, frame));
        if !later {
            self.answer_later();
        }
    }

    async fn typing(
        &self,
        session: &Arc<SessionHandle>,
        topic: TopicId,
    ) -> Result<(), TypingError> {
        if topic.get() == 404 {
            return Err(TypingError::TopicNotFound);
        }
        let payload = json!({"user_id": session.user.user_id, "topic_id": topic});
        let frame = Frame::event(TYPING_EVENT, &payload);
        for listener in self.listeners.lock().unwrap().iter() {
            if listener.session_id != session.session_id {
                listener.outbox.push(&frame);
            }
        }
        Ok(())
    }

    async fn sign_up(&self, request: SignUp) -> Result<SignedUp, SignUpError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(SignUpError::Unavailable);
        }
        match (request.phone_number.as_str(), request.username.as_str()) {
            ("+998 90 123-45-67", _) => Err(SignUpError::PhoneNumberTaken),
            (_, "Сардор") => Err(SignUpError::UsernameTaken),
            _ if request.device_type.len() > 8 => Err(SignUpError::Invalid(SignUpKey::DeviceType)),
            _ => Ok(SignedUp {
                user_id: UserId::new(101).unwrap(),
                token: token(101),
            }),
        }
    }
}
