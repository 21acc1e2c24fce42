//! Who is told of a topic's entries, from where on, and which sender still waits
//! for his answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use chassis::id::Seq;
use proto::message::v1::Entry;
use tokio::time::Instant;

use super::{
    payload,
    wave::{self, Wave},
};
use crate::{frame::Frame, hub::SessionId, rules::SessionHandle};

#[derive(Default)]
pub(super) struct Audience {
    listeners: HashMap<SessionId, Listener>,
    catching_up: VecDeque<CatchUp>,
    /// What each listener has appended himself and is not let out yet.
    awaited: HashMap<SessionId, Own>,
    deferred: VecDeque<Deferred>,
    /// Answers to senders of whom it is not known yet whether they listen.
    unclaimed: HashMap<SessionId, Unclaimed>,
    /// Those who are told before the others: the next entries are answers to them.
    first: Vec<SessionId>,
    /// Who listens no more and is connected still, the last to leave last.
    departed: VecDeque<Departed>,
}

/// Those who are told first, at most: with more the order makes no difference.
const FIRST: usize = 4;

/// Those who left last that are remembered, for as long as a message of theirs may wait
/// for its answer, or they may be back. More leave one topic in that time only where it is
/// cleared out.
const DEPARTED: usize = 1_024;

/// Someone who had the entries behind `since` up to `had` while he listened.
struct Departed {
    id: SessionId,
    since: Seq,
    had: Seq,
    left_at: Instant,
}

struct Unclaimed {
    session: Arc<SessionHandle>,
    answers: Own,
}

/// A sender's own messages.
type Own = BTreeMap<Seq, Frame>;

/// Someone who listens.
struct Listener {
    session: Arc<SessionHandle>,
    /// He has had, or gets, what is behind this.
    since: Seq,
    /// And has had everything up to this, by whichever way.
    from: Seq,
}

impl Listener {
    /// Tells him of those that he has not had.
    fn tell(&self, entries: &[(Seq, Frame)]) {
        let outbox = &self.session.outbox;
        let had = entries.partition_point(|(seq, _)| *seq <= self.from);
        let entries = entries.get(had..).unwrap_or_default();
        if !entries.is_empty() {
            outbox.push_all(entries.iter().map(|(_, frame)| frame));
        }
        #[cfg(feature = "sabotage")]
        for (_, frame) in entries {
            super::sabotage::told(outbox, frame);
        }
    }
}

/// Someone who is to listen from a seq that was let out before he came.
struct CatchUp {
    session: Arc<SessionHandle>,
    since: Seq,
    /// He has had everything up to this.
    cursor: Seq,
    /// What he has appended himself behind it.
    awaited: Own,
}

/// An answer that waits until an earlier message of its sender is let out, so
/// that his answers keep their order.
struct Deferred {
    behind: Seq,
    /// It is that message itself, whose sender listened as he sent it.
    is_own: bool,
    session: Arc<SessionHandle>,
    frame: Frame,
}

/// How the sender of an appended message is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnsweredBy {
    /// As a listener: he has had the entry since he emitted, or will have it.
    Feed,
    /// By himself alone.
    Himself,
    /// He does not listen.
    Nobody,
}

