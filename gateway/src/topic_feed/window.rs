//! How much of what waits for a topic goes into one call, and who has waited too long.
//!
//! More than the services can do is not done sooner: calls take longer, at last longer than
//! a try may, and are made again for nothing. So calls that take long get smaller, none is
//! much larger than one that went quickly, whoever does not fit in waits, and waits in vain
//! only for so long.

use std::time::Duration;

use tokio::time::Instant;

use crate::concurrency::SLOW;

/// A call that takes no longer than this may be larger. A distant database alone takes 200.
const QUICK: Duration = Duration::from_millis(250);
/// Messages of a call, at least and at first, and at most. Fewer would take no less time where
/// each write has its price, and be done more seldom: with 8, half as many were sent of three
/// times as many as could be.
const LEAST: usize = 32;
const MOST: usize = 256;
/// How long a message waits for its call while calls go well: who waits longer would only
/// make those behind him wait as long.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Window {
    size: usize,
    /// Since when no call has gone badly.
    flows_since: Option<Instant>,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    Well,
    /// The service is there, and did not come to it in time.
    Busy,
    Badly,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: LEAST,
            flows_since: None,
        }
    }
}

impl Window {
    /// Most messages of the next call.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Notes how a call of so many messages went that has just ended. One that failed at once
    /// says nothing of how much there is to do: a service may be away. One that went quickly
    /// says so only of as many as it had.
    pub(super) fn note(&mut self, count: usize, began: Instant, now: Instant, went: Went) {
        let took = now.saturating_duration_since(began);
        if took > SLOW {
            let smaller = self.size / if went == Went::Badly { 4 } else { 2 };
            self.size = smaller.max(LEAST);
        } else if took < QUICK && went == Went::Well {
            self.size = self.size.max((count * 2).min(MOST));
        }
        self.flows_since = match went {
            Went::Well => self.flows_since.or(Some(now)),
            Went::Busy => self.flows_since,
            Went::Badly => None,
        };
    }

    /// When who came then will have waited too long for a call that can be made.
    pub(super) fn overdue_at(&self, came_at: Instant) -> Option<Instant> {
        Some(self.flows_since?.max(came_at) + PATIENCE)
    }

    pub(super) fn is_overdue(&self, came_at: Instant, now: Instant) -> bool {
        self.overdue_at(came_at).is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_calls_get_smaller_and_quick_ones_larger_again() {
        let mut window = Window::default();
        let now = Instant::now();
        let (slow, quick) = (now - 2 * SLOW, now - QUICK / 2);
        for _ in 0..10 {
            window.note(window.size(), quick, now, Went::Well);
        }
        assert_eq!(window.size(), MOST);
        window.note(MOST, slow, now, Went::Well);
        assert_eq!(window.size(), MOST / 2);
        window.note(window.size(), slow, now, Went::Badly);
        assert_eq!(window.size(), MOST / 8);
        for _ in 0..10 {
            window.note(window.size(), slow, now, Went::Badly);
        }
        assert_eq!(window.size(), LEAST);
        window.note(LEAST, quick, now, Went::Badly);
        assert_eq!(window.size(), LEAST);
    }

    #[test]
    fn a_call_has_at_most_twice_as_many_as_one_that_was_quick() {
        let mut window = Window::default();
        let now = Instant::now();
        let quick = now - QUICK / 2;
        for count in [1, LEAST / 2] {
            window.note(count, quick, now, Went::Well);
            assert_eq!(window.size(), LEAST);
        }
        window.note(LEAST - 1, quick, now, Went::Well);
        assert_eq!(window.size(), 2 * (LEAST - 1));
        window.note(1, quick, now, Went::Well);
        assert_eq!(window.size(), 2 * (LEAST - 1));
    }

    #[test]
    fn time_counts_only_while_calls_go_well() {
        let mut window = Window::default();
        let came_at = Instant::now();
        let now = came_at + 2 * PATIENCE;
        assert!(!window.is_overdue(came_at, now));
        window.note(1, now, now, Went::Well);
        let later = now + PATIENCE;
        assert!(!window.is_overdue(came_at, later - Duration::from_millis(1)));
        assert!(window.is_overdue(came_at, later));
        assert!(!window.is_overdue(later, later));
        window.note(1, later, later, Went::Busy);
        assert!(window.is_overdue(came_at, later));
        window.note(1, later, later, Went::Badly);
        assert!(!window.is_overdue(came_at, later + PATIENCE));
    }
}
