//! Events of both generations over each transport.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::{Polling, Ws, payload, version},
    rig::{Rig, eventually, token},
};
use crate::frame::{Frame, Generation};

const BOTH: [Generation; 2] = [Generation::Eio3, Generation::Eio4];

fn message(body: &str) -> Value {
    json!({"topic_id": 1, "body": body})
}

#[tokio::test]
async fn a_message_goes_to_everybody_on_every_transport_of_both_generations() {
    let rig = Rig::new().await;
    let mut ws = Vec::new();
    let mut polling = Vec::new();
    for generation in BOTH {
        ws.push(Ws::signed_in(&rig, generation, 1).await);
        polling.push(Polling::signed_in(&rig, generation, 2).await);
    }
    ws[0].emit("message_events", message("Салом 😀")).await;
    for ws in &mut ws {
        let sent = ws.event("message_events").await;
        assert_eq!(sent["data"]["body"], "Салом 😀");
        assert_eq!(sent["data"]["owner"]["username"], "Имя 1");
    }
    for polling in &mut polling {
        let sent = payload(&polling.text().await, "message_events");
        assert_eq!(sent["data"]["body"], "Салом 😀");
    }
    let request = json!(["message_events", message("Жавоб")]);
    polling[1].send(&[&format!("42{request}")]).await;
    assert_eq!(ws[1].event("message_events").await["data"]["body"], "Жавоб");
}

#[tokio::test]
async fn what_goes_to_engine_io_3_is_ascii() {
    let rig = Rig::new().await;
    let mut old = Ws::signed_in(&rig, Generation::Eio3, 1).await;
    let polling = Polling::signed_in(&rig, Generation::Eio3, 2).await;
    old.emit("message_events", message("Салом 😀")).await;
    assert!(old.text().await.is_ascii());
    assert!(polling.poll().await.body.is_ascii());
    old.send("40/комната,").await;
    assert!(old.text().await.is_ascii());
}

#[tokio::test]
async fn attrs_come_back_digit_by_digit() {
    let rig = Rig::new().await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let attrs = r#"{"n":[1.10,1E5,123456789012345678901234567890,-0.0],"n":1}"#;
    ws.send(&format!(
        r#"42["message_events",{{"topic_id":1,"body":"b","attrs": {attrs} }}]"#
    ))
    .await;
    assert!(ws.text().await.contains(attrs));
}