impl Audience {
    /// Whether nobody listens, or is about to.
    pub(super) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.catching_up.is_empty()
    }

    /// Whether this session listens, or is about to.
    pub(super) fn has(&self, id: SessionId) -> bool {
        self.listeners.contains_key(&id) || self.catch_up_of(id).is_some()
    }

    /// Whether this session, as a listener, has had the entry since `came_at`, or will.
    pub(super) fn is_told(&self, id: SessionId, seq: Seq, came_at: Instant) -> bool {
        let listens = match self.listeners.get(&id) {
            Some(listener) => seq > listener.since,
            None => self.catch_up_of(id).is_some_and(|one| seq > one.since),
        };
        listens || self.had_and_left(id, seq, came_at)
    }

    /// Whether this session had the entry while it listened, and has left since `came_at`.
    /// What it emitted after that it wants to be told once more.
    fn had_and_left(&self, id: SessionId, seq: Seq, came_at: Instant) -> bool {
        let has_had = |one: &Departed| one.since < seq && seq <= one.had;
        (self.departed.iter()).any(|one| one.id == id && one.left_at > came_at && has_had(one))
    }

    /// Whether no answer is open either.
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() && !self.keeps_answers()
    }

    /// Whether so many listen that one write for several entries is worth waiting for.
    pub(super) fn is_crowd(&self) -> bool {
        wave::is_crowd(self.listeners.len())
    }

    /// Whether every listener's socket has taken what it was told.
    pub(super) fn has_taken_all(&self) -> bool {
        let mut listeners = self.listeners.values();
        listeners.all(|one| one.session.outbox.backlog() == 0)
    }

    /// The session listens from behind `since` on; `last` was let out last. What it has had
    /// already it does not get again: that it left may be heard of so late that it was back
    /// by then, and others had written since.
    pub(super) fn listen(&mut self, session: Arc<SessionHandle>, since: Seq, last: Seq) {
        let id = session.session_id;
        if self.has(id) || session.outbox.is_ended() {
            return;
        }
        let (since, from) = match self.departed.iter().rfind(|one| one.id == id) {
            Some(one) => (since.max(one.since), since.max(one.had)),
            None => (since, since),
        };
        let answers = self.unclaimed.remove(&id).map(|one| one.answers);
        for (_, frame) in answers.unwrap_or_default().range(..=from) {
            session.outbox.push(frame);
        }
        let awaited = self.take_deferred_own(id, from);
        if from < last {
            self.catching_up.push_back(CatchUp {
                session,
                since,
                cursor: from,
                awaited,
            });
        } else {
            if !awaited.is_empty() {
                self.awaited.insert(id, awaited);
            }
            #[cfg(feature = "sabotage")]
            let from = super::sabotage::later(from);
            self.listeners.insert(
                id,
                Listener {
                    session,
                    since,
                    from,
                },
            );
        }
    }

    /// What a session that listens again was to be told of alone, and gets as a listener.
    fn take_deferred_own(&mut self, id: SessionId, from: Seq) -> Own {
        let mut own = Own::new();
        self.deferred.retain(|one| {
            let is_told = one.is_own && one.behind > from && one.session.session_id == id;
            if is_told {
                own.insert(one.behind, one.frame.clone());
            }
            !is_told
        });
        own
    }

    /// The session listens no more; `last` was let out last. What it has appended itself and
    /// has not been told of it is told of alone.
    pub(super) fn unlisten(&mut self, id: SessionId, last: Seq) {
        let at = (self.catching_up.iter()).position(|one| one.session.session_id == id);
        let (session, since, had) = if let Some(one) = at.and_then(|at| self.catching_up.remove(at))
        {
            for frame in one.awaited.values() {
                one.session.outbox.push(frame);
            }
            (one.session, one.since, one.cursor)
        } else if let Some(one) = self.listeners.remove(&id) {
            // Before the answers that wait behind these.
            for (seq, frame) in self
                .awaited
                .remove(&id)
                .unwrap_or_default()
                .into_iter()
                .rev()
            {
                self.deferred.push_front(Deferred {
                    behind: seq,
                    is_own: true,
                    session: Arc::clone(&one.session),
                    frame,
                });
            }
            (one.session, one.since, last)
        } else {
            return;
        };
        if session.outbox.is_ended() || had <= since {
            return;
        }
        if self.departed.len() >= DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed {
            id,
            since,
            had,
            left_at: Instant::now(),
        });
    }

    /// The session listens not, whatever was thought: what it waits for is its answer alone.
    pub(super) fn not_a_member(&mut self, id: SessionId) {
        if let Some(one) = self.unclaimed.remove(&id) {
            for frame in one.answers.values() {
                one.session.outbox.push(frame);
            }
        }
    }

    /// These senders, and no others, are told before all others from now on.
    pub(super) fn tell_first(&mut self, senders: impl Iterator<Item = SessionId>) {
        self.first.clear();
        for id in senders {
            if self.first.len() == FIRST {
                break;
            }
            if !self.first.contains(&id) {
                self.first.push(id);
            }
        }
    }

    /// Tells all listeners of the next entries in order. Gives the wave in which that goes
    /// out, where there are many. Nobody's socket is woken for nothing: not each entry is told.
    pub(super) fn tell(&mut self, entries: &[(Seq, Frame)]) -> Option<Wave> {
        if entries.is_empty() {
            return None;
        }
        let stride = Wave::stride(self.listeners.len());
        let (mut probes, mut place) = (Vec::new(), 0);
        let first = &self.first;
        for listener in first.iter().filter_map(|id| self.listeners.get(id)) {
            listener.tell(entries);
        }
        self.listeners.retain(|id, listener| {
            if !first.contains(id) {
                listener.tell(entries);
            }
            let outbox = &listener.session.outbox;
            place += 1;
            if stride.is_some_and(|stride| place % stride == 0) {
                probes.push(outbox.clone());
            }
            !outbox.is_ended()
        });
        stride.map(|_| Wave::new(probes, Instant::now()))
    }

    /// Tells all listeners but one of something that has no place in the order.
    pub(super) fn tell_others(&self, but: &[u8], frame: &Frame) {
        for (id, listener) in &self.listeners {
            if but != id.as_slice() {
                listener.session.outbox.push(frame);
            }
        }
    }

    /// Gives the answers that waited for what was let out up to `last`; all of
    /// them when nothing is let out any more.
    pub(super) fn let_out(&mut self, last: Option<Seq>) {
        let is_out = |seq: Seq| last.is_none_or(|last| seq <= last);
        self.awaited.retain(|_, own| {
            own.retain(|seq, _| !is_out(*seq));
            !own.is_empty()
        });
        self.deferred.retain(|deferred| {
            let due = is_out(deferred.behind);
            if due {
                deferred.session.outbox.push(&deferred.frame);
            }
            !due
        });
    }

    /// How to answer a sender whose message lies at `seq`. He emitted it at `came_at`, when
    /// `emitted_at` was let out last; now that is `last`.
    pub(super) fn answered_by(
        &self,
        id: SessionId,
        seq: Seq,
        (came_at, emitted_at): (Instant, Seq),
        last: Seq,
    ) -> AnsweredBy {
        let by_feed = if let Some(listener) = self.listeners.get(&id) {
            Some(seq > listener.since && (seq > last || seq > emitted_at))
        } else {
            (self.catch_up_of(id))
                .map(|one| seq > one.since && (seq > one.cursor || seq > emitted_at))
        };
        match by_feed {
            Some(true) => AnsweredBy::Feed,
            _ if seq > emitted_at && self.had_and_left(id, seq, came_at) => AnsweredBy::Feed,
            Some(false) => AnsweredBy::Himself,
            None => AnsweredBy::Nobody,
        }
    }

    /// Notes a message that its sender will have as a listener, unless he has had it.
    pub(super) fn awaits(
        &mut self,
        id: SessionId,
        seq: Seq,
        last: Seq,
        frame: impl FnOnce() -> Option<Frame>,
    ) {
        let mut catching_up = self.catching_up.iter_mut();
        let own = if self.listeners.contains_key(&id) {
            (seq > last).then(|| self.awaited.entry(id).or_default())
        } else {
            let one = catching_up.find(|one| one.session.session_id == id);
            one.and_then(|one| (seq > one.cursor).then_some(&mut one.awaited))
        };
        if let Some((own, frame)) = own.and_then(|own| Some((own, frame()?))) {
            own.insert(seq, frame);
        }
    }

    /// Answers a sender alone, behind what he still waits for.
    pub(super) fn answer(&mut self, session: Arc<SessionHandle>, frame: Frame) {
        let awaited = self.awaited.get(&session.session_id);
        match awaited.and_then(Own::last_key_value) {
            Some((behind, _)) => self.deferred.push_back(Deferred {
                behind: *behind,
                is_own: false,
                session,
                frame,
            }),
            None => session.outbox.push(&frame),
        }
    }

    /// Keeps the answer to a sender until it is known whether he listens, and from where on.
    pub(super) fn keep_answer(&mut self, session: Arc<SessionHandle>, seq: Seq, frame: Frame) {
        let unclaimed = self.unclaimed.entry(session.session_id);
        let one = unclaimed.or_insert_with(|| Unclaimed {
            session,
            answers: Own::new(),
        });
        one.answers.insert(seq, frame);
    }

    /// Whether an answer is kept.
    pub(super) fn keeps_answers(&self) -> bool {
        !self.unclaimed.is_empty()
    }

    /// Those whose answers are kept. Who is gone needs none.
    pub(super) fn unclaimed(&mut self) -> impl Iterator<Item = &Arc<SessionHandle>> {
        self.unclaimed
            .retain(|_, one| !one.session.outbox.is_ended());
        self.unclaimed.values().map(|one| &one.session)
    }

    /// The next session that has to be read for, and the seq to read from;
    /// `Err` when all that do are slow.
    pub(super) fn next_to_catch_up(&mut self) -> Option<Result<(SessionId, Seq), Slow>> {
        self.catching_up
            .retain(|one| !one.session.outbox.is_ended());
        let first = self.catching_up.front()?;
        if first.session.outbox.backlog() == 0 {
            return Some(Ok((first.session.session_id, first.cursor.next())));
        }
        // Whoever is slow must not keep the others waiting.
        self.catching_up.rotate_left(1);
        Some(Err(Slow))
    }

    /// Gives a session a page of what it has missed; says whether that brought it further.
    pub(super) fn catch_up(&mut self, id: SessionId, page: &[Entry], last: Seq) -> bool {
        let at = (self.catching_up.iter()).position(|one| one.session.session_id == id);
        let Some(mut one) = at.and_then(|at| self.catching_up.remove(at)) else {
            return true;
        };
        let before = one.cursor;
        for entry in page {
            let seq = Seq::new(entry.seq);
            if seq != one.cursor.next() {
                break;
            }
            if let Some(frame) = payload::sent(entry) {
                one.session.outbox.push(&frame);
            }
            one.cursor = seq;
        }
        one.awaited = one.awaited.split_off(&one.cursor.next());
        let (session, since, from) = (Arc::clone(&one.session), one.since, one.cursor);
        if from >= last {
            let listener = Listener {
                session,
                since,
                from,
            };
            self.listeners.insert(id, listener);
            if !one.awaited.is_empty() {
                self.awaited.insert(id, one.awaited);
            }
        } else {
            self.catching_up.push_back(one);
        }
        from > before
    }

    fn catch_up_of(&self, id: SessionId) -> Option<&CatchUp> {
        (self.catching_up.iter()).find(|one| one.session.session_id == id)
    }
}

