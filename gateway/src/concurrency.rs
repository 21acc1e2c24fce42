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

use std::{
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
/// One that takes no longer than this waits for nothing. A distant database alone takes 200.
pub(crate) const QUICK: Duration = Duration::from_millis(250);

/// Calls at a time: at first, at least, and at most.
const FIRST: usize = 128;
const LEAST: usize = 16;
const MOST: usize = 4_096;
/// The part by which they get more, and that which is left when they get fewer.
const MORE: usize = 8;
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
    round: Round,
}

/// What is known of as many calls as there may be at a time.
#[derive(Default)]
struct Round {
    calls: usize,
    quick: usize,
    slow: usize,
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
                round: Round::default(),
            }),
        }))
    }

    /// A place for a call, if there is one now.
    pub(crate) fn try_acquire(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0.places).try_acquire_owned().ok();
        if permit.is_none() {
            self.0.with(|state| state.round.is_full = true);
        }
        permit.map(|permit| self.place(Some(permit)))
    }

    /// A place for a call; those who wait get theirs in their order. Cancel-safe.
    pub(crate) async fn acquire(&self) -> Place {
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
        round.quick += usize::from(took < QUICK);
        round.slow += usize::from(took > SLOW);
        if round.calls < self.limit {
            return 0;
        }
        let Round {
            calls,
            quick,
            slow,
            is_full,
        } = std::mem::take(round);
        let before = self.limit;
        if slow * 2 > calls {
            self.limit = ((before as f64 * LEFT) as usize).max(LEAST);
        } else if quick * 2 > calls && is_full {
            self.limit = (before + before.div_ceil(MORE)).min(MOST);
        }
        metrics::gauge!("drivers_gateway_calls_limit").set(self.limit as f64);
        self.too_many += before.saturating_sub(self.limit);
        let more = self.limit.saturating_sub(before);
        let kept = more.min(self.too_many);
        self.too_many -= kept;
        more - kept
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
        if done.is_ok() || took > SLOW {
            of.note(took);
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
    fn slow_rounds_leave_fewer_places_and_quick_ones_that_are_full_make_more() {
        let calls = Concurrency::new();
        calls.round(QUICK / 2);
        assert_eq!(calls.limit(), FIRST);
        calls.full_round(QUICK / 2);
        assert_eq!(calls.limit(), FIRST + FIRST / MORE);
        let between = (QUICK + SLOW) / 2;
        calls.full_round(between);
        assert_eq!(calls.limit(), FIRST + FIRST / MORE);
        assert_eq!(calls.free(), calls.limit());
        for _ in 0..20 {
            calls.full_round(SLOW * 2);
            assert_eq!(calls.free(), calls.limit());
        }
        assert_eq!(calls.limit(), LEAST);
        for _ in 0..100 {
            calls.full_round(QUICK / 2);
            assert_eq!(calls.free(), calls.limit());
        }
        assert_eq!(calls.limit(), MOST);
    }

    #[test]
    fn places_that_are_taken_when_there_are_to_be_fewer_go_as_they_are_given_back() {
        let calls = Concurrency::new();
        let mut places: Vec<Place> = std::iter::from_fn(|| calls.try_acquire()).collect();
        calls.round(SLOW * 2);
        let fewer = calls.limit();
        places.truncate(fewer);
        assert_eq!(calls.free(), 0);
        // Those that are still too many are kept when there may be more again.
        calls.round(SLOW * 2);
        assert!(calls.try_acquire().is_none());
        calls.round(QUICK / 2);
        assert_eq!(calls.free(), 0);
        drop(places);
        assert_eq!(calls.free(), calls.limit());
    }

    #[test]
    fn some_slow_calls_say_nothing_of_the_others() {
        let calls = Concurrency::new();
        for n in 0..FIRST {
            let took = if n % 5 < 2 { SLOW * 2 } else { QUICK / 2 };
            calls.0.note(took);
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
    async fn a_call_that_fails_at_once_says_nothing() {
        let calls = Concurrency::new();
        assert!(
            calls
                .try_acquire()
                .unwrap()
                .hold(takes(QUICK))
                .await
                .is_ok()
        );
        let noted = || calls.0.with(|state| state.round.calls);
        assert_eq!(noted(), 1);
        let place = calls.try_acquire().unwrap();
        assert!(place.hold(ready(Err::<(), ()>(()))).await.is_err());
        assert_eq!(noted(), 1);
    }
}
