//! What a failure of a request means.

use scylla::{
    deserialize::{DeserializationError, TypeCheckError},
    errors::{
        DbError, ExecutionError, IntoRowsResultError, NewSessionError, PrepareError,
        RequestAttemptError,
    },
    response::query_result::RowsError,
};

/// Why a request yielded nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CqlError {
    /// The cluster is away, overloaded or too slow, or its tables are not made yet. A read
    /// tells nothing, a plain write may have been done; a conditional write was not and never will be.
    #[error("{0}")]
    Unavailable(String),
    /// A conditional write may have been applied, or may be yet.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The statement can never succeed: it is wrong, too large, or not allowed.
    #[error("refused: {0}")]
    Refused(String),
    /// The cluster answered what can't be.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl CqlError {
    /// What it means for a request that is no conditional write.
    pub(super) fn of_plain(self) -> Self {
        match self {
            Self::Unknown(why) => Self::Unavailable(why),
            error => error,
        }
    }

    /// For metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Unknown(_) => "unknown",
            Self::Refused(_) => "refused",
            Self::Damaged(_) => "damaged",
        }
    }
}

impl From<ExecutionError> for CqlError {
    fn from(error: ExecutionError) -> Self {
        let text = error.to_string();
        match &error {
            ExecutionError::BadQuery(_) => Self::Refused(text),
            // No node could be asked at all.
            ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => {
                Self::Unavailable(text)
            }
            ExecutionError::PrepareError(_) => Self::Unavailable(text),
            ExecutionError::LastAttemptError(error) => attempt(error, text),
            _ => Self::Unknown(text),
        }
    }
}

/// Whether a request that reached a node was refused before it was executed. What is
/// not certain to be that is unknown: even "not enough replicas" and "overloaded" may
/// come after a conditional write was accepted, from the step that spreads it.
fn attempt(error: &RequestAttemptError, text: String) -> CqlError {
    match error {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => CqlError::Refused(text),
        RequestAttemptError::UnableToAllocStreamId => CqlError::Unavailable(text),
        RequestAttemptError::DbError(error, _) => match error {
            DbError::SyntaxError
            | DbError::Invalid
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::AlreadyExists { .. } => CqlError::Refused(text),
            DbError::IsBootstrapping
            | DbError::AuthenticationError
            | DbError::Unprepared { .. } => CqlError::Unavailable(text),
            _ => CqlError::Unknown(text),
        },
        _ => CqlError::Unknown(text),
    }
}

impl From<PrepareError> for CqlError {
    fn from(error: PrepareError) -> Self {
        let text = error.to_string();
        match &error {
            PrepareError::AllAttemptsFailed { first_attempt } => match attempt(first_attempt, text)
            {
                CqlError::Unknown(text) => Self::Unavailable(text),
                error => error,
            },
            _ => Self::Unavailable(text),
        }
    }
}

impl From<NewSessionError> for CqlError {
    fn from(error: NewSessionError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<IntoRowsResultError> for CqlError {
    fn from(error: IntoRowsResultError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<RowsError> for CqlError {
    fn from(error: RowsError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<TypeCheckError> for CqlError {
    fn from(error: TypeCheckError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<DeserializationError> for CqlError {
    fn from(error: DeserializationError) -> Self {
        Self::Damaged(error.to_string())
    }
}
