//! `message_events`.

use serde_json::{Value, json};
use tests::account::User;
use tests::cases;
use tests::client::Client;
use tests::trial::World;

cases! {
    EachClient:
        sent_goes_to_the_sender_and_every_listener_once_with_the_same_payload,
        only_topic_id_and_body_are_required,
        all_keys_come_back_as_sent,
        stamp_id_null_and_empty_mean_none,
        reply_to_null_and_0_mean_none,
        has_media_null_means_false,
        attrs_is_any_json,
        seq_is_1_2_3_and_ids_ascend_with_it,
        a_missing_or_wrong_key_is_invalid_message_and_named,
        data_that_is_no_object_is_invalid_message,
        body_is_1_to_4096_characters_not_all_blank_stored_as_sent,
        stamp_id_is_at_most_64,
        a_failure_goes_to_the_sender_alone_and_echoes_the_stamp,
        an_acknowledgement_has_the_same_payload,
        five_hundred_at_once_come_back_in_order,
        text_of_all_alphabets_is_read_by_others,
        topic_not_found,
        topic_closed,
        not_a_member,
        reply_not_found,
        stamp_reused;
}

const EVENT: &str = "message_events";

/// A client with a topic of its own.
async fn alone(world: &World) -> (User, i64, Client) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let client = world.signed_in(&user).await;
    (user, topic, client)
}

/// What `sent` must be for a request, taking what only the server knows from the payload.
fn sent(payload: &Value, owner: &User, request: &Value) -> Value {
    let given = |key: &str| request.get(key).cloned().unwrap_or(Value::Null);
    let data = &payload["data"];
    for key in ["id", "sent_at", "seq"] {
        let number = data[key]
            .as_i64()
            .unwrap_or_else(|| panic!("{key} is no integer: {payload}"));
        assert!(number > 0 && number < 1 << 53, "{key}: {payload}");
    }
    json!({"event_type": "sent", "data": {
        "id": data["id"],
        "stamp_id": given("stamp_id"),
        "topic_id": given("topic_id"),
        "owner": {"id": owner.id, "username": owner.username},
        "reply_to": given("reply_to"),
        "body": given("body"),
        "attrs": given("attrs"),
        "sent_at": data["sent_at"],
        "has_media": request.get("has_media").cloned().unwrap_or(json!(false)),
        "seq": data["seq"],
    }})
}

/// Emits, and asserts that exactly this comes back as sent.
async fn send(client: &mut Client, owner: &User, request: &Value) -> Value {
    client.emit(EVENT, request);
    let payload = client.expect(EVENT).await;
    assert_eq!(payload, sent(&payload, owner, request), "{}", client.label);
    payload
}

/// Asserts the failure payload; returns the message.
pub(super) fn failed(payload: &Value, code: &str, stamp: &Value) -> String {
    let message = payload["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        payload,
        &json!({"event_type": "fail", "data": null, "code": code, "message": message, "stamp_id": stamp})
    );
    assert!(!message.is_empty());
    message
}

async fn refused(client: &mut Client, request: &Value, code: &str) -> String {
    client.emit(EVENT, request);
    let payload = client.expect(EVENT).await;
    let stamp = request["stamp_id"]
        .as_str()
        .filter(|stamp| !stamp.is_empty());
    let stamp = stamp.filter(|stamp| stamp.chars().count() <= 64);
    if payload["stamp_id"].is_null() && stamp.is_none() {
        failed(&payload, code, &Value::Null)
    } else {
        failed(&payload, code, &request["stamp_id"])
    }
}

async fn sent_goes_to_the_sender_and_every_listener_once_with_the_same_payload(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut device = world.signed_in(&one).await;
    let mut other = world.other(&two).await;
    let mut payloads = Vec::new();
    for body in ["first", "second"] {
        let request = json!({
            "stamp_id": body, "topic_id": topic, "body": body, "reply_to": null, "attrs": null, "has_media": false,
        });
        let payload = send(&mut client, &one, &request).await;
        assert_eq!(device.expect(EVENT).await, payload);
        assert_eq!(other.expect(EVENT).await, payload);
        payloads.push(payload);
    }
    // The second message closes the first: nothing came twice.
    for listener in [&mut client, &mut device, &mut other] {
        listener.expect_nothing_more();
    }
    // And the other way round: what another sends, this client hears.
    other.emit(EVENT, &json!({"topic_id": topic, "body": "answer"}));
    let payload = other.expect(EVENT).await;
    assert_eq!(client.expect(EVENT).await, payload);
    assert_eq!(device.expect(EVENT).await, payload);
}

