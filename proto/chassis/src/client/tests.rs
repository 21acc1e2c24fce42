//! Tries and retries, over a socket and in process.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use proto::user::v1::{GetUserRequest, IssueTokenRequest, user_service_client::UserServiceClient};
use tokio::{io::AsyncReadExt as _, net::TcpListener, sync::watch, time::timeout};
use tonic::server::NamedService;

use super::*;
use crate::{health::Readiness, identity::Gate, server::ServerConfig, shutdown::Shutdown};

mod replicas;
mod stand;

const LIMIT: Duration = Duration::from_secs(10);

/// A UserService that answers each request by its number, from 0.
#[derive(Clone)]
struct Script<F> {
    requests: Arc<AtomicUsize>,
    answer: F,
}

impl<F> NamedService for Script<F> {
    const NAME: &'static str = "drivers.user.v1.UserService";
}

enum Answer {
    Ok,
    After(Duration),
    Fail(Code),
    Hang,
    /// Shortly before the time is over that the server was told of.
    InTime,
    RetryAfter(Duration),
    FailBehindAMessage(Code),
    Proxy(http::StatusCode),
    Long,
}

impl<F> Service<Request<Body>> for Script<F>
where
    F: Fn(usize) -> Answer,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let left = (request.extensions().get::<Call>()).map_or(Duration::MAX, Call::time_left);
        let answer = (self.answer)(self.requests.fetch_add(1, Ordering::SeqCst));
        Box::pin(async move {
            Ok(match answer {
                Answer::Ok => message(vec![0; 5], Code::Ok),
                Answer::After(time) => {
                    tokio::time::sleep(time).await;
                    message(vec![0; 5], Code::Ok)
                }
                Answer::FailBehindAMessage(code) => message(vec![0; 5], code),
                Answer::Long => message(vec![0; MAX_RESPONSE_BYTES + 1], Code::Ok),
                Answer::Proxy(status) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = status;
                    response
                }
                Answer::Fail(code) => Status::new(code, "scripted").into_http(),
                Answer::Hang => std::future::pending().await,
                Answer::InTime => {
                    tokio::time::sleep(left.saturating_sub(Duration::from_millis(50))).await;
                    message(vec![0; 5], Code::Ok)
                }
                Answer::RetryAfter(delay) => Refusal {
                    retry_after: Some(delay),
                    ..Refusal::of_layer(Code::Unavailable, "BUSY", "scripted")
                }
                .into_response(),
            })
        })
    }
}

/// An answer of these bytes, five zeros being an empty message, and a status behind them.
fn message(bytes: Vec<u8>, code: Code) -> Response<Body> {
    let mut trailers = http::HeaderMap::new();
    Status::new(code, "").add_header(&mut trailers).unwrap();
    let body = Full::<Bytes>::from(bytes).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    let kind = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    response
}

struct Rig {
    services: Services,
    requests: Arc<AtomicUsize>,
}

impl Rig {
    fn new(answer: impl Fn(usize) -> Answer + Clone + Send + Sync + 'static) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let script = Script {
            requests: requests.clone(),
            answer,
        };
        Self {
            services: Services::new(ServerConfig::default(), Gate::Secret(secret())).with(script),
            requests,
        }
    }

    /// A channel in process, and one over a socket.
    async fn both(&self) -> [Channel; 2] {
        let (address, _) = served(self.services.clone()).await;
        let remote = Channel::connect(&format!("http://{address}"), secret()).unwrap();
        [Channel::local(self.services.clone()), remote]
    }

    fn took(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

fn secret() -> Secret {
    Secret::new("0123456789abcdef0123456789abcdef").unwrap()
}

async fn served(services: Services) -> (SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        crate::server::serve(listener, services, &Readiness::new(), &shutdown).await
    });
    (address, server.abort_handle())
}

/// GetUser may be sent again.
async fn get_user(channel: &Channel, limit: Duration) -> Result<(), Status> {
    let request = Call::within(limit).request(GetUserRequest::default());
    let mut client = UserServiceClient::new(channel.clone());
    let answered = timeout(LIMIT, client.get_user(request)).await.unwrap();
    answered.map(|_| ())
}

/// IssueToken may not.
async fn issue_token(channel: &Channel, limit: Duration) -> Result<(), Status> {
    let request = Call::within(limit).request(IssueTokenRequest::default());
    let mut client = UserServiceClient::new(channel.clone());
    let answered = timeout(LIMIT, client.issue_token(request)).await.unwrap();
    answered.map(|_| ())
}

#[tokio::test]
async fn an_idempotent_call_is_sent_again_when_the_service_was_away() {
    let rig = Rig::new(|n| match n % 3 {
        2 => Answer::Ok,
        _ => Answer::Fail(Code::Unavailable),
    });
    for channel in rig.both().await {
        get_user(&channel, LIMIT).await.unwrap();
        assert_eq!(rig.took(), 3);
    }
}

