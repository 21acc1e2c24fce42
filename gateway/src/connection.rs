//! A connection that can be cut off from outside, and whose writes never fail.
//!
//! The Engine.IO server only notices a dead connection when it reads: a failed
//! write during its handshake leaks the session, and a write that waits for a
//! reader who has stopped waits for ever, holding what is needed to close it. So
//! here a dead connection swallows writes and fails reads.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};

/// What can be done to a connection from outside, and what is known of it.
#[derive(Default)]
pub(crate) struct Control {
    dead: AtomicBool,
    stalled: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    flushes: AtomicU64,
    on_flush: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Control {
    /// Cuts the connection off.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether it is cut off, or broken.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether it was cut off because its reader had stopped.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// How often everything written was handed to the kernel.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Has `hook` called after each flush. Only the first hook counts.
    pub(crate) fn on_flush(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_flush.set(Box::new(hook));
    }

    fn flushed(&self) {
        self.flushes.fetch_add(1, Ordering::AcqRel);
        if let Some(hook) = self.on_flush.get() {
            hook();
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}

/// A stream under a [`Control`].
pub(crate) struct Connection<S> {
    stream: S,
    control: Arc<Control>,
    stall_limit: Duration,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    /// Counts the connection for as long as it is open, upgraded or not.
    _permit: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    /// A write that makes no progress for `stall_limit` kills the connection.
    pub(crate) fn new(
        stream: S,
        control: Arc<Control>,
        stall_limit: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            control,
            stall_limit,
            stall: None,
            _permit: permit,
        }
    }

    /// Drives something that writes; `None` once the connection is dead.
    fn drive<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<Option<T>> {
        if self.control.is_dead() {
            return Poll::Ready(None);
        }
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
                self.control.writer.register(cx.waker());
                if self.control.is_dead() {
                    return Poll::Ready(None);
                }
                let limit = self.stall_limit;
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(stall.as_mut().poll(cx));
                self.control.stalled.store(true, Ordering::Release);
                self.control.kill();
                Poll::Ready(None)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.control.reader.register(cx.waker());
        if self.control.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.drive(cx, |stream, cx| Pin::new(stream).poll_write(cx, buf))
            .map(|written| Ok(written.unwrap_or(buf.len())))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.drive(cx, |stream, cx| {
            Pin::new(stream).poll_write_vectored(cx, bufs)
        })
        .map(|written| Ok(written.unwrap_or_else(|| bufs.iter().map(|buf| buf.len()).sum())))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drive(cx, |stream, cx| Pin::new(stream).poll_flush(cx)));
        self.control.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drive(cx, |stream, cx| Pin::new(stream).poll_shutdown(cx))
            .map(|_| Ok(()))
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.control.kill();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::Semaphore,
        time::timeout,
    };

    use super::*;

    async fn connection(stall: Duration) -> (Connection<DuplexStream>, DuplexStream, Arc<Control>) {
        let (server, client) = duplex(16);
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let control = Arc::new(Control::default());
        let connection = Connection::new(server, control.clone(), stall, permit);
        (connection, client, control)
    }

    #[tokio::test]
    async fn a_broken_connection_swallows_writes_and_fails_reads() {
        let (mut connection, client, control) = connection(Duration::from_secs(60)).await;
        drop(client);
        connection.write_all(&[0; 100]).await.unwrap();
        connection.flush().await.unwrap();
        assert!(control.is_dead());
        assert!(connection.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn a_kill_ends_a_write_and_a_read_that_wait() {
        let (connection, _client, control) = connection(Duration::from_secs(60)).await;
        let (mut read, mut write) = tokio::io::split(connection);
        let reading = tokio::spawn(async move { read.read_u8().await });
        let writing = tokio::spawn(async move { write.write_all(&[0; 100]).await });
        tokio::task::yield_now().await;
        control.kill();
        let limit = Duration::from_secs(5);
        assert!(timeout(limit, reading).await.unwrap().unwrap().is_err());
        assert!(timeout(limit, writing).await.unwrap().unwrap().is_ok());
        assert!(!control.has_stalled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_cut_off_and_a_slow_one_is_not() {
        let (mut connection, mut client, control) = connection(Duration::from_secs(10)).await;
        let writing = tokio::spawn(async move {
            connection.write_all(&[0; 64]).await.unwrap();
            connection
        });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.read_exact(&mut [0; 16]).await.unwrap();
        }
        let mut connection = writing.await.unwrap();
        assert!(!control.is_dead());
        connection.write_all(&[0; 64]).await.unwrap();
        assert!(control.has_stalled());
    }
}
