//! Whatever bytes arrive, nobody else notices.

use futures::SinkExt;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::{Polling, Ws, http, payload},
    rig::{Rig, token},
};
use crate::{
    config::{Config, Rate, RateLimits},
    frame::Generation,
    socket::MAX_FRAME,
};

/// Packets of Engine.IO and Socket.IO that no client of good will sends.
fn packets() -> Vec<String> {
    let mut packets: Vec<String> = [
        "",
        "4",
        "0",
        "1x",
        "5",
        "6",
        "7",
        "9",
        "x",
        "b",
        "b4",
        "b4AAA",
        "é",
        "\u{0}",
        "4\u{0}",
        "47",
        "4é",
        "42",
        "42é",
        "421é",
        "42{}",
        "42[",
        "42[]",
        "42[1]",
        "42[null]",
        "42[[]]",
        "42[{}]",
        "42[\"\"]",
        "42[\"\\ud800\"]",
        "42[\"message_events\"",
        "42[\"message_events\",NaN]",
        "42[\"message_events\",{\"topic_id\":NaN}]",
        "42[\"message_events\",{\"topic_id\":1,\"body\":\"\\ud800\"}]",
        "42[\"message_events\",{\"topic_id\":1e309,\"body\":\"b\"}]",
        "42[\"message_events\",{\"topic_id\":-0,\"body\":\"b\"}]",
        "42[\"message_events\",{\"topic_id\":99999999999999999999,\"body\":\"b\"}]",
        "42[\"message_events\",{\"topic_id\":1,\"body\":\"b\",\"attrs\":\"\\udc00\"}]",
        "42[\"signin_request\",{\"token\":[[[]]]}]",
        "42[\"typing_event\",\"\"]",
        "42[\"constructor\",1]",
        "42[\"__proto__\",1]",
        "42[\"connect\"]",
        "42[\"disconnect\"]",
        "42[\"error\",1]",
        "42-1[\"message_events\",{}]",
        "4299999999999999999999[\"message_events\",{}]",
        "4200000000000000000000000001[\"message_events\",{}]",
        "429223372036854775807[\"message_events\",{}]",
        "43",
        "430",
        "430[]",
        "43[]",
        "431é",
        "44",
        "44/",
        "40/",
        "40/x",
        "40/x,",
        "40/,",
        "40{",
        "40[[[",
        "41/x",
        "42/x,[\"message_events\",{}]",
        "42/,[\"message_events\",{}]",
        "42/[\"a\"]",
        "45",
        "450-",
        "450-[\"message_events\",{}]",
        "451-",
        "45-1[\"a\"]",
        "45999999999999999999999-[\"a\"]",
        "4599999-[\"a\"]",
        "451-[\"message_events\",{\"_placeholder\":true,\"num\":0}]",
        "451-[\"message_events\",{\"_placeholder\":true,\"num\":-1}]",
        "46",
        "461-1[]",
        "46[]",
    ]
    .map(str::to_owned)
    .into();
    let deep = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    packets.extend([
        format!("42[\"{}\",1]", "n".repeat(200_000)),
        format!("42[\"message_events\",{}]", deep(100_000)),
        format!("42{}", deep(120_000)),
        format!(
            "42[\"message_events\",{{\"topic_id\":1,\"body\":\"b\",\"attrs\":{}}}]",
            deep(65)
        ),
        format!(
            "42[\"message_events\",{{\"topic_id\":1,\"body\":\"b\",\"attrs\":{}}}]",
            deep(200)
        ),
        format!(
            "42[\"message_events\",{{{}}}]",
            "\"a\":1,".repeat(30_000) + "\"b\":2"
        ),
        format!("42[{}1]", "1,".repeat(100_000)),
        format!("42[\"message_events\",{}]", "9".repeat(100_000)),
        format!("40/{}", "n".repeat(200_000)),
        format!("4{}", "2".repeat(200_000)),
    ]);
    packets
}

async fn assert_unharmed(bystander: &mut Ws, text: &str) {
    bystander
        .emit("message_events", json!({"topic_id": 1, "body": text}))
        .await;
    let sent = bystander.event("message_events").await;
    assert_eq!(sent["data"]["body"], text);
}

#[tokio::test]
async fn hostile_packets_on_a_websocket_reach_nobody_else() {
    let rig = Rig::new().await;
    let mut bystander = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        for (n, packet) in packets().iter().enumerate() {
            let mut signed_in = Ws::signed_in(&rig, generation, 2).await;
            let mut stranger = Ws::connect(&rig, generation).await;
            for ws in [&mut signed_in, &mut stranger] {
                let _ = ws.0.send(Message::text(packet.as_str())).await;
                let _ = ws.0.send(Message::binary(vec![4, 0, 255])).await;
                let _ = ws.0.close(None).await;
                for text in ws.rest().await {
                    assert!(!text.contains("\"sent\""), "{packet:.100} was taken");
                }
            }
            if n % 8 == 0 {
                assert_unharmed(&mut bystander, &n.to_string()).await;
            }
        }
    }
    assert_unharmed(&mut bystander, "to the end").await;
    rig.wait_for_sockets(1).await;
}

#[tokio::test]
async fn hostile_packets_on_polling_reach_nobody_else() {
    let rig = Rig::new().await;
    let mut bystander = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        for packet in packets() {
            let polling = Polling::signed_in(&rig, generation, 2).await;
            let body = polling.encode(&[&packet]);
            for body in [body.as_bytes(), packet.as_bytes(), b"\xff\xfe4"] {
                let answer = polling.post(body).await;
                assert!([200, 400, 413].contains(&answer.status), "{packet:.100}");
            }
            let target = polling.target();
            let kind = "application/octet-stream";
            http(
                rig.address,
                "POST",
                &target,
                kind,
                b"\x00\x01\xff4\x01\x02\xff\x04a",
            )
            .await;
            http(rig.address, "POST", &target, kind, packet.as_bytes()).await;
            polling.post(polling.encode(&["1"]).as_bytes()).await;
        }
        assert_unharmed(&mut bystander, "after polling").await;
    }
    rig.wait_for_sockets(1).await;
}