async fn only_topic_id_and_body_are_required(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    send(
        &mut client,
        &user,
        &json!({"topic_id": topic, "body": "foobar"}),
    )
    .await;
}

async fn all_keys_come_back_as_sent(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    let first = send(
        &mut client,
        &user,
        &json!({"topic_id": topic, "body": "foobar"}),
    )
    .await;
    let request = json!({
        "stamp_id": "6D0F4Z15", "topic_id": topic, "body": "barfoo", "reply_to": first["data"]["id"],
        "attrs": {"lat": 41.3, "tags": ["a", "ж"], "deep": {"null": null}}, "has_media": true,
    });
    send(&mut client, &user, &request).await;
}

async fn stamp_id_null_and_empty_mean_none(world: World) {
    let (_, topic, mut client) = alone(&world).await;
    for (seq, stamp) in [
        (1, Value::Null),
        (2, json!("")),
        (3, Value::Null),
        (4, json!("")),
    ] {
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": "same", "stamp_id": stamp}),
        );
        let payload = client.expect(EVENT).await;
        assert_eq!(payload["data"]["stamp_id"], Value::Null);
        assert_eq!(payload["data"]["seq"], seq);
    }
}

async fn reply_to_null_and_0_mean_none(world: World) {
    let (_, topic, mut client) = alone(&world).await;
    for reply_to in [Value::Null, json!(0)] {
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": "foobar", "reply_to": reply_to}),
        );
        assert_eq!(client.expect(EVENT).await["data"]["reply_to"], Value::Null);
    }
}

async fn has_media_null_means_false(world: World) {
    let (_, topic, mut client) = alone(&world).await;
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": "foobar", "has_media": null}),
    );
    assert_eq!(client.expect(EVENT).await["data"]["has_media"], false);
}

async fn attrs_is_any_json(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    for attrs in [
        json!({}),
        json!([]),
        json!(""),
        json!("text \u{1F600} \"quoted\" \\ \n"),
        json!(0),
        json!(-7),
        json!(true),
        json!(false),
        json!([1, [2, [3, {"four": 5}]]]),
        json!({"": null, "ключ": "значение", "a b": [null]}),
    ] {
        send(
            &mut client,
            &user,
            &json!({"topic_id": topic, "body": "foobar", "attrs": attrs}),
        )
        .await;
    }
}

async fn seq_is_1_2_3_and_ids_ascend_with_it(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    let mut last = 0;
    for seq in 1..=10 {
        let payload = send(
            &mut client,
            &user,
            &json!({"topic_id": topic, "body": "foobar"}),
        )
        .await;
        assert_eq!(payload["data"]["seq"], seq);
        let id = payload["data"]["id"].as_i64().unwrap();
        assert!(id > last);
        last = id;
    }
}

async fn a_missing_or_wrong_key_is_invalid_message_and_named(world: World) {
    let (_, topic, mut client) = alone(&world).await;
    let good = json!({"topic_id": topic, "body": "foobar", "stamp_id": "S"});
    let mut wrong = Vec::new();
    for key in ["topic_id", "body"] {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(key);
        wrong.push((without, key));
        wrong.push((
            json!({"topic_id": topic, "body": "foobar", "stamp_id": "S", key: null}),
            key,
        ));
    }
    for (key, values) in [
        (
            "topic_id",
            vec![
                json!(topic.to_string()),
                json!(true),
                json!([topic]),
                json!({}),
                json!(1.5),
            ],
        ),
        (
            "body",
            vec![
                json!(7),
                json!(false),
                json!(["foobar"]),
                json!({"text": "foobar"}),
            ],
        ),
        (
            "reply_to",
            vec![json!("7"), json!(true), json!([7]), json!({}), json!(1.5)],
        ),
        (
            "has_media",
            vec![json!("true"), json!(1), json!([]), json!({})],
        ),
    ] {
        for value in values {
            let mut request = good.clone();
            request[key] = value;
            wrong.push((request, key));
        }
    }
    for (request, key) in wrong {
        let message = refused(&mut client, &request, "invalid_message").await;
        assert!(message.contains(key), "{request}: {message}");
    }
    for stamp in [json!(7), json!(true), json!(["S"]), json!({})] {
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": "foobar", "stamp_id": stamp}),
        );
        let payload = client.expect(EVENT).await;
        assert_eq!(payload["code"], "invalid_message", "{payload}");
        assert!(
            payload["message"].as_str().unwrap().contains("stamp_id"),
            "{payload}"
        );
    }
    assert_eq!(world.api().history(topic).await, []);
}

