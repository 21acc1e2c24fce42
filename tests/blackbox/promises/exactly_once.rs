//! Promise 2: One (owner, topic, stamp_id) is one message.

use serde_json::{Value, json};
use tests::account::{self, User};
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Folder, Options, Server};
use tests::trial::World;

cases! {
    EachClient:
        a_retry_is_answered_with_the_original_to_the_asking_socket_alone;
    Once:
        a_retry_from_another_connection_and_generation_has_the_same_id,
        a_retry_after_a_restart_has_the_same_id,
        a_retry_is_answered_whatever_has_changed_since,
        the_same_stamp_of_another_owner_or_in_another_topic_is_another_message,
        of_many_racing_retries_one_is_stored;
}

const EVENT: &str = "message_events";

async fn send(client: &mut Client, request: &Value) -> Value {
    client.emit(EVENT, request);
    let payload = client.expect(EVENT).await;
    assert_eq!(payload["event_type"], "sent", "{payload}");
    payload
}

async fn phone(server: &Server, user: &User, eio: Eio, transport: Transport) -> Client {
    let mut client = Client::connect(Kind::Raw(eio), transport, server).await;
    client.sign_in(user).await;
    client
}

async fn a_retry_is_answered_with_the_original_to_the_asking_socket_alone(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut device = world.other(&one).await;
    let mut other = world.other(&two).await;
    let request = json!({"topic_id": topic, "body": "foobar", "stamp_id": "S", "attrs": {"a": [1]}, "has_media": true});
    let original = send(&mut client, &request).await;
    for _ in 0..3 {
        assert_eq!(send(&mut client, &request).await, original);
    }
    let last = send(&mut client, &json!({"topic_id": topic, "body": "last"})).await;
    assert_eq!(last["data"]["seq"], 2);
    for listener in [&mut device, &mut other] {
        assert_eq!(listener.expect(EVENT).await, original);
        assert_eq!(listener.expect(EVENT).await, last);
        listener.expect_nothing_more();
    }
    client.expect_nothing_more();
}

async fn a_retry_from_another_connection_and_generation_has_the_same_id(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let request =
        json!({"topic_id": topic, "body": "Привет", "stamp_id": "S", "attrs": {"a": 1.50}});
    let mut original = None;
    for eio in Eio::BOTH {
        for transport in Transport::ALL {
            let mut client = phone(world.server(), &user, eio, transport).await;
            let payload = send(&mut client, &request).await;
            assert_eq!(&payload, original.get_or_insert_with(|| payload.clone()));
        }
    }
    assert_eq!(world.api().history(topic).await.len(), 1);
}

async fn a_retry_after_a_restart_has_the_same_id(_: World) {
    let folder = Folder::new();
    let server = Server::start_on(&folder, Options::default()).await;
    let user = account::sign_up(&server).await;
    let mut client = phone(&server, &user, Eio::V3, Transport::Websocket).await;
    let requests: Vec<Value> = (0..30)
        .map(
            |n| json!({"topic_id": 1, "body": format!("message {n}"), "stamp_id": format!("S{n}")}),
        )
        .collect();
    let mut originals = Vec::new();
    for request in &requests {
        originals.push(send(&mut client, request).await);
    }
    drop(client);
    server.kill();
    let server = Server::start_on(&folder, Options::default()).await;
    let mut client = phone(&server, &user, Eio::V4, Transport::Websocket).await;
    for (request, original) in requests.iter().zip(&originals).rev() {
        assert_eq!(&send(&mut client, request).await, original);
    }
    assert_eq!(Api::of(&server).history(1).await.len(), 30);
}

async fn a_retry_is_answered_whatever_has_changed_since(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    let request = json!({"topic_id": topic, "body": "foobar", "stamp_id": "S"});
    let original = send(&mut client, &request).await;
    world.api().set_closed(topic, true).await;
    assert_eq!(send(&mut client, &request).await, original);
    world.api().remove(topic, user.id).await;
    assert_eq!(send(&mut client, &request).await, original);
    let mut again = world.signed_in(&user).await;
    assert_eq!(send(&mut again, &request).await, original);
}

async fn the_same_stamp_of_another_owner_or_in_another_topic_is_another_message(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topics = [
        world.topic(&[&one, &two]).await,
        world.topic(&[&one, &two]).await,
    ];
    let mut ids = Vec::new();
    for user in [&one, &two] {
        let mut client = world.signed_in(user).await;
        for topic in topics {
            let request =
                json!({"topic_id": topic, "body": format!("by {}", user.id), "stamp_id": "S"});
            ids.push(
                send(&mut client, &request).await["data"]["id"]
                    .as_i64()
                    .unwrap(),
            );
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

async fn of_many_racing_retries_one_is_stored(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(
            phone(
                world.server(),
                &user,
                Eio::BOTH[number % 2],
                Transport::Websocket,
            )
            .await,
        );
    }
    for stamp in 0..20 {
        let request = json!({"topic_id": topic, "body": "race", "stamp_id": format!("S{stamp}")});
        for client in &clients {
            client.emit(EVENT, &request);
        }
    }
    let mut ids: Vec<i64> = Vec::new();
    for client in &mut clients {
        let mut heard = std::collections::BTreeMap::new();
        // Each gets each message at least once: as its answer, or as a listener.
        while heard.len() < 20 {
            let payload = client.expect(EVENT).await;
            assert_eq!(payload["event_type"], "sent", "{payload}");
            let stamp = payload["data"]["stamp_id"].as_str().unwrap().to_owned();
            let before = heard.insert(stamp, payload.clone());
            assert!(before.is_none_or(|before| before == payload));
        }
        ids.extend(
            heard
                .values()
                .map(|payload| payload["data"]["id"].as_i64().unwrap()),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_eq!(world.api().history(topic).await.len(), 20);
}
