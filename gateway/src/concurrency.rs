//! How many topics' calls are under way at a time.
//!
//! What message-svc can do at once is not known here, and changes. A call that waits there, or
//! for a processor on its way, runs out of its time, is made again, and all that it brought
//! comes twice. One that waits here costs nothing, and takes along what comes meanwhile. So the
//! limit is found as TCP finds its window: more while calls are quick, fewer once they are slow
//! (AIMD: Chiu and Jain, 1989; over calls, as in Netflix's concurrency-limits).
//!
//! By most calls of a round, and not by each: a replica that hangs or a part of the store that is
//! away makes some slow, which says nothing of how much there is to do for the others.
//!
//! The longer a topic waits for its call the more goes with it, so that more is done the more
//! there is to do: to refuse what waits would take that away. Where one waits for seconds all
//! the same, more comes than can be done in any case: then, until there is a place for everybody
//! again, those who have waited long are better refused than those behind them kept waiting as
//! long (Maurer, Fail at Scale, 2015, who has it from CoDel).

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

/// A call that takes longer than this waits for others, or hangs; a try ends at a second.
pub(crate) const SLOW: Duration = Duration::from_millis(500);
/// What most calls are answered in. A distant database alone takes 200; with more waiting than
/// that, some would take as long as a try may.
const SOON: Duration = Duration::from_millis(300);

/// How long one waits for a place where more comes than can be done. A store that stalls for a
/// moment, as all do, or programs that are started again one by one, have caught up by then.
const TOO_LONG: Duration = Duration::from_secs(4);

/// Calls at a time: at first, at least, and at most.
const FIRST: usize = 128;
const LEAST: usize = 16;
const MOST: usize = 4_096;
/// By how many they get more, so that gateways come to have equally many, and the part that is
/// left when they get fewer. Until that happens first, they get more by a quarter.
const MORE: usize = 4;
const LEFT: f64 = 0.7;

/// Finds out how many calls at a time are answered soon. Clones are the same.
#[derive(Clone)]
pub(crate) struct Concurrency(Arc<Shared>);

struct Shared {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    limit: usize,
    /// Places to be given up as calls end, for the limit has become less.
    too_many: usize,
    /// It has never been less.
    is_starting: bool,
    round: Round,
    /// When each of those came who wait for a place, in their order.
    line: VecDeque<Instant>,
    /// When a call failed last.
    failed_at: Option<Instant>,
    /// Since when more comes than can be done.
    overloaded_since: Option<Instant>,
}

/// What is known of as many calls as there may be at a time.
#[derive(Default)]
struct Round {
    calls: usize,
    /// Those that were answered soon.
    soon: usize,
    /// Somebody has waited for a place.
    is_full: bool,
}

impl Concurrency {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            places: Arc::new(Semaphore::new(FIRST)),
            state: Mutex::new(State {
                limit: FIRST,
                too_many: 0,
                is_starting: true,
                round: Round::default(),
                line: VecDeque::new(),
                failed_at: None,
                overloaded_since: None,
            }),
        }))
    }

    /// A place for a call, if there is one now.
    pub(crate) fn try_acquire(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0.places).try_acquire_owned().ok();
        self.0.with(|state| match &permit {
            Some(_) => state.overloaded_since = None,
            None => state.round.is_full = true,
        });
        permit.map(|permit| self.place(Some(permit)))
    }

    /// From when on more comes than can be done, if nothing changes until then.
    pub(crate) fn overloaded_from(&self) -> Option<Instant> {
        self.0.with(|state| {
            let first = || Some(state.waits_since(*state.line.front()?) + TOO_LONG);
            state.overloaded_since.or_else(first)
        })
    }

    /// A place for a call; those who wait get theirs in their order. Cancel-safe.
    pub(crate) async fn acquire(&self) -> Place {
        let _waits = Waits::new(&self.0);
        // They are never closed.
        self.place(Arc::clone(&self.0.places).acquire_owned().await.ok())
    }

    fn place(&self, permit: Option<OwnedSemaphorePermit>) -> Place {
        Place {
            of: Arc::clone(&self.0),
            permit,
        }
    }
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, took: Duration) {
        let more = self.with(|state| state.note(took));
        self.places.add_permits(more);
    }
}

