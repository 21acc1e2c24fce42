//! A connection that can be cut off from outside, whose writes never fail, and that
//! sends our own frames between those of its owner, the Engine.IO server.
//!
//! The Engine.IO server only notices a dead connection when it reads: a failed
//! write during its handshake leaks the session, and a write that waits for a
//! reader who has stopped waits for ever, holding what is needed to close it. So
//! here a dead connection swallows writes and fails reads.
//!
//! It would also encode a packet anew for each client, and wake two tasks for it. Our
//! frames are encoded once, and written when their turn comes, many at a time: see
//! [`turns`](crate::turns). What there is no room for is written by whoever reads.

mod batch;
mod control;
mod cursor;
mod pipe;

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    task::JoinHandle,
};

use self::{batch::Batch, cursor::Cursor, pipe::Pipe};
pub(crate) use self::{
    batch::PER_WRITE,
    control::{Control, Writes},
};
use crate::{
    frame::{Frame, Generation},
    turnstile::Turnstiles,
};

/// What a connection sends besides what its owner writes.
pub(crate) trait Frames: Send + Sync + 'static {
    /// As which they are encoded.
    fn generation(&self) -> Generation;

    /// Whether this connection is a websocket from now on, behind its handshake. What the
    /// owner writes then, begins with a frame.
    fn have_begun(&self, connection: &Arc<Control>) -> bool;

    /// Takes the next ones, if it is their turn. The owner has written `messages` of
    /// Engine.IO since they began.
    fn take(&self, messages: u64, into: &mut VecDeque<Frame>);
}

/// A stream under a [`Control`].
pub(crate) struct Connection<S> {
    control: Arc<Control>,
    /// Its owner reads and writes, and whoever's turn it is writes frames of ours.
    ends: Arc<Mutex<Ends<S>>>,
    turnstiles: Turnstiles,
    /// How reading has ended, which its owner hears of when it is his turn. A task waits for
    /// that: an owner who does not ask again must not keep a place that others wait for.
    end: Option<(io::Result<()>, JoinHandle<()>)>,
    /// Counts the connection for as long as it is open, upgraded or not.
    _permit: OwnedSemaphorePermit,
}

/// The stream, and how far it is written.
struct Ends<S> {
    pipe: Pipe<S>,
    /// Where the owner's frames end, once it writes such.
    owner: Option<Cursor>,
    /// The owner has something to write, and waits for the end of a frame of ours.
    owner_waits: bool,
    /// Frames of ours that are being written.
    batch: Batch,
}

impl<S: AsyncWrite + Unpin + Send + 'static> Connection<S> {
    /// A write that makes no progress for `stall_limit` kills the connection.
    pub(crate) fn new(
        stream: S,
        control: Arc<Control>,
        stall_limit: Duration,
        turnstiles: Turnstiles,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let ends = Arc::new(Mutex::new(Ends {
            pipe: Pipe::new(stream, control.clone(), stall_limit),
            owner: None,
            owner_waits: false,
            batch: Batch::new(),
        }));
        control.is_written_by(Arc::downgrade(&ends) as _);
        Self {
            control,
            ends,
            turnstiles,
            end: None,
            _permit: permit,
        }
    }
}

impl<S> Connection<S> {
    fn ends(&self) -> MutexGuard<'_, Ends<S>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin + Send> Writes for Mutex<Ends<S>> {
    fn write_frames(&self) -> bool {
        match self.try_lock() {
            Ok(mut ends) => {
                ends.look_for_the_beginning();
                // What can't be written now is written by the reader, when there is room.
                let _ = ends.send();
                true
            }
            Err(_) => false,
        }
    }
}

impl<S> Ends<S> {
    /// Notes when the owner begins to write frames.
    fn look_for_the_beginning(&mut self) {
        let control = &self.pipe.control;
        if self.owner.is_none()
            && let Some(frames) = control.frames.get()
            && frames.have_begun(control)
        {
            self.owner = Some(Cursor::default());
            self.batch.speak(frames.generation());
        }
    }
}

