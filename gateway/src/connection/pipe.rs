//! A stream whose writes end.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use super::{Control, batch::Batch};

/// It swallows what is written once the connection is dead.
pub(super) struct Pipe<S> {
    pub(super) stream: S,
    pub(super) control: Arc<Control>,
    /// Wakes both tasks once there is room.
    room: Waker,
    /// Some of what was written may still be on its way to the kernel.
    unflushed: bool,
    stall_limit: Duration,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Pipe<S> {
    /// A write that makes no progress for `stall_limit` kills the connection.
    pub(super) fn new(stream: S, control: Arc<Control>, stall_limit: Duration) -> Self {
        Self {
            stream,
            room: Waker::from(control.clone()),
            control,
            unflushed: false,
            stall_limit,
            stall: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Pipe<S> {
    /// Writes some of what is left of that many frames.
    pub(super) fn write_frames(&mut self, batch: &mut Batch, frames: usize) -> Poll<()> {
        let (slices, count) = batch.slices(frames);
        let slices = slices.get(..count).unwrap_or_default();
        let write =
            |stream: &mut S, cx: &mut Context<'_>| Pin::new(stream).poll_write_vectored(cx, slices);
        match ready!(self.drive(write)) {
            Some(written) => {
                self.unflushed = true;
                batch.advance(written);
            }
            None => batch.clear(),
        }
        Poll::Ready(())
    }

    /// Flushes what was written of frames.
    pub(super) fn flush_frames(&mut self) -> Poll<()> {
        match self.unflushed {
            true => self.flush(),
            false => Poll::Ready(()),
        }
    }

    pub(super) fn flush(&mut self) -> Poll<()> {
        ready!(self.drive(|stream, cx| Pin::new(stream).poll_flush(cx)));
        self.unflushed = false;
        Poll::Ready(())
    }

    /// Drives something that writes; `None` once the connection is dead.
    pub(super) fn drive<T>(
        &mut self,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<Option<T>> {
        if self.control.is_dead() {
            return Poll::Ready(None);
        }
        let cx = &mut Context::from_waker(&self.room);
        match write(&mut self.stream, cx) {
            Poll::Ready(Ok(value)) => {
                self.stall = None;
                Poll::Ready(Some(value))
            }
            Poll::Ready(Err(_)) => {
                self.control.kill();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let limit = self.stall_limit;
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(stall.as_mut().poll(cx));
                self.control.kill_stalled();
                Poll::Ready(None)
            }
        }
    }
}
