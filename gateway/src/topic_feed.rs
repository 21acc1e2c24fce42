//! The feed of one topic that has a listener here: merges the answers to this
//! gateway's own sends, the bus, and reads from message-svc, and lets every entry
//! out once, in order, to every listener.
//!
//! A feed that only sends, for nobody listens, needs neither bus nor order.

mod arrivals;
mod audience;
mod following;
mod outgoing;
mod pace;
mod payload;
mod recent;
#[cfg(feature = "sabotage")]
mod sabotage;
mod sending;
mod sequence;
mod wave;
mod window;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chassis::{
    bus::{BusError, Received, Subject, Subscription},
    call::Call,
    id::{Seq, TopicId, UserId},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message as _;
use proto::{
    event::v1::{TopicEvent, Typing, topic_event::Event},
    message::v1::{Direction, Entry, ListEntriesRequest, Sent},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tonic::Status;

pub(crate) use self::outgoing::Outgoing;
use self::{
    arrivals::{Arrival, Arrivals},
    audience::{AnsweredBy, Audience, Slow},
    following::Following,
    outgoing::{Answered, Verdict},
    pace::Pace,
    recent::Recent,
    sending::{Sending, Settled},
};
use crate::{
    concurrency::Place,
    hub::{House, SessionId},
    rules::SessionHandle,
};

/// What a feed is told.
pub(crate) enum Command {
    /// The session listens from now on, or from behind `since` on, and waits for that as long
    /// as it lives.
    Listen {
        session: Arc<SessionHandle>,
        since: Option<Seq>,
        listening: Option<oneshot::Sender<()>>,
    },
    /// The session listens no more.
    Unlisten(SessionId),
    /// The session's user is no member, whatever it was answered before.
    NotAMember(SessionId),
    /// A message of a socket here.
    Send(Box<Outgoing>),
    /// An entry with this seq exists.
    Head(Seq),
}

/// How far a feed is, for those who look from outside; -1 while it follows nothing.
#[derive(Debug)]
pub(crate) struct Progress(AtomicI64);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(AtomicI64::new(-1))
    }

    /// Whether the feed follows its topic and has not let out `head` yet.
    pub(crate) fn is_behind(&self, head: Seq) -> bool {
        (0..head.get()).contains(&self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn is_followed(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 0
    }
}

/// Entries of one page when a hole is read.
const PAGE: i32 = 256;
/// How often sockets are looked at that have not taken a page yet, and how long
/// the others wait for them.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
const MAX_DRAIN: Duration = Duration::from_millis(200);
/// How long a feed without anybody stays.
const LINGER: Duration = Duration::from_secs(5);
/// How often it is asked whether a sender listens who is to be answered.
const CONFIRM_AGAIN: Duration = Duration::from_secs(1);
/// Longest time of one read or of the opening, retries within included.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// What is under way for a feed; at most one of each kind.
enum Done {
    Opened(Result<(Subscription, Seq), OpenError>),
    Placed(Place),
    Sent(Answered),
    Read(Result<Vec<Entry>, Status>),
    CaughtUp(SessionId, Result<Vec<Entry>, Status>),
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the head can't be read: {0}")]
    Head(Box<Status>),
}

#[derive(Default)]
struct UnderWay {
    opening: bool,
    placing: bool,
    reading: bool,
    catching_up: bool,
}

/// The task of one topic.
pub(crate) struct TopicFeed {
    topic: TopicId,
    house: Arc<House>,
    commands: mpsc::Receiver<Command>,
    progress: Arc<Progress>,
    following: Option<Following>,
    /// Those who wait for the opening.
    arriving: Arrivals,
    audience: Audience,
    recent: Recent,
    sending: Sending,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    under_way: UnderWay,
    following_pace: Pace,
    /// When it was asked last whether those listen whose answers wait for that.
    confirmed_at: Option<Instant>,
    idle_since: Option<Instant>,
}

impl TopicFeed {
    pub(crate) fn new(
        topic: TopicId,
        house: Arc<House>,
        commands: mpsc::Receiver<Command>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            topic,
            house,
            commands,
            progress,
            following: None,
            arriving: Arrivals::default(),
            audience: Audience::default(),
            recent: Recent::default(),
            sending: Sending::default(),
            jobs: FuturesUnordered::new(),
            under_way: UnderWay::default(),
            following_pace: Pace::default(),
            confirmed_at: None,
            idle_since: None,
        }
    }

    /// Runs until nobody has needed the feed for a while, or the gateway stops.
    pub(crate) async fn run(mut self) {
        loop {
            let wake_at = self.go_on();
            tokio::select! {
                biased;
                () = self.house.stopped.cancelled() => break,
                Some(done) = self.jobs.next() => self.finish(done),
                received = next_event(&mut self.following) => self.receive(received),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                () = sleep_until(wake_at) => {}
            }
            if self.is_idle() && self.house.feeds.forget(self.topic, &self.commands) {
                break;
            }
        }
        self.sending.fail_all();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Listen {
                session,
                since,
                listening,
            } => {
                let arrival = Arrival {
                    session,
                    since,
                    listening,
                };
                if self.following.is_some() {
                    self.let_in(arrival);
                } else {
                    self.arriving.wait(arrival);
                }
            }
            Command::Unlisten(id) => self.unlisten(id),
            Command::NotAMember(id) => {
                self.unlisten(id);
                self.audience.not_a_member(id);
            }
            Command::Send(mut outgoing) => {
                outgoing.emitted_at = self.last();
                self.sending.push(*outgoing);
            }
            #[cfg(feature = "sabotage")]
            Command::Head(_) if chassis::sabotage::is("no_heads") => {}
            Command::Head(seq) => {
                if let Some(following) = &mut self.following {
                    following.exists(seq);
                }
            }
        }
    }