/// A socket that has not taken what it was given yet.
pub(super) struct Slow;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chassis::id::UserId;
    use proto::message::v1::{Author, Message, entry::Kind};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        frame::Generation,
        outbox::{EndReason, Outbox, OutboxLimits},
        rules::SignedIn,
    };

    fn entry(seq: i64) -> Entry {
        Entry {
            seq,
            owner: Some(Author::default()),
            kind: Some(Kind::Message(Message::default())),
            ..Entry::default()
        }
    }

    fn session() -> (Arc<SessionHandle>, mpsc::Receiver<engineioxide::Str>) {
        let (wire, frames) = mpsc::channel(10);
        let session = SessionHandle {
            session_id: [1; 16],
            user: SignedIn {
                user_id: UserId::new(1).unwrap(),
                username: "one".into(),
                roles: Vec::new(),
            },
            token_sha256: [1; 32],
            outbox: Outbox::new(Generation::Eio4, OutboxLimits::default(), wire),
        };
        (Arc::new(session), frames)
    }

    #[test]
    fn who_had_his_message_as_he_caught_up_is_not_told_again() {
        let (session, _frames) = session();
        let id = session.session_id;
        let mut audience = Audience::default();
        let [joined_at, sent, last] = [1, 2, 3].map(Seq::new);
        audience.listen(session, joined_at, last);
        assert!(audience.catch_up(id, &[entry(2), entry(3)], last));
        let now = Instant::now();
        let answered_by = audience.answered_by(id, sent, (now, joined_at), last);
        assert_eq!(answered_by, AnsweredBy::Feed);
        // He emitted it again after that.
        let answered_by = audience.answered_by(id, sent, (now, last), last);
        assert_eq!(answered_by, AnsweredBy::Himself);
    }

    #[test]
    fn who_had_his_message_and_left_is_not_told_again_whether_he_comes_back_or_not() {
        let (session, _frames) = session();
        let id = session.session_id;
        let mut audience = Audience::default();
        let [joined_at, sent, last, next] = [1, 2, 3, 4].map(Seq::new);
        let came_at = Instant::now();
        audience.listen(Arc::clone(&session), joined_at, joined_at);
        audience.unlisten(id, last);
        for _ in 0..2 {
            assert!(audience.is_told(id, sent, came_at));
            let answered_by = audience.answered_by(id, sent, (came_at, joined_at), last);
            assert_eq!(answered_by, AnsweredBy::Feed);
            audience.listen(Arc::clone(&session), last, last);
        }
        assert!(audience.is_told(id, next, came_at));
        // He emitted it again after he had had it.
        let answered_by = audience.answered_by(id, sent, (came_at, last), last);
        assert_eq!(answered_by, AnsweredBy::Himself);
    }

    #[test]
    fn who_is_back_before_his_leaving_was_heard_of_is_not_told_again_what_came_meanwhile() {
        let (session, mut frames) = session();
        let mut told = || std::iter::from_fn(|| frames.try_recv().ok()).count();
        let id = session.session_id;
        let mut audience = Audience::default();
        let [joined_at, again_at, last, next] = [1, 2, 4, 5].map(Seq::new);
        let frame = |seq: i64| (Seq::new(seq), Frame::event("sent", &seq));
        audience.listen(Arc::clone(&session), joined_at, joined_at);
        audience.tell(&[frame(2), frame(3), frame(4)]);
        assert_eq!(told(), 3);
        audience.unlisten(id, last);
        // He emitted this one again meanwhile, and is owed an answer.
        audience.keep_answer(Arc::clone(&session), Seq::new(3), frame(3).1);
        audience.listen(Arc::clone(&session), again_at, next);
        assert_eq!(told(), 1);
        assert!(matches!(audience.next_to_catch_up(), Some(Ok((_, seq))) if seq == next));
        assert!(audience.catch_up(id, &[entry(5)], next));
        audience.tell(&[frame(6)]);
        assert_eq!(told(), 2);
    }

    #[test]
    fn who_is_back_before_his_message_is_let_out_is_told_of_it_once() {
        for comes_back in [true, false] {
            let (session, mut frames) = session();
            let mut told = || std::iter::from_fn(|| frames.try_recv().ok()).count();
            let id = session.session_id;
            let mut audience = Audience::default();
            let [joined_at, last, own] = [1, 2, 4].map(Seq::new);
            let frame = |seq: i64| Frame::event("sent", &seq);
            audience.listen(Arc::clone(&session), joined_at, joined_at);
            audience.tell(&[(last, frame(2))]);
            audience.awaits(id, own, last, || Some(frame(4)));
            audience.unlisten(id, last);
            if comes_back {
                audience.listen(session, joined_at, last);
            }
            assert_eq!(told(), 1);
            audience.tell(&[(Seq::new(3), frame(3)), (own, frame(4))]);
            audience.let_out(Some(own));
            assert_eq!(told(), if comes_back { 2 } else { 1 });
        }
    }

    #[test]
    fn who_emits_his_message_again_after_he_left_is_answered() {
        let (session, _frames) = session();
        let id = session.session_id;
        let mut audience = Audience::default();
        let [joined_at, sent, last] = [1, 2, 3].map(Seq::new);
        audience.listen(session, joined_at, joined_at);
        audience.unlisten(id, last);
        let came_at = Instant::now();
        // Nobody is left, so the feed follows nothing.
        assert!(!audience.is_told(id, sent, came_at));
        let answered_by = audience.answered_by(id, sent, (came_at, Seq::ZERO), Seq::ZERO);
        assert_eq!(answered_by, AnsweredBy::Nobody);
    }

    #[test]
    fn nothing_is_kept_for_who_is_gone() {
        let (session, _frames) = session();
        let mut audience = Audience::default();
        let frame = Frame::event("sent", &1);
        audience.keep_answer(Arc::clone(&session), Seq::new(1), frame);
        assert_eq!(audience.unclaimed().count(), 1);
        assert!(!audience.is_done());
        session.outbox.end(EndReason::Revoked);
        assert_eq!(audience.unclaimed().count(), 0);
        assert!(audience.is_done());
    }

    #[test]
    fn who_came_after_a_message_is_not_told_of_it_by_listening() {
        let (session, _frames) = session();
        let id = session.session_id;
        let mut audience = Audience::default();
        let [before, last, next] = [2, 3, 4].map(Seq::new);
        audience.listen(session, last, last);
        let now = Instant::now();
        assert!(!audience.is_told(id, before, now));
        assert!(audience.is_told(id, next, now));
    }
}
