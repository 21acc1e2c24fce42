//! Refusals: what a service says instead of an answer, with the details of
//! `google.rpc` (<https://google.aip.dev/193>).

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of the `ErrorInfo` of refusals that come from the layers around a
/// service, not from its rules.
pub const DOMAIN: &str = "drivers.uz";

/// Why a call is refused. Converts into a [`Status`] with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC's code.
    pub code: Code,
    /// Reason of the `ErrorInfo`: UPPER_SNAKE_CASE, stable.
    pub reason: &'static str,
    /// Domain of the `ErrorInfo`, for example `user.drivers.uz`.
    pub domain: &'static str,
    /// One sentence for people. No inner error, no host name, nobody's data.
    pub message: String,
    /// Wrong fields of the request, each with the rule it breaks.
    pub fields: Vec<(String, String)>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// The reason in the answer of a server whose caller's time is over.
pub(crate) const TOO_LATE: &str = "DEADLINE_EXCEEDED";

impl Refusal {
    /// A refusal by the layers around a service, with no details but its reason.
    pub(crate) fn of_layer(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            domain: DOMAIN,
            message: message.into(),
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// The time of a call ran out, here or on the way.
    pub(crate) fn too_late() -> Self {
        Self::of_layer(
            Code::DeadlineExceeded,
            TOO_LATE,
            "the call's time ran out before it was answered",
        )
    }

    /// The whole answer to a call: no body, the status in the headers.
    pub(crate) fn into_response(self) -> http::Response<tonic::body::Body> {
        Status::from(self).into_http()
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            refusal.reason,
            refusal.domain,
            std::collections::HashMap::<String, String>::new(),
        );
        for (field, rule) in refusal.fields {
            details.add_bad_request_violation(field, rule);
        }
        if let Some(after) = refusal.retry_after {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(refusal.code, refusal.message, details)
    }
}

/// The reason of a status' `ErrorInfo`, if it has one.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// gRPC's name of a code, for example `NOT_FOUND`.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
