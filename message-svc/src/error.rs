//! Why the message service refuses.

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