impl State {
    /// Notes how long a call took; gives how many places there are from now on that were not.
    fn note(&mut self, took: Duration) -> usize {
        let round = &mut self.round;
        round.calls += 1;
        round.soon += usize::from(took <= SOON);
        if round.calls < self.limit {
            return 0;
        }
        let Round {
            calls,
            soon,
            is_full,
        } = std::mem::take(round);
        let before = self.limit;
        if soon * 2 < calls {
            self.is_starting = false;
            self.limit = ((before as f64 * LEFT) as usize).max(LEAST);
        } else if is_full {
            let more = if self.is_starting { before / 4 } else { MORE };
            self.limit = (before + more).min(MOST);
        }
        metrics::gauge!("drivers_gateway_calls_limit").set(self.limit as f64);
        self.too_many += before.saturating_sub(self.limit);
        let more = self.limit.saturating_sub(before);
        let kept = more.min(self.too_many);
        self.too_many -= kept;
        more - kept
    }

    /// Who waits may do so for what has failed, and not for all that there is to do.
    fn note_failure(&mut self) {
        self.failed_at = Some(Instant::now());
        self.overloaded_since = None;
    }

    /// Since when he who came then waits for no failure.
    fn waits_since(&self, came_at: Instant) -> Instant {
        self.failed_at.map_or(came_at, |at| at.max(came_at))
    }
}

/// One in the line, until it is his turn.
struct Waits<'a> {
    of: &'a Shared,
    came_at: Instant,
}

impl<'a> Waits<'a> {
    fn new(of: &'a Shared) -> Self {
        let came_at = of.with(|state| {
            let now = Instant::now();
            state.line.push_back(now);
            now
        });
        Self { of, came_at }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.of.with(|state| {
            if let Ok(place) = state.line.binary_search(&self.came_at) {
                state.line.remove(place);
            }
            let now = Instant::now();
            if now >= state.waits_since(self.came_at) + TOO_LONG {
                state.overloaded_since.get_or_insert(now);
            }
        });
    }
}

