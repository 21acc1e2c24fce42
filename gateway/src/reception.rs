//! Where connections begin. Thousands of phones that come back in the same second are
//! accepted, shake hands and ask for a websocket in a runtime of their own, whose threads the
//! kernel gives less of a processor that others ask for, too: whoever talks does so in the
//! program's runtime, and waits for none of them. What they ask is answered there, and a
//! websocket is served there from its beginning; whoever polls is received with each request.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::{Builder, Handle, Id, Runtime},
    task::JoinError,
};
use tokio_util::task::AbortOnDropHandle;

use crate::turnstile::Turnstile;

/// How much nicer its threads are (`nice(2)`): under a full load they have about a tenth of what a
/// thread of the program's runtime has (`sched_prio_to_weight` of the kernel: 110 of 1,024).
/// Measured with 5,000 who come back at once, on one processor: others wait 8 ms at the 99th
/// percentile, at 5 it is 21, at 0 up to 60; as many come back in a second.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// The runtime in which connections begin. Its tasks are dropped with it.
pub(crate) struct Reception {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Reception {
    /// Starts its threads.
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("reception")
            .on_thread_start(give_way)
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Runs this there, for as long as it is waited for.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        AbortOnDropHandle::new(self.handle.spawn(future)).await
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "those who connect can't be told to give way");
    }
}

/// The program's runtime, seen from the reception.
#[derive(Clone)]
pub(crate) struct Inside(Handle);

impl Inside {
    /// The runtime of whoever asks.
    pub(crate) fn here() -> Self {
        Self(Handle::current())
    }

    /// Runs this in there, for as long as it is waited for. Threads that it needs are started
    /// there too: one that the reception started could never be less nice again.
    ///
    /// # Errors
    /// It panicked, or the runtime ends.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        // Boxed as those of the listener are, for the sake of memory.
        AbortOnDropHandle::new(self.0.spawn(Box::pin(future))).await
    }
}

/// A TCP stream that is watched by the runtime it is read or written in, wherever it was
/// accepted: the first read or write elsewhere takes it along, for good, when its turn comes.
pub(crate) struct Roaming {
    stream: Option<TcpStream>,
    way: Way,
}

enum Way {
    Accepted {
        here: Id,
        /// Where those pass who move.
        turnstile: Turnstile,
    },
    /// The one who reads and the one who writes wait for the same turn.
    Moving {
        reads: Turn,
        writes: Turn,
    },
    Arrived,
}

type Turn = Shared<BoxFuture<'static, ()>>;

/// Who waits for the stream.
#[derive(Clone, Copy)]
enum Half {
    Reads,
    Writes,
}

impl Roaming {
    /// A stream that was accepted here, and passes there before it moves to another runtime.
    pub(crate) fn new(stream: TcpStream, turnstile: Turnstile) -> Self {
        Self {
            stream: Some(stream),
            way: Way::Accepted {
                here: Handle::current().id(),
                turnstile,
            },
        }
    }

    fn poll_here(
        &mut self,
        half: Half,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Pin<&mut TcpStream>>> {
        if let Way::Accepted { here, turnstile } = &self.way
            && *here != Handle::current().id()
        {
            let turn = turn(turnstile.clone());
            self.way = Way::Moving {
                reads: turn.clone(),
                writes: turn,
            };
        }
        if let Way::Moving { reads, writes } = &mut self.way {
            let turn = match half {
                Half::Reads => reads,
                Half::Writes => writes,
            };
            ready!(turn.poll_unpin(cx));
            self.way = Way::Arrived;
            if let Some(stream) = self.stream.take() {
                self.stream = Some(TcpStream::from_std(stream.into_std()?)?);
            }
        }
        // There is none when it could not be taken along.
        let stream = self.stream.as_mut().map(Pin::new);
        Poll::Ready(stream.ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// A task waits for the turn: who does not ask for it again must not keep a place that others
/// wait for.
fn turn(turnstile: Turnstile) -> Turn {
    let turn = tokio::spawn(async move { turnstile.pass().await });
    // It fails where the runtime ends, and nobody waits for anything.
    turn.map(|_| ()).boxed().shared()
}

impl AsyncRead for Roaming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_here(Half::Reads, cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Roaming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_here(Half::Writes, cx))?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_here(Half::Writes, cx))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_here(Half::Writes, cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_here(Half::Writes, cx))?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_stream_goes_along_with_what_is_under_way_and_its_reception_may_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let reception = Reception::open().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let listener = listener.into_std().unwrap();
        let receiving = reception.run(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut stream = Roaming::new(listener.accept().await.unwrap().0, Turnstile::new());
            assert_eq!(stream.read_u8().await.unwrap(), 1);
            let _ = tell.send(stream);
        });
        let talking = async {
            client.write_all(&[1]).await.unwrap();
            let mut stream = told.await.unwrap();
            client.write_all(&[2]).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 2);
            stream
        };
        let (received, mut stream) = tokio::join!(receiving, talking);
        received.unwrap();
        drop(reception);
        let reading = tokio::spawn(async move {
            let mut read = [0; 3];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(&read).await.unwrap();
        });
        client.write_all(&[3, 4, 5]).await.unwrap();
        let mut back = [0; 3];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, [3, 4, 5]);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_asked_in_the_reception_runs_inside() {
        let inside = Inside::here();
        let own = Handle::current().id();
        let reception = Reception::open().unwrap();
        let asking = async move {
            let inner = inside.run(async { Handle::current().id() }).await;
            (Handle::current().id(), inner.unwrap())
        };
        let (outer, inner) = reception.run(asking).await.unwrap();
        assert_ne!(outer, own);
        assert_eq!(inner, own);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_connects_gives_way_and_what_he_asks_does_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let inside = Inside::here();
        let reception = Reception::open().unwrap();
        let asking = async move {
            let blocking = async move { tokio::task::spawn_blocking(nice).await.unwrap() };
            (nice(), inside.run(blocking).await.unwrap())
        };
        let told = reception.run(asking).await.unwrap();
        assert_eq!(told, ((before + NICE).min(19), before));
    }

    #[tokio::test]
    async fn nothing_runs_on_that_nobody_waits_for() {
        let reception = Reception::open().unwrap();
        let (held, mut let_go) = tokio::sync::mpsc::channel::<()>(1);
        let inside = Inside::here();
        let asking = reception.run(async move {
            let waits = async move {
                held.closed().await;
                drop(held);
            };
            let _ = inside.run(waits).await;
        });
        let limit = std::time::Duration::from_millis(100);
        assert!(tokio::time::timeout(limit, asking).await.is_err());
        // The other end is open until both are dropped.
        assert!(let_go.recv().await.is_none());
    }
}
