//! Why the message service refuses.

use std::time::Duration;

use chassis::status::Refusal;
use proto::message::v1::{ErrorReason, SendFailure};
use tonic::Code;

use crate::store::StoreError;

/// Why a call, or one message of it, is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is missing or wrong.
    #[error("{field}: {rule}")]
    FieldInvalid {
        /// Name of the field, as in the schema.
        field: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A message breaks a rule of its form.
    #[error("{field}: {rule}")]
    MessageInvalid {
        /// Name of the field of `OutgoingMessage`.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
    /// No topic has this id.
    #[error("there is no such topic")]
    TopicNotFound,
    /// The topic takes no more messages.
    #[error("the topic is closed")]
    TopicClosed,
    /// The topic is private and the acting user is no member.
    #[error("the user is not a member of this private topic")]
    NotAMember,
    /// `reply_to` names no message of this topic.
    #[error("reply_to names no message of this topic")]
    ReplyNotFound,
    /// The sender used this stamp in this topic for other content.
    #[error("this stamp was used for a message with other content")]
    StampReused,
    /// No room has this id.
    #[error("there is no such room")]
    RoomNotFound,
    /// The user is a member of as many topics as a user can be.
    #[error("the user is a member of as many topics as a user can be")]
    MembershipsFull,
    /// It was not stored, and never will be unless it is sent again.
    #[error("the message was not stored: {0}")]
    NotStored(&'static str),
    /// It may have been stored, or may be yet.
    #[error("it is not known whether the message was stored")]
    OutcomeUnknown,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Domain of every `ErrorInfo` of this service.
pub const DOMAIN: &str = "message.drivers.uz";

/// A store that failed or is full is asked again no sooner than this.
const RETRY_STORE: Duration = Duration::from_millis(500);

/// A person first has to leave a topic, so trying sooner is of no use.
const RETRY_FULL: Duration = Duration::from_secs(60);

impl Error {
    /// The one place that says what each error is to a caller: gRPC's code, the
    /// reason, and when to try again.
    fn face(&self) -> (Code, ErrorReason, Option<Duration>) {
        match self {
            Self::FieldInvalid { .. } => (Code::InvalidArgument, ErrorReason::FieldInvalid, None),
            Self::MessageInvalid { .. } => {
                (Code::InvalidArgument, ErrorReason::MessageInvalid, None)
            }
            Self::TopicNotFound => (Code::NotFound, ErrorReason::TopicNotFound, None),
            Self::TopicClosed => (Code::FailedPrecondition, ErrorReason::TopicClosed, None),
            Self::NotAMember => (Code::PermissionDenied, ErrorReason::NotAMember, None),
            Self::ReplyNotFound => (Code::FailedPrecondition, ErrorReason::ReplyNotFound, None),
            Self::StampReused => (Code::AlreadyExists, ErrorReason::StampReused, None),
            Self::RoomNotFound => (Code::NotFound, ErrorReason::RoomNotFound, None),
            Self::MembershipsFull => (
                Code::ResourceExhausted,
                ErrorReason::MembershipsFull,
                Some(RETRY_FULL),
            ),
            Self::NotStored(_) => (Code::Unavailable, ErrorReason::NotStored, Some(RETRY_STORE)),
            Self::OutcomeUnknown => (
                Code::Unavailable,
                ErrorReason::OutcomeUnknown,
                Some(RETRY_STORE),
            ),
            Self::Store(StoreError::Unavailable(_)) => (
                Code::Unavailable,
                ErrorReason::StoreUnavailable,
                Some(RETRY_STORE),
            ),
            Self::Store(StoreError::Damaged(_)) => {
                (Code::DataLoss, ErrorReason::StoreUnavailable, None)
            }
        }
    }

    /// The reason that a caller is told.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.face().1
    }

    /// The sentence that a caller is told: what a store says of itself stays here.
    fn sentence(&self) -> String {
        match self {
            Self::Store(StoreError::Unavailable(_)) => "the store is unavailable".to_owned(),
            Self::Store(StoreError::Damaged(_)) => "the store is damaged".to_owned(),
            told => told.to_string(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (code, reason, retry_after) = error.face();
        let message = error.sentence();
        let reason = reason.as_str_name();
        Self {
            code,
            reason: reason.strip_prefix("ERROR_REASON_").unwrap_or(reason),
            domain: DOMAIN,
            message,
            fields: match error {
                Error::FieldInvalid { field, rule } => vec![(field, rule)],
                Error::MessageInvalid { field, rule } => vec![(field.to_owned(), rule)],
                _ => Vec::new(),
            },
            retry_after,
        }
    }
}

impl From<Error> for SendFailure {
    fn from(error: Error) -> Self {
        Self {
            reason: error.reason().into(),
            message: error.sentence(),
            field: match error {
                Error::FieldInvalid { field, .. } => field,
                Error::MessageInvalid { field, .. } => field.to_owned(),
                _ => String::new(),
            },
        }
    }
}
