//! Promise 1: What was acknowledged survives kill -9 of every process at once.

use proto::message::v1::Entry;
use proto::message::v1::entry::Kind as EntryKind;
use serde_json::{Value, json};
use tests::account;
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Folder, Options, Server};
use tests::trial::World;

cases! {
    Once:
        what_was_sent_is_there_after_kill_9_as_it_was,
        accounts_and_memberships_are_there_after_kill_9;
}

async fn phone(server: &Server, user: &account::User) -> Client {
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, server).await;
    client.sign_in(user).await;
    client
}

/// The payload's data as an internal service reads it.
fn as_payload(entry: &Entry) -> Value {
    let owner = entry.owner.clone().unwrap();
    let Some(EntryKind::Message(message)) = entry.kind.clone() else {
        panic!("{entry:?}");
    };
    let attrs: Value = match message.attrs_json.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap(),
    };
    json!({
        "id": entry.id,
        "stamp_id": Some(message.stamp_id).filter(|stamp| !stamp.is_empty()),
        "topic_id": entry.topic_id,
        "owner": {"id": owner.id, "username": owner.username},
        "reply_to": Some(message.reply_to).filter(|id| *id != 0),
        "body": message.body,
        "attrs": attrs,
        "sent_at": entry.sent_at_ms,
        "has_media": message.has_media,
        "seq": entry.seq,
    })
}

async fn what_was_sent_is_there_after_kill_9_as_it_was(_: World) {
    let folder = Folder::new();
    let mut seen: Vec<Value> = Vec::new();
    for round in 0..3 {
        let server = Server::start_on(&folder, Options::default()).await;
        let history: Vec<Value> = Api::of(&server)
            .history(1)
            .await
            .iter()
            .map(as_payload)
            .collect();
        assert_eq!(history, seen);
        let user = account::sign_up(&server).await;
        let mut client = phone(&server, &user).await;
        for number in 0..20 {
            client.emit(
                "message_events",
                &json!({
                    "topic_id": 1, "body": format!("сообщение {round}/{number} \u{1F697}"), "has_media": number % 2 == 0,
                    "stamp_id": (number % 3 == 0).then(|| format!("{round}-{number}")),
                    "attrs": (number % 4 == 0).then(|| json!({"n": number, "ж": [null, 1.5]})),
                    "reply_to": (number % 5 == 0).then(|| seen.last().map(|last| last["id"].clone())).flatten(),
                }),
            );
            let payload = client.expect("message_events").await;
            assert_eq!(payload["event_type"], "sent", "{payload}");
            seen.push(payload["data"].clone());
        }
        server.kill();
    }
    let server = Server::start_on(&folder, Options::default()).await;
    let history: Vec<Value> = Api::of(&server)
        .history(1)
        .await
        .iter()
        .map(as_payload)
        .collect();
    assert_eq!(history, seen);
}

async fn accounts_and_memberships_are_there_after_kill_9(_: World) {
    let folder = Folder::new();
    let server = Server::start_on(&folder, Options::default()).await;
    let user = account::sign_up(&server).await;
    let topic = Api::of(&server)
        .topic(proto::message::v1::Visibility::Private, &[user.id])
        .await;
    server.kill();
    let server = Server::start_on(&folder, Options::default()).await;
    let mut client = phone(&server, &user).await;
    for topic in [1, topic] {
        client.emit(
            "message_events",
            &json!({"topic_id": topic, "body": "back again"}),
        );
        assert_eq!(client.expect("message_events").await["event_type"], "sent");
    }
}
