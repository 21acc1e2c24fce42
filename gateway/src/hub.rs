//! What stands behind the edge: the rules of a signed-in session, over the three
//! services and the bus.

#[cfg(test)]
mod trials;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chassis::{
    bus::Bus,
    call::{ActingUser, Call},
    client::Channel,
    id::{TopicId, UserId},
    server::Direct,
    status::reason,
};
use proto::{
    message::v1::{
        EnrolUserRequest, GetTopicRequest, SendMessagesRequest, SendMessagesResponse,
        message_service_client::MessageServiceClient,
    },
    presence::v1::{ReportTypingRequest, presence_service_client::PresenceServiceClient},
    user::v1::{AuthenticateRequest, SignUpRequest, user_service_client::UserServiceClient},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    concurrency::Concurrency,
    feeds::Feeds,
    heads::{Heads, HeadsAsker},
    members::Members,
    outbox::Reply,
    presence::Presence,
    rules::{
        AuthError, NewMessage, Rules, SessionHandle, SignUp, SignUpError, SignUpKey, SignedIn,
        SignedUp, TypingError, Unavailable,
    },
    sweep,
    topic_feed::{Command, Outgoing},
};

/// Bounds of what stands behind the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    /// Topics that are followed or sent to at a time; past that sockets are told `unavailable`.
    pub max_topics: usize,
    /// How long a message is tried, milliseconds; then its sender is told `unavailable`.
    pub send_limit_ms: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            max_topics: 200_000,
            send_limit_ms: 8_000,
        }
    }
}

/// Names a session; random.
pub(crate) type SessionId = [u8; 16];

/// The services, as this gateway calls them.
#[derive(Clone, Debug)]
pub struct Services {
    /// Accounts and tokens.
    pub user: UserServiceClient<Channel>,
    /// Topics, members and the log.
    pub message: MessageServiceClient<Channel>,
    /// Leases, sessions and typing.
    pub presence: PresenceServiceClient<Channel>,
    /// Sends messages where message-svc is in this process.
    direct: Option<Direct<SendMessagesRequest, SendMessagesResponse>>,
}

impl Services {
    /// The services behind these channels.
    #[must_use]
    pub fn new(user: Channel, message: Channel, presence: Channel) -> Self {
        Self {
            user: UserServiceClient::new(user),
            message: MessageServiceClient::new(message),
            presence: PresenceServiceClient::new(presence),
            direct: None,
        }
    }

    /// The same where messages are sent by this, if there is one, and not over a channel.
    #[must_use]
    pub fn sending_by(
        self,
        direct: Option<Direct<SendMessagesRequest, SendMessagesResponse>>,
    ) -> Self {
        Self { direct, ..self }
    }

    pub(crate) async fn send_messages(
        &self,
        request: Request<SendMessagesRequest>,
    ) -> Result<SendMessagesResponse, Status> {
        if let Some(direct) = &self.direct {
            return direct.call(request).await;
        }
        let answer = self.message.clone().send_messages(request).await?;
        Ok(answer.into_inner())
    }
}

/// What all tasks behind the edge share.
pub(crate) struct House {
    pub(crate) services: Services,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) config: HubConfig,
    pub(crate) feeds: Feeds,
    /// Calls that send messages.
    pub(crate) calls: Concurrency,
    pub(crate) members: Members,
    pub(crate) heads: Heads,
    pub(crate) presence: Presence,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopped: CancellationToken,
}

/// The rules of the edge, as the phones know them.
pub struct Hub {
    house: Arc<House>,
    asker: HeadsAsker,
}

impl Hub {
    /// Over these services and this bus. Nothing runs before [`Hub::run`].
    #[must_use]
    pub fn new(services: Services, bus: Arc<dyn Bus>, config: HubConfig) -> Self {
        let (heads, asker) = Heads::new();
        let house = Arc::new(House {
            services,
            bus,
            config,
            feeds: Feeds::default(),
            calls: Concurrency::new(),
            members: Members::default(),
            heads,
            presence: Presence::default(),
            tasks: TaskTracker::new(),
            stopped: CancellationToken::new(),
        });
        Self { house, asker }
    }

    /// The rules, for the edge.
    #[must_use]
    pub fn rules(&self) -> Arc<dyn Rules> {
        Arc::new(HubRules {
            house: Arc::clone(&self.house),
        })
    }

    /// Works until `shutdown`, then gives the lease back and waits for every task.
    pub async fn run(self, shutdown: CancellationToken) {
        let house = self.house;
        house.tasks.spawn(self.asker.run(Arc::clone(&house)));
        house.tasks.spawn(sweep::announced(Arc::clone(&house)));
        house.tasks.spawn(sweep::sweep(Arc::clone(&house)));
        let presence = house.tasks.spawn(Presence::run(Arc::clone(&house)));
        shutdown.cancelled().await;
        house.stopped.cancel();
        if let Err(error) = presence.await {
            tracing::warn!(%error, "the presence task failed");
        }
        house.tasks.close();
        house.tasks.wait().await;
    }
}

