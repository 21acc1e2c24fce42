//! `typing_event`.

use serde_json::{Value, json};
use tests::cases;
use tests::client::Client;
use tests::trial::World;

cases! {
    EachClient:
        is_broadcast_with_exactly_two_keys,
        the_senders_other_devices_are_told_and_the_sender_is_not,
        user_id_must_be_the_signed_in_user,
        the_user_must_be_a_member,
        both_keys_are_required_ints,
        an_unknown_topic_is_topic_not_found;
}

/// The failure payload, both spellings of its first key; returns code and message.
fn failed(payload: &Value) -> (String, String) {
    let code = payload["data"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let message = payload["data"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(
        payload,
        &json!({"staus": "fail", "status": "fail", "data": {"code": code, "message": message}})
    );
    assert!(!code.is_empty() && !message.is_empty(), "{payload}");
    (code, message)
}

/// Posts a message and waits for it: what came before it has come.
async fn barrier(client: &mut Client, topic: i64) {
    client.emit(
        "message_events",
        &json!({"topic_id": topic, "body": "barrier"}),
    );
    let event = client.next().await;
    assert_eq!(event.name, "message_events", "{event:?}");
    assert_eq!(event.payload()["data"]["body"], "barrier");
}

async fn is_broadcast_with_exactly_two_keys(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut other = world.other(&two).await;
    client.emit(
        "typing_event",
        &json!({"user_id": one.id, "topic_id": topic}),
    );
    let told = other.next().await;
    assert_eq!(told.name, "typing_event");
    assert_eq!(
        told.payload(),
        json!({"user_id": one.id, "topic_id": topic})
    );
    other.emit(
        "typing_event",
        &json!({"user_id": two.id, "topic_id": topic}),
    );
    let told = client.expect("typing_event").await;
    assert_eq!(told, json!({"user_id": two.id, "topic_id": topic}));
}

async fn the_senders_other_devices_are_told_and_the_sender_is_not(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    let mut device = world.other(&user).await;
    client.emit(
        "typing_event",
        &json!({"user_id": user.id, "topic_id": topic}),
    );
    let told = device.expect("typing_event").await;
    assert_eq!(told, json!({"user_id": user.id, "topic_id": topic}));
    barrier(&mut client, topic).await;
    client.expect_nothing_more();
}

async fn user_id_must_be_the_signed_in_user(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut other = world.other(&two).await;
    client.emit(
        "typing_event",
        &json!({"user_id": two.id, "topic_id": topic}),
    );
    let (_, message) = failed(&client.expect("typing_event").await);
    assert!(message.contains("user_id"), "{message}");
    barrier(&mut client, topic).await;
    assert_eq!(other.next().await.name, "message_events");
    other.expect_nothing_more();
}

async fn the_user_must_be_a_member(world: World) {
    let (stranger, member) = (world.user().await, world.user().await);
    let topic = world.topic(&[&member]).await;
    let mut client = world.signed_in(&stranger).await;
    let mut other = world.other(&member).await;
    client.emit(
        "typing_event",
        &json!({"user_id": stranger.id, "topic_id": topic}),
    );
    assert_eq!(
        failed(&client.expect("typing_event").await).0,
        "not_a_member"
    );
    barrier(&mut other, topic).await;
    other.expect_nothing_more();
}

async fn both_keys_are_required_ints(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    for (wrong, named) in [
        (json!({"topic_id": topic}), "user_id"),
        (json!({"user_id": user.id}), "topic_id"),
        (json!({"user_id": null, "topic_id": topic}), "user_id"),
        (
            json!({"user_id": user.id, "topic_id": topic.to_string()}),
            "topic_id",
        ),
        (json!({"user_id": true, "topic_id": topic}), "user_id"),
        (json!({"user_id": user.id, "topic_id": 1.5}), "topic_id"),
    ] {
        client.emit("typing_event", &wrong);
        let (code, message) = failed(&client.expect("typing_event").await);
        assert_eq!(code, "invalid_message", "{wrong}");
        assert!(message.contains(named), "{wrong}: {message}");
    }
    for wrong in ["null", "7", "\"text\"", "[]"] {
        client.emit_raw("typing_event", &[wrong]);
        failed(&client.expect("typing_event").await);
    }
    client.emit_raw("typing_event", &[]);
    failed(&client.expect("typing_event").await);
}

async fn an_unknown_topic_is_topic_not_found(world: World) {
    let user = world.user().await;
    let mut client = world.signed_in(&user).await;
    client.emit(
        "typing_event",
        &json!({"user_id": user.id, "topic_id": 9_007_199_254_740_991_i64}),
    );
    let (code, _) = failed(&client.expect("typing_event").await);
    assert!(
        code == "topic_not_found" || code == "not_a_member",
        "{code}"
    );
}
