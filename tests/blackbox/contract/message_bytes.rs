//! `message_events`, byte for byte: what official clients can't be made to send or to show.

use serde_json::{Value, json};
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::trial::World;

use super::message_events::failed;

cases! {
    Once:
        attrs_digits_and_key_order_come_back_as_sent,
        attrs_is_at_most_8_kib_compact_and_64_levels,
        half_surrogates_are_invalid_message,
        sent_at_is_the_time_and_never_goes_back,
        too_many_are_rate_limited;
}

const EVENT: &str = "message_events";

/// A client made by hand on a websocket, with a topic of its own.
async fn by_hand(world: &World, eio: Eio) -> (i64, Client) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = Client::connect(Kind::Raw(eio), Transport::Websocket, world.server()).await;
    client.sign_in(&user).await;
    (topic, client)
}

async fn attrs_digits_and_key_order_come_back_as_sent(world: World) {
    for eio in Eio::BOTH {
        let (topic, mut client) = by_hand(&world, eio).await;
        for (attrs, back) in [
            ("123456789012345678901234567890", None),
            ("1.10", None),
            ("-0", None),
            ("1E5", None),
            ("0.1000000000000000055511151231257827", None),
            (r#"{"z":1.0,"a":[9007199254740993,1e400],"z2":-0.0}"#, None),
            (" { \"b\" : [ 1 , 2 ] } ", Some(r#"{"b":[1,2]}"#)),
        ] {
            client.emit_raw(
                EVENT,
                &[&format!(
                    r#"{{"topic_id":{topic},"body":"n","attrs":{attrs}}}"#
                )],
            );
            let event = client.next().await;
            let expected = format!(r#""attrs":{},"#, back.unwrap_or(attrs));
            assert!(
                event.args[0].get().contains(&expected),
                "{expected} is not in {:?}",
                event.args
            );
        }
    }
}

async fn attrs_is_at_most_8_kib_compact_and_64_levels(world: World) {
    let (topic, mut client) = by_hand(&world, Eio::V4).await;
    let text = |length: usize| format!("\"{}\"", "a".repeat(length - 2));
    let levels = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let objects = |count: usize| format!("{}0{}", "{\"a\":".repeat(count), "}".repeat(count));
    let wide = format!("[{}{}]", " ".repeat(20_000), text(8_190));
    for good in [text(8_192), wide, levels(64), objects(64)] {
        client.emit_raw(
            EVENT,
            &[&format!(
                r#"{{"topic_id":{topic},"body":"n","attrs":{good}}}"#
            )],
        );
        let payload = client.expect(EVENT).await;
        assert_eq!(payload["event_type"], "sent", "{payload}");
    }
    for bad in [text(8_193), levels(65), objects(65), levels(4_000)] {
        client.emit_raw(
            EVENT,
            &[&format!(
                r#"{{"topic_id":{topic},"body":"n","attrs":{bad}}}"#
            )],
        );
        let message = failed(&client.expect(EVENT).await, "invalid_message", &Value::Null);
        assert!(message.contains("attrs"), "{message}");
    }
}

async fn half_surrogates_are_invalid_message(world: World) {
    for eio in Eio::BOTH {
        let (topic, mut client) = by_hand(&world, eio).await;
        for request in [
            format!(r#"{{"topic_id":{topic},"body":"a\ud800b"}}"#),
            format!(r#"{{"topic_id":{topic},"body":"\udc00\ud800"}}"#),
            format!(r#"{{"topic_id":{topic},"body":"a","stamp_id":"\ud83d"}}"#),
            format!(r#"{{"topic_id":{topic},"body":"a","attrs":{{"k":"\udfff"}}}}"#),
            format!(r#"{{"topic_id":{topic},"body":"a","attrs":{{"\ud800":1}}}}"#),
        ] {
            client.emit_raw(EVENT, &[&request]);
            let payload = client.expect(EVENT).await;
            assert_eq!(payload["code"], "invalid_message", "{request}: {payload}");
        }
        client.emit_raw(
            EVENT,
            &[&format!(r#"{{"topic_id":{topic},"body":"\ud83d\ude97"}}"#)],
        );
        assert_eq!(client.expect(EVENT).await["data"]["body"], "\u{1F697}");
    }
}

async fn sent_at_is_the_time_and_never_goes_back(world: World) {
    let (topic, mut client) = by_hand(&world, Eio::V4).await;
    let now = || i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let mut last = 0;
    for _ in 0..20 {
        let before = now();
        client.emit(EVENT, &json!({"topic_id": topic, "body": "tick"}));
        let sent_at = client.expect(EVENT).await["data"]["sent_at"]
            .as_i64()
            .unwrap();
        assert!(sent_at >= last && sent_at >= before - 5 && sent_at <= now() + 5);
        last = sent_at;
    }
}

async fn too_many_are_rate_limited(_: World) {
    let options = tests::server::Options {
        rate_limits: true,
        ..Default::default()
    };
    let server = tests::server::Server::start(options).await;
    let user = tests::account::sign_up(&server).await;
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, &server).await;
    client.sign_in(&user).await;
    let mut sent = 0;
    // 500 at once are no offence; without end they are one.
    for round in 0..20 {
        for _ in 0..500 {
            client.emit(EVENT, &json!({"topic_id": 1, "body": "flood"}));
        }
        for _ in 0..500 {
            let payload = client.expect(EVENT).await;
            if payload["event_type"] == "sent" {
                sent += 1;
                continue;
            }
            failed(&payload, "rate_limited", &Value::Null);
            assert!(sent >= 500, "only {sent} were let through");
            return;
        }
        assert!(
            round < 19,
            "{sent} messages as fast as can be were let through"
        );
    }
}