async fn data_that_is_no_object_is_invalid_message(world: World) {
    let (_, topic, mut client) = alone(&world).await;
    for args in [
        vec![],
        vec!["null"],
        vec!["7"],
        vec!["\"foobar\""],
        vec!["[]"],
        vec!["true"],
    ] {
        client.emit_raw(EVENT, &args);
        failed(&client.expect(EVENT).await, "invalid_message", &Value::Null);
    }
    assert_eq!(world.api().history(topic).await, []);
}

async fn body_is_1_to_4096_characters_not_all_blank_stored_as_sent(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    for body in [
        "  spaces around \n\t".to_owned(),
        "x".to_owned(),
        "e\u{301} is not made é".to_owned(),
        "zero \u{0} inside".to_owned(),
        "ж".repeat(4096),
        "\u{1F600}".repeat(4096),
        format!("{}.", " ".repeat(4095)),
    ] {
        send(
            &mut client,
            &user,
            &json!({"topic_id": topic, "body": body}),
        )
        .await;
    }
    for body in [
        String::new(),
        " ".to_owned(),
        " \t\r\n\u{a0}\u{2003}\u{3000}".to_owned(),
        "x".repeat(4097),
        "\u{1F600}".repeat(4097),
        format!("{}.", " ".repeat(4096)),
    ] {
        let message = refused(
            &mut client,
            &json!({"topic_id": topic, "body": body}),
            "invalid_message",
        )
        .await;
        assert!(message.contains("body"), "{message}");
    }
}

async fn stamp_id_is_at_most_64(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    for stamp in ["s".repeat(64), "ж".repeat(64), "\u{1F600}".repeat(64)] {
        send(
            &mut client,
            &user,
            &json!({"topic_id": topic, "body": "foobar", "stamp_id": stamp}),
        )
        .await;
    }
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": "foobar", "stamp_id": "s".repeat(65)}),
    );
    let payload = client.expect(EVENT).await;
    assert_eq!(payload["code"], "invalid_message");
    assert!(
        payload["message"].as_str().unwrap().contains("stamp_id"),
        "{payload}"
    );
}

async fn a_failure_goes_to_the_sender_alone_and_echoes_the_stamp(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut device = world.other(&one).await;
    let mut other = world.other(&two).await;
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": "", "stamp_id": "E1"}),
    );
    failed(&client.expect(EVENT).await, "invalid_message", &json!("E1"));
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": "good", "stamp_id": "E2"}),
    );
    for listener in [&mut client, &mut device, &mut other] {
        assert_eq!(listener.expect(EVENT).await["data"]["stamp_id"], "E2");
        listener.expect_nothing_more();
    }
}

async fn an_acknowledgement_has_the_same_payload(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    let request = json!({"topic_id": topic, "body": "foobar", "stamp_id": "A"});
    // A new message, a retry of it, and failures of both kinds.
    for request in [
        request.clone(),
        request,
        json!({"topic_id": topic, "body": ""}),
        json!({"topic_id": topic, "body": "other", "stamp_id": "A"}),
    ] {
        let ack = client.emit_with_ack(EVENT, &request);
        let event = client.expect(EVENT).await;
        assert_eq!(client.expect_ack(ack).await, event);
        if event["event_type"] == "sent" {
            assert_eq!(event, sent(&event, &user, &request));
        }
    }
    client.expect_nothing_more();
}

async fn five_hundred_at_once_come_back_in_order(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut other = world.other(&two).await;
    for number in 0..500 {
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": format!("сообщение {number}")}),
        );
    }
    for number in 0..500 {
        let payload = client.expect(EVENT).await;
        assert_eq!(
            payload["data"]["body"],
            format!("сообщение {number}"),
            "{payload}"
        );
        assert_eq!(payload["data"]["seq"], number + 1);
        assert_eq!(other.expect(EVENT).await, payload);
    }
    client.expect_nothing_more();
}

