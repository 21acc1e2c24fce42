//! Why the presence service refuses.

use std::time::Duration;

use chassis::status::Refusal;
use tonic::Code;

use crate::store::StoreError;

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fields of the request are missing or wrong.
    #[error("fields of the request are missing or wrong: {0:?}")]
    FieldsInvalid(Vec<Violation>),
    /// The lease ran out, was given back, or was never taken.
    #[error("the lease is lost")]
    LeaseLost,
    /// The lease has as many sessions as a lease can have.
    #[error("the lease has as many sessions as it can have")]
    TooManySessions,
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

impl Violation {
    /// `rule` reads on from the name of the field.
    #[must_use]
    pub fn new(field: impl Into<String>, rule: &str) -> Self {
        let field = field.into();
        let rule = format!("{field} {rule}");
        Self { field, rule }
    }
}

const DOMAIN: &str = "presence.drivers.uz";

/// About as long as a store is away when it only changes hands.
const RETRY_STORE: Duration = Duration::from_millis(500);
/// Sessions end one by one, at the pace of people.
const RETRY_SESSIONS: Duration = Duration::from_secs(5);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (code, reason, message, retry_after) = match &error {
            Error::FieldsInvalid(violations) => {
                let rules: Vec<&str> = violations.iter().map(|v| v.rule.as_str()).collect();
                let message = rules.join("; ");
                (Code::InvalidArgument, "FIELD_INVALID", message, None)
            }
            Error::LeaseLost => (
                Code::FailedPrecondition,
                "LEASE_LOST",
                "the lease is lost: take another and open the sessions again".to_owned(),
                None,
            ),
            Error::TooManySessions => (
                Code::ResourceExhausted,
                "TOO_MANY_SESSIONS",
                "the lease has as many sessions as it can have".to_owned(),
                Some(RETRY_SESSIONS),
            ),
            Error::Store(StoreError::Unavailable(_) | StoreError::Damaged(_)) => (
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "the sessions can't be reached at the moment".to_owned(),
                Some(RETRY_STORE),
            ),
        };
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
    use proto::presence::v1::ErrorReason;

    use super::*;

    #[test]
    fn every_reason_is_one_of_the_schema_and_nothing_inner_is_told() {
        let errors = [
            Error::FieldsInvalid(vec![Violation::new("lease_id", "must be 16 bytes")]),
            Error::LeaseLost,
            Error::TooManySessions,
            Error::Store(StoreError::Unavailable("node 10.0.0.7 timed out".into())),
            Error::Store(StoreError::Damaged("row of 10.0.0.7".into())),
        ];
        for error in errors {
            let refusal = Refusal::from(error);
            let name = format!("ERROR_REASON_{}", refusal.reason);
            assert!(ErrorReason::from_str_name(&name).is_some(), "{name}");
            assert!(!refusal.message.contains("10.0.0.7"), "{}", refusal.message);
        }
    }
}
