//! How much of one kind of work may be under way at a time, learnt from how long it takes.
//!
//! More than the services can do at a time is not done sooner. Each takes longer, at last
//! longer than a try may, and is done again: then less is done the more is asked for. So
//! what comes waits here, where it costs nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who takes longer than this finds too much under way: a try ends at a second.
const SLOW: Duration = Duration::from_millis(700);
/// Who takes no longer may have more beside him. A distant database alone takes 300.
const QUICK: Duration = Duration::from_millis(400);

/// When nothing has gone well for so long, it is no longer that there is too much to do.
const STILL: Duration = Duration::from_secs(1);

/// What each changes the size by: if all are slow it is halved while each has one turn,
/// if all are quick an eighth is added.
const LESS: f64 = 0.5;
const MORE: f64 = 0.125;

/// The size at first, and at most.
const FIRST: f64 = 64.0;
const MOST: f64 = 1_024.0;

/// A window for one kind of work.
pub(crate) struct Window {
    name: &'static str,
    least: f64,
    turns: Arc<Semaphore>,
    learnt: Mutex<Learnt>,
}

struct Learnt {
    size: f64,
    /// When something went well last, and since when that has been so without a stop.
    well: Option<(Instant, Instant)>,
}

/// One piece of work that is under way, until this is dropped.
pub(crate) struct Turn {
    window: Arc<Window>,
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl Window {
    /// `name` is what metrics call it, `least` its smallest size: at least 1.
    pub(crate) fn new(name: &'static str, least: f64) -> Arc<Self> {
        Arc::new(Self {
            name,
            least,
            turns: Arc::new(Semaphore::new(whole(FIRST))),
            learnt: Mutex::new(Learnt {
                size: FIRST,
                well: None,
            }),
        })
    }

    /// Waits for a turn; those who wait have theirs in the order in which they came.
    pub(crate) async fn enter(self: Arc<Self>) -> Turn {
        let permit = Arc::clone(&self.turns).acquire_owned().await;
        Turn {
            window: self,
            // The semaphore is never closed.
            permit: permit.ok(),
            began: Instant::now(),
        }
    }

    /// Since when work goes on, so that who waits longer does so because there is too much;
    /// `now` while nothing goes well.
    pub(crate) fn goes_on_since(&self, now: Instant) -> Instant {
        match self.learnt().well {
            Some((last, since)) if now.saturating_duration_since(last) <= STILL => since,
            _ => now,
        }
    }

    /// Learns from one that took so long; the change of the number of turns.
    fn learn(&self, took: Duration, succeeded: bool) -> isize {
        let mut learnt = self.learnt();
        if succeeded {
            let now = Instant::now();
            learnt.well = Some(match learnt.well {
                Some((last, since)) if now.saturating_duration_since(last) <= STILL => (now, since),
                _ => (now, now),
            });
        }
        let before = whole(learnt.size);
        if took > SLOW {
            learnt.size = (learnt.size - LESS).max(self.least);
        } else if took < QUICK && succeeded && self.turns.available_permits() < before / 2 {
            learnt.size = (learnt.size + MORE).min(MOST);
        }
        metrics::gauge!("drivers_gateway_window", "of" => self.name).set(learnt.size);
        whole(learnt.size).cast_signed() - before.cast_signed()
    }

    /// Every critical section leaves it whole, so a poisoned lock means nothing.
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The work is done, or has failed.
    pub(crate) fn end(mut self, succeeded: bool) {
        match self.window.learn(self.began.elapsed(), succeeded) {
            ..0 => {
                if let Some(permit) = self.permit.take() {
                    permit.forget();
                }
            }
            0 => {}
            more => self.window.turns.add_permits(more.unsigned_abs()),
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the bounds above"
)]
fn whole(size: f64) -> usize {
    size as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All turns of a window, which then take so long.
    async fn round(window: &Arc<Window>, took: Duration, succeeded: bool) {
        let mut turns = Vec::new();
        while window.turns.available_permits() > 0 {
            turns.push(Arc::clone(window).enter().await);
        }
        for mut turn in turns {
            turn.began -= took;
            turn.end(succeeded);
        }
    }

    #[tokio::test]
    async fn it_shrinks_while_work_is_slow_and_grows_back_while_it_is_quick() {
        let window = Window::new("test", 8.0);
        round(&window, Duration::from_secs(1), true).await;
        assert_eq!(window.turns.available_permits(), 32);
        for _ in 0..10 {
            round(&window, Duration::from_secs(1), false).await;
        }
        assert_eq!(window.turns.available_permits(), 8);
        for _ in 0..200 {
            round(&window, Duration::from_millis(10), true).await;
        }
        assert_eq!(window.turns.available_permits(), 1_024);
    }

    #[tokio::test]
    async fn what_fails_at_once_teaches_nothing() {
        let window = Window::new("test", 8.0);
        for _ in 0..10 {
            round(&window, Duration::from_millis(1), false).await;
        }
        assert_eq!(window.turns.available_permits(), 64);
    }

    #[tokio::test]
    async fn after_a_standstill_time_counts_anew() {
        let window = Window::new("test", 8.0);
        let now = Instant::now();
        assert_eq!(window.goes_on_since(now), now);
        round(&window, Duration::ZERO, true).await;
        let since = window.goes_on_since(Instant::now());
        assert!(since >= now);
        round(&window, Duration::ZERO, false).await;
        assert_eq!(window.goes_on_since(since + STILL / 2), since);
        let later = since + 2 * STILL;
        assert_eq!(window.goes_on_since(later), later);
    }

    #[tokio::test]
    async fn it_does_not_grow_while_it_is_not_used() {
        let window = Window::new("test", 8.0);
        for _ in 0..1_000 {
            Arc::clone(&window).enter().await.end(true);
        }
        assert_eq!(window.turns.available_permits(), 64);
    }
}