    /// Starts whatever is due; says when to look again if nothing happens before.
    fn go_on(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let wake_at = [
            self.send(now, None),
            self.open(now),
            self.heal(now),
            self.catch_up(now),
            self.let_out(now),
            self.confirm(now),
            self.linger(now),
        ];
        wake_at.into_iter().flatten().min()
    }

    /// Sends what waits, in a place that it has waited for or in one that is free.
    fn send(&mut self, now: Instant, place: Option<Place>) -> Option<Instant> {
        let is_told = |outgoing: &Outgoing| is_told(outgoing, &self.audience, &self.recent);
        match self.sending.next(now) {
            sending::Next::Nothing => None,
            sending::Next::Later(later) => Some(later),
            sending::Next::Call => {
                let waits = self.under_way.placing;
                let free = || (!waits).then(|| self.house.calls.try_acquire()).flatten();
                let Some(place) = place.or_else(free) else {
                    let overloaded_from = self.house.calls.overloaded_from();
                    let until = self.sending.wait(now, overloaded_from, is_told);
                    self.wait_for_a_place();
                    return until;
                };
                let overloaded_from = self.house.calls.overloaded_from();
                let batch = self.sending.call(now, overloaded_from, is_told)?;
                self.audience.tell_first(batch.senders());
                let sent = batch.send(self.house.services.clone(), self.topic, place);
                self.jobs.push(Box::pin(async { Done::Sent(sent.await) }));
                None
            }
        }
    }

    fn wait_for_a_place(&mut self) {
        if self.under_way.placing {
            return;
        }
        self.under_way.placing = true;
        let calls = self.house.calls.clone();
        self.jobs
            .push(Box::pin(async move { Done::Placed(calls.acquire().await) }));
    }

    fn open(&mut self, now: Instant) -> Option<Instant> {
        if self.arriving.is_empty() || self.following.is_some() || self.under_way.opening {
            return None;
        }
        if let Some(later) = self.following_pace.later_than(now) {
            return Some(later);
        }
        self.under_way.opening = true;
        let opened = open(Arc::clone(&self.house), self.topic);
        self.jobs
            .push(Box::pin(async { Done::Opened(opened.await) }));
        None
    }

