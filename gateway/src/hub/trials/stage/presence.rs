//! presence-svc.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
};

use chassis::status::Refusal;
use proto::presence::v1::{self as presence_pb, presence_service_server as presence_server};
use tonic::{Code, Request, Response, Status};

use super::{Answer, not_played};

#[derive(Default)]
pub(crate) struct PlayedPresence {
    leases: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    held: BTreeSet<Vec<u8>>,
    sessions: HashMap<Vec<u8>, i64>,
    released: bool,
}

impl PlayedPresence {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap()
    }

    pub(crate) fn online(&self) -> Vec<i64> {
        let mut users: Vec<i64> = self.leases().sessions.values().copied().collect();
        users.sort_unstable();
        users
    }

    /// As the sweeper does when a lease has run out.
    pub(crate) fn lose_lease(&self) {
        let mut leases = self.leases();
        leases.held.clear();
        leases.sessions.clear();
    }

    pub(crate) fn was_released(&self) -> bool {
        self.leases().released
    }
}

fn check(leases: &Leases, lease: &[u8]) -> Result<(), Status> {
    if leases.held.contains(lease) {
        return Ok(());
    }
    Err(Refusal {
        code: Code::FailedPrecondition,
        reason: "LEASE_LOST",
        domain: "presence.drivers.uz",
        message: "the lease ran out".into(),
        fields: Vec::new(),
        retry_after: None,
    }
    .into())
}

#[tonic::async_trait]
impl presence_server::PresenceService for PlayedPresence {
    async fn renew_lease(
        &self,
        request: Request<presence_pb::RenewLeaseRequest>,
    ) -> Answer<presence_pb::RenewLeaseResponse> {
        let request = request.into_inner();
        let mut leases = self.leases();
        if request.take {
            leases.held.insert(request.lease_id.to_vec());
        }
        check(&leases, &request.lease_id)?;
        Ok(Response::new(presence_pb::RenewLeaseResponse::default()))
    }

    async fn release_lease(
        &self,
        request: Request<presence_pb::ReleaseLeaseRequest>,
    ) -> Answer<presence_pb::ReleaseLeaseResponse> {
        let mut leases = self.leases();
        leases.released = leases.held.remove(request.into_inner().lease_id.as_ref());
        Ok(Response::new(presence_pb::ReleaseLeaseResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<presence_pb::OpenSessionRequest>,
    ) -> Answer<presence_pb::OpenSessionResponse> {
        let request = request.into_inner();
        let mut leases = self.leases();
        check(&leases, &request.lease_id)?;
        for session in request.sessions {
            leases
                .sessions
                .insert(session.session_id.to_vec(), session.user_id);
        }
        Ok(Response::new(presence_pb::OpenSessionResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<presence_pb::CloseSessionRequest>,
    ) -> Answer<presence_pb::CloseSessionResponse> {
        let mut leases = self.leases();
        for session in request.into_inner().sessions {
            leases.sessions.remove(session.session_id.as_ref());
        }
        Ok(Response::new(presence_pb::CloseSessionResponse {}))
    }

    not_played! { presence_pb:
        report_typing(ReportTypingRequest) -> ReportTypingResponse,
        batch_get_presence(BatchGetPresenceRequest) -> BatchGetPresenceResponse,
    }
}
