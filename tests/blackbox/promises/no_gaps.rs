//! Promise 4: A connected listener gets every message, in order, once; faults are healed
//! from the store within 5 seconds.

use std::time::{Duration, Instant};

use proto::message::v1::{OutgoingMessage, SendMessagesRequest, Visibility};
use tests::account;
use tests::api::{Api, acting_for};
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Options, Server, key};
use tests::trial::World;

cases! {
    Once:
        a_bus_that_loses_everything_is_healed_within_5_seconds,
        a_bus_that_doubles_and_reorders_everything_is_not_noticed,
        a_bus_that_misbehaves_in_every_way_is_healed,
        who_joins_on_a_bus_that_loses_everything_hears_within_5_seconds;
}

const LIMIT: Duration = Duration::from_secs(5);

/// Sends as an internal service does: no gateway learns of it but by the bus.
async fn send(api: &Api, topic: i64, user: &account::User, bodies: &[String]) {
    let messages = bodies
        .iter()
        .map(|body| OutgoingMessage {
            body: body.clone(),
            ..Default::default()
        })
        .collect();
    let request = SendMessagesRequest {
        topic_id: topic,
        messages,
    };
    let request = acting_for(user.id, &user.username, request);
    let results = api
        .messages
        .clone()
        .send_messages(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results.len(), bodies.len());
}

/// Bursts with pauses between: after each, everybody must have all of it in time.
async fn healed(bus: &str) {
    let server = Server::start(Options::default().with(key::BUS, format!("\"{bus}\""))).await;
    let api = Api::of(&server);
    let user = account::sign_up(&server).await;
    let topic = api.topic(Visibility::Private, &[user.id]).await;
    let mut clients = Vec::new();
    for eio in Eio::BOTH {
        for transport in Transport::ALL {
            let mut client = Client::connect(Kind::Raw(eio), transport, &server).await;
            client.sign_in(&user).await;
            clients.push(client);
        }
    }
    let mut seq = 0;
    for burst in [1, 1, 40, 1, 200, 3] {
        let bodies: Vec<String> = (0..burst)
            .map(|number| format!("{burst}/{number}"))
            .collect();
        send(&api, topic, &user, &bodies).await;
        let sent = Instant::now();
        for client in &mut clients {
            for (number, body) in bodies.iter().enumerate() {
                let payload = client.expect("message_events").await;
                let data = &payload["data"];
                assert_eq!(data["body"], *body, "{}: {payload}", client.label);
                assert_eq!(data["seq"], seq + number + 1, "{}: {payload}", client.label);
            }
            // A little over, for the machine is busy.
            assert!(
                sent.elapsed() < LIMIT + Duration::from_secs(1),
                "{}: after {:?}",
                client.label,
                sent.elapsed()
            );
        }
        seq += burst;
    }
    for client in &mut clients {
        client.expect_nothing_more();
    }
}

async fn a_bus_that_loses_everything_is_healed_within_5_seconds(_: World) {
    healed("memory:?drop=1.0&seed=1").await;
}

async fn a_bus_that_doubles_and_reorders_everything_is_not_noticed(_: World) {
    healed("memory:?double=1.0&reorder=0.5&delay_ms=20&seed=2").await;
}

async fn a_bus_that_misbehaves_in_every_way_is_healed(_: World) {
    healed("memory:?drop=0.3&double=0.3&delay_ms=100&reorder=0.3&seed=3").await;
}

async fn who_joins_on_a_bus_that_loses_everything_hears_within_5_seconds(_: World) {
    let server =
        Server::start(Options::default().with(key::BUS, "\"memory:?drop=1.0&seed=4\"")).await;
    let api = Api::of(&server);
    let (late, member) = (
        account::sign_up(&server).await,
        account::sign_up(&server).await,
    );
    let topic = api.topic(Visibility::Private, &[member.id]).await;
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, &server).await;
    client.sign_in(&late).await;
    send(&api, topic, &member, &["before".into()]).await;
    api.join(topic, late.id).await;
    let joined = Instant::now();
    send(&api, topic, &member, &["after".into()]).await;
    let payload = client.expect("message_events").await;
    assert_eq!(payload["data"]["body"], "after");
    assert!(
        joined.elapsed() < LIMIT + Duration::from_secs(1),
        "after {:?}",
        joined.elapsed()
    );
}