struct HubRules {
    house: Arc<House>,
}

#[async_trait]
impl Rules for HubRules {
    async fn authenticate(&self, token: &str, deadline: Instant) -> Result<SignedIn, AuthError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Call::within(left.min(ASK_LIMIT)).request(AuthenticateRequest {
            token: token.to_owned(),
        });
        let mut client = self.house.services.user.clone();
        match client.authenticate(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(SignedIn {
                    user_id: UserId::new(answer.user_id).ok_or(AuthError::Unavailable)?,
                    username: answer.username,
                    roles: answer.roles,
                })
            }
            Err(status) if reason(&status).as_deref() == Some("TOKEN_INVALID") => {
                Err(AuthError::Invalid)
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), "a token can't be checked");
                Err(AuthError::Unavailable)
            }
        }
    }

    async fn join(&self, session: Arc<SessionHandle>) -> Result<(), Unavailable> {
        self.house.presence.open(&session);
        Members::join(&self.house, session).await
    }

    fn leave(&self, session: &SessionHandle) {
        self.house.members.leave(&self.house, session);
        self.house.presence.close(session);
    }

    fn send(&self, session: &Arc<SessionHandle>, message: NewMessage, reply: Reply) {
        let topic = message.topic_id;
        let limit = Duration::from_millis(self.house.config.send_limit_ms);
        let outgoing = Outgoing::new(session, message, reply, limit);
        let command = Command::Send(Box::new(outgoing));
        if let Err(Command::Send(outgoing)) = self.house.feeds.tell(&self.house, topic, command) {
            outgoing.fail_unavailable();
        }
    }

    async fn typing(
        &self,
        session: &Arc<SessionHandle>,
        topic: TopicId,
    ) -> Result<(), TypingError> {
        if !self.house.members.is_member(session.user.user_id, topic) {
            return Err(self.no_member(topic).await);
        }
        let call = Call::within(ASK_LIMIT).acting_for(ActingUser {
            id: session.user.user_id,
            username: session.user.username.clone(),
        });
        let request = call.request(ReportTypingRequest {
            topic_id: topic.get(),
            session_id: Bytes::copy_from_slice(&session.session_id),
        });
        let mut client = self.house.services.presence.clone();
        match client.report_typing(request).await {
            Ok(_) => Ok(()),
            Err(_) => Err(TypingError::Unavailable),
        }
    }

    async fn sign_up(&self, request: SignUp) -> Result<SignedUp, SignUpError> {
        let call = Call::within(SIGN_UP_LIMIT);
        let secret: [u8; 16] = rand::random();
        let wish = call.request(SignUpRequest {
            phone_number: request.phone_number,
            username: request.username,
            gcm_token: request.gcm_token,
            device_type: request.device_type,
            request_id: Bytes::copy_from_slice(&secret),
        });
        let mut users = self.house.services.user.clone();
        let answer = (users.sign_up(wish).await).map_err(|status| sign_up_error(&status))?;
        let answer = answer.into_inner();
        let user_id = (answer.user.as_ref())
            .and_then(|user| UserId::new(user.id))
            .ok_or(SignUpError::Unavailable)?;
        let mut messages = self.house.services.message.clone();
        let enrol = call.request(EnrolUserRequest {
            user_id: user_id.get(),
        });
        if let Err(status) = messages.enrol_user(enrol).await {
            // Signing in does it again.
            tracing::warn!(%user_id, code = ?status.code(), "a new user is not in the default topics yet");
        }
        Ok(SignedUp {
            user_id,
            token: answer.token,
        })
    }
}

impl HubRules {
    /// Why somebody who is no member can't type here.
    async fn no_member(&self, topic: TopicId) -> TypingError {
        let request = Call::within(ASK_LIMIT).request(GetTopicRequest {
            topic_id: topic.get(),
        });
        let mut client = self.house.services.message.clone();
        match client.get_topic(request).await {
            Ok(_) => TypingError::NotAMember,
            Err(status) if status.code() == Code::NotFound => TypingError::TopicNotFound,
            Err(_) => TypingError::Unavailable,
        }
    }
}

/// Longest time of a question that a client waits for, retries included.
const ASK_LIMIT: Duration = Duration::from_secs(3);
const SIGN_UP_LIMIT: Duration = Duration::from_secs(8);

fn sign_up_error(status: &Status) -> SignUpError {
    match reason(status).as_deref() {
        Some("PHONE_NUMBER_TAKEN") => SignUpError::PhoneNumberTaken,
        Some("USERNAME_TAKEN") => SignUpError::UsernameTaken,
        Some("FIELD_INVALID") => {
            let details = status.get_details_bad_request();
            let violation = details.and_then(|it| it.field_violations.into_iter().next());
            violation
                .and_then(|it| SignUpKey::named(&it.field))
                .map_or(SignUpError::Unavailable, SignUpError::Invalid)
        }
        _ => {
            tracing::warn!(code = ?status.code(), "a sign-up failed");
            SignUpError::Unavailable
        }
    }
}