/// A call's place among those under way; given back when it is dropped.
pub(crate) struct Place {
    of: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Makes the call. One that hangs keeps no other from its place; one that fails at once says
    /// nothing of how much there is to do.
    pub(crate) async fn hold<T, E>(self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let (began, of) = (Instant::now(), Arc::clone(&self.of));
        let mut call = pin!(call);
        let done = match timeout(SLOW, &mut call).await {
            Ok(done) => done,
            Err(_) => {
                drop(self);
                call.await
            }
        };
        let took = began.elapsed();
        if done.is_ok() || took > SOON {
            of.note(took);
        }
        if done.is_err() {
            of.with(State::note_failure);
        }
        done
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let is_too_many = self.of.with(|state| {
            let is = state.too_many > 0;
            state.too_many -= usize::from(is);
            is
        });
        if let Some(permit) = self.permit.take()
            && is_too_many
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::{pending, ready};

    use futures::FutureExt as _;

    use super::*;

    impl Concurrency {
        fn limit(&self) -> usize {
            self.0.with(|state| state.limit)
        }

        fn free(&self) -> usize {
            self.0.places.available_permits()
        }

        /// As many calls as there may be, all of which take so long.
        fn round(&self, took: Duration) {
            for _ in 0..self.limit() {
                self.0.note(took);
            }
        }

        /// The same when one more would have liked to be among them.
        fn full_round(&self, took: Duration) {
            let places: Vec<Place> = std::iter::from_fn(|| self.try_acquire()).collect();
            self.round(took);
            drop(places);
        }
    }

    async fn takes(time: Duration) -> Result<(), ()> {
        tokio::time::sleep(time).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_places_are_taken_waits_and_others_wait_behind_him() {
        let calls = Concurrency::new();
        let mut places: Vec<Place> = std::iter::from_fn(|| calls.try_acquire()).collect();
        assert_eq!(places.len(), FIRST);
        let mut first = pin!(calls.acquire());
        assert!((&mut first).now_or_never().is_none());
        places.pop();
        assert!(calls.try_acquire().is_none());
        assert!(first.now_or_never().is_some());
        assert!(calls.try_acquire().is_some());
    }

    #[test]
    fn a_full_round_that_is_answered_soon_makes_more_places_and_a_slow_one_leaves_fewer() {
        let calls = Concurrency::new();
        calls.round(SOON);
        assert_eq!(calls.limit(), FIRST);
        calls.full_round(SOON);
        assert_eq!(calls.limit(), FIRST + FIRST / 4);
        for _ in 0..20 {
            calls.full_round(SLOW);
            assert_eq!(calls.free(), calls.limit());
        }
        assert_eq!(calls.limit(), LEAST);
        calls.full_round(SOON);
        assert_eq!(calls.limit(), LEAST + MORE);
        for _ in 0..MOST / MORE {
            calls.full_round(SOON);
        }
        assert_eq!(calls.limit(), MOST);
        assert_eq!(calls.free(), MOST);
    }

    #[test]
    fn gateways_come_to_have_equally_many_places() {
        let (one, other) = (Concurrency::new(), Concurrency::new());
        for _ in 0..6 {
            one.full_round(SLOW);
            other.full_round(SOON);
        }
        let shares = || (one.limit() as f64, other.limit() as f64);
        assert!(shares().1 > 20.0 * shares().0, "{:?}", shares());
        // What they call can do 200 at a time.
        for _ in 0..500 {
            let is_too_much = one.limit() + other.limit() > 200;
            for gateway in [&one, &other] {
                gateway.full_round(if is_too_much { SLOW } else { SOON });
            }
        }
        assert!(shares().1 < 1.2 * shares().0, "{:?}", shares());
    }

    #[test]
    fn places_that_are_taken_when_there_are_to_be_fewer_go_as_they_are_given_back() {
        let calls = Concurrency::new();
        let mut places: Vec<Place> = std::iter::from_fn(|| calls.try_acquire()).collect();
        calls.round(SLOW);
        places.truncate(calls.limit());
        assert_eq!(calls.free(), 0);
        calls.round(SLOW);
        assert!(calls.try_acquire().is_none());
        // Those that are still too many are kept when there may be more again.
        calls.round(SOON);
        assert_eq!(calls.free(), 0);
        drop(places);
        assert_eq!(calls.free(), calls.limit());
    }

    #[test]
    fn some_slow_calls_say_nothing_of_the_others() {
        let calls = Concurrency::new();
        for n in 0..FIRST {
            calls.0.note(if n % 5 < 2 { SLOW } else { SOON });
        }
        assert_eq!(calls.limit(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_keeps_no_place() {
        let calls = Concurrency::new();
        let place = calls.try_acquire().unwrap();
        let mut hangs = pin!(place.hold(pending::<Result<(), ()>>()));
        assert!(timeout(SLOW * 2, &mut hangs).await.is_err());
        assert_eq!(calls.free(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn more_comes_than_can_be_done_once_one_has_waited_for_long_until_nobody_waits() {
        let calls = Concurrency::new();
        let is_overloaded = || (calls.overloaded_from()).is_some_and(|from| from <= Instant::now());
        let later = |time| tokio::time::advance(time);
        let mut places: Vec<Place> = std::iter::from_fn(|| calls.try_acquire()).collect();
        // A line that moves is none that is too long, however long there has been one.
        for _ in 0..3 {
            let mut waits = pin!(calls.acquire());
            assert!((&mut waits).now_or_never().is_none());
            later(TOO_LONG - SOON).await;
            assert!(!is_overloaded());
            places.pop();
            places.push(waits.await);
        }
        let mut waits = pin!(calls.acquire());
        assert!((&mut waits).now_or_never().is_none());
        later(TOO_LONG).await;
        assert!(is_overloaded());
        // So it is for those behind him, until somebody finds a place at once.
        places.pop();
        places.push(waits.await);
        assert!(calls.try_acquire().is_none());
        assert!(is_overloaded());
        places.pop();
        let place = calls.try_acquire().unwrap();
        assert!(!is_overloaded());
        // What fails may be what they wait for.
        let mut waits = pin!(calls.acquire());
        assert!((&mut waits).now_or_never().is_none());
        later(TOO_LONG).await;
        assert!(is_overloaded());
        assert!(place.hold(ready(Err::<(), ()>(()))).await.is_err());
        assert!(!is_overloaded());
        later(TOO_LONG).await;
        assert!(is_overloaded());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_at_once_says_nothing() {
        let calls = Concurrency::new();
        assert!(calls.try_acquire().unwrap().hold(takes(SOON)).await.is_ok());
        let noted = || calls.0.with(|state| state.round.calls);
        assert_eq!(noted(), 1);
        let place = calls.try_acquire().unwrap();
        assert!(place.hold(ready(Err::<(), ()>(()))).await.is_err());
        assert_eq!(noted(), 1);
    }
}
