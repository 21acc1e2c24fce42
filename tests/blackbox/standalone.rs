//! The program as its operator sees it.

pub(crate) mod grpc;
pub(crate) mod mutual;
pub(crate) mod start;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::account;
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::http;
use tests::server::{Folder, Options, Server, key};
use tests::trial::World;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

cases! {
    Once:
        sigterm_answers_everything_and_exits_0_within_the_drain_window,
        ctrl_c_exits_0,
        readiness_ends_and_new_connections_are_refused_on_sigterm,
        livez_readyz_and_metrics_are_on_the_admin_port;
    Embedded:
        the_secret_is_private_and_stays,
        it_prints_what_listens_where_and_a_line_to_try,
        tls_serves_both_host_names_on_one_port;
}

const DRAIN: Duration = Duration::from_secs(3);

fn draining() -> Options {
    Options::default().with(key::DRAIN_WINDOW_MS, DRAIN.as_millis())
}

async fn phone(server: &Server) -> Client {
    let user = account::sign_up(server).await;
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, server).await;
    client.sign_in(&user).await;
    client
}

/// Emits until the end; returns the stamps that were acknowledged.
async fn talk_to_the_end(mut client: Client, name: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while client.is_open() {
        let stamp = format!("{name}/{number}");
        number += 1;
        client.emit(
            "message_events",
            &json!({"topic_id": 1, "body": stamp, "stamp_id": stamp}),
        );
        while let Some(event) = client.next_within(Duration::from_millis(5)).await {
            let data = event.payload()["data"].clone();
            let stamp = data["stamp_id"].as_str().unwrap_or_default();
            if stamp.starts_with(&format!("{name}/")) {
                acknowledged.push(stamp.to_owned());
            }
        }
    }
    acknowledged
}

async fn sigterm_answers_everything_and_exits_0_within_the_drain_window(_: World) {
    let folder = Folder::new();
    let server = Server::start_on(&folder, draining()).await;
    let mut clients = Vec::new();
    for name in 0..8 {
        clients.push(talk_to_the_end(phone(&server).await, name));
    }
    let stop = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.terminate();
        let told = Instant::now();
        let status = server.ended_within(DRAIN + Duration::from_secs(5)).await;
        assert_eq!(status.code(), Some(0), "{}", server.log_tail());
        told.elapsed()
    };
    let (acknowledged, took) =
        futures::future::join(futures::future::join_all(clients), stop).await;
    println!("ended after {took:?}");
    let server = Server::start_on(&folder, Options::default()).await;
    let mut stored: Vec<String> = Vec::new();
    for entry in Api::of(&server).history(1).await {
        let Some(proto::message::v1::entry::Kind::Message(message)) = entry.kind else {
            panic!("{entry:?}");
        };
        stored.push(message.stamp_id);
    }
    stored.sort_unstable();
    let mut acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
    acknowledged.sort_unstable();
    assert!(
        acknowledged.len() > 50,
        "only {} messages",
        acknowledged.len()
    );
    // What was stored was answered, and what was answered is stored.
    assert_eq!(stored, acknowledged);
}

async fn ctrl_c_exits_0(_: World) {
    let server = Server::start(draining()).await;
    let mut client = phone(&server).await;
    server.interrupt();
    let status = server.ended_within(DRAIN + Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    client.expect_end().await;
}

async fn readiness_ends_and_new_connections_are_refused_on_sigterm(_: World) {
    let server = Server::start(draining()).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(phone(&server).await);
    }
    assert!(server.is_ready());
    server.terminate();
    let deadline = Instant::now() + DRAIN;
    while server.is_ready()
        || tokio::net::TcpStream::connect(server.at.public)
            .await
            .is_ok()
    {
        assert!(
            Instant::now() < deadline,
            "it still takes in new connections"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for client in &mut clients {
        client
            .expect_end_within(DRAIN + Duration::from_secs(3))
            .await;
    }
    assert!(
        server
            .ended_within(DRAIN + Duration::from_secs(5))
            .await
            .success()
    );
}

async fn the_secret_is_private_and_stays(_: World) {
    let folder = Folder::new();
    let server = Server::start_on(&folder, Options::default()).await;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.data().join("secret")), 0o600);
    assert_eq!(mode(&folder.data()), 0o700);
    let secret = server.secret();
    assert!(secret.len() >= 32, "{} characters", secret.len());
    assert!(!server.log().contains(&secret), "the log holds the secret");
    server.kill();
    let server = Server::start_on(&folder, Options::default()).await;
    assert_eq!(server.secret(), secret);
    let other = Server::start(Options::default()).await;
    assert_ne!(other.secret(), secret);
}