    /// Reads what is missing, once it has been missing for a while and the
    /// sockets have taken the page before.
    fn heal(&mut self, now: Instant) -> Option<Instant> {
        let following = self.following.as_mut()?;
        #[cfg(feature = "sabotage")]
        if following.has_new_hole() && chassis::sabotage::strikes("lost_wakeup", 0.5) {
            self.under_way.reading = true;
        }
        if self.under_way.reading {
            return None;
        }
        let due = following.hole_due(now)?;
        #[cfg(feature = "sabotage")]
        let due = due + sabotage::late_heal();
        if let Some(later) = self.following_pace.later_than(now) {
            return Some(later);
        }
        if now < due {
            return Some(due);
        }
        if !self.audience.has_taken_all() && now < due + MAX_DRAIN {
            return Some(now + DRAIN_CHECK);
        }
        #[cfg(feature = "sabotage")]
        if chassis::sabotage::is("drop_hole") {
            following.skip_hole();
            self.let_all_out();
            return None;
        }
        metrics::counter!("drivers_gateway_feed_reads_total").increment(1);
        self.under_way.reading = true;
        let start = self.last().next();
        let page = page(Arc::clone(&self.house), self.topic, start);
        self.jobs.push(Box::pin(async { Done::Read(page.await) }));
        None
    }

    /// Reads for one who is to listen from an earlier seq.
    fn catch_up(&mut self, now: Instant) -> Option<Instant> {
        if self.under_way.catching_up {
            return None;
        }
        if let Some(later) = self.following_pace.later_than(now) {
            return Some(later);
        }
        let (id, start) = match self.audience.next_to_catch_up()? {
            Ok(next) => next,
            Err(Slow) => return Some(now + DRAIN_CHECK),
        };
        self.under_way.catching_up = true;
        let page = page(Arc::clone(&self.house), self.topic, start);
        self.jobs
            .push(Box::pin(async move { Done::CaughtUp(id, page.await) }));
        None
    }

    /// Asks again whether those listen whose answers wait for that: a user's task may have
    /// had too much to do.
    fn confirm(&mut self, now: Instant) -> Option<Instant> {
        if !self.audience.keeps_answers() {
            self.confirmed_at = None;
            return None;
        }
        let due = *self.confirmed_at.get_or_insert(now) + CONFIRM_AGAIN;
        if now < due {
            return Some(due);
        }
        for session in self.audience.unclaimed() {
            self.house.members.confirm(session, self.topic);
        }
        self.confirmed_at = Some(now);
        Some(now + CONFIRM_AGAIN)
    }

    fn linger(&mut self, now: Instant) -> Option<Instant> {
        let needed = !self.audience.is_done()
            || !self.arriving.is_empty()
            || !self.sending.is_idle()
            || !self.jobs.is_empty();
        if needed {
            self.idle_since = None;
            return None;
        }
        Some(*self.idle_since.get_or_insert(now) + LINGER)
    }

