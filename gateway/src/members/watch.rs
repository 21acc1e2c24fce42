//! The task of one user: follows his events, keeps his memberships current, and
//! tells the feeds who listens.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chassis::{
    bus::{Received, Subject, Subscription},
    call::Call,
    id::{Seq, TopicId, UserId},
};
use futures::{StreamExt, future::BoxFuture, stream, stream::FuturesUnordered};
use prost::Message as _;
use proto::{
    event::v1::{MembershipChanged, UserEvent, membership_changed::Change, user_event::Event},
    message::v1::{EnrolUserRequest, ListMembershipsRequest},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tonic::Status;

use super::{State, Wish, end_revoked};
use crate::{hub::House, rules::SessionHandle, topic_feed::Command};

/// Longest time of reading the memberships, and of becoming a listener of a topic.
const LIMIT: Duration = Duration::from_secs(5);
/// How long after it could not be found out whether somebody listens it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Memberships of one page; what message-svc gives at most.
const PAGE: i32 = 1_000;
/// Topics that are being opened for one user at a time.
const OPENING: usize = 64;

/// A user's memberships as message-svc has them.
struct Memberships {
    version: i64,
    topics: HashMap<TopicId, Seq>,
}

pub(super) struct Watch {
    user: UserId,
    house: Arc<House>,
    state: Arc<State>,
    wishes: mpsc::Receiver<Wish>,
    /// The user's events; from before his memberships are read.
    events: Option<Subscription>,
    /// Sessions that are becoming listeners: no event waits for them.
    joining: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Watch {
    pub(super) fn new(
        user: UserId,
        house: Arc<House>,
        state: Arc<State>,
        wishes: mpsc::Receiver<Wish>,
    ) -> Self {
        Self {
            user,
            house,
            state,
            wishes,
            events: None,
            joining: FuturesUnordered::new(),
        }
    }

    /// Runs until the user's last socket here is gone, or the gateway stops.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                () = self.house.stopped.cancelled() => return,
                event = next_event(&mut self.events) => match event {
                    Some(Received::Event(bytes)) => self.receive(bytes).await,
                    Some(Received::Lost) => {
                        self.refresh().await;
                    }
                    None => self.events = None,
                },
                Some(()) = self.joining.next() => {}
                wish = self.wishes.recv() => match wish {
                    Some(wish) => self.grant(wish).await,
                    None => return,
                },
            }
        }
    }

    async fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Join(session, joined) => self.join(session, joined).await,
            Wish::Confirm(session, topic) => self.confirm(&session, topic).await,
            Wish::Refresh => {
                self.refresh().await;
            }
        }
    }

    async fn join(&mut self, session: Arc<SessionHandle>, joined: oneshot::Sender<bool>) {
        if self.state.known().version == 0 && !self.load().await {
            let _gone = joined.send(false);
            return;
        }
        let topics: Vec<TopicId> = self.state.known().memberships.keys().copied().collect();
        #[cfg(feature = "sabotage")]
        let topics = sabotaged(topics);
        let (house, state) = (Arc::clone(&self.house), Arc::clone(&self.state));
        self.joining.push(Box::pin(async move {
            let listens = stream::iter(topics)
                .map(|topic| listen_to(&house, &state, &session, topic))
                .buffer_unordered(OPENING)
                .all(|listens| async move { listens })
                .await;
            let _gone = joined.send(listens);
        }));
    }

    /// Subscribes to the user's events, then reads his memberships.
    async fn load(&mut self) -> bool {
        if self.events.is_none() {
            let subscribed = self.house.bus.subscribe(Subject::User(self.user)).await;
            match subscribed {
                Ok(events) => self.events = Some(events),
                Err(error) => {
                    tracing::debug!(user = %self.user, %error, "a user's events can't be followed yet");
                    return false;
                }
            }
        }
        if let Err(error) = self.house.bus.flush(LIMIT).await {
            tracing::debug!(user = %self.user, %error, "a user's events can't be followed yet");
            return false;
        }
        match read(&self.house, self.user).await {
            Ok(read) => {
                let mut known = self.state.known();
                known.version = read.version;
                known.memberships = read.topics;
                true
            }
            Err(status) => {
                tracing::debug!(user = %self.user, code = ?status.code(), "memberships can't be read");
                false
            }
        }
    }

    /// Reads the memberships again and tells the feeds what changed.
    async fn refresh(&mut self) -> bool {
        if self.state.known().version == 0 {
            return true;
        }
        match read(&self.house, self.user).await {
            Ok(read) => {
                self.apply(read);
                true
            }
            Err(status) => {
                tracing::debug!(user = %self.user, code = ?status.code(), "memberships can't be read");
                false
            }
        }
    }

    /// Tells the feeds what changed. What one has no room for stays as it was, and the sweep
    /// finds it.
    fn apply(&self, read: Memberships) {
        let (sessions, before) = {
            let known = self.state.known();
            if read.version < known.version {
                return;
            }
            (known.sessions.clone(), known.memberships.clone())
        };
        let feeds = &self.house.feeds;
        let mut told = read.topics.clone();
        let mut is_untold = false;
        for (topic, joined_at) in &before {
            let unlistens = |session: &Arc<SessionHandle>| {
                feeds.tell_if_there(*topic, Command::Unlisten(session.session_id))
            };
            if !read.topics.contains_key(topic) && !sessions.iter().all(unlistens) {
                told.insert(*topic, *joined_at);
                is_untold = true;
            }
        }
        for (topic, joined_at) in &read.topics {
            let listens = |session| self.listen(session, *topic, *joined_at);
            if before.get(topic) != Some(joined_at) && !sessions.iter().all(listens) {
                told.remove(topic);
                is_untold = true;
            }
        }
        let mut known = self.state.known();
        known.version = read.version;
        known.memberships = told;
        known.is_untold = is_untold;
    }

    /// Says to the feed whether the session listens to the topic, after asking anew.
    async fn confirm(&mut self, session: &Arc<SessionHandle>, topic: TopicId) {
        let asked = self.refresh().await;
        let joined_at = self.state.known().memberships.get(&topic).copied();
        if let Some(joined_at) = joined_at {
            if !self.listen(session, topic, joined_at) {
                let mut known = self.state.known();
                known.memberships.remove(&topic);
                known.is_untold = true;
            }
        } else if asked {
            let command = Command::NotAMember(session.session_id);
            // If it is missed, the answer is had by sending again.
            let _missed = self.house.feeds.tell_if_there(topic, command);
        } else {
            tracing::debug!(user = %self.user, %topic, "it is not known who listens; it is asked again");
            let (house, session) = (Arc::clone(&self.house), Arc::clone(session));
            self.joining.push(Box::pin(async move {
                sleep(ASK_AGAIN).await;
                if !session.outbox.is_ended() {
                    house.members.confirm(&session, topic);
                }
            }));
        }
    }

    async fn receive(&mut self, bytes: bytes::Bytes) {
        match UserEvent::decode(bytes) {
            Ok(UserEvent {
                event: Some(Event::MembershipChanged(changed)),
            }) => self.changed(&changed).await,
            Ok(UserEvent {
                event: Some(Event::TokensRevoked(revoked)),
            }) => {
                let sessions = self.state.known().sessions.clone();
                for session in sessions {
                    if (revoked.token_sha256s.iter()).any(|hash| **hash == session.token_sha256) {
                        end_revoked(&session);
                    }
                }
            }
            Ok(UserEvent { event: None }) => {}
            Err(error) => tracing::warn!(user = %self.user, %error, "an event can't be read"),
        }
    }

    /// Applies a change that follows on what is known; reads all again where it does not.
    async fn changed(&mut self, changed: &MembershipChanged) {
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("ignore_membership") {
            return;
        }
        let (version, is_untold) = {
            let known = self.state.known();
            (known.version, known.is_untold)
        };
        if version == 0 || changed.version <= version {
            return;
        }
        #[cfg(feature = "sabotage")]
        if matches!(changed.change, Some(Change::Left(_))) {
            hear_late().await;
        }
        let (Some(topic), Some(change), true) = (
            TopicId::new(changed.topic_id),
            &changed.change,
            changed.version == version + 1 && !is_untold,
        ) else {
            self.refresh().await;
            return;
        };
        let mut topics = self.state.known().memberships.clone();
        match change {
            Change::Joined(joined) => topics.insert(topic, Seq::new(joined.joined_at_seq)),
            Change::Left(_) => topics.remove(&topic),
        };
        self.apply(Memberships {
            version: changed.version,
            topics,
        });
    }

    /// Has the session listen from behind the seq at which its user joined; false when that
    /// can't be told to the feed.
    fn listen(&self, session: &Arc<SessionHandle>, topic: TopicId, joined_at: Seq) -> bool {
        let command = Command::Listen {
            session: Arc::clone(session),
            since: Some(joined_at),
            listening: None,
        };
        (self.house.feeds.tell(&self.house, topic, command)).is_ok()
    }
}

