//! The layers, over a socket and in process alike: [`both`] makes a client of each.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;

use proto::user::v1::{
    AuthenticateRequest, AuthenticateResponse, BatchCheckTokensRequest, BatchCheckTokensResponse,
    BatchGetUsersRequest, BatchGetUsersResponse, GetUserRequest, GetUserResponse,
    IssueTokenRequest, IssueTokenResponse, RevokeTokensRequest, RevokeTokensResponse,
    SignUpRequest, SignUpResponse,
    user_service_client::UserServiceClient,
    user_service_server::{UserService, UserServiceServer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Request, metadata::MetadataValue};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    call::{ActingUser, TraceContext},
    client::Channel,
    health::Readiness,
    id::UserId,
    identity::Secret,
    shutdown::Shutdown,
    telemetry::Metrics,
};

mod direct;
mod mutual;

const LIMIT: Duration = Duration::from_secs(10);
const ISSUE_TOKEN: &str = "/drivers.user.v1.UserService/IssueToken";

/// Answers GetUser at once, panics at Authenticate, and holds IssueToken until
/// it is told to go on. Whoever called is told to the test.
struct Api {
    calls: mpsc::UnboundedSender<Call>,
    go_on: Arc<Notify>,
}

#[tonic::async_trait]
impl UserService for Api {
    async fn get_user(
        &self,
        request: Request<GetUserRequest>,
    ) -> Result<tonic::Response<GetUserResponse>, Status> {
        let call = Call::of(&request);
        assert_eq!(TraceContext::current(), Some(call.trace));
        let _ = self.calls.send(call);
        Ok(tonic::Response::new(GetUserResponse::default()))
    }

