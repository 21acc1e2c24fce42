//! Servers that can be made to fail.

use tokio::task::{JoinHandle, JoinSet};

use super::*;

/// The same script under the name of the service that has topics.
#[derive(Clone)]
struct Topics<F>(Script<F>);

impl<F> NamedService for Topics<F> {
    const NAME: &'static str = "drivers.message.v1.MessageService";
}

impl<F: Fn(usize) -> Answer> Service<Request<Body>> for Topics<F> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Serves,
    /// Takes connections, and answers nothing on any.
    Hangs,
    /// Closes its connections and takes no more.
    Refuses,
}

/// A server that can be made to fail, at an address that stays.
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) connections: Arc<AtomicUsize>,
    front: JoinHandle<()>,
}

impl Replica {
    pub(super) async fn new(
        answer: impl Fn(usize) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::with(ServerConfig::default(), answer).await
    }

    pub(super) async fn with(
        config: ServerConfig,
        answer: impl Fn(usize) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let script = Script {
            requests: Arc::clone(&requests),
            answer,
        };
        let services = Services::new(config, Gate::Secret(secret()))
            .with(script.clone())
            .with(Topics(script));
        let (server, _) = served(services).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, said) = watch::channel(Mode::Serves);
        let connections = Arc::new(AtomicUsize::new(0));
        let front = tokio::spawn(front(listener, server, said, Arc::clone(&connections)));
        Self {
            address,
            mode,
            requests,
            connections,
            front,
        }
    }

    pub(super) fn took(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.front.abort();
    }
}

async fn front(
    listener: TcpListener,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    accepted: Arc<AtomicUsize>,
) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    loop {
        let mut connections = JoinSet::new();
        let for_each = mode.clone();
        let listening = match listener.take() {
            Some(listening) => listening,
            None => TcpListener::bind(address).await.unwrap(),
        };
        loop {
            tokio::select! {
                connection = listening.accept() => {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(pass(connection.unwrap().0, server, for_each.clone()));
                }
                _ = mode.wait_for(|mode| *mode == Mode::Refuses) => break,
            }
        }
        drop((listening, connections));
        let _ = mode.wait_for(|mode| *mode != Mode::Refuses).await;
    }
}

async fn pass(
    mut near: tokio::net::TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
) {
    let mut far = tokio::net::TcpStream::connect(server).await.unwrap();
    let hangs = async {
        let _ = mode.wait_for(|mode| *mode == Mode::Hangs).await;
    };
    tokio::select! {
        biased;
        () = hangs => {
            let _ = mode.wait_for(|mode| *mode != Mode::Hangs).await;
        }
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
    }
}
