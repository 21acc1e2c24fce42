//! `drivers-gateway` as its operator and its phones see it, in front of played services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::Bytes;
use chassis::{
    health::Readiness,
    identity::Gate,
    program::testing::{Program, Running, free_port, get, http},
    secret_file,
    server::{ServerConfig, Services, serve},
    shutdown::Shutdown,
};
use futures::future::{BoxFuture, FutureExt as _};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use proto::user::v1::{SignUpResponse, User};
use rustix::process::Signal;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

const PROGRAM: Program = Program {
    name: "drivers-gateway",
    binary: env!("CARGO_BIN_EXE_drivers-gateway"),
};

const SIGN_UP: &str = "phone_number=998901234567&username=Sardor&gcm_token=none&device_type=linux";

/// The methods that were called.
type Called = Arc<Mutex<Vec<String>>>;

/// A service that says yes to everything; the number says which of the three.
#[derive(Clone)]
struct Played<const WHICH: usize>(Called);

impl<const WHICH: usize> NamedService for Played<WHICH> {
    const NAME: &'static str = [
        "drivers.user.v1.UserService",
        "drivers.message.v1.MessageService",
        "drivers.presence.v1.PresenceService",
    ][WHICH];
}

impl<const WHICH: usize> Service<Request<Body>> for Played<WHICH> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let answer = match method.as_str() {
            "SignUp" => SignUpResponse {
                user: Some(User {
                    id: 7,
                    ..User::default()
                }),
                token: "0123456789abcdef0123456789abcdef".to_owned(),
            }
            .encode_to_vec(),
            _ => Vec::new(),
        };
        self.0.lock().unwrap().push(method);
        let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
        let bytes = [[0].as_slice(), &length, &answer].concat();
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers).unwrap();
        let body = Full::<Bytes>::from(bytes).with_trailers(async { Some(Ok(trailers)) });
        let mut response = Response::new(Body::new(body));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", kind);
        async { Ok(response) }.boxed()
    }
}

/// The three services at one address, as long as the runtime lives.
fn play(at: SocketAddr, folder: &Path, called: &Called) -> Runtime {
    let secret = secret_file::read_or_make(&folder.join("secret")).unwrap();
    let services = Services::new(ServerConfig::default(), Gate::Secret(secret))
        .with(Played::<0>(Arc::clone(called)))
        .with(Played::<1>(Arc::clone(called)))
        .with(Played::<2>(Arc::clone(called)));
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind(at)).unwrap();
    runtime.spawn(async move {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let _ = serve(listener, services, &Readiness::new(), &shutdown).await;
    });
    runtime
}

/// In front of services at this address.
fn command(folder: &Path, services: SocketAddr) -> Command {
    let mut command = unset(folder);
    for service in ["--user-svc", "--message-svc", "--presence-svc"] {
        command.args([service, &format!("http://{services}")]);
    }
    command.env("DRIVERS_SECRET_FILE", "secret");
    command
}

fn unset(folder: &Path) -> Command {
    PROGRAM.command_with_ports(folder, &["DRIVERS_LISTEN", "DRIVERS_ADMIN_LISTEN"])
}

/// Starts it for machines: where phones connect, and the admin port.
fn start(mut command: Command) -> (Running, SocketAddr, SocketAddr) {
    command.args(["--log", "json"]);
    let mut running = PROGRAM.start(command);
    let line = running.logged("starting");
    let address = |key: &str| line[key].as_str().unwrap().parse().unwrap();
    (running, address("listen"), address("admin_listen"))
}

fn ends(running: Running) {
    running.signal(Signal::TERM);
    let (rest, errors, code) = running.ended();
    assert_eq!((errors.as_str(), code), ("", Some(0)), "{rest}");
}

#[test]
fn alone_it_lives_and_says_what_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone = command(folder.path(), free_port());
    alone.args(["--bus", &format!("nats://{}", free_port())]);
    let (mut running, phones, admin) = start(alone);
    running.logged("a service is away; it is asked until it is there");
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(admin, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.ends_with("waiting for: the broker, user-svc, message-svc, presence-svc\n"),
        "{ready}"
    );
    let answer = http(phones, "POST /sign_up", SIGN_UP);
    assert!(answer.contains("\"code\":\"unavailable\""), "{answer}");
    ends(running);
}

