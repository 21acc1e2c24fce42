//! Promise 3: A topic has one order, the same for every listener, without a hole.

use std::collections::HashSet;

use proto::message::v1::{OutgoingMessage, SendMessageRequest, Visibility};
use serde_json::json;
use tests::account::{self, User};
use tests::api::{Api, acting_for};
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Options, Server, key};
use tests::trial::World;

cases! {
    Once:
        eight_senders_and_ten_listeners_have_one_order,
        a_crowd_has_one_order,
        with_a_misbehaving_bus,
        with_grpc_over_sockets,
        with_grpc_over_sockets_and_a_misbehaving_bus,
        official_clients_have_one_order,
        official_clients_with_a_misbehaving_bus,
        official_clients_with_grpc_over_sockets;
}

const EVENT: &str = "message_events";
const SENDERS: usize = 8;
const LISTENERS: usize = 10;
const EACH: usize = 60;
/// The phones' and those of one internal service, which come over the bus alone.
const TOTAL: usize = (SENDERS + 1) * EACH;
/// Messages a sender has under way at a time.
const WINDOW: usize = 10;

type Mix = Vec<(Kind, Transport)>;

/// Clients of both generations on all transports.
fn by_hand() -> Mix {
    Eio::BOTH
        .into_iter()
        .flat_map(|eio| Transport::ALL.map(|transport| (Kind::Raw(eio), transport)))
        .collect()
}

fn official() -> Mix {
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::Raw(_)));
    kinds
        .flat_map(|kind| Transport::ALL.map(|transport| (kind, transport)))
        .collect()
}

/// What somebody heard: (seq, id, body), in the order in which it came.
type Heard = Vec<(i64, i64, String)>;

async fn hear(client: &mut Client) -> Result<(i64, i64, String), String> {
    let payload = client.expect(EVENT).await;
    let data = &payload["data"];
    if payload["event_type"] != "sent" {
        // The contract says what to do then: send again with the same stamp.
        assert_eq!(payload["code"], "unavailable", "{payload}");
        return Err(payload["stamp_id"].as_str().unwrap().to_owned());
    }
    Ok((
        data["seq"].as_i64().unwrap(),
        data["id"].as_i64().unwrap(),
        data["body"].as_str().unwrap().to_owned(),
    ))
}

async fn listen(mut client: Client) -> Heard {
    let mut heard = Vec::new();
    while heard.len() < TOTAL {
        heard.push(hear(&mut client).await.unwrap());
    }
    client.expect_nothing_more();
    heard
}

/// What a sender heard, and which of his messages were refused and sent again.
async fn send(mut client: Client, topic: i64, name: usize) -> (Heard, HashSet<String>) {
    let emit = |client: &Client, body: &str| {
        client.emit(
            EVENT,
            &json!({"topic_id": topic, "body": body, "stamp_id": body}),
        );
    };
    let mut heard: Heard = Vec::new();
    let mut retried = HashSet::new();
    let (mut next, mut done) = (0, 0);
    while heard.len() < TOTAL {
        while next < EACH && next - done < WINDOW {
            emit(&client, &format!("{name}/{next}"));
            next += 1;
        }
        match hear(&mut client).await {
            Err(stamp) => {
                emit(&client, &stamp);
                retried.insert(stamp);
            }
            Ok(message) => {
                let own = message.2.split('/').next() == Some(&name.to_string());
                if own && retried.contains(&message.2) && heard.contains(&message) {
                    continue; // the answer to a retry
                }
                done += usize::from(own);
                heard.push(message);
            }
        }
    }
    (heard, retried)
}

async fn send_as_a_service(api: Api, topic: i64, user: User) {
    for n in 0..EACH {
        let message = OutgoingMessage {
            body: format!("{SENDERS}/{n}"),
            ..Default::default()
        };
        let request = SendMessageRequest {
            topic_id: topic,
            message: Some(message),
        };
        let request = acting_for(user.id, &user.username, request);
        api.messages.clone().send_message(request).await.unwrap();
    }
}

