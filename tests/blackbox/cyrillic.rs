//! Text between generations: Socket.IO 1.x encodes UTF-8 twice on polling.

use serde_json::json;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::{Eio, Polling};
use tests::trial::World;

cases! {
    Once:
        what_was_encoded_twice_is_undone,
        nothing_is_undone_after_a_character_from_u_0100_up,
        what_goes_to_engine_io_3_is_ascii,
        official_what_1x_wrote_on_polling_is_read_by_4x_and_back;
}

const EVENT: &str = "message_events";
const TEXTS: [&str; 4] = [
    "Привет! Ўзбекистон ҳайдовчилари",
    "Qo‘qon — Marg‘ilon, yo‘l ochiq",
    "naïve café",
    "\u{1F697} Ж \u{10FFFF}",
];

/// As 1.x does it: the bytes of a packet, each taken for a character.
fn twice(packet: &str) -> String {
    packet.bytes().map(char::from).collect()
}

async fn signed_in(world: &World, user: &tests::account::User) -> Polling {
    let session = Polling::connect(world.server().at.public, Eio::V3)
        .await
        .unwrap();
    let request = json!(["signin_request", {"token": user.token}]);
    assert_eq!(
        session.post(&format!("42{request}")).await.unwrap().status,
        200
    );
    // Only then does it listen.
    let mut packets = session.first.clone();
    while !packets
        .iter()
        .any(|packet| packet.contains("signin_response"))
    {
        packets = session.packets().await.unwrap();
    }
    session
}

async fn what_was_encoded_twice_is_undone(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut other = world.other(&two).await;
    let session = signed_in(&world, &one).await;
    for text in TEXTS {
        let packet = json!([EVENT, {"topic_id": topic, "body": text, "attrs": {text: [text]}}]);
        let answer = session.post(&twice(&format!("42{packet}"))).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let payload = other.expect(EVENT).await;
        assert_eq!(payload["data"]["body"], text);
        assert_eq!(payload["data"]["attrs"], json!({text: [text]}));
    }
}

async fn nothing_is_undone_after_a_character_from_u_0100_up(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut other = world.other(&two).await;
    let session = signed_in(&world, &one).await;
    // A client that encodes once shows it by such a character; from then on
    // what only looks like UTF-8 is what the person wrote.
    for text in ["Ж", "Ã© stays as it is", "Ð\u{96}"] {
        let packet = json!([EVENT, {"topic_id": topic, "body": text}]);
        assert_eq!(
            session.post(&format!("42{packet}")).await.unwrap().status,
            200
        );
        assert_eq!(other.expect(EVENT).await["data"]["body"], text);
    }
}

async fn what_goes_to_engine_io_3_is_ascii(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let other = world.other(&two).await;
    let session = signed_in(&world, &one).await;
    let text = TEXTS.join(" ");
    other.emit(
        EVENT,
        &json!({"topic_id": topic, "body": text, "attrs": {&text: text}}),
    );
    loop {
        let answer = session.poll().await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.is_ascii(), "{}", answer.text());
        let packets = Eio::V3.decode(&answer.text()).unwrap();
        if let Some(packet) = packets.iter().find(|packet| packet.contains(EVENT)) {
            let event: serde_json::Value = serde_json::from_str(&packet[2..]).unwrap();
            assert_eq!(event[1]["data"]["body"], text);
            return;
        }
    }
}

async fn official_what_1x_wrote_on_polling_is_read_by_4x_and_back(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    for (old, new) in [
        (Transport::Polling, Transport::Websocket),
        (Transport::Polling, Transport::Polling),
        (Transport::Upgrade, Transport::Upgrade),
    ] {
        let mut first = Client::connect(Kind::Js(1), old, world.server()).await;
        first.sign_in(&one).await;
        let mut fourth = Client::connect(Kind::Js(4), new, world.server()).await;
        fourth.sign_in(&two).await;
        let mut second = Client::connect(Kind::Js(2), old, world.server()).await;
        second.sign_in(&two).await;
        for text in TEXTS {
            for writer in 0..3 {
                let clients = [&mut first, &mut second, &mut fourth];
                clients[writer].emit(
                    EVENT,
                    &json!({"topic_id": topic, "body": text, "attrs": {text: text}}),
                );
                for reader in clients {
                    let payload = reader.expect(EVENT).await;
                    assert_eq!(
                        payload["data"]["body"], text,
                        "{} reads what {writer} wrote",
                        reader.label
                    );
                    assert_eq!(
                        payload["data"]["attrs"],
                        json!({text: text}),
                        "{}",
                        reader.label
                    );
                }
            }
        }
    }
}