    fn is_idle(&self) -> bool {
        self.idle_since
            .is_some_and(|since| since.elapsed() >= LINGER)
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Sent(answered) => {
                let is_told = |outgoing: &Outgoing| is_told(outgoing, &self.audience, &self.recent);
                let settled = self.sending.settle(answered, is_told);
                self.answer(settled, Instant::now());
            }
            Done::Placed(place) => {
                self.under_way.placing = false;
                self.send(Instant::now(), Some(place));
            }
            Done::Opened(opened) => {
                self.under_way.opening = false;
                let succeeded = self.opened(opened);
                self.following_pace.note(succeeded);
            }
            Done::Read(page) => {
                self.under_way.reading = false;
                if let Some(following) = &mut self.following {
                    following.hole_is_read();
                }
                let succeeded = self.read(page);
                self.following_pace.note(succeeded);
            }
            Done::CaughtUp(id, page) => {
                self.under_way.catching_up = false;
                let succeeded = self.caught_up(id, page);
                self.following_pace.note(succeeded);
            }
        }
    }

    fn opened(&mut self, opened: Result<(Subscription, Seq), OpenError>) -> bool {
        match opened {
            Ok((subscription, head)) => {
                self.following = Some(Following::new(subscription, head));
                self.progress.0.store(head.get(), Ordering::Relaxed);
                for arrival in self.arriving.take() {
                    self.let_in(arrival);
                }
                true
            }
            Err(error) => {
                tracing::warn!(topic = %self.topic, %error, "a topic can't be followed yet");
                self.arriving.forget_the_ended();
                false
            }
        }
    }

    fn let_in(&mut self, arrival: Arrival) {
        let last = self.last();
        let since = arrival.since.unwrap_or(last);
        self.audience.listen(arrival.session, since, last);
        if let Some(listening) = arrival.listening {
            let _gone = listening.send(());
        }
    }

    fn unlisten(&mut self, id: SessionId) {
        // What only waits for a wave he has; the answers to what he sent are among it.
        self.let_all_out();
        self.audience.unlisten(id, self.last());
        self.arriving.withdraw(id);
        if self.audience.is_empty() && self.arriving.is_empty() {
            // Following costs events and heads; whoever comes next opens again.
            self.following = None;
            self.progress.0.store(-1, Ordering::Relaxed);
            self.audience.let_out(None);
        }
    }

    fn receive(&mut self, received: Option<Received>) {
        match received {
            Some(Received::Event(bytes)) => match TopicEvent::decode(bytes) {
                Ok(TopicEvent { event: Some(event) }) => match event {
                    Event::EntriesAppended(appended) => {
                        for entry in &appended.entries {
                            self.offer(entry);
                        }
                    }
                    Event::Typing(typing) => self.tell_typing(&typing),
                },
                Ok(TopicEvent { event: None }) => {}
                Err(error) => {
                    tracing::warn!(topic = %self.topic, %error, "an event can't be read");
                }
            },
            // The heads tell what was lost.
            Some(Received::Lost) => {}
            None => {
                if let Some(following) = &mut self.following {
                    following.end_events();
                }
            }
        }
    }

    fn tell_typing(&self, typing: &Typing) {
        let Some(user) = UserId::new(typing.user_id) else {
            return;
        };
        let frame = payload::typing(self.topic, user);
        self.audience.tell_others(&typing.session_id, &frame);
    }

    fn last(&self) -> Seq {
        (self.following.as_ref()).map_or(Seq::ZERO, Following::last)
    }

    fn offer(&mut self, entry: &Entry) {
        if let Some(following) = &mut self.following {
            following.offer(Seq::new(entry.seq), || {
                self.recent.note(entry);
                payload::sent(entry)
            });
        }
    }

    /// Lets out what is next in order, unless it waits for more to go out with it; says
    /// until when.
    fn let_out(&mut self, now: Instant) -> Option<Instant> {
        let call_brings_more = self.sending.has_call() && self.audience.is_crowd();
        match self.following.as_mut()?.next(now, call_brings_more) {
            following::Next::Nothing => None,
            following::Next::Waits(until) => Some(until),
            following::Next::Due => {
                self.let_all_out();
                None
            }
        }
    }

    fn let_all_out(&mut self) {
        let Some(following) = &mut self.following else {
            return;
        };
        let before = following.last();
        let entries = following.take_next();
        let last = following.last();
        if last > before {
            following.is_let_out(self.audience.tell(&entries));
            self.progress.0.store(last.get(), Ordering::Relaxed);
            self.audience.let_out(Some(last));
        }
    }

    /// Answers the messages of one call.
    fn answer(&mut self, settled: Settled, now: Instant) {
        for (_, verdict) in &settled {
            if let Verdict::Sent(sent) = verdict
                && let Some(entry) = &sent.entry
            {
                self.offer(entry);
            }
        }
        // What has waited for this call goes out now; else it waits for the next one.
        if !self
            .following
            .as_ref()
            .is_some_and(Following::has_next_waiting)
        {
            self.send(now, None);
        }
        self.let_out(now);
        for (outgoing, verdict) in settled {
            match verdict {
                Verdict::Sent(sent) => self.answer_sent(outgoing, &sent),
                Verdict::Failed(code, sentence) => outgoing.fail(code, &sentence),
                Verdict::Again | Verdict::Busy => outgoing.fail_unavailable(),
            }
        }
    }

    /// Answers a message that is in the log: by the feed, when it lets the entry
    /// out, or directly where the feed will not.
    fn answer_sent(&mut self, outgoing: Outgoing, sent: &Sent) {
        let Some(entry) = &sent.entry else {
            outgoing.fail_unavailable();
            return;
        };
        let seq = Seq::new(entry.seq);
        let Outgoing {
            session,
            reply,
            emitted_at,
            came_at,
            ..
        } = outgoing;
        let held = self.following.as_ref().and_then(|one| one.held(seq));
        let mut frame = held.cloned();
        let mut frame = || frame.get_or_insert_with(|| payload::sent(entry)).clone();
        if reply.wants_ack()
            && let Some(frame) = frame()
        {
            reply.acknowledge(&frame);
        }
        let id = session.session_id;
        let emitted = (came_at, emitted_at);
        let last = self.last();
        let answered_by = (self.audience).answered_by(id, seq, emitted, last);
        if answered_by == AnsweredBy::Feed {
            self.audience.awaits(id, seq, last, frame);
            return;
        }
        let Some(frame) = frame() else { return };
        if answered_by == AnsweredBy::Nobody {
            // He may have become a member by this message, whichever try of it: he is
            // answered as a listener, or alone if he turns out to be none.
            self.house.members.confirm(&session, self.topic);
            self.audience.keep_answer(session, seq, frame);
        } else {
            self.audience.answer(session, frame);
        }
    }

    fn read(&mut self, page: Result<Vec<Entry>, Status>) -> bool {
        match page {
            Ok(entries) => {
                for entry in &entries {
                    self.offer(entry);
                }
                !entries.is_empty()
            }
            Err(status) => {
                tracing::debug!(topic = %self.topic, code = ?status.code(), "a hole can't be read yet");
                false
            }
        }
    }

    fn caught_up(&mut self, id: SessionId, page: Result<Vec<Entry>, Status>) -> bool {
        let last = self.last();
        page.is_ok_and(|entries| self.audience.catch_up(id, &entries, last))
    }
}

