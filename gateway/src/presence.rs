//! This gateway's lease, and the sessions that count under it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chassis::{call::Call, id::UserId, status::reason};
use proto::presence::v1::{
    CloseSessionRequest, OpenSessionRequest, ReleaseLeaseRequest, RenewLeaseRequest, Session,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{
    hub::{House, SessionId},
    rules::SessionHandle,
};

/// How long a lease lasts, and how often it is renewed.
const TTL: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// Sessions of one call; what presence-svc takes at most.
const BATCH: usize = 256;
/// Between two calls, and after one that failed.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);
const AFTER_FAILURE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(2);

/// Who is here. What is to be told to presence-svc is what differs between here
/// and there, so it is bounded by the sessions of both.
#[derive(Default)]
pub(crate) struct Presence {
    sessions: Mutex<Sessions>,
    changed: Notify,
}

#[derive(Default)]
struct Sessions {
    here: HashMap<SessionId, UserId>,
    /// What presence-svc was told under the lease, or may have been.
    told: HashMap<SessionId, UserId>,
    to_open: Vec<SessionId>,
    to_close: Vec<SessionId>,
}

impl Presence {
    /// A session is here.
    pub(crate) fn open(&self, session: &SessionHandle) {
        let mut sessions = self.sessions();
        let id = session.session_id;
        if sessions.here.insert(id, session.user.user_id).is_none() {
            sessions.to_open.push(id);
            self.changed.notify_one();
        }
    }

    /// A session is gone.
    pub(crate) fn close(&self, session: &SessionHandle) {
        let mut sessions = self.sessions();
        let id = session.session_id;
        if sessions.here.remove(&id).is_some() {
            sessions.to_close.push(id);
            self.changed.notify_one();
        }
    }

    /// Holds a lease and keeps presence-svc told, until the gateway stops; then
    /// gives the lease back.
    pub(crate) async fn run(house: Arc<House>) {
        let mut lease = Lease::fresh();
        loop {
            let this = &house.presence;
            tokio::select! {
                () = house.stopped.cancelled() => break,
                () = sleep_until(lease.renew_at) => {}
                () = this.changed.notified(), if lease.is_held => {}
            }
            let told = tokio::select! {
                () = house.stopped.cancelled() => break,
                told = this.tell(&house, &mut lease) => told,
            };
            if let Err(status) = told {
                if reason(&status).as_deref() == Some("LEASE_LOST") {
                    tracing::warn!("the lease was lost; a new one is taken");
                    lease = Lease::fresh();
                    this.forget_told();
                } else {
                    tracing::debug!(code = ?status.code(), "presence can't be told");
                }
                lease.renew_at = Instant::now() + AFTER_FAILURE;
                this.changed.notify_one();
            }
        }
        let request = Call::within(LIMIT).request(ReleaseLeaseRequest {
            lease_id: lease.id(),
        });
        let mut client = house.services.presence.clone();
        if let Err(status) = client.release_lease(request).await {
            tracing::debug!(code = ?status.code(), "the lease was not given back; it ends by itself");
        }
    }

    async fn tell(&self, house: &House, lease: &mut Lease) -> Result<(), Status> {
        let mut client = house.services.presence.clone();
        if Instant::now() >= lease.renew_at {
            let request = Call::within(LIMIT).request(RenewLeaseRequest {
                lease_id: lease.id(),
                ttl_ms: i64::try_from(TTL.as_millis()).unwrap_or(i64::MAX),
                take: !lease.is_held,
            });
            client.renew_lease(request).await?;
            lease.is_held = true;
            lease.renew_at = Instant::now() + RENEWAL;
        }
        while Instant::now() < lease.renew_at {
            // A session that has come and gone is opened before it is closed.
            let opened = self.next_opened();
            if !opened.is_empty() {
                let request = Call::within(LIMIT).request(OpenSessionRequest {
                    lease_id: lease.id(),
                    sessions: rows(&opened),
                });
                if let Err(status) = client.open_session(request).await {
                    self.open_again(&opened);
                    return Err(status);
                }
            }
            let closed = self.next_closed();
            if !closed.is_empty() {
                let request = Call::within(LIMIT).request(CloseSessionRequest {
                    lease_id: lease.id(),
                    sessions: rows(&closed),
                });
                if let Err(status) = client.close_session(request).await {
                    self.close_again(&closed);
                    return Err(status);
                }
            }
            if opened.is_empty() && closed.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_CALLS).await;
        }
        self.changed.notify_one();
        Ok(())
    }

    fn next_opened(&self) -> Vec<(SessionId, UserId)> {
        let mut sessions = self.sessions();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(id) = sessions.to_open.pop()
        {
            if let Some(user) = sessions.here.get(&id).copied() {
                sessions.told.insert(id, user);
                batch.push((id, user));
            }
        }
        batch
    }

    fn next_closed(&self) -> Vec<(SessionId, UserId)> {
        let mut sessions = self.sessions();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(id) = sessions.to_close.pop()
        {
            if let Some(user) = sessions.told.remove(&id) {
                batch.push((id, user));
            }
        }
        batch
    }

    fn open_again(&self, batch: &[(SessionId, UserId)]) {
        self.sessions()
            .to_open
            .extend(batch.iter().map(|(id, _)| *id));
    }

    fn close_again(&self, batch: &[(SessionId, UserId)]) {
        let mut sessions = self.sessions();
        for (id, user) in batch {
            sessions.told.insert(*id, *user);
            sessions.to_close.push(*id);
        }
    }

    /// Under a new lease everybody who is here is opened again.
    fn forget_told(&self) {
        let mut sessions = self.sessions();
        sessions.told = HashMap::new();
        sessions.to_close = Vec::new();
        sessions.to_open = sessions.here.keys().copied().collect();
    }

    /// Every critical section leaves the sessions whole, so a poisoned lock means nothing.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lease {
    id: [u8; 16],
    is_held: bool,
    renew_at: Instant,
}

impl Lease {
    fn fresh() -> Self {
        Self {
            id: rand::random(),
            is_held: false,
            renew_at: Instant::now(),
        }
    }

    fn id(&self) -> Bytes {
        Bytes::copy_from_slice(&self.id)
    }
}

fn rows(sessions: &[(SessionId, UserId)]) -> Vec<Session> {
    sessions
        .iter()
        .map(|(id, user)| Session {
            session_id: Bytes::copy_from_slice(id),
            user_id: user.get(),
        })
        .collect()
}
