//! Promise 5: A client that is too slow is disconnected, not skipped; what is over a
//! limit ends that socket.

use std::time::{Duration, Instant};

use proto::message::v1::Visibility;
use serde_json::json;
use tests::account::{self, User};
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::{Eio, Polling, Ws};
use tests::server::{Options, Server};
use tests::trial::World;
use tokio::io::AsyncReadExt;

cases! {
    Once:
        a_frame_over_256_kib_ends_that_socket,
        a_polling_body_over_2_mib_ends_that_socket,
        a_polling_body_over_256_kib_before_sign_in_ends_that_socket;
    Alone:
        long_a_stalled_websocket_is_cut_off_and_others_keep_pace,
        long_who_stops_polling_is_cut_off_and_others_keep_pace;
}

const EVENT: &str = "message_events";
/// From stalling to the end: 10 seconds without progress, and the time to fill what lies between.
const CUT_OFF: Duration = Duration::from_secs(40);
/// Those who stop reading.
const STALLED: [Eio; 4] = [Eio::V3, Eio::V4, Eio::V3, Eio::V4];
/// What a server may grow by; MiB. 64 are the embedded store's cache, which fills with
/// the messages. If it kept all 24 KiB for each of the stalled, 1,400 messages, as many
/// as a slow machine sends, were 131 more.
const MEMORY: u64 = 128;