#[test]
fn started_first_it_serves_once_the_services_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let services = free_port();
    let (mut running, phones, admin) = start(command(folder.path(), services));
    running.logged("a service is away; it is asked until it is there");
    let called = Called::default();
    let playing = play(services, folder.path(), &called);
    let serving = running.logged("serving");
    assert_eq!(serving["user_svc"], format!("http://{services}"));
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    let metrics = get(admin, "/metrics");
    let healthy = "drivers_grpc_client_replicas_healthy{service=\"message-svc\"} 1";
    assert!(metrics.contains(healthy), "{metrics}");

    let answer = http(phones, "POST /sign_up", SIGN_UP);
    assert!(answer.contains("\"user_id\":7"), "{answer}");
    let enrolled = |called: &Called| called.lock().unwrap().iter().any(|it| it == "EnrolUser");
    assert!(enrolled(&called));

    running.signal(Signal::TERM);
    let (rest, errors, code) = running.ended();
    assert_eq!((errors.as_str(), code), ("", Some(0)), "{rest}");
    let called = called.lock().unwrap();
    assert_eq!(called.last().map(String::as_str), Some("ReleaseLease"));
    drop(playing);
}

#[test]
fn who_was_ready_stays_ready_when_the_services_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let services = free_port();
    let playing = play(services, folder.path(), &Called::default());
    let (mut running, phones, admin) = start(command(folder.path(), services));
    running.logged("serving");
    drop(playing);
    let answer = http(phones, "POST /sign_up", SIGN_UP);
    assert!(answer.contains("\"code\":\"unavailable\""), "{answer}");
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    ends(running);
}

#[test]
fn a_wrong_configuration_is_one_sentence_that_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.refuses(unset(folder.path()), 2, &["`user_svc`", "is not set"]);
    for (flag, value, words) in [
        ("--listen", "here", ["`listen`", "an IP address and a port"]),
        ("--user-svc", "user-svc", ["`user_svc`", "http://host:port"]),
        (
            "--bus",
            "redis://there",
            ["`bus`", "`memory:` or `nats://host`"],
        ),
        ("--log", "xml", ["`log`", "json, text"]),
    ] {
        let mut wrong = command(folder.path(), free_port());
        if flag == "--user-svc" {
            wrong = unset(folder.path());
        }
        wrong.args([flag, value]);
        PROGRAM.refuses(wrong, 2, &words);
    }
    let mut wrong = command(folder.path(), free_port());
    wrong.env("DRIVERS_STORE", "file:data");
    PROGRAM.refuses(wrong, 2, &["`store`", "DRIVERS_STORE", "no such key"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut wrong = command(folder.path(), free_port());
    wrong.args(["--listen", &address]);
    PROGRAM.refuses(wrong, 1, &[&address, "in use", "`listen`"]);

    let beyond = || {
        let mut command = command(folder.path(), free_port());
        command.args(["--listen", "0.0.0.0:0"]);
        command
    };
    PROGRAM.refuses(beyond(), 2, &["`listen`", "beyond this machine", "`tls"]);
    let mut accepted = beyond();
    accepted.env("DRIVERS_PLAINTEXT", "accept");
    ends(start(accepted).0);

    let mut wrong = command(folder.path(), free_port());
    for key in ["CERTIFICATE", "KEY", "CA"] {
        wrong.env(format!("DRIVERS_MTLS__{key}"), "none.pem");
    }
    PROGRAM.refuses(wrong, 1, &["none.pem", "can't be read"]);

    let mut wrong = command(folder.path(), free_port());
    wrong.env("DRIVERS_TLS__CERTIFICATE", "none.pem");
    wrong.env("DRIVERS_TLS__KEY", "none.key");
    PROGRAM.refuses(wrong, 1, &["none.pem", "can't be read"]);
}
