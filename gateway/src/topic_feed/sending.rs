//! Messages of sockets here that wait for message-svc, which of them go with the next call,
//! and which have to be sent again.

use std::{
    collections::{HashSet, VecDeque},
    mem::take,
};

use tokio::time::Instant;

use super::{
    CALL_LIMIT,
    outgoing::{Answered, Batch, Outgoing, Verdict, judge, refuse_the_late},
    pace::Pace,
    window::{Went, Window},
};
use crate::concurrency::SLOW;

/// Messages of sockets here that wait for one topic.
const MAX_WAITING: usize = 4_096;

/// Messages of one call that are settled, and how.
pub(super) type Settled = Vec<(Outgoing, Verdict)>;

#[derive(Default)]
pub(super) struct Sending {
    waiting: VecDeque<Outgoing>,
    /// Since when a call is under way.
    since: Option<Instant>,
    pace: Pace,
    window: Window,
}

/// What is to be done about what waits.
pub(super) enum Next {
    Nothing,
    Later(Instant),
    /// A call, once there is a place for it.
    Call,
}

impl Sending {
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a call is under way.
    pub(super) fn has_call(&self) -> bool {
        self.since.is_some()
    }

    /// Takes a message, or refuses it where too many wait.
    pub(super) fn push(&mut self, outgoing: Outgoing) {
        if self.waiting.len() >= MAX_WAITING {
            outgoing.fail_unavailable();
        } else {
            self.waiting.push_back(outgoing);
        }
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        if self.waiting.is_empty() || self.has_call() {
            return Next::Nothing;
        }
        (self.pace.later_than(now)).map_or(Next::Call, Next::Later)
    }

    /// The next call, if anything is left for it; of what has waited where more comes than can
    /// be done, only what has not waited long. Whoever was told of his message is not refused,
    /// for it is in the log: it is sent again to hear so.
    pub(super) fn call(
        &mut self,
        now: Instant,
        overloaded_from: Option<Instant>,
        is_told: impl Fn(&Outgoing) -> bool,
    ) -> Option<Batch> {
        self.extend_the_told(now, &is_told);
        if overloaded_from.is_some_and(|from| from <= now) {
            self.refuse_the_overdue(now, &is_told);
        }
        let batch = Batch::take(&mut self.waiting, now, self.window.size());
        self.refuse_the_overdue(now, is_told);
        if batch.is_empty() {
            return None;
        }
        self.since = Some(now);
        Some(batch)
    }

    /// Refuses what is late while there is no place for a call, or has waited long where more
    /// comes than can be done; says when more will be.
    pub(super) fn wait(
        &mut self,
        now: Instant,
        overloaded_from: Option<Instant>,
        is_told: impl Fn(&Outgoing) -> bool,
    ) -> Option<Instant> {
        if self.waiting.front()?.is_late(now) {
            self.extend_the_told(now, &is_told);
            refuse_the_late(&mut self.waiting, now);
        }
        if overloaded_from.is_some_and(|from| from <= now) {
            self.refuse_the_overdue(now, is_told);
        }
        let first = self.waiting.front()?;
        let overdue_at = || Some(self.window.overdue_at(first.came_at)?.max(overloaded_from?));
        // Whoever is not refused though he is overdue was told.
        let overdue_at = overdue_at().filter(|at| *at > now);
        Some(overdue_at.map_or(first.deadline(), |at| at.min(first.deadline())))
    }

    fn extend_the_told(&mut self, now: Instant, is_told: impl Fn(&Outgoing) -> bool) {
        for outgoing in &mut self.waiting {
            if outgoing.is_late(now) && is_told(outgoing) {
                outgoing.extend(CALL_LIMIT);
            }
        }
    }

    /// Those who wait in vain: there is more to send than can be sent.
    fn refuse_the_overdue(&mut self, now: Instant, is_told: impl Fn(&Outgoing) -> bool) {
        let is_overdue = |first: &mut Outgoing| self.window.is_overdue(first.came_at, now);
        let mut told = VecDeque::new();
        while let Some(first) = self.waiting.pop_front_if(is_overdue) {
            if is_told(&first) {
                told.push_back(first);
            } else {
                first.fail_unavailable();
            }
        }
        for one in told.into_iter().rev() {
            self.waiting.push_front(one);
        }
    }

    /// Takes the answer to the call. Puts what has to be sent again in front of what waits,
    /// and gives what is settled, in its order.
    pub(super) fn settle(
        &mut self,
        answered: Answered,
        is_told: impl Fn(&Outgoing) -> bool,
    ) -> Settled {
        let mut again = VecDeque::new();
        let mut settled_later = HashSet::new();
        let count = answered.len();
        let mut settled = Vec::with_capacity(count);
        let now = Instant::now();
        // What failed for a reason that may pass is sent again, unless a later
        // message of the same socket is in the log already. What its sender was told
        // of as a listener can't fail any more: it is sent again to hear so.
        let mut is_busy = true;
        for (outgoing, outcome) in answered.into_iter().rev() {
            let verdict = judge(outcome);
            let id = outgoing.session.session_id;
            is_busy &= matches!(verdict, Verdict::Busy);
            match verdict {
                Verdict::Again | Verdict::Busy
                    if is_told(&outgoing)
                        || !settled_later.contains(&id) && !outgoing.is_late(now) =>
                {
                    again.push_front(outgoing);
                }
                verdict => {
                    if matches!(verdict, Verdict::Sent(_)) {
                        settled_later.insert(id);
                    }
                    settled.push((outgoing, verdict));
                }
            }
        }
        // One message whose outcome stays open for a while holds up nobody else's.
        let went = match again.is_empty() || !settled.is_empty() {
            true => Went::Well,
            false if is_busy => Went::Busy,
            false => Went::Badly,
        };
        again.append(&mut self.waiting);
        self.waiting = again;
        let began = self.since.take().unwrap_or(now);
        // A service that kept us waiting has a place for the topic, which comes up while we pause.
        let keeps_a_place = went == Went::Busy && now.saturating_duration_since(began) > SLOW;
        self.pace.note(went == Went::Well || keeps_a_place);
        self.window.note(count, began, now, went);
        settled.reverse();
        settled
    }

    /// Refuses all that waits.
    pub(super) fn fail_all(&mut self) {
        for outgoing in take(&mut self.waiting) {
            outgoing.fail_unavailable();
        }
    }
}