async fn livez_readyz_and_metrics_are_on_the_admin_port(_: World) {
    let server = Server::start(Options::default()).await;
    let _client = phone(&server).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = http::request(server.at.admin, "GET", path, &[], "")
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let answer = http::request(server.at.public, "GET", path, &[], "")
            .await
            .unwrap();
        assert_eq!(answer.status, 404, "{path} is public");
    }
    let metrics = http::request(server.at.admin, "GET", "/metrics", &[], "")
        .await
        .unwrap()
        .text();
    for part in ["drivers_gateway_", "drivers_grpc_"] {
        assert!(metrics.contains(part), "no {part}… in {metrics}");
    }
}

async fn it_prints_what_listens_where_and_a_line_to_try(_: World) {
    let server = Server::start(Options::default()).await;
    let log = server.log();
    for address in [server.at.public, server.at.grpc, server.at.admin] {
        assert!(
            log.contains(&address.to_string()),
            "{address} is not in:\n{log}"
        );
    }
    assert!(log.contains("curl"), "no line to try in:\n{log}");
}

async fn tls_serves_both_host_names_on_one_port(_: World) {
    let folder = Folder::new();
    let names = ["api.drivers.uz", "chat.drivers.uz"];
    let pair = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
    std::fs::write(folder.file("chain.pem"), pair.cert.pem()).unwrap();
    std::fs::write(folder.file("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let server = Server::start_on(&folder, tls(&folder, "chain.pem", "key.pem")).await;
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let connect = async |name: &'static str| {
        let tcp = tokio::net::TcpStream::connect(server.at.public)
            .await
            .unwrap();
        connector
            .connect(ServerName::try_from(name).unwrap(), tcp)
            .await
            .unwrap()
    };
    let (phone_number, username) = account::unique();
    let body = json!({
        "phone_number": phone_number, "username": username, "gcm_token": "g", "device_type": "ios",
    });
    let headers = [("content-type", "application/json")];
    let answer = http::request_over(
        connect(names[0]).await,
        "POST",
        "/sign_up",
        &headers,
        body.to_string(),
    )
    .await
    .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = "/socket.io/?EIO=4&transport=polling";
    let answer = http::request_over(connect(names[1]).await, "GET", path, &[], "")
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    let open: Value = serde_json::from_str(&answer.text()[1..]).unwrap();
    assert!(open["sid"].is_string());
    let url = "wss://chat.drivers.uz/socket.io/?EIO=4&transport=websocket";
    let (_, upgraded) = tokio_tungstenite::client_async(url, connect(names[1]).await)
        .await
        .unwrap();
    assert_eq!(upgraded.status().as_u16(), 101);
    // Plain HTTP on this port gets nowhere, and harms nobody.
    let plain = http::request(server.at.public, "GET", path, &[], "").await;
    assert!(plain.is_err() || plain.is_ok_and(|answer| answer.status >= 400));
    assert!(server.is_ready());
}

/// Options for TLS with these files.
fn tls(folder: &Folder, chain: &str, key: &str) -> Options {
    Options::default()
        .with(key::TLS_CERTIFICATE, format!("{:?}", folder.file(chain)))
        .with(key::TLS_KEY, format!("{:?}", folder.file(key)))
}