/// Whether the sender has been told of his message by listening, or will be, whatever became
/// of the call: also before he emitted it again, for the two may have crossed on the way. Who
/// was told on another socket was not told here.
fn is_told(outgoing: &Outgoing, audience: &Audience, recent: &Recent) -> bool {
    let session = &outgoing.session;
    let stamp = outgoing.stamp_id();
    stamp
        .and_then(|stamp| recent.seq_of(session.user.user_id, stamp))
        .is_some_and(|seq| audience.is_told(session.session_id, seq, outgoing.came_at))
}

/// Subscribes, and asks for the head once that is in force: what is appended
/// later comes over the bus, or is found missing.
async fn open(house: Arc<House>, topic: TopicId) -> Result<(Subscription, Seq), OpenError> {
    let subscription = house.bus.subscribe(Subject::Topic(topic)).await?;
    house.bus.flush(CALL_LIMIT).await?;
    let head =
        (house.heads.ask(topic).await).map_err(|status| OpenError::Head(Box::new(status)))?;
    Ok((subscription, head))
}

async fn page(house: Arc<House>, topic: TopicId, start: Seq) -> Result<Vec<Entry>, Status> {
    let request = Call::within(CALL_LIMIT).request(ListEntriesRequest {
        topic_id: topic.get(),
        direction: Direction::Forward.into(),
        start_seq: start.get(),
        page_size: PAGE,
        page_token: String::new(),
    });
    let mut client = house.services.message.clone();
    Ok(client.list_entries(request).await?.into_inner().entries)
}

async fn next_event(following: &mut Option<Following>) -> Option<Received> {
    match following {
        Some(following) => following.event().await,
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
