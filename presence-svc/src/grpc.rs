//! `drivers.presence.v1.PresenceService` in front of the rules.

use std::time::Duration;

use chassis::{
    call::Call,
    id::{TopicId, UserId},
    status::Refusal,
};
use proto::presence::v1::{
    self as pb, BatchGetPresenceRequest, BatchGetPresenceResponse, CloseSessionRequest,
    CloseSessionResponse, OpenSessionRequest, OpenSessionResponse, ReleaseLeaseRequest,
    ReleaseLeaseResponse, RenewLeaseRequest, RenewLeaseResponse, ReportTypingRequest,
    ReportTypingResponse, presence_service_server::PresenceService,
};
use tonic::{Request, Response, Status};

use crate::{
    error::{Error, Violation},
    service::Presences,
    session::{LeaseId, Session, SessionId},
};

#[cfg(test)]
mod tests;

/// The most users in one request.
const MAX_USERS: usize = 1_000;
/// The most sessions in one request.
const MAX_SESSIONS: usize = 256;
/// How short and how long a lease can be, in milliseconds.
const TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=300_000;

/// The service as tonic calls it.
#[derive(Clone)]
pub struct Api {
    presences: Presences,
}

impl Api {
    pub(crate) fn new(presences: Presences) -> Self {
        Self { presences }
    }
}

#[tonic::async_trait]
impl PresenceService for Api {
    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        let mut wrong = Vec::new();
        let lease = lease_id(&request.lease_id, &mut wrong);
        let ttl = u64::try_from(request.ttl_ms)
            .ok()
            .filter(|ttl| TTL_MS.contains(ttl))
            .map(Duration::from_millis);
        let ttl = check(ttl, "ttl_ms", "must be 1000 to 300000", &mut wrong);
        let (Some(lease), Some(ttl)) = (lease, ttl) else {
            return Err(refuse(Error::FieldsInvalid(wrong)));
        };
        let renewed = self.presences.renew_lease(lease, ttl, request.take).await;
        Ok(Response::new(RenewLeaseResponse {
            expire_time_ms: renewed.map_err(refuse)?.as_ms(),
        }))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let mut wrong = Vec::new();
        let Some(lease) = lease_id(&request.into_inner().lease_id, &mut wrong) else {
            return Err(refuse(Error::FieldsInvalid(wrong)));
        };
        self.presences.release_lease(lease).await.map_err(refuse)?;
        Ok(Response::new(ReleaseLeaseResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let (lease, sessions) = sessions(&request.lease_id, &request.sessions).map_err(refuse)?;
        let opened = self.presences.open_sessions(lease, &sessions).await;
        opened.map_err(refuse)?;
        Ok(Response::new(OpenSessionResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let request = request.into_inner();
        let (lease, sessions) = sessions(&request.lease_id, &request.sessions).map_err(refuse)?;
        let closed = self.presences.close_sessions(lease, &sessions).await;
        closed.map_err(refuse)?;
        Ok(Response::new(CloseSessionResponse {}))
    }

    async fn report_typing(
        &self,
        request: Request<ReportTypingRequest>,
    ) -> Result<Response<ReportTypingResponse>, Status> {
        let mut wrong = Vec::new();
        let user = match &Call::of(&request).acting_users[..] {
            [user] => Some(user.id),
            _ => None,
        };
        let user = check(
            user,
            "drivers-acting-user",
            "must name one user",
            &mut wrong,
        );
        let request = request.into_inner();
        let topic = TopicId::new(request.topic_id);
        let topic = check(topic, "topic_id", ID_RULE, &mut wrong);
        let session = session_id(&request.session_id);
        let session = check(session, "session_id", BYTES_RULE, &mut wrong);
        let (Some(user), Some(topic), Some(session)) = (user, topic, session) else {
            return Err(refuse(Error::FieldsInvalid(wrong)));
        };
        self.presences.report_typing(topic, user, session);
        Ok(Response::new(ReportTypingResponse {}))
    }

    async fn batch_get_presence(
        &self,
        request: Request<BatchGetPresenceRequest>,
    ) -> Result<Response<BatchGetPresenceResponse>, Status> {
        let users = users(&request.into_inner().user_ids).map_err(refuse)?;
        let presences = self.presences.presences(&users).await.map_err(refuse)?;
        let presences = users
            .iter()
            .zip(presences)
            .map(|(user, presence)| pb::Presence {
                user_id: user.get(),
                online: presence.online,
                last_seen_ms: presence.last_seen.map_or(0, |time| time.as_ms()),
            });
        Ok(Response::new(BatchGetPresenceResponse {
            presences: presences.collect(),
        }))
    }
}

const BYTES_RULE: &str = "must be 16 bytes";
const ID_RULE: &str = "must be above 0 and below 2^53";

/// The value, or one more violation.
fn check<T>(
    value: Option<T>,
    field: impl Into<String>,
    rule: &str,
    wrong: &mut Vec<Violation>,
) -> Option<T> {
    if value.is_none() {
        wrong.push(Violation::new(field, rule));
    }
    value
}

fn lease_id(bytes: &[u8], wrong: &mut Vec<Violation>) -> Option<LeaseId> {
    let lease = bytes.try_into().ok().map(LeaseId::new);
    check(lease, "lease_id", BYTES_RULE, wrong)
}

fn session_id(bytes: &[u8]) -> Option<SessionId> {
    bytes.try_into().ok().map(SessionId::new)
}

fn sessions(lease: &[u8], sessions: &[pb::Session]) -> Result<(LeaseId, Vec<Session>), Error> {
    let mut wrong = Vec::new();
    let lease = lease_id(lease, &mut wrong);
    if !(1..=MAX_SESSIONS).contains(&sessions.len()) {
        wrong.push(Violation::new("sessions", "must be 1 to 256"));
        return Err(Error::FieldsInvalid(wrong));
    }
    let mut valid = Vec::with_capacity(sessions.len());
    for (n, session) in sessions.iter().enumerate() {
        let id = session_id(&session.session_id);
        let id = check(
            id,
            format!("sessions[{n}].session_id"),
            BYTES_RULE,
            &mut wrong,
        );
        let user = UserId::new(session.user_id);
        let user = check(user, format!("sessions[{n}].user_id"), ID_RULE, &mut wrong);
        valid.extend(user.zip(id).map(|(user, id)| Session { user, id }));
        if !wrong.is_empty() {
            // Naming every wrong one would not fit into the headers of an answer.
            break;
        }
    }
    match lease {
        Some(lease) if wrong.is_empty() => Ok((lease, valid)),
        _ => Err(Error::FieldsInvalid(wrong)),
    }
}

fn users(ids: &[i64]) -> Result<Vec<UserId>, Error> {
    let invalid = |violation| Error::FieldsInvalid(vec![violation]);
    if ids.len() > MAX_USERS {
        return Err(invalid(Violation::new("user_ids", "must be at most 1000")));
    }
    let user = |(n, id): (usize, &i64)| {
        UserId::new(*id).ok_or_else(|| invalid(Violation::new(format!("user_ids[{n}]"), ID_RULE)))
    };
    ids.iter().enumerate().map(user).collect()
}

fn refuse(error: Error) -> Status {
    if let Error::Store(error) = &error {
        tracing::warn!(%error, "a call failed in the store");
    }
    Refusal::from(error).into()
}
