//! The users who have a socket here: which topics they listen to, and whether
//! their tokens still count.

mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chassis::id::{Seq, TopicId, UserId};
use dashmap::{DashMap, Entry};
use tokio::sync::{mpsc, oneshot};

use self::watch::Watch;
use crate::{
    hub::House,
    outbox::EndReason,
    rules::{SessionHandle, Unavailable},
    topic_feed::Command,
};

/// Wishes that may wait for one user's task; more are refused.
const MAX_WISHES: usize = 64;

/// Everybody who has a socket here.
#[derive(Default)]
pub(crate) struct Members {
    users: DashMap<UserId, User>,
}

/// One user, with the way to his task.
struct User {
    wishes: mpsc::Sender<Wish>,
    state: Arc<State>,
}

/// What is asked of a user's task.
enum Wish {
    /// The session is to listen to all topics of its user.
    Join(Arc<SessionHandle>, oneshot::Sender<bool>),
    /// His memberships may have changed; the session asks because of this topic.
    Confirm(Arc<SessionHandle>, TopicId),
    /// His memberships have changed.
    Refresh,
}

/// What is known of a user; written by his task, read by everybody.
#[derive(Default)]
struct State(Mutex<Known>);

#[derive(Default)]
struct Known {
    sessions: Vec<Arc<SessionHandle>>,
    /// Version of his memberships; 0 while they are not known.
    version: i64,
    /// His topics, each with its newest seq when he joined; as the feeds were told.
    memberships: HashMap<TopicId, Seq>,
    /// A feed had no room for a change, so that not all of this version was told.
    is_untold: bool,
}

impl State {
    /// Every critical section leaves the state whole, so a poisoned lock means nothing.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// Makes a session a listener of every topic of its user.
    pub(crate) async fn join(
        house: &Arc<House>,
        session: Arc<SessionHandle>,
    ) -> Result<(), Unavailable> {
        let (joined, coming) = oneshot::channel();
        {
            let user = house.members.enter(house, &session);
            (user.try_send(Wish::Join(session, joined))).map_err(|_| Unavailable)?;
        }
        match coming.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Unavailable),
        }
    }

    /// Counts the session among its user's, who is watched from his first one on.
    fn enter(&self, house: &Arc<House>, session: &Arc<SessionHandle>) -> mpsc::Sender<Wish> {
        let id = session.user.user_id;
        let user = match self.users.entry(id) {
            Entry::Occupied(user) => user.into_ref(),
            Entry::Vacant(vacant) => {
                let (wishes, wished) = mpsc::channel(MAX_WISHES);
                let state = Arc::new(State::default());
                let watch = Watch::new(id, Arc::clone(house), Arc::clone(&state), wished);
                house.tasks.spawn(watch.run());
                vacant.insert(User { wishes, state })
            }
        };
        let mut known = user.state.known();
        if !(known.sessions.iter()).any(|one| one.session_id == session.session_id) {
            known.sessions.push(Arc::clone(session));
        }
        drop(known);
        user.wishes.clone()
    }

    /// The session's socket is gone. With his last one the user is watched no more.
    pub(crate) fn leave(&self, house: &House, session: &SessionHandle) {
        let id = session.user.user_id;
        let mut topics = Vec::new();
        if let Some(user) = self.users.get(&id) {
            let mut known = user.state.known();
            (known.sessions).retain(|one| one.session_id != session.session_id);
            topics.extend(known.memberships.keys().copied());
        }
        for topic in topics {
            let unlisten = Command::Unlisten(session.session_id);
            // A feed that misses it finds that the socket is gone.
            let _missed = house.feeds.tell_if_there(topic, unlisten);
        }
        self.users
            .remove_if(&id, |_, user| user.state.known().sessions.is_empty());
    }

    /// Whether the user, who has a socket here, is a member of the topic.
    pub(crate) fn is_member(&self, user: UserId, topic: TopicId) -> bool {
        (self.users.get(&user))
            .is_some_and(|user| user.state.known().memberships.contains_key(&topic))
    }

    /// Finds out whether the session is to listen to this topic, and tells the feed.
    pub(crate) fn confirm(&self, session: &Arc<SessionHandle>, topic: TopicId) {
        self.wish(session.user.user_id, || {
            Wish::Confirm(Arc::clone(session), topic)
        });
    }

    /// Tells a user's task that his memberships have this version now.
    pub(crate) fn tell_version(&self, user: UserId, version: i64) {
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("ignore_membership") {
            return;
        }
        let behind = (self.users.get(&user)).is_some_and(|user| {
            let known = user.state.known();
            known.version != 0 && (known.version != version || known.is_untold)
        });
        if behind {
            self.wish(user, || Wish::Refresh);
        }
    }

    /// A wish that finds no room is not lost for long: the sweep wishes it again.
    fn wish(&self, user: UserId, wish: impl FnOnce() -> Wish) {
        if let Some(user) = self.users.get(&user)
            && user.wishes.try_send(wish()).is_err()
        {
            tracing::debug!("a user's task has too much to do");
        }
    }

    /// The users who have a socket here.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.users.iter().map(|user| *user.key()).collect()
    }

    /// The signed-in sessions of this gateway.
    pub(crate) fn sessions(&self) -> Vec<Arc<SessionHandle>> {
        let users = self.users.iter();
        users
            .flat_map(|user| user.state.known().sessions.clone())
            .collect()
    }
}

/// Ends a session whose token counts no more.
pub(crate) fn end_revoked(session: &SessionHandle) {
    #[cfg(feature = "sabotage")]
    if chassis::sabotage::is("ignore_revocation") {
        return;
    }
    session.outbox.end(EndReason::Revoked);
}
