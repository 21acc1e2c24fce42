//! Whose turn it is to write. To write to sockets is most of what a gateway does, and a message
//! on its way would wait for the processor behind all of them, at each of its steps: so a few
//! at a time are woken, and the next ones once everybody who was ready then has run. What comes
//! for a socket meanwhile goes out with the same write.

use std::{
    collections::VecDeque,
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use tokio::{
    sync::Notify,
    task::{JoinSet, yield_now},
};

use crate::connection::Control;

/// Connections of a line that write at a time, at least …
const ROUND: usize = 64;
/// … and this share of those that wait, so that nobody's turn is more rounds away.
const SHARE: usize = 4;

/// The lines of a gateway, one for each processor, so that none is everybody's.
pub(crate) struct Turns {
    lines: Vec<Arc<Line>>,
    opened: AtomicUsize,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self {
            lines: (0..processors).map(|_| Arc::default()).collect(),
            opened: AtomicUsize::new(0),
        }
    }

    /// Where one more connection lines up.
    pub(crate) fn line(&self) -> Arc<Line> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let line = number.checked_rem(self.lines.len());
        line.and_then(|line| self.lines.get(line))
            .map_or_else(Arc::default, Arc::clone)
    }

    /// Gives turns until what comes back is dropped.
    pub(crate) fn start(&self) -> JoinSet<()> {
        let lines = self.lines.iter().cloned();
        lines.map(|line| async move { line.run().await }).collect()
    }
}

/// Connections that have something to write.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// How many were woken in this round.
    woken: AtomicUsize,
    /// Those whose turn comes, each of them once.
    waiting: Mutex<VecDeque<Arc<Control>>>,
    changed: Notify,
}

impl Line {
    /// Has this connection write: now, or when its turn comes.
    pub(crate) fn wake(&self, connection: &Arc<Control>) {
        if connection.is_in_line() {
            return;
        }
        let woken = self.woken.fetch_add(1, Ordering::AcqRel);
        if woken < ROUND {
            if woken == 0 {
                self.changed.notify_one();
            }
            connection.wake_reader();
        } else if connection.line_up() {
            self.waiting().push_back(Arc::clone(connection));
            self.changed.notify_one();
        }
    }

    async fn run(&self) {
        loop {
            self.changed.notified().await;
            // Comes back behind all who are ready now, and those whom the kernel wakes.
            yield_now().await;
            while self.next_round() {
                yield_now().await;
            }
        }
    }

    /// Wakes the next ones; whether there were any.
    fn next_round(&self) -> bool {
        let round: Vec<_> = {
            let mut waiting = self.waiting();
            let count = waiting.len().min(ROUND.max(waiting.len() / SHARE));
            self.woken.store(count, Ordering::Release);
            waiting.drain(..count).collect()
        };
        for connection in &round {
            connection.leave_line();
            connection.wake_reader();
        }
        !round.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Control>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicBool,
        task::{Wake, Waker},
    };

    use super::*;

    /// Whether a connection was woken to write.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            assert!(!self.0.swap(true, Ordering::Relaxed), "woken twice");
        }
    }

    struct Crowd(Vec<(Arc<Control>, Arc<Woken>)>);

    impl Crowd {
        fn new(count: usize) -> Self {
            let one = || {
                let (control, woken) = (Arc::new(Control::default()), Arc::new(Woken::default()));
                control.wakes(&Waker::from(woken.clone()));
                (control, woken)
            };
            Self((0..count).map(|_| one()).collect())
        }

        fn wake_all(&self, line: &Line) {
            self.0.iter().for_each(|(control, _)| line.wake(control));
        }

        fn woken(&self) -> usize {
            let woken = self.0.iter().map(|(_, woken)| &woken.0);
            woken.filter(|woken| woken.load(Ordering::Relaxed)).count()
        }
    }

    #[tokio::test]
    async fn a_few_are_woken_at_once_and_the_others_in_turn_each_of_them_once() {
        let line = Arc::new(Line::default());
        let crowd = Crowd::new(10 * ROUND);
        crowd.wake_all(&line);
        crowd.wake_all(&line);
        assert_eq!(crowd.woken(), ROUND);
        let _turns = tokio::spawn({
            let line = line.clone();
            async move { line.run().await }
        });
        // Whoever is ready runs between two rounds.
        let mut rounds = vec![crowd.woken()];
        while crowd.woken() < 10 * ROUND {
            yield_now().await;
            if rounds.last() != Some(&crowd.woken()) {
                rounds.push(crowd.woken());
            }
        }
        assert!((4..=10).contains(&rounds.len()), "{rounds:?}");
        // Once all had their turn, the next ones are woken at once again.
        for _ in 0..4 {
            yield_now().await;
        }
        let next = Crowd::new(ROUND);
        next.wake_all(&line);
        assert_eq!(next.woken(), ROUND);
    }

    #[tokio::test]
    async fn a_line_that_was_left_by_all_is_joined_again() {
        let line = Arc::new(Line::default());
        let _turns = tokio::spawn({
            let line = line.clone();
            async move { line.run().await }
        });
        for _ in 0..3 {
            let crowd = Crowd::new(3 * ROUND);
            crowd.wake_all(&line);
            while crowd.woken() < 3 * ROUND {
                yield_now().await;
            }
        }
    }
}