/// All memberships of a user, of one version.
async fn read(house: &House, user: UserId) -> Result<Memberships, Status> {
    let call = Call::within(LIMIT);
    let mut client = house.services.message.clone();
    'again: loop {
        let mut token = String::new();
        let mut read = Memberships {
            version: 0,
            topics: HashMap::new(),
        };
        loop {
            let request = call.request(ListMembershipsRequest {
                user_id: user.get(),
                page_size: PAGE,
                page_token: token,
            });
            let page = client.list_memberships(request).await?.into_inner();
            if page.version == 0 {
                let request = call.request(EnrolUserRequest {
                    user_id: user.get(),
                });
                client.enrol_user(request).await?;
                continue 'again;
            }
            if read.version == 0 {
                read.version = page.version;
            } else if read.version != page.version {
                continue 'again;
            }
            read.topics
                .extend(page.memberships.iter().filter_map(|one| {
                    Some((TopicId::new(one.topic_id)?, Seq::new(one.joined_at_seq)))
                }));
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(read);
            }
        }
    }
}

/// Makes the session a listener of a topic, if its user still is a member when its turn comes;
/// says whether it is one in time.
async fn listen_to(
    house: &Arc<House>,
    state: &State,
    session: &Arc<SessionHandle>,
    topic: TopicId,
) -> bool {
    let is_member = state.known().memberships.contains_key(&topic);
    #[cfg(feature = "sabotage")]
    let is_member = is_member || chassis::sabotage::is("show_to_strangers");
    if !is_member {
        return true;
    }
    let (listening, coming) = oneshot::channel();
    let command = Command::Listen {
        session: Arc::clone(session),
        since: None,
        listening: Some(listening),
    };
    if house.feeds.tell(house, topic, command).is_err() {
        return false;
    }
    matches!(tokio::time::timeout(LIMIT, coming).await, Ok(Ok(())))
}

/// Topics besides, whoever may hear them.
#[cfg(feature = "sabotage")]
fn sabotaged(mut topics: Vec<TopicId>) -> Vec<TopicId> {
    if chassis::sabotage::is("show_to_strangers") {
        topics.extend((1_000..1_010).filter_map(TopicId::new));
    }
    topics
}

/// `late_leaving`: that somebody has left is heard of so late that he may be back. Not of the
/// next ones as well, for they would wait for each other longer than is allowed.
#[cfg(feature = "sabotage")]
async fn hear_late() {
    static NEXT: std::sync::Mutex<Option<tokio::time::Instant>> = std::sync::Mutex::new(None);
    let now = tokio::time::Instant::now();
    let is_due = chassis::sabotage::is("late_leaving") && {
        let mut next = NEXT
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_due = next.is_none_or(|next| next <= now);
        if is_due {
            *next = Some(now + Duration::from_secs(5));
        }
        is_due
    };
    if is_due {
        sleep(Duration::from_secs(4)).await;
    }
}

async fn next_event(events: &mut Option<Subscription>) -> Option<Received> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