#[tokio::test]
async fn a_service_can_be_away_in_many_ways() {
    for way in [
        || Answer::FailBehindAMessage(Code::Unavailable),
        || Answer::Proxy(http::StatusCode::SERVICE_UNAVAILABLE),
        || Answer::Proxy(http::StatusCode::BAD_GATEWAY),
    ] {
        let rig = Rig::new(move |n| if n == 0 { way() } else { Answer::Ok });
        for channel in rig.both().await {
            get_user(&channel, LIMIT).await.unwrap();
            assert_eq!(rig.took(), 2);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_asked_for_again() {
    let rig = Rig::new(|_| Answer::Long);
    for channel in rig.both().await {
        let error = get_user(&channel, LIMIT).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange);
        assert_eq!(rig.took(), 1);
    }
}

#[tokio::test]
async fn any_other_call_and_any_other_failure_is_final() {
    let away = Rig::new(|_| Answer::Fail(Code::Unavailable));
    for channel in away.both().await {
        let error = issue_token(&channel, LIMIT).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(away.took(), 1);
    }
    for code in [
        Code::Internal,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
    ] {
        let failing = Rig::new(move |_| Answer::Fail(code));
        for channel in failing.both().await {
            assert_eq!(get_user(&channel, LIMIT).await.unwrap_err().code(), code);
            assert_eq!(failing.took(), 1);
        }
    }
}

#[tokio::test]
async fn a_try_that_hangs_is_cut_off_and_made_again() {
    let rig = Rig::new(|n| if n == 0 { Answer::Hang } else { Answer::Ok });
    let config = ClientConfig {
        try_limit_ms: 50,
        ..ClientConfig::default()
    };
    for channel in rig.both().await {
        let channel = channel.with_limits(&config);
        get_user(&channel, LIMIT).await.unwrap();
        assert_eq!(rig.took(), 2);
        let error = issue_token(&channel, LIMIT).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(status::reason(&error).as_deref(), Some("TRY_TIMED_OUT"));
        assert_eq!(rig.took(), 1);
    }
}

#[tokio::test]
async fn a_server_knows_when_a_try_ends_and_can_answer_in_time() {
    let rig = Rig::new(|_| Answer::InTime);
    let config = ClientConfig {
        try_limit_ms: 300,
        ..ClientConfig::default()
    };
    for channel in rig.both().await {
        let started = Instant::now();
        let channel = channel.with_limits(&config);
        get_user(&channel, LIMIT).await.unwrap();
        assert_eq!(rig.took(), 1);
        assert!(started.elapsed() < Duration::from_millis(300));
    }
}

/// tonic's timer for the same try is over by then, too, and says that the connection is at fault.
#[tokio::test]
async fn a_try_that_notices_late_that_it_is_over_has_timed_out() {
    let rig = Rig::new(|_| Answer::Hang);
    let config = ClientConfig {
        try_limit_ms: 100,
        ..ClientConfig::default()
    };
    for channel in rig.both().await {
        let channel = channel.with_limits(&config);
        let busy = tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::thread::sleep(Duration::from_millis(150));
        });
        let error = issue_token(&channel, LIMIT).await.unwrap_err();
        busy.await.unwrap();
        assert_eq!(status::reason(&error).as_deref(), Some("TRY_TIMED_OUT"));
    }
}

#[tokio::test]
async fn no_call_outlives_its_deadline() {
    let hanging = Rig::new(|_| Answer::Hang);
    for channel in hanging.both().await {
        let started = Instant::now();
        let error = get_user(&channel, Duration::from_millis(100))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    let away = Rig::new(|_| Answer::RetryAfter(Duration::from_secs(1)));
    for channel in away.both().await {
        let started = Instant::now();
        let error = get_user(&channel, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(started.elapsed() < Duration::from_millis(300));
    }
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_service_asked() {
    let rig = Rig::new(|n| match n {
        0 => Answer::RetryAfter(Duration::from_millis(300)),
        _ => Answer::Ok,
    });
    let channel = Channel::local(rig.services.clone());
    let started = Instant::now();
    get_user(&channel, LIMIT).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn retries_have_a_budget() {
    let rig = Rig::new(|_| Answer::Fail(Code::Unavailable));
    let config = ClientConfig {
        retries_per_second: 0,
        retries_per_call: 0.2,
        ..ClientConfig::default()
    };
    for channel in rig.both().await {
        let channel = channel.with_limits(&config);
        for _ in 0..50 {
            get_user(&channel, LIMIT).await.unwrap_err();
        }
        let took = rig.took();
        assert!((55..=60).contains(&took), "50 calls made {took} requests");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unavailable_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = Channel::connect(&format!("http://{address}"), secret()).unwrap();
    let error = get_user(&channel, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(status::reason(&error).as_deref(), Some("TRANSPORT_FAILED"));
    assert!(!error.message().contains("127.0.0.1"));
}

#[tokio::test]
async fn a_connection_that_breaks_amid_a_call_is_unavailable() {
    // Takes connections and requests, and hangs up on them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 64];
            let _ = connection.read(&mut bytes).await;
        }
    });
    let channel = Channel::connect(&format!("http://{address}"), secret()).unwrap();
    let error = issue_token(&channel, LIMIT).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    peer.abort();
}

#[tokio::test]
async fn a_service_that_comes_back_is_found_again_within_a_second_or_so() {
    let rig = Rig::new(|_| Answer::Ok);
    // A proxy in front, for a server's connections live on when it is aborted.
    let (server, _) = served(rig.services.clone()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (broken, is_broken) = watch::channel(false);
    let proxy = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut is_broken = is_broken.clone();
            if *is_broken.borrow() {
                continue;
            }
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = is_broken.wait_for(|broken| *broken) => {}
                }
            });
        }
    });
    let channel = Channel::connect(&format!("http://{address}"), secret()).unwrap();
    get_user(&channel, LIMIT).await.unwrap();

    broken.send_replace(true);
    for _ in 0..20 {
        let error = get_user(&channel, Duration::from_millis(100))
            .await
            .unwrap_err();
        assert!(matches!(
            error.code(),
            Code::Unavailable | Code::DeadlineExceeded
        ));
    }
    broken.send_replace(false);
    let started = Instant::now();
    get_user(&channel, LIMIT).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    proxy.abort();
}