/// Signs in by hand.
async fn sign_in(ws: &mut Ws, user: &User) {
    let request = json!(["signin_request", {"token": user.token}]);
    ws.send(&format!("42{request}")).await.unwrap();
    let answer = ws.packet().await.unwrap();
    assert!(answer.contains(r#""status":"ok""#), "{answer}");
}

/// Signs in by hand, on polling.
async fn sign_in_polling(session: &mut Polling, user: &User) {
    let request = json!(["signin_request", {"token": user.token}]);
    assert_eq!(
        session.post(&format!("42{request}")).await.unwrap().status,
        200
    );
    let deadline = Instant::now() + tests::PATIENCE;
    while !session
        .packets()
        .await
        .unwrap()
        .iter()
        .any(|packet| packet.contains(r#""status":"ok""#))
    {
        assert!(Instant::now() < deadline, "no answer to the sign-in");
    }
}

/// A packet of this many bytes that the server answers with a failure.
fn packet_of(bytes: usize, topic: i64) -> String {
    let start = format!(r#"42["message_events",{{"topic_id":{topic},"body":""#);
    let end = r#""}]"#;
    format!(
        "{start}{}{end}",
        "x".repeat(bytes - start.len() - end.len())
    )
}

async fn a_frame_over_256_kib_ends_that_socket(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    for eio in Eio::BOTH {
        let mut bystander = world.other(&user).await;
        let mut ws = Ws::connect(world.server().at.public, eio).await.unwrap();
        sign_in(&mut ws, &user).await;
        ws.send(&packet_of(256 * 1024, topic)).await.unwrap();
        let answer = ws
            .packet()
            .await
            .expect("a frame of 256 KiB is let through");
        assert!(answer.contains("invalid_message"), "{answer}");
        let _ = ws.send(&packet_of(256 * 1024 + 64, topic)).await;
        ws.ended_within(tests::PATIENCE).await.unwrap();
        bystander.emit(EVENT, &json!({"topic_id": topic, "body": "unharmed"}));
        assert_eq!(bystander.expect(EVENT).await["event_type"], "sent");
    }
}

/// A body of about this size, of packets that are small each.
fn body_of(eio: Eio, bytes: usize, topic: i64) -> String {
    let packet = packet_of(60_000, topic);
    let packets = vec![packet.as_str(); bytes / 60_000];
    eio.encode(&packets)
}

async fn ended(session: &Polling) {
    let deadline = Instant::now() + tests::PATIENCE;
    // What was answered before may still come; then the session is unknown.
    while session
        .poll()
        .await
        .is_ok_and(|answer| answer.status == 200)
    {
        assert!(Instant::now() < deadline, "the session still lives");
    }
    assert_eq!(session.post(r#"42["x"]"#).await.unwrap().status, 400);
}

async fn a_polling_body_over_2_mib_ends_that_socket(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    for eio in Eio::BOTH {
        let mut session = Polling::connect(world.server().at.public, eio)
            .await
            .unwrap();
        sign_in_polling(&mut session, &user).await;
        let answer = session
            .post_body(body_of(eio, 1_900_000, topic))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut failures = 0;
        while failures < 1_900_000 / 60_000 {
            let packets = session.packets().await.unwrap();
            failures += packets
                .iter()
                .filter(|packet| packet.contains("invalid_message"))
                .count();
        }
        let answer = session.post_body(body_of(eio, 2_200_000, topic)).await;
        assert!(answer.as_ref().is_err() || answer.is_ok_and(|answer| answer.status >= 400));
        ended(&session).await;
    }
}

async fn a_polling_body_over_256_kib_before_sign_in_ends_that_socket(world: World) {
    for eio in Eio::BOTH {
        let session = Polling::connect(world.server().at.public, eio)
            .await
            .unwrap();
        let packet = format!(
            r#"42["signin_request",{{"token":"{}"}}]"#,
            "x".repeat(90_000)
        );
        let answer = session
            .post_body(eio.encode(&[&packet, &packet]))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let session = Polling::connect(world.server().at.public, eio)
            .await
            .unwrap();
        let answer = session
            .post_body(eio.encode(&[&packet, &packet, &packet]))
            .await;
        assert!(answer.as_ref().is_err() || answer.is_ok_and(|answer| answer.status >= 400));
        ended(&session).await;
    }
}

/// What the measuring cases have: a server, its topic, and users in it.
struct Scene {
    server: Server,
    users: Vec<User>,
    topic: i64,
}

async fn scene() -> Scene {
    let server = Server::start(Options::default()).await;
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(account::sign_up(&server).await);
    }
    let members: Vec<i64> = users.iter().map(|user| user.id).collect();
    let topic = Api::of(&server).topic(Visibility::Private, &members).await;
    Scene {
        server,
        users,
        topic,
    }
}

/// Sends large messages until told to stop; two listeners of both generations
/// must hear each at once, and the server must not grow.
async fn keep_pace(scene: &Scene, mut stop: tokio::sync::oneshot::Receiver<()>) {
    let server = &scene.server;
    let mut sender = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, server).await;
    sender.sign_in(&scene.users[0]).await;
    let mut listener = Client::connect(Kind::Raw(Eio::V3), Transport::Websocket, server).await;
    listener.sign_in(&scene.users[1]).await;
    let before = server.memory();
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    while stop.try_recv().is_err() {
        let body = "ж".repeat(4_096);
        let sent = Instant::now();
        sender.emit(EVENT, &json!({"topic_id": scene.topic, "body": body}));
        count += 1;
        for client in [&mut sender, &mut listener] {
            let payload = client.expect(EVENT).await;
            assert_eq!(payload["data"]["seq"], count, "{}", payload["code"]);
        }
        slowest = slowest.max(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let grown = server.memory().saturating_sub(before) >> 20;
    println!(
        "{count} messages of 24 KiB, the slowest took {slowest:?}, memory grew by {grown} MiB"
    );
    assert!(count > 300, "only {count} messages");
    assert!(
        slowest < Duration::from_secs(2),
        "a message took {slowest:?}"
    );
    assert!(grown < MEMORY, "memory grew by {grown} MiB");
}

async fn long_a_stalled_websocket_is_cut_off_and_others_keep_pace(_: World) {
    let scene = scene().await;
    let mut stalled = Vec::new();
    for eio in STALLED {
        let mut ws = Ws::connect(scene.server.at.public, eio).await.unwrap();
        sign_in(&mut ws, &scene.users[2]).await;
        stalled.push(ws.into_tcp());
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let watch = async {
        tokio::time::sleep(CUT_OFF).await;
        stop.send(()).unwrap();
    };
    futures::future::join(keep_pace(&scene, stopped), watch).await;
    for mut tcp in stalled {
        // What the kernel still holds can be read; then the end must come, without everything.
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 20];
        let drained = async {
            while let Ok(count @ 1..) = tcp.read(&mut buffer).await {
                bytes += count;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), drained)
            .await
            .expect("a stalled reader was not cut off");
        println!("a stalled reader was cut off after {bytes} bytes");
    }
}

async fn long_who_stops_polling_is_cut_off_and_others_keep_pace(_: World) {
    let scene = scene().await;
    let mut stalled = Vec::new();
    for eio in STALLED {
        let mut session = Polling::connect(scene.server.at.public, eio).await.unwrap();
        sign_in_polling(&mut session, &scene.users[2]).await;
        stalled.push(session);
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let watch = async {
        tokio::time::sleep(CUT_OFF).await;
        stop.send(()).unwrap();
    };
    futures::future::join(keep_pace(&scene, stopped), watch).await;
    for session in &stalled {
        assert_eq!(
            session.post("42[\"x\"]").await.unwrap().status,
            400,
            "who stopped polling was not cut off"
        );
    }
}
