//! Why the user service refuses.

use std::time::Duration;

use chassis::status::Refusal;
use tonic::Code;

use crate::store::{MAX_TOKENS, StoreError};

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fields of the request are missing or wrong.
    #[error("fields of the request are missing or wrong: {0:?}")]
    FieldsInvalid(Vec<Violation>),
    /// Another account has this phone number.
    #[error("another account has this phone number")]
    PhoneNumberTaken,
    /// Another account has this user name, case aside.
    #[error("another account has this user name")]
    UsernameTaken,
    /// No live token has this text.
    #[error("no live token has this text")]
    TokenInvalid,
    /// No account has this id.
    #[error("no account has this id")]
    UserNotFound,
    /// The account has as many live tokens as one may have.
    #[error("the account has as many live tokens as one may have")]
    TooManyTokens,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A field of a request, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the field, as in the schema.
    pub field: String,
    /// A sentence that names the field and the rule it breaks.
    pub rule: String,
}

/// Why a text is not the thing it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// It is missing or blank.
    NotGiven,
    /// It breaks this rule; reads on from the name of the field.
    Breaks(&'static str),
}

impl FormError {
    /// What is wrong with the field that held the text.
    #[must_use]
    pub fn in_field(self, field: &str) -> Violation {
        let rule = match self {
            Self::NotGiven => "not given",
            Self::Breaks(rule) => rule,
        };
        Violation {
            field: field.to_owned(),
            rule: format!("{field} {rule}"),
        }
    }
}

const DOMAIN: &str = "user.drivers.uz";

/// About as long as a store is away when it only changes hands.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (code, reason, message) = match &error {
            Error::FieldsInvalid(violations) => {
                let rules: Vec<&str> = violations.iter().map(|v| v.rule.as_str()).collect();
                (Code::InvalidArgument, "FIELD_INVALID", rules.join("; "))
            }
            Error::PhoneNumberTaken => (
                Code::AlreadyExists,
                "PHONE_NUMBER_TAKEN",
                "another account has this phone_number".to_owned(),
            ),
            Error::UsernameTaken => (
                Code::AlreadyExists,
                "USERNAME_TAKEN",
                "another account has this username".to_owned(),
            ),
            Error::TokenInvalid => (
                Code::Unauthenticated,
                "TOKEN_INVALID",
                "invalid token".to_owned(),
            ),
            Error::UserNotFound => (
                Code::NotFound,
                "USER_NOT_FOUND",
                "no account has this user_id".to_owned(),
            ),
            Error::TooManyTokens => (
                Code::ResourceExhausted,
                "TOO_MANY_TOKENS",
                format!("the account has {MAX_TOKENS} live tokens: revoke some first"),
            ),
            Error::Store(StoreError::Unavailable(_) | StoreError::Damaged(_)) => (
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "the accounts can't be reached at the moment".to_owned(),
            ),
        };
        let retry_after = (code == Code::Unavailable).then_some(RETRY_AFTER);
        let fields = match error {
            Error::FieldsInvalid(violations) => {
                violations.into_iter().map(|v| (v.field, v.rule)).collect()
            }
            _ => Vec::new(),
        };
        Self {
            code,
            reason,
            domain: DOMAIN,
            message,
            fields,
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::user::v1::ErrorReason;

    use super::*;

    #[test]
    fn every_reason_is_one_of_the_schema_and_nothing_inner_is_told() {
        let errors = [
            Error::FieldsInvalid(vec![FormError::NotGiven.in_field("username")]),
            Error::PhoneNumberTaken,
            Error::UsernameTaken,
            Error::TokenInvalid,
            Error::UserNotFound,
            Error::TooManyTokens,
            Error::Store(StoreError::Unavailable("node 10.0.0.7 timed out".into())),
            Error::Store(StoreError::Damaged("row of 10.0.0.7".into())),
        ];
        for error in errors {
            let refusal = Refusal::from(error);
            let name = format!("ERROR_REASON_{}", refusal.reason);
            assert!(ErrorReason::from_str_name(&name).is_some(), "{name}");
            assert!(!refusal.message.contains("10.0.0.7"), "{}", refusal.message);
            assert_eq!(
                refusal.retry_after.is_some(),
                refusal.code == Code::Unavailable
            );
        }
    }

    #[test]
    fn a_missing_field_is_named_with_the_contracts_sentence() {
        let refusal: Refusal =
            Error::FieldsInvalid(vec![FormError::NotGiven.in_field("gcm_token")]).into();
        assert_eq!(refusal.message, "gcm_token not given");
        assert_eq!(
            refusal.fields,
            [("gcm_token".to_owned(), "gcm_token not given".to_owned())]
        );
    }
}