#[tokio::test]
async fn an_acknowledgement_has_the_payload_of_the_event() {
    let rig = Rig::new().await;
    for generation in BOTH {
        let mut ws = Ws::signed_in(&rig, generation, 1).await;
        ws.send(r#"427["message_events",{"topic_id":1,"body":"b"}]"#)
            .await;
        let sent = ws.text().await;
        let sent = sent.strip_prefix(r#"42["message_events","#).unwrap();
        assert_eq!(ws.text().await, format!("437[{sent}"));
        ws.send(r#"428["message_events",{"stamp_id":"S"}]"#).await;
        let failure = ws.event("message_events").await;
        assert_eq!(failure["code"], "invalid_message");
        assert_eq!(failure["stamp_id"], "S");
        let ack = ws.text().await;
        let ack: Value = serde_json::from_str(ack.strip_prefix("438").unwrap()).unwrap();
        assert_eq!(ack, json!([failure]));
    }
}

#[tokio::test]
async fn typing_is_told_to_the_others_and_a_failure_to_the_sender() {
    let rig = Rig::new().await;
    let mut sender = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let mut other = Ws::signed_in(&rig, Generation::Eio3, 1).await;
    sender
        .emit("typing_event", json!({"user_id": 1, "topic_id": 12}))
        .await;
    assert_eq!(
        other.event("typing_event").await,
        json!({"user_id": 1, "topic_id": 12})
    );
    for (request, code) in [
        (json!({"user_id": 1, "topic_id": 404}), "topic_not_found"),
        (json!({"user_id": 2, "topic_id": 12}), "invalid_message"),
        (json!({"topic_id": 12}), "invalid_message"),
    ] {
        sender.emit("typing_event", request).await;
        let failure = sender.event("typing_event").await;
        assert_eq!(
            (&failure["staus"], &failure["status"]),
            (&json!("fail"), &json!("fail"))
        );
        assert_eq!(failure["data"]["code"], code);
    }
}

#[tokio::test]
async fn two_thousand_emits_at_once_are_answered_in_their_order() {
    let rig = Rig::new().await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for n in 0..2_000 {
        let event = json!(["message_events", message(&n.to_string())]);
        ws.0.feed(Message::text(format!("42{event}")))
            .await
            .unwrap();
    }
    ws.0.flush().await.unwrap();
    for n in 0..2_000 {
        assert_eq!(
            ws.event("message_events").await["data"]["body"],
            n.to_string()
        );
    }
}

#[tokio::test]
async fn five_hundred_emits_in_one_polling_body_are_answered_in_their_order() {
    let rig = Rig::new().await;
    for generation in BOTH {
        let mut polling = Polling::signed_in(&rig, generation, 1).await;
        let events: Vec<_> = (0..500)
            .map(|n| format!("42{}", json!(["message_events", message(&n.to_string())])))
            .collect();
        let events: Vec<_> = events.iter().map(String::as_str).collect();
        polling.send(&events).await;
        for n in 0..500 {
            let sent = payload(&polling.text().await, "message_events");
            assert_eq!(sent["data"]["body"], n.to_string());
        }
    }
}

#[tokio::test]
async fn events_right_behind_connect_are_taken() {
    let rig = Rig::new().await;
    let mut ws = Ws::open(rig.address, "EIO=4").await;
    let sign_in = json!(["signin_request", {"token": token(1)}]);
    let hello = json!(["message_events", message("hello")]);
    for packet in [
        "40".to_owned(),
        format!("42{sign_in}"),
        format!("42{hello}"),
    ] {
        ws.send(&packet).await;
    }
    assert!(ws.text().await.starts_with("0{"));
    assert!(ws.text().await.starts_with("40"));
    assert_eq!(ws.event("signin_response").await["status"], "ok");
    assert_eq!(ws.event("message_events").await["data"]["body"], "hello");
}

/// Python's engineio refuses more than 16 packets in one payload.
#[tokio::test]
async fn a_poll_never_brings_more_than_sixteen_packets() {
    let rig = Rig::new().await;
    for generation in BOTH {
        let polling = Polling::signed_in(&rig, generation, 1).await;
        for n in 0..500 {
            rig.echo.broadcast(&Frame::event("message_events", &n));
        }
        let mut seen = 0;
        while seen < 500 {
            let packets = polling.packets().await;
            assert!(packets.len() <= 16, "{} packets", packets.len());
            for packet in packets.iter().filter(|packet| *packet != "2") {
                assert_eq!(payload(packet, "message_events"), seen);
                seen += 1;
            }
        }
        assert!(seen == 500);
        polling.send(&["1"]).await;
        rig.wait_for_sockets(0).await;
    }
}

#[tokio::test]
async fn an_upgrade_loses_nothing() {
    let rig = Rig::new().await;
    for generation in BOTH {
        let mut polling = Polling::signed_in(&rig, generation, 1).await;
        for n in 0..100 {
            rig.echo.broadcast(&Frame::event("message_events", &n));
        }
        assert_eq!(payload(&polling.text().await, "message_events"), 0);
        let got: Vec<_> = polling.got.drain(..).collect();
        let query = format!("EIO={}&sid={}", version(generation), polling.sid);
        let mut ws = Ws::open(rig.address, &query).await;
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        ws.send("5").await;
        for n in 100..200 {
            rig.echo.broadcast(&Frame::event("message_events", &n));
        }
        let mut next = 1;
        for packet in got {
            assert_eq!(payload(&packet, "message_events"), next);
            next += 1;
        }
        while next < 200 {
            assert_eq!(ws.event("message_events").await, next);
            next += 1;
        }
        ws.emit("message_events", message("over the websocket"))
            .await;
        assert_eq!(
            ws.event("message_events").await["data"]["body"],
            "over the websocket"
        );
        // The end reaches the connection that came with the upgrade.
        ws.emit("signin_request", json!({"token": "x"})).await;
        assert_eq!(ws.event("signin_response").await["code"], "invalid_token");
        rig.echo.listeners.lock().unwrap()[0]
            .outbox
            .end(crate::outbox::EndReason::Revoked);
        assert_eq!(ws.rest().await.first().unwrap(), "41");
        rig.wait_for_sockets(0).await;
    }
}

#[tokio::test]
async fn a_second_websocket_takes_nothing_from_the_first() {
    let rig = Rig::new().await;
    let polling = Polling::signed_in(&rig, Generation::Eio4, 1).await;
    let query = format!("EIO=4&sid={}", polling.sid);
    let mut ws = Ws::open(rig.address, &query).await;
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let url = format!(
        "ws://{}/socket.io/?transport=websocket&{query}",
        rig.address
    );
    let second = tokio_tungstenite::client_async(url, stream).await;
    assert!(second.is_err(), "400 expected");
    ws.emit("message_events", message("still here")).await;
    assert_eq!(
        ws.event("message_events").await["data"]["body"],
        "still here"
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_is_gone_at_once() {
    let rig = Rig::new().await;
    let ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let polling = Polling::signed_in(&rig, Generation::Eio4, 2).await;
    drop(ws);
    rig.wait_for_sockets(1).await;
    // A poll that is given up takes its answer along.
    let poll = tokio::time::timeout(std::time::Duration::from_millis(200), polling.poll()).await;
    assert!(poll.is_err());
    rig.wait_for_sockets(0).await;
    eventually("both to leave", || {
        rig.echo.left.load(std::sync::atomic::Ordering::SeqCst) == 2
    })
    .await;
}

/// The body as socket.io-client 1.7.4 posted it: UTF-8 of UTF-8.
#[tokio::test]
async fn what_a_1_x_client_wrote_on_polling_is_read_by_the_others() {
    let rig = Rig::new().await;
    let mut reader = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let old = Polling::signed_in(&rig, Generation::Eio3, 2).await;
    let body = hex::decode(
        "36333a34325b226d6573736167655f6576656e7473222c7b22746f7069635f6964223a312c22626f647922\
         3a22c390c2a1c390c2b0c390c2bbc390c2bec390c2bc20c383c2a920c3b0c29fc298c280227d5d",
    )
    .unwrap();
    assert_eq!(old.post(&body).await.status, 200);
    let sent = reader.event("message_events").await;
    assert_eq!(sent["data"]["body"], "Салом é 😀");
    // 2.x encodes once, and nothing of it is undone.
    let newer = Polling::signed_in(&rig, Generation::Eio3, 3).await;
    for body in ["Салом é 😀", "Ã©"] {
        let request = json!(["message_events", message(body)]);
        newer.send(&[&format!("42{request}")]).await;
        let sent = reader.event("message_events").await;
        assert_eq!(sent["data"]["body"], body);
    }
}