async fn one_order(mix: Mix, options: Options) {
    one_order_among(LISTENERS, mix, options).await;
}

async fn one_order_among(listeners: usize, mix: Mix, options: Options) {
    let server = Server::start(options).await;
    let api = Api::of(&server);
    let mut users: Vec<User> = Vec::new();
    for _ in 0..SENDERS + listeners + 1 {
        users.push(account::sign_up(&server).await);
    }
    let members: Vec<i64> = users.iter().map(|user| user.id).collect();
    let topic = api.topic(Visibility::Private, &members).await;
    let service = users.pop().unwrap();
    let mut clients = Vec::new();
    for (user, (kind, transport)) in users.iter().zip(mix.into_iter().cycle()) {
        let mut client = Client::connect(kind, transport, &server).await;
        client.sign_in(user).await;
        clients.push(client);
    }
    let listeners = clients.split_off(SENDERS);
    let senders = clients
        .into_iter()
        .enumerate()
        .map(|(name, client)| send(client, topic, name));
    let (sent, (), listened) = futures::future::join3(
        futures::future::join_all(senders),
        send_as_a_service(api.clone(), topic, service),
        futures::future::join_all(listeners.into_iter().map(listen)),
    )
    .await;
    let history: Heard = api
        .history(topic)
        .await
        .into_iter()
        .map(|entry| match entry.kind {
            Some(proto::message::v1::entry::Kind::Message(message)) => {
                (entry.seq, entry.id, message.body)
            }
            None => panic!("{entry:?}"),
        })
        .collect();
    let seqs: Vec<i64> = history.iter().map(|message| message.0).collect();
    assert_eq!(
        seqs,
        (1..=i64::try_from(TOTAL).unwrap()).collect::<Vec<_>>()
    );
    assert!(
        history.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "ids do not ascend"
    );
    for heard in sent.iter().map(|(heard, _)| heard).chain(&listened) {
        assert_eq!(heard, &history);
    }
    let none = HashSet::new();
    let retried = sent.iter().map(|(_, retried)| retried).chain([&none]);
    for (name, retried) in retried.enumerate() {
        // What was sent again has its place from then.
        assert!(retried.len() < EACH / 2, "{retried:?}");
        let at_once = |body: &String| !retried.contains(body);
        let emitted = (0..EACH).map(|n| format!("{name}/{n}"));
        let stored = history.iter().map(|message| message.2.clone());
        let prefix = format!("{name}/");
        assert_eq!(
            stored
                .filter(|body| body.starts_with(&prefix))
                .filter(at_once)
                .collect::<Vec<_>>(),
            emitted.filter(at_once).collect::<Vec<_>>(),
            "the messages of sender {name}"
        );
    }
}

fn misbehaving() -> Options {
    let seed = rand::random_range(1..1_000_000);
    println!("seed of the bus: {seed}");
    Options::default().with(key::BUS, key::misbehaving_bus(seed))
}

fn over_sockets(options: Options) -> Options {
    options.with(key::INTERNAL_GRPC, "\"sockets\"")
}

async fn eight_senders_and_ten_listeners_have_one_order(_: World) {
    one_order(by_hand(), Options::default()).await;
}

async fn a_crowd_has_one_order(_: World) {
    one_order_among(100, by_hand(), Options::default()).await;
}

async fn with_a_misbehaving_bus(_: World) {
    one_order(by_hand(), misbehaving()).await;
}

async fn with_grpc_over_sockets(_: World) {
    one_order(by_hand(), over_sockets(Options::default())).await;
}

async fn with_grpc_over_sockets_and_a_misbehaving_bus(_: World) {
    one_order(by_hand(), over_sockets(misbehaving())).await;
}

async fn official_clients_have_one_order(_: World) {
    one_order(official(), Options::default()).await;
}

async fn official_clients_with_a_misbehaving_bus(_: World) {
    one_order(official(), misbehaving()).await;
}

async fn official_clients_with_grpc_over_sockets(_: World) {
    one_order(official(), over_sockets(Options::default())).await;
}