async fn text_of_all_alphabets_is_read_by_others(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let mut other = world.other(&two).await;
    for text in [
        "Привет, водители! Ўзбекистон ҳайдовчилари",
        "naïve café Ünïcödé ÿ ",
        "Ã© looks like twice encoded and is not",
        "日本語 한국어 العربية עברית",
        "\u{1F697}\u{1F468}\u{200D}\u{1F469} \u{10FFFF}",
        "mixed é Ж \u{1F600}",
    ] {
        // From Latin-1 only, nothing tells a client that encoded twice from one that did
        // not: that the session has shown a higher character is what decides.
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": format!("Ж{text}"), "attrs": {text: text}}),
        );
        let payload = client.expect(EVENT).await;
        let heard = other.expect(EVENT).await;
        assert_eq!(
            heard["data"]["body"],
            format!("Ж{text}"),
            "{}",
            client.label
        );
        assert_eq!(
            heard["data"]["attrs"],
            json!({ text: text }),
            "{}",
            client.label
        );
        assert_eq!(payload, heard);
        other.emit(EVENT, &json!({"topic_id": topic, "body": text}));
        assert_eq!(
            client.expect(EVENT).await["data"]["body"],
            text,
            "{}",
            client.label
        );
        other.expect(EVENT).await;
    }
}

async fn topic_not_found(world: World) {
    let (_, _, mut client) = alone(&world).await;
    for topic in [9_007_199_254_740_991_i64, 0, -1] {
        let request = json!({"topic_id": topic, "body": "foobar", "stamp_id": "S"});
        client.emit(EVENT, &request);
        let payload = client.expect(EVENT).await;
        let code = payload["code"].as_str().unwrap();
        // An id that cannot be one may as well be called malformed.
        assert!(
            code == "topic_not_found" || (topic <= 0 && code == "invalid_message"),
            "{payload}"
        );
        failed(&payload, code, &json!("S"));
    }
}

async fn topic_closed(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    send(
        &mut client,
        &user,
        &json!({"topic_id": topic, "body": "open"}),
    )
    .await;
    world.api().set_closed(topic, true).await;
    refused(
        &mut client,
        &json!({"topic_id": topic, "body": "closed", "stamp_id": "C"}),
        "topic_closed",
    )
    .await;
    world.api().set_closed(topic, false).await;
    send(
        &mut client,
        &user,
        &json!({"topic_id": topic, "body": "closed", "stamp_id": "C"}),
    )
    .await;
}

async fn not_a_member(world: World) {
    let (member, stranger) = (world.user().await, world.user().await);
    let topic = world.topic(&[&member]).await;
    let mut client = world.signed_in(&stranger).await;
    refused(
        &mut client,
        &json!({"topic_id": topic, "body": "let me in"}),
        "not_a_member",
    )
    .await;
    assert_eq!(world.api().history(topic).await, []);
}

async fn reply_not_found(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    let elsewhere = world.topic(&[&user]).await;
    // The client listens to the new topic as soon as it knows of it; its own message shows that.
    client.emit(EVENT, &json!({"topic_id": elsewhere, "body": "elsewhere"}));
    let there = client.expect(EVENT).await["data"]["id"].clone();
    for reply_to in [there, json!(9_007_199_254_740_991_i64), json!(1)] {
        let request =
            json!({"topic_id": topic, "body": "foobar", "reply_to": reply_to, "stamp_id": "R"});
        refused(&mut client, &request, "reply_not_found").await;
    }
}

async fn stamp_reused(world: World) {
    let (user, topic, mut client) = alone(&world).await;
    let request = json!({"topic_id": topic, "body": "foobar", "stamp_id": "S", "attrs": {"a": 1}});
    let first = send(&mut client, &user, &request).await;
    for (key, value) in [
        ("body", json!("other")),
        ("attrs", json!({"a": 2})),
        ("attrs", Value::Null),
        ("has_media", json!(true)),
        ("reply_to", first["data"]["id"].clone()),
    ] {
        let mut changed = request.clone();
        changed[key] = value;
        refused(&mut client, &changed, "stamp_reused").await;
    }
    assert_eq!(world.api().history(topic).await.len(), 1);
}