impl<S: AsyncWrite + Unpin> Ends<S> {
    /// Writes frames of ours for as long as there are some, and room; none into a frame of
    /// the owner, who goes first when he waits.
    fn send(&mut self) -> Poll<()> {
        let Some(owner) = &self.owner else {
            return Poll::Ready(());
        };
        let may_begin = owner.is_between_frames() && !self.owner_waits;
        loop {
            if may_begin
                && self.batch.is_empty()
                && let Some(frames) = self.pipe.control.frames.get()
            {
                frames.take(owner.messages(), self.batch.frames());
            }
            let frames = if may_begin {
                PER_WRITE
            } else {
                self.batch.begun()
            };
            if frames == 0 || self.batch.is_empty() {
                break;
            }
            ready!(self.pipe.write_frames(&mut self.batch, frames));
        }
        if self.owner_waits {
            self.pipe.control.writer.wake();
        }
        self.pipe.flush_frames()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.control.reader.register(cx.waker());
        let mut ends = self.ends();
        ends.look_for_the_beginning();
        // What can't be written now is written when there is room: that wakes this task.
        let _ = ends.send();
        if self.control.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.end.is_none() {
            let before = buf.filled().len();
            let read = ready!(Pin::new(&mut ends.pipe.stream).poll_read(cx, buf));
            let has_ended = read.is_err() || buf.filled().len() == before && buf.remaining() > 0;
            if !has_ended {
                return Poll::Ready(read);
            }
            let turnstile = match ends.owner {
                None => self.turnstiles.reception.clone(),
                Some(_) => self.turnstiles.inside.clone(),
            };
            drop(ends);
            let turn = tokio::spawn(async move { turnstile.pass().await });
            self.end = Some((read, turn));
        } else {
            drop(ends);
        }
        if let Some((_, turn)) = &mut self.end {
            // It fails where the runtime ends, and nobody waits for anything.
            let _ = ready!(Pin::new(turn).poll(cx));
        }
        self.end
            .take()
            .map_or(Poll::Ready(Ok(())), |(read, _)| Poll::Ready(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        let ends = &mut *self.ends();
        ends.look_for_the_beginning();
        ends.owner_waits = true;
        while ends.batch.begun() > 0 {
            ready!(ends.pipe.write_frames(&mut ends.batch, 1));
        }
        let write =
            |stream: &mut S, cx: &mut Context<'_>| Pin::new(stream).poll_write_vectored(cx, bufs);
        let written = ready!(ends.pipe.drive(write));
        ends.owner_waits = false;
        let written = written.unwrap_or_else(|| bufs.iter().map(|buf| buf.len()).sum());
        if let Some(owner) = &mut ends.owner {
            let mut left = written;
            for buf in bufs {
                let (here, _) = buf.split_at(left.min(buf.len()));
                owner.advance(here);
                left -= here.len();
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.ends().pipe.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.writer.register(cx.waker());
        let mut ends = self.ends();
        ready!(ends.pipe.flush());
        let _ = ends.send();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.writer.register(cx.waker());
        (self.ends().pipe)
            .drive(|stream, cx| Pin::new(stream).poll_shutdown(cx))
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

    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::StreamExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::Semaphore,
        time::timeout,
    };
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    use super::*;
    use crate::turnstile::Turnstile;

    fn turnstiles() -> Turnstiles {
        Turnstiles {
            reception: Turnstile::new(),
            inside: Turnstile::new(),
        }
    }

    async fn connection(stall: Duration) -> (Connection<DuplexStream>, DuplexStream, Arc<Control>) {
        let (server, client) = duplex(16);
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let control = Arc::new(Control::default());
        let connection = Connection::new(server, control.clone(), stall, turnstiles(), permit);
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
    async fn an_end_that_nobody_asks_about_again_holds_up_nobody() {
        let turnstile = Turnstile::new();
        let mut forgotten = Vec::new();
        for _ in 0..1_000 {
            let (mut connection, client, _) = connection(Duration::from_secs(60)).await;
            connection.turnstiles.reception = turnstile.clone();
            drop(client);
            let asked_once = futures::poll!(std::pin::pin!(connection.read_u8()));
            assert!(asked_once.is_pending());
            forgotten.push(connection);
        }
        let limit = Duration::from_secs(5);
        timeout(limit, turnstile.pass()).await.unwrap();
        let mut one = forgotten.pop().unwrap();
        assert!(timeout(limit, one.read_u8()).await.unwrap().is_err());
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

    /// As many frames as are left, and what may stop them.
    struct Numbered {
        next: AtomicUsize,
        last: usize,
        behind: u64,
    }

    fn numbered(number: usize) -> Frame {
        Frame::event("e", &format!("{number:0>40}"))
    }

    impl Frames for Numbered {
        fn generation(&self) -> Generation {
            Generation::Eio4
        }

        fn have_begun(&self, _: &Arc<Control>) -> bool {
            true
        }

        fn take(&self, messages: u64, into: &mut VecDeque<Frame>) {
            let from = self.next.load(Ordering::SeqCst);
            if messages >= self.behind {
                let to = self.last.min(from + 3);
                into.extend((from..to).map(numbered));
                self.next.store(to, Ordering::SeqCst);
            }
        }
    }

    fn frames(last: usize, behind: u64) -> Numbered {
        Numbered {
            next: AtomicUsize::new(0),
            last,
            behind,
        }
    }

    /// What arrived, as the texts of whole frames.
    async fn texts(client: DuplexStream, count: usize) -> Vec<String> {
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let texts = client.take(count).map(|message| message.unwrap());
        let texts = texts.map(|message| message.to_text().unwrap().to_owned());
        timeout(Duration::from_secs(20), texts.collect())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn frames_go_between_those_of_the_owner_and_neither_waits_for_ever() {
        let (connection, client, control) = connection(Duration::from_secs(60)).await;
        control.carry(frames(200, 0));
        let (mut read, mut write) = tokio::io::split(connection);
        tokio::spawn(async move { read.read_u8().await });
        let owned: Vec<_> = (0..20).map(|n| format!("2{n}")).collect();
        let written = owned.clone();
        tokio::spawn(async move {
            for text in written {
                let head = [0x81, u8::try_from(text.len()).unwrap()];
                write.write_all(&head).await.unwrap();
                tokio::task::yield_now().await;
                write.write_all(text.as_bytes()).await.unwrap();
                write.flush().await.unwrap();
            }
            pending::<()>().await;
            drop(write);
        });
        let texts = texts(client, 220).await;
        let (theirs, ours): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.starts_with('2'));
        assert!(theirs.into_iter().eq(&owned));
        let expected = (0..200).map(|n| format!("4{}", numbered(n).text(Generation::Eio4)));
        assert!(ours.into_iter().cloned().eq(expected));
        let last = texts.iter().rposition(|text| text.starts_with('2'));
        assert!(last < Some(200), "the owner's frames waited for all others");
    }

    #[tokio::test]
    async fn frames_wait_for_the_messages_before_them() {
        let (connection, client, control) = connection(Duration::from_secs(60)).await;
        control.carry(frames(1, 2));
        let (mut read, mut write) = tokio::io::split(connection);
        tokio::spawn(async move { read.read_u8().await });
        tokio::spawn(async move {
            for text in ["4a", "2", "4b"] {
                let head = [0x81, u8::try_from(text.len()).unwrap()];
                write.write_all(&head).await.unwrap();
                write.write_all(text.as_bytes()).await.unwrap();
                write.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            pending::<()>().await;
            drop(write);
        });
        let ours = format!("4{}", numbered(0).text(Generation::Eio4));
        assert_eq!(texts(client, 4).await, ["4a", "2", "4b", &ours]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_no_frames_is_cut_off() {
        let (mut connection, _client, control) = connection(Duration::from_secs(10)).await;
        control.carry(frames(5, 0));
        assert!(connection.read_u8().await.is_err());
        assert!(control.has_stalled());
    }
}
