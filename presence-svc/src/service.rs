//! The rules of presence.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chassis::{
    bus::{Bus, Subject},
    id::{TopicId, UserId},
};
use prost::Message;
use proto::event::v1::{TopicEvent, Typing, topic_event::Event};

use crate::{
    clock::{Clock, Time},
    error::Error,
    session::{LeaseId, Presence, Session, SessionId, Term},
    store::{Held, Opened, Store},
};

#[cfg(test)]
pub(crate) mod tests;

/// Who is here, who types, and when somebody was last seen.
#[derive(Clone)]
pub struct Presences {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    max_sessions: u64,
}

impl Presences {
    /// Rules above a store. `max_sessions` is how many sessions one lease can have.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        max_sessions: u64,
    ) -> Self {
        Self {
            store,
            bus,
            clock,
            max_sessions,
        }
    }

    /// Makes a lease last for `ttl` from now; one that is not known only if it is to be taken.
    /// Answers when it ends.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::Store`].
    pub async fn renew_lease(
        &self,
        lease: LeaseId,
        ttl: Duration,
        take: bool,
    ) -> Result<Time, Error> {
        let from = self.clock.now();
        let until = from.after(ttl);
        match self
            .store
            .hold_lease(lease, Term { from, until }, take)
            .await?
        {
            Held::Living => Ok(until),
            Held::Lost => Err(lost()),
        }
    }

    /// Gives a lease back: its sessions end now. One that does not live stays as it is.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn release_lease(&self, lease: LeaseId) -> Result<(), Error> {
        Ok(self.store.release_lease(lease, self.clock.now()).await?)
    }

    /// Opens sessions by a living lease, all or none. Opening again changes nothing.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], [`Error::TooManySessions`], [`Error::Store`].
    pub async fn open_sessions(&self, lease: LeaseId, sessions: &[Session]) -> Result<(), Error> {
        let now = self.clock.now();
        let opened = self
            .store
            .open_sessions(lease, sessions, now, self.max_sessions)
            .await?;
        match opened {
            Opened::All => Ok(()),
            Opened::LeaseLost => Err(lost()),
            Opened::TooMany => Err(Error::TooManySessions),
        }
    }

    /// Ends sessions; their users were seen now. Closing again changes nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn close_sessions(&self, lease: LeaseId, sessions: &[Session]) -> Result<(), Error> {
        let now = self.clock.now();
        Ok(self.store.close_sessions(lease, sessions, now).await?)
    }

    /// What is known of users, in the order asked.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn presences(&self, users: &[UserId]) -> Result<Vec<Presence>, Error> {
        Ok(self.store.presences(users, self.clock.now()).await?)
    }

    /// Tells the listeners of a topic that a user types, on this session.
    pub fn report_typing(&self, topic: TopicId, user: UserId, session: SessionId) {
        let event = TopicEvent {
            event: Some(Event::Typing(Typing {
                topic_id: topic.get(),
                user_id: user.get(),
                session_id: Bytes::copy_from_slice(session.as_bytes()),
            })),
        };
        self.bus
            .publish(Subject::Topic(topic), event.encode_to_vec().into());
    }
}

fn lost() -> Error {
    metrics::counter!("drivers_presence_leases_lost_total").increment(1);
    Error::LeaseLost
}
