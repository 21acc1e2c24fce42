//! What a client may be told when its event fails.

/// The closed set of codes of a failed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailCode {
    /// Emitted before the sign-in.
    NotAuthenticated,
    /// A key breaks a rule; the sentence says which.
    InvalidMessage,
    /// There is no such topic.
    TopicNotFound,
    /// Nothing can be posted to the topic.
    TopicClosed,
    /// The topic is private and the user not in it.
    NotAMember,
    /// There is no such message in the topic.
    ReplyNotFound,
    /// The stamp names another message.
    StampReused,
    /// Too much at once.
    RateLimited,
    /// The outcome is not known, or nothing was stored.
    Unavailable,
}

impl FailCode {
    /// As it stands in a payload.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAuthenticated => "not-authenticated",
            Self::InvalidMessage => "invalid_message",
            Self::TopicNotFound => "topic_not_found",
            Self::TopicClosed => "topic_closed",
            Self::NotAMember => "not_a_member",
            Self::ReplyNotFound => "reply_not_found",
            Self::StampReused => "stamp_reused",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }

    /// The cause for people, where there is no more to say than the code does.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotAuthenticated => "sign in first",
            Self::InvalidMessage => "the payload breaks a rule",
            Self::TopicNotFound => "the topic does not exist",
            Self::TopicClosed => "the topic is closed",
            Self::NotAMember => "you are not a member of the topic",
            Self::ReplyNotFound => "reply_to names no message of the topic",
            Self::StampReused => "stamp_id names another message",
            Self::RateLimited => "too many at once, slow down",
            Self::Unavailable => "try again with the same stamp_id",
        }
    }
}

impl From<crate::rules::TypingError> for FailCode {
    fn from(error: crate::rules::TypingError) -> Self {
        use crate::rules::TypingError;
        match error {
            TypingError::TopicNotFound => Self::TopicNotFound,
            TypingError::NotAMember => Self::NotAMember,
            TypingError::Unavailable => Self::Unavailable,
        }
    }
}
