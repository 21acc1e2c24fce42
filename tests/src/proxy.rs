//! A TCP proxy between two parts, which can break what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How a proxy treats what goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It passes everything on.
    Pass,
    /// It passes nothing on, and ends nothing: as a network that drops packets, which
    /// arrive once it no longer does.
    Cut {
        /// What comes from those who connect.
        forth: bool,
        /// What comes from the part behind.
        back: bool,
    },
    /// It passes everything on later.
    Slow {
        /// By this.
        delay: Duration,
        /// And not more than so many bytes a second.
        rate: u32,
    },
    /// It ends each new connection with a reset.
    Refuse,
}

impl Conduct {
    /// Cut in both directions.
    pub const CUT: Self = Self::Cut {
        forth: true,
        back: true,
    };
}

/// A proxy on a port of its own; it ends with this.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    conduct: watch::Sender<Conduct>,
    /// Counts the resets of all connections.
    resets: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of a part.
    ///
    /// # Panics
    /// There is no port for it.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(crate::server::free_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let conduct = watch::Sender::new(Conduct::Pass);
        let resets = watch::Sender::new(0);
        let link = Arc::new(Link {
            target,
            conduct: conduct.subscribe(),
            resets: resets.subscribe(),
        });
        Self {
            address,
            conduct,
            resets,
            task: tokio::spawn(accept(listener, link)),
        }
    }

    /// Changes how it treats what goes through it, and what is under way.
    pub fn conduct(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }

    /// Ends all connections with a reset.
    pub fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Link {
    target: SocketAddr,
    conduct: watch::Receiver<Conduct>,
    resets: watch::Receiver<u64>,
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&link)));
                }
                // Out of descriptors for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut near: TcpStream, link: Arc<Link>) {
    let mut resets = link.resets.clone();
    resets.mark_unchanged();
    let refuses = *link.conduct.borrow() == Conduct::Refuse;
    if refuses {
        let _ = near.set_zero_linger();
        return;
    }
    let mut conduct = link.conduct.clone();
    let far = async {
        // A network that drops packets drops those that would connect, too.
        let _ = conduct
            .wait_for(|conduct| !matches!(conduct, Conduct::Cut { forth: true, .. }))
            .await;
        let socket = TcpSocket::new_v4().ok()?;
        socket.connect(link.target).await.ok()
    };
    let far = tokio::select! {
        far = far => far,
        _ = resets.changed() => None,
    };
    let Some(mut far) = far else {
        let _ = near.set_zero_linger();
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let was_reset = {
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let forth = pump(
            &mut near_read,
            &mut far_write,
            link.conduct.clone(),
            |conduct| matches!(conduct, Conduct::Cut { forth: true, .. }),
        );
        let back = pump(
            &mut far_read,
            &mut near_write,
            link.conduct.clone(),
            |conduct| matches!(conduct, Conduct::Cut { back: true, .. }),
        );
        tokio::select! {
            passed = futures::future::try_join(forth, back) => passed.is_err(),
            _ = resets.changed() => true,
        }
    };
    if was_reset {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Passes on what comes, as the proxy conducts itself, until its end.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut conduct: watch::Receiver<Conduct>,
    is_cut: fn(&Conduct) -> bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        let _ = conduct.wait_for(|conduct| !is_cut(conduct)).await;
        let now = *conduct.borrow_and_update();
        if let Conduct::Slow { delay, rate } = now {
            let taken = Duration::from_secs_f64(count as f64 / f64::from(rate.max(1)));
            let pause = tokio::time::sleep(delay + taken);
            tokio::select! {
                () = pause => {}
                _ = conduct.changed() => {}
            }
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())
            .await?;
    }
}
