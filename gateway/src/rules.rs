//! The port between the edge and the rules: what a session asks for.

use std::sync::Arc;

use async_trait::async_trait;
use chassis::id::{MessageId, TopicId, UserId};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::outbox::{Outbox, Reply};

/// What stands behind the edge.
#[async_trait]
pub trait Rules: Send + Sync + 'static {
    /// Whose token this is. Any text may come as a token.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when that is not known before `deadline`, or earlier.
    async fn authenticate(&self, token: &str, deadline: Instant) -> Result<SignedIn, AuthError>;

    /// Makes the session a listener of every topic of its user. It is one when this returns.
    ///
    /// # Errors
    /// When it could not become one; the caller tries again.
    async fn join(&self, session: Arc<SessionHandle>) -> Result<(), Unavailable>;

    /// The session's socket is gone. Called once for each session that was given to
    /// [`Rules::join`], whatever that said.
    fn leave(&self, session: &SessionHandle);

    /// Sends a message. Calls of one session come in the order in which it emitted.
    /// Does not wait: the answer goes into the session's outbox, `reply` acknowledges with the
    /// same payload, and is held until then.
    fn send(&self, session: &Arc<SessionHandle>, message: NewMessage, reply: Reply);

    /// Tells the other listeners of a topic that this session's user types.
    ///
    /// # Errors
    /// When he may not, or when it could not be told.
    async fn typing(&self, session: &Arc<SessionHandle>, topic: TopicId)
    -> Result<(), TypingError>;

    /// Makes an account.
    ///
    /// # Errors
    /// When the request or the time is wrong.
    async fn sign_up(&self, request: SignUp) -> Result<SignedUp, SignUpError>;
}

/// A signed-in socket.
#[derive(Debug)]
pub struct SessionHandle {
    /// Names the session; random.
    pub session_id: [u8; 16],
    /// Who signed in.
    pub user: SignedIn,
    /// SHA-256 of the token he signed in with.
    pub token_sha256: [u8; 32],
    /// The way to his socket, also the way to end it.
    pub outbox: Outbox,
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// His id.
    pub user_id: UserId,
    /// His name.
    pub username: String,
    /// His roles.
    pub roles: Vec<String>,
}

/// A token that signs nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is not a live one.
    #[error("the token is not a live one")]
    Invalid,
    /// It can't be checked now.
    #[error("the token can't be checked now")]
    Unavailable,
}

/// A part that is needed does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a service is unavailable")]
pub struct Unavailable;

/// A valid `message_events` request.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Where to.
    pub topic_id: TopicId,
    /// Names it for its sender; 1 to 64 characters.
    pub stamp_id: Option<String>,
    /// 1 to 4,096 characters, not all blank.
    pub body: String,
    /// The message it replies to.
    pub reply_to: Option<MessageId>,
    /// Compact JSON, never `null`.
    pub attrs: Option<Box<RawValue>>,
    /// Whether media belong to it.
    pub has_media: bool,
}

/// Why typing was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypingError {
    /// There is no such topic.
    #[error("the topic does not exist")]
    TopicNotFound,
    /// The user is not a member.
    #[error("the user is not a member of the topic")]
    NotAMember,
    /// It could not be told now.
    #[error("typing could not be told")]
    Unavailable,
}

/// A request for an account, all keys given and none blank. The values are as
/// they were sent: their forms and lengths are the account service's to judge.
#[derive(Clone, PartialEq, Eq)]
pub struct SignUp {
    /// `phone_number`.
    pub phone_number: String,
    /// `username`.
    pub username: String,
    /// `gcm_token`.
    pub gcm_token: String,
    /// `device_type`.
    pub device_type: String,
}

/// The keys of a sign-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignUpKey {
    /// `phone_number`.
    PhoneNumber,
    /// `username`.
    Username,
    /// `gcm_token`.
    GcmToken,
    /// `device_type`.
    DeviceType,
}

impl SignUpKey {
    const ALL: [Self; 4] = [
        Self::PhoneNumber,
        Self::Username,
        Self::GcmToken,
        Self::DeviceType,
    ];

    /// The key that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == name)
    }

    /// As it stands in the request, and as the account service calls the field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PhoneNumber => "phone_number",
            Self::Username => "username",
            Self::GcmToken => "gcm_token",
            Self::DeviceType => "device_type",
        }
    }
}

/// A new account.
#[derive(Clone)]
pub struct SignedUp {
    /// Its id.
    pub user_id: UserId,
    /// Its first token: 32 lower-case hex digits.
    pub token: String,
}

/// Why there is no new account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignUpError {
    /// The number has an account.
    #[error("the phone number is taken")]
    PhoneNumberTaken,
    /// Somebody has that name.
    #[error("the user name is taken")]
    UsernameTaken,
    /// A value breaks the rule of its key.
    #[error("{} is invalid", .0.as_str())]
    Invalid(SignUpKey),
    /// It can't be done now.
    #[error("sign-up is unavailable")]
    Unavailable,
}
