//! Whose turn it is to write. To write to sockets is most of what a gateway does, and a message
//! on its way would wait for the processor behind all of them, at each of its steps: so a few
//! at a time write, and the next ones once everybody who was ready then has run. What comes
//! for a socket meanwhile goes out with the same write. It is made here, and not by the task
//! that reads the socket, for to wake that one polls all that stands above the stream as well.

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
    task::{JoinSet, coop::unconstrained, yield_now},
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
        // A round ends by itself; one that is cut short would leave the rest to their readers.
        lines
            .map(|line| unconstrained(async move { line.run().await }))
            .collect()
    }
}

/// Connections that have something to write.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Those whose turn comes, each of them once.
    waiting: Mutex<VecDeque<Arc<Control>>>,
    changed: Notify,
}

impl Line {
    /// Has this connection write when its turn comes.
    pub(crate) fn wake(&self, connection: &Arc<Control>) {
        if !connection.line_up() {
            return;
        }
        let mut waiting = self.waiting();
        let is_first = waiting.is_empty();
        waiting.push_back(Arc::clone(connection));
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
    }

    async fn run(&self) {
        loop {
            self.changed.notified().await;
            while self.next_round() {
                // Comes back behind all who are ready now, and those whom the kernel wakes.
                yield_now().await;
            }
        }
    }

    /// Has the next ones write; whether there were any.
    fn next_round(&self) -> bool {
        let round: Vec<_> = {
            let mut waiting = self.waiting();
            let count = waiting.len().min(ROUND.max(waiting.len() / SHARE));
            waiting.drain(..count).collect()
        };
        for connection in &round {
            // What comes from now on is written by this turn, or has another.
            connection.leave_line();
            connection.write();
        }
        !round.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Control>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;
    use crate::connection::Writes;

    /// How often a connection has written.
    #[derive(Default)]
    struct Writer(AtomicUsize);

    impl Writes for Writer {
        fn write_frames(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    struct Crowd(Vec<(Arc<Control>, Arc<Writer>)>);

    impl Crowd {
        fn new(count: usize) -> Self {
            let one = || {
                let (control, writer) = (Arc::new(Control::default()), Arc::new(Writer::default()));
                control.is_written_by(Arc::downgrade(&writer) as _);
                (control, writer)
            };
            Self((0..count).map(|_| one()).collect())
        }

        fn wake_all(&self, line: &Line) {
            self.0.iter().for_each(|(control, _)| line.wake(control));
        }

        fn written(&self) -> usize {
            let written = self.0.iter().map(|(_, writer)| &writer.0);
            written.map(|written| written.load(Ordering::Relaxed)).sum()
        }
    }

    fn run(line: &Arc<Line>) {
        let line = line.clone();
        tokio::spawn(async move { line.run().await });
    }

    #[tokio::test]
    async fn a_few_write_at_once_and_the_others_in_turn_each_of_them_once() {
        let line = Arc::new(Line::default());
        let crowd = Crowd::new(10 * ROUND);
        run(&line);
        crowd.wake_all(&line);
        crowd.wake_all(&line);
        assert_eq!(crowd.written(), 0);
        // Whoever is ready runs between two rounds.
        let mut rounds = Vec::new();
        while crowd.written() < 10 * ROUND {
            yield_now().await;
            if rounds.last() != Some(&crowd.written()) {
                rounds.push(crowd.written());
            }
        }
        assert!((4..=10).contains(&rounds.len()), "{rounds:?}");
        assert_eq!(rounds.last(), Some(&(10 * ROUND)));
    }

    #[tokio::test]
    async fn a_line_that_was_left_by_all_is_joined_again() {
        let line = Arc::new(Line::default());
        run(&line);
        let crowd = Crowd::new(3 * ROUND);
        for times in 1..=3 {
            crowd.wake_all(&line);
            while crowd.written() < times * 3 * ROUND {
                yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn one_that_breaks_is_cut_off_and_holds_up_nobody() {
        struct Breaks;
        impl Writes for Breaks {
            fn write_frames(&self) -> bool {
                panic!("it breaks");
            }
        }
        let line = Arc::new(Line::default());
        run(&line);
        let (breaks, broken) = (Arc::new(Breaks), Arc::new(Control::default()));
        broken.is_written_by(Arc::downgrade(&breaks) as _);
        line.wake(&broken);
        let crowd = Crowd::new(ROUND);
        crowd.wake_all(&line);
        while crowd.written() < ROUND {
            yield_now().await;
        }
        assert!(broken.is_dead());
    }
}
