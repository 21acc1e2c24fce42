//! A connection that ends at a certain age, whatever holds on to it, and knows who is
//! at its other end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use crate::identity::Names;

/// Reading from it fails once it is too old, which ends it: HTTP/2 always reads.
pub(super) struct Aged<C> {
    connection: C,
    peer: Names,
    too_old: Pin<Box<Sleep>>,
}

impl<C> Aged<C> {
    /// A connection to `peer` that is new now, and ends at this age.
    pub(super) fn new(connection: C, peer: Names, limit: Duration) -> Self {
        Self {
            connection,
            peer,
            too_old: Box::pin(sleep(limit)),
        }
    }
}

/// tonic puts it into the extensions of each request.
impl<C> Connected for Aged<C> {
    type ConnectInfo = Names;

    fn connect_info(&self) -> Names {
        Names::clone(&self.peer)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Aged<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.too_old.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Aged<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_its_age_although_nothing_happens() {
        let (near, mut far) = duplex(64);
        let mut near = Aged::new(near, Names::default(), Duration::from_secs(60));
        let begun = Instant::now();
        far.write_all(b"a").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