#[tokio::test]
async fn hostile_requests_are_refused() {
    let rig = Rig::new().await;
    let polling = Polling::signed_in(&rig, Generation::Eio4, 1).await;
    let sid = &polling.sid;
    for (method, query, code) in [
        ("GET", String::new(), 5),
        ("GET", "EIO=4".to_owned(), 0),
        ("GET", "EIO=5&transport=polling".to_owned(), 5),
        ("GET", "EIO=4&transport=carrier-pigeon".to_owned(), 0),
        ("GET", "EIO=4&transport=websocket".to_owned(), 3),
        ("POST", "EIO=4&transport=polling".to_owned(), 2),
        ("GET", "EIO=4&transport=polling&sid=".to_owned(), 1),
        ("GET", "EIO=4&transport=polling&sid=é".to_owned(), 1),
        (
            "GET",
            "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA".to_owned(),
            1,
        ),
        ("GET", format!("EIO=3&transport=polling&sid={sid}"), 3),
        ("DELETE", format!("EIO=4&transport=polling&sid={sid}"), 3),
        ("GET", format!("EIO=4&transport=websocket&sid={sid}"), 3),
    ] {
        let target = format!("/socket.io/?{query}");
        let answer = http(rig.address, method, &target, "", b"").await;
        if answer.status == 400 && !answer.body.is_empty() {
            assert_eq!(answer.json()["code"], code, "{query}");
        } else {
            assert_eq!(answer.status, 400, "{query}");
        }
    }
    polling
        .send(&["42[\"message_events\",{\"topic_id\":1,\"body\":\"b\"}]"])
        .await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        &[0; 100_000],
    ] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
    }
    assert_eq!(
        payload(&polling.packets().await[0], "message_events")["data"]["body"],
        "b"
    );
}

#[tokio::test]
async fn what_python_writes_for_no_number_is_answered() {
    let rig = Rig::new().await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for packet in [
        "42[\"message_events\",{\"topic_id\":NaN,\"body\":\"b\"}]",
        "451-[\"message_events\",{\"topic_id\":1,\"body\":{\"_placeholder\":true,\"num\":0}}]",
    ] {
        ws.send(packet).await;
        if packet.starts_with("45") {
            ws.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
        }
        assert_eq!(ws.event("message_events").await["code"], "invalid_message");
    }
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_its_socket_only() {
    let rig = Rig::new().await;
    let mut bystander = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    let large = "x".repeat(MAX_FRAME + 1);
    for generation in [Generation::Eio3, Generation::Eio4] {
        let mut ws = Ws::signed_in(&rig, generation, 2).await;
        let _ = ws.0.send(Message::text(large.as_str())).await;
        ws.rest().await;
        rig.wait_for_sockets(1).await;

        // Before the sign-in a whole body is as much as one frame.
        let polling = Polling::open(&rig, generation).await;
        assert_eq!(polling.post(large.as_bytes()).await.status, 413);
        rig.wait_for_sockets(1).await;

        // After it a body may have more, a packet may not.
        let polling = Polling::signed_in(&rig, generation, 2).await;
        let many = vec!["42[\"x\"]"; 40_000];
        let body = polling.encode(&many[..]);
        assert!(body.len() > MAX_FRAME);
        assert_eq!(polling.post(body.as_bytes()).await.status, 200);
        polling.send(&["1"]).await;
        rig.wait_for_sockets(1).await;
        let polling = Polling::signed_in(&rig, generation, 2).await;
        assert_eq!(polling.post(&vec![b'x'; (2 << 20) + 1]).await.status, 413);
        rig.wait_for_sockets(1).await;
        let polling = Polling::signed_in(&rig, generation, 2).await;
        polling
            .post(polling.encode(&[&format!("4{large}")]).as_bytes())
            .await;
        rig.wait_for_sockets(1).await;
    }
    assert_unharmed(&mut bystander, "fine").await;
}

/// Engine.IO's decoder needs close to a minute when it gets this body in one piece.
#[tokio::test]
async fn a_body_of_a_million_tiny_packets_takes_no_time() {
    let rig = Rig::new().await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        let polling = Polling::signed_in(&rig, generation, 1).await;
        let packet = polling.encode(&["2", "2"]);
        let body = packet.repeat((2 << 20) / (packet.len() + 1));
        let begun = std::time::Instant::now();
        polling.post(body.as_bytes()).await;
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    }
}

#[tokio::test]
async fn messages_beyond_the_limit_are_refused_one_by_one() {
    let rig = Rig::with(Config {
        rate_limits: RateLimits {
            message: Rate::new(3, 1),
            ..RateLimits::default()
        },
        ..Config::default()
    })
    .await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    for n in 0..5 {
        ws.emit(
            "message_events",
            json!({"topic_id": 1, "body": "b", "stamp_id": n.to_string()}),
        )
        .await;
        let answer = ws.event("message_events").await;
        if n < 3 {
            assert_eq!(answer["event_type"], "sent");
        } else {
            assert_eq!(
                (&answer["code"], &answer["stamp_id"]),
                (&json!("rate_limited"), &json!(n.to_string()))
            );
        }
    }
    ws.emit("signin_request", json!({"token": token(1)})).await;
    assert_eq!(ws.event("signin_response").await["status"], "ok");
}