    async fn authenticate(
        &self,
        _: Request<AuthenticateRequest>,
    ) -> Result<tonic::Response<AuthenticateResponse>, Status> {
        panic!("on purpose");
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<tonic::Response<IssueTokenResponse>, Status> {
        let _ = self.calls.send(Call::of(&request));
        self.go_on.notified().await;
        Ok(tonic::Response::new(IssueTokenResponse::default()))
    }

    async fn sign_up(
        &self,
        _: Request<SignUpRequest>,
    ) -> Result<tonic::Response<SignUpResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_check_tokens(
        &self,
        _: Request<BatchCheckTokensRequest>,
    ) -> Result<tonic::Response<BatchCheckTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_get_users(
        &self,
        _: Request<BatchGetUsersRequest>,
    ) -> Result<tonic::Response<BatchGetUsersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_tokens(
        &self,
        _: Request<RevokeTokensRequest>,
    ) -> Result<tonic::Response<RevokeTokensResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

struct Rig {
    api: Arc<Api>,
    services: Services,
    calls: mpsc::UnboundedReceiver<Call>,
    go_on: Arc<Notify>,
    address: SocketAddr,
    readiness: Readiness,
    shutdown: Shutdown,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Rig {
    async fn new(config: ServerConfig) -> Self {
        Self::with_window(config, Duration::from_secs(5)).await
    }

    async fn with_window(config: ServerConfig, window: Duration) -> Self {
        Self::behind(Gate::Secret(secret()), config, window).await
    }

    async fn behind(gate: Gate, config: ServerConfig, window: Duration) -> Self {
        let (calls_in, calls) = mpsc::unbounded_channel();
        let go_on = Arc::new(Notify::new());
        let api = Arc::new(Api {
            calls: calls_in,
            go_on: go_on.clone(),
        });
        let server = UserServiceServer::from_arc(Arc::clone(&api));
        let services = Services::new(config, gate).with(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::new();
        let shutdown = Shutdown::new(window);
        let server = tokio::spawn({
            let (services, readiness) = (services.clone(), readiness.clone());
            let shutdown = shutdown.clone();
            async move { serve(listener, services, &readiness, &shutdown).await }
        });
        Self {
            api,
            services,
            calls,
            go_on,
            address,
            readiness,
            shutdown,
            server,
        }
    }

    fn remote(&self, secret: Secret) -> Channel {
        Channel::connect(&format!("http://{}", self.address), secret).unwrap()
    }

    /// A client in process and one over a socket.
    fn both(&self) -> [UserServiceClient<Channel>; 2] {
        [
            UserServiceClient::new(Channel::local(self.services.clone())),
            UserServiceClient::new(self.remote(secret())),
        ]
    }

    /// A connection that has none of our layers on the client's side.
    async fn bare(&self) -> tonic::transport::Channel {
        tonic::transport::Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}

fn secret() -> Secret {
    Secret::new("0123456789abcdef0123456789abcdef").unwrap()
}

fn shown<T>(mut request: Request<T>) -> Request<T> {
    let shown = MetadataValue::from_static("Bearer 0123456789abcdef0123456789abcdef");
    request.metadata_mut().insert("authorization", shown);
    request
}

fn sardor() -> ActingUser {
    ActingUser {
        id: UserId::new(15).unwrap(),
        username: "Сардор, 1:1".to_owned(),
    }
}

async fn next<T>(queue: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(LIMIT, queue.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_call_arrives_whole() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    for mut client in rig.both() {
        let sent = Call::within(Duration::from_secs(30)).acting_for(sardor());
        client
            .get_user(sent.request(GetUserRequest::default()))
            .await
            .unwrap();
        let arrived = next(&mut rig.calls).await;
        assert_eq!(arrived.acting_users, [sardor()]);
        assert_eq!(arrived.trace.trace_id, sent.trace.trace_id);
        assert_ne!(arrived.trace.span_id, sent.trace.span_id);
        // As long as a try may take, and a little for timers.
        let left = arrived.time_left();
        assert!((Duration::from_millis(500)..=Duration::from_millis(1_010)).contains(&left));
    }
}

#[tokio::test]
async fn a_caller_without_the_secret_is_refused() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    let bare = rig.bare().await;
    let mut client = UserServiceClient::new(bare);
    let error = client
        .get_user(GetUserRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(
        status::reason(&error).as_deref(),
        Some("CREDENTIALS_MISSING")
    );

    let wrong = rig.remote(Secret::new("another-secret-of-someone").unwrap());
    let error = UserServiceClient::new(wrong)
        .get_user(GetUserRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        status::reason(&error).as_deref(),
        Some("CREDENTIALS_INVALID")
    );
    assert!(rig.calls.try_recv().is_err());
}

#[tokio::test]
async fn without_a_secret_only_the_process_itself_is_let_in() {
    let closed = Services::new(ServerConfig::default(), Gate::Shut);
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = "/drivers.user.v1.UserService/GetUser".parse().unwrap();
    let response = closed.clone().oneshot(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);

    let error = UserServiceClient::new(Channel::local(closed))
        .get_user(GetUserRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[tokio::test]
async fn malformed_metadata_is_refused_over_a_socket() {
    let rig = Rig::new(ServerConfig::default()).await;
    let mut client = UserServiceClient::new(rig.bare().await);
    let mut request = shown(Request::new(GetUserRequest::default()));
    let nobody = MetadataValue::from_static("0:nobody");
    request.metadata_mut().insert("drivers-acting-user", nobody);
    let error = client.get_user(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_call_for_a_crowd_is_refused() {
    let rig = Rig::new(ServerConfig::default()).await;
    for mut client in rig.both() {
        let mut call = Call::within(LIMIT);
        for _ in 0..MAX_ACTING_USERS {
            call = call.acting_for(sardor());
        }
        let message = GetUserRequest::default();
        client.get_user(call.request(message)).await.unwrap();
        let call = call.acting_for(sardor());
        let error = client.get_user(call.request(message)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_server_holds_the_deadline_itself() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    // tonic's client would give up by itself, and so hide what the server says.
    let connection = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let (mut client, driver) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(connection),
    )
    .await
    .unwrap();
    let driver = tokio::spawn(driver);
    for _ in 0..10 {
        let request = http::Request::post(format!("http://{}{ISSUE_TOKEN}", rig.address))
            .header("content-type", "application/grpc")
            .header("authorization", "Bearer 0123456789abcdef0123456789abcdef")
            .header("grpc-timeout", "200m")
            .body(http_body_util::Full::<bytes::Bytes>::from(vec![0; 5]))
            .unwrap();
        let response = timeout(LIMIT, client.send_request(request)).await.unwrap();
        let status = Status::from_header_map(response.unwrap().headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    driver.abort();
    while rig.calls.try_recv().is_ok() {}

    // In process there is no wire that could carry a timeout.
    let local = |call| {
        http::Request::post(ISSUE_TOKEN)
            .header("content-type", "application/grpc")
            .extension(InProcess(call))
            .body(Body::new(http_body_util::Full::from(vec![0; 5])))
            .unwrap()
    };
    let request = local(Call::within(Duration::from_secs(1)));
    let response = rig.services.clone().oneshot(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    next(&mut rig.calls).await;

    // A call that comes too late is not even begun.
    let request = local(Call::within(Duration::ZERO));
    let response = rig.services.clone().oneshot(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(rig.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_timeout_nobody_gave_is_the_configured_one() {
    let rig = Rig::new(ServerConfig {
        default_timeout_ms: 50,
        ..ServerConfig::default()
    })
    .await;
    let mut client = UserServiceClient::new(rig.bare().await);
    let request = shown(Request::new(IssueTokenRequest::default()));
    let error = client.issue_token(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_panic_is_an_answer_and_nothing_stops() {
    let rig = Rig::new(ServerConfig::default()).await;
    for mut client in rig.both() {
        let error = client
            .authenticate(AuthenticateRequest::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(!error.message().contains("on purpose"));
        client.get_user(GetUserRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn overload_is_refused_at_once_and_health_is_not() {
    let mut rig = Rig::new(ServerConfig {
        max_in_flight: 1,
        ..ServerConfig::default()
    })
    .await;
    let mut holder = UserServiceClient::new(rig.bare().await);
    let held = tokio::spawn(async move {
        let request = shown(Request::new(IssueTokenRequest::default()));
        holder.issue_token(request).await
    });
    next(&mut rig.calls).await;

    let mut client = UserServiceClient::new(rig.bare().await);
    let request = shown(Request::new(GetUserRequest::default()));
    let error = client.get_user(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(status::reason(&error).as_deref(), Some("OVERLOADED"));
    let after = error.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(after > Duration::ZERO);
    assert_eq!(health(&rig, "").await, Some(true));

    rig.go_on.notify_one();
    timeout(LIMIT, held).await.unwrap().unwrap().unwrap();
    let request = shown(Request::new(GetUserRequest::default()));
    client.get_user(request).await.unwrap();
}

/// The address of somebody who passes everything on to a server, but for what comes while he
/// stalls: that he passes on at once afterwards.
async fn stalling(server: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stalls, mut stalled) = watch::channel(false);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let server = TcpStream::connect(server).await.unwrap();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut held = Vec::new();
        loop {
            tokio::select! {
                read = from_client.read_buf(&mut held) => if read.unwrap() == 0 { break },
                _ = stalled.changed() => {}
            }
            if !*stalled.borrow() {
                to_server
                    .write_all(&std::mem::take(&mut held))
                    .await
                    .unwrap();
            }
        }
    });
    (address, stalls)
}

#[tokio::test]
async fn what_was_given_up_while_the_server_hung_does_not_cost_others_their_connection() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    let (address, stalls) = stalling(rig.address).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let client = UserServiceClient::new(endpoint.connect().await.unwrap());
    let mut other = client.clone();
    let held = tokio::spawn(async move {
        let request = shown(Request::new(IssueTokenRequest::default()));
        other.issue_token(request).await
    });
    next(&mut rig.calls).await;

    stalls.send_replace(true);
    for _ in 0..100 {
        let mut client = client.clone();
        let call = client.get_user(shown(Request::new(GetUserRequest::default())));
        timeout(Duration::from_millis(2), call).await.unwrap_err();
    }
    stalls.send_replace(false);
    let call = (client.clone())
        .get_user(shown(Request::new(GetUserRequest::default())))
        .await;
    call.unwrap();
    rig.go_on.notify_one();
    timeout(LIMIT, held).await.unwrap().unwrap().unwrap();
}

/// Whether the service is SERVING; `None` when the server does not know it.
async fn health(rig: &Rig, service: &str) -> Option<bool> {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    match HealthClient::new(rig.bare().await).check(request).await {
        Ok(response) => Some(response.get_ref().status() == ServingStatus::Serving),
        Err(error) if error.code() == Code::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

async fn until_health_is(rig: &Rig, service: &str, serving: bool) {
    timeout(LIMIT, async {
        while health(rig, service).await != Some(serving) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn health_follows_readiness() {
    let rig = Rig::new(ServerConfig::default()).await;
    for service in ["", "drivers.user.v1.UserService"] {
        until_health_is(&rig, service, true).await;
        let latch = rig.readiness.latch("store");
        until_health_is(&rig, service, false).await;
        drop(latch);
        until_health_is(&rig, service, true).await;
    }
    assert_eq!(health(&rig, "drivers.user.v1.Nothing").await, None);
}

#[tokio::test]
async fn reflection_lists_the_services_to_anybody() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let rig = Rig::new(ServerConfig::default()).await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(rig.bare().await)
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer = timeout(LIMIT, answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<_> = listed.service.into_iter().map(|s| s.name).collect();
    for name in [
        "drivers.user.v1.UserService",
        "drivers.message.v1.MessageService",
        "drivers.presence.v1.PresenceService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
    }
}

#[tokio::test]
async fn what_is_at_work_is_answered_before_the_listener_ends() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    let mut client = UserServiceClient::new(rig.bare().await);
    let held = tokio::spawn(async move {
        let request = shown(Request::new(IssueTokenRequest::default()));
        client.issue_token(request).await
    });
    next(&mut rig.calls).await;
    rig.shutdown.begin();
    rig.go_on.notify_one();
    timeout(LIMIT, held).await.unwrap().unwrap().unwrap();
    timeout(LIMIT, rig.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_hangs_does_not_hold_the_listener_beyond_the_drain_window() {
    let mut rig = Rig::with_window(ServerConfig::default(), Duration::from_millis(200)).await;
    let mut client = UserServiceClient::new(rig.bare().await);
    let held = tokio::spawn(async move {
        let request = shown(Request::new(IssueTokenRequest::default()));
        client.issue_token(request).await
    });
    next(&mut rig.calls).await;
    rig.shutdown.begin();
    let ended = timeout(LIMIT, rig.server).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ServeError::StillServing)), "{ended:?}");
    held.abort();
}

#[tokio::test]
async fn whatever_bytes_arrive_the_others_are_served() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let rig = Rig::new(ServerConfig::default()).await;
    let mut client = UserServiceClient::new(rig.bare().await);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        [preface.clone(), vec![0xff; 64]].concat(),
        [preface, vec![0; 9]].concat(),
    ] {
        let mut socket = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(LIMIT, socket.read_to_end(&mut answer))
            .await
            .unwrap();
        let request = shown(Request::new(GetUserRequest::default()));
        client.get_user(request).await.unwrap();
    }
}

#[tokio::test]
async fn calls_are_measured_by_method_and_code() {
    let (recorder, metrics) = Metrics::detached();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new(ServerConfig::default()).await;
    let [mut local, _] = rig.both();
    local.get_user(GetUserRequest::default()).await.unwrap();
    local.sign_up(SignUpRequest::default()).await.unwrap_err();
    let unknown = http::Request::new(Body::empty());
    rig.services.clone().oneshot(unknown).await.unwrap();

    let text = metrics.render();
    for line in [
        "drivers_grpc_server_requests_total{service=\"drivers.user.v1.UserService\",method=\"GetUser\",code=\"OK\"} 1",
        "drivers_grpc_server_requests_total{service=\"drivers.user.v1.UserService\",method=\"SignUp\",code=\"UNIMPLEMENTED\"} 1",
        "drivers_grpc_server_requests_total{service=\"other\",method=\"other\",code=\"UNAUTHENTICATED\"} 1",
        "drivers_grpc_client_requests_total{service=\"drivers.user.v1.UserService\",method=\"GetUser\",code=\"OK\"} 1",
        "drivers_grpc_server_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
