//! What others hold of a connection.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Wake,
};

use futures::task::AtomicWaker;

use super::Frames;

/// A connection that writes when its turn comes.
pub(crate) trait Writes: Send + Sync {
    /// Writes frames of ours for as long as there are some, and room; false where somebody
    /// else has the connection just now.
    fn write_frames(&self) -> bool;
}

/// What can be done to a connection from outside, and what is known of it.
#[derive(Default)]
pub(crate) struct Control {
    dead: AtomicBool,
    stalled: AtomicBool,
    /// Its turn to write comes.
    in_line: AtomicBool,
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
    pub(super) frames: OnceLock<Box<dyn Frames>>,
    connection: OnceLock<Weak<dyn Writes>>,
}

impl Control {
    /// Cuts the connection off.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.wake_both();
    }

    /// Whether it is cut off, or broken.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether it was cut off because its reader had stopped.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Sends these as well. Only the first ones count.
    pub(crate) fn carry(&self, frames: impl Frames) {
        let _ = self.frames.set(Box::new(frames));
    }

    /// Cuts the connection off, whose reader has stopped.
    pub(super) fn kill_stalled(&self) {
        self.stalled.store(true, Ordering::Release);
        self.kill();
    }

    /// Notes that its turn comes; false if it was noted before.
    pub(crate) fn line_up(&self) -> bool {
        !self.in_line.swap(true, Ordering::AcqRel)
    }

    /// Notes that its turn has come.
    pub(crate) fn leave_line(&self) {
        self.in_line.store(false, Ordering::Release);
    }

    /// Whose connection it is.
    pub(crate) fn is_written_by(&self, connection: Weak<dyn Writes>) {
        let _ = self.connection.set(connection);
    }

    /// Writes frames of ours, or has the reader do so.
    pub(crate) fn write(&self) {
        let Some(connection) = self.connection.get().and_then(Weak::upgrade) else {
            return;
        };
        // One that breaks here would take those behind it along.
        let written = catch_unwind(AssertUnwindSafe(|| connection.write_frames()));
        match written {
            Ok(true) => {}
            Ok(false) => self.reader.wake(),
            Err(_) => self.kill(),
        }
    }

    fn wake_both(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// The kernel tells one task that there is room, and both may wait for it.
impl Wake for Control {
    fn wake(self: Arc<Self>) {
        self.wake_both();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_both();
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}
