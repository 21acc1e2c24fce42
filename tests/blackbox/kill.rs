//! kill -9 at random moments under traffic.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proto::message::v1::entry::Kind as EntryKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tests::account::{self, User};
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Folder, Options, Server};
use tests::trial::World;

cases! {
    Once:
        two_rounds_lose_double_and_reorder_nothing,
        long_ten_rounds_lose_double_and_reorder_nothing,
        thorough_thirty_rounds_lose_double_and_reorder_nothing;
}

const EVENT: &str = "message_events";
const SENDERS: usize = 6;
const TOPICS: [i64; 3] = [1, 2, 3];

/// What a sender knows of one message.
#[derive(Clone)]
struct Known {
    owner: usize,
    topic: i64,
    /// Its data, once the server has said `sent`.
    sent: Option<Value>,
    /// Whether it was emitted but once.
    ordered: bool,
}

/// Emits without a pause until the connection ends; writes down each message
/// before it goes out and each answer.
async fn traffic(
    mut client: Client,
    owner: usize,
    user_id: i64,
    round: usize,
    seed: u64,
    ledger: &std::cell::RefCell<HashMap<String, Known>>,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = 0;
    while client.is_open() {
        for _ in 0..random.random_range(1..8) {
            let stamp = format!("{owner}/{round}/{number}");
            number += 1;
            let topic = TOPICS[random.random_range(0..TOPICS.len())];
            ledger.borrow_mut().insert(
                stamp.clone(),
                Known {
                    owner,
                    topic,
                    sent: None,
                    ordered: true,
                },
            );
            client.emit(
                EVENT,
                &json!({"topic_id": topic, "body": stamp, "stamp_id": stamp}),
            );
        }
        let pause = Duration::from_millis(random.random_range(1..20));
        while let Some(event) = client.next_within(pause).await {
            let payload = event.payload();
            let data = &payload["data"];
            if payload["event_type"] == "sent" && data["owner"]["id"] == user_id {
                let stamp = data["stamp_id"].as_str().unwrap();
                let mut ledger = ledger.borrow_mut();
                let known = ledger.get_mut(stamp).unwrap();
                assert!(known.sent.is_none(), "{stamp} was answered twice");
                known.sent = Some(data.clone());
            }
        }
    }
}

/// Every acknowledged message is there once, as it was acknowledged, in a log
/// without a hole, and each sender's in the order in which he emitted.
async fn check(server: &Server, ledger: &HashMap<String, Known>) -> usize {
    let mut found = HashSet::new();
    for topic in TOPICS {
        let mut newest: HashMap<(String, String), u32> = HashMap::new();
        let mut last_id = 0;
        for (at, entry) in Api::of(server).history(topic).await.into_iter().enumerate() {
            assert_eq!(
                entry.seq,
                i64::try_from(at).unwrap() + 1,
                "a hole in topic {topic}"
            );
            assert!(entry.id > last_id, "ids do not ascend in topic {topic}");
            last_id = entry.id;
            let Some(EntryKind::Message(message)) = entry.kind else {
                panic!("an entry without a message");
            };
            assert!(
                found.insert(message.stamp_id.clone()),
                "{} is there twice",
                message.stamp_id
            );
            let known = &ledger[&message.stamp_id];
            assert_eq!(known.topic, topic);
            assert_eq!(message.body, message.stamp_id);
            // A message that only its retry brought in has no place in that order.
            if known.ordered {
                let [owner, round, number] = message.stamp_id.split('/').collect::<Vec<_>>()[..]
                else {
                    panic!("{}", message.stamp_id);
                };
                let number = number.parse().unwrap();
                let before = newest.insert((owner.to_owned(), round.to_owned()), number);
                assert!(
                    before.is_none_or(|before| before < number),
                    "{} is out of order",
                    message.stamp_id
                );
            }
            if let Some(sent) = &known.sent {
                assert_eq!(sent["id"], entry.id, "{}", message.stamp_id);
                assert_eq!(sent["seq"], entry.seq, "{}", message.stamp_id);
                assert_eq!(sent["sent_at"], entry.sent_at_ms, "{}", message.stamp_id);
            }
        }
    }
    let mut acknowledged = 0;
    for (stamp, known) in ledger {
        if known.sent.is_some() {
            acknowledged += 1;
            assert!(
                found.contains(stamp),
                "{stamp} was acknowledged and is lost"
            );
        }
    }
    acknowledged
}

/// Sends every stamp again: what was acknowledged answers with the same id, the rest becomes known now.
async fn retry_all(server: &Server, users: &[User], ledger: &mut HashMap<String, Known>) {
    for (owner, user) in users.iter().enumerate() {
        let mut client = Client::connect(
            Kind::Raw(Eio::BOTH[owner % 2]),
            Transport::Websocket,
            server,
        )
        .await;
        client.sign_in(user).await;
        let own: Vec<(String, i64)> = ledger
            .iter()
            .filter(|(_, known)| known.owner == owner)
            .map(|(s, known)| (s.clone(), known.topic))
            .collect();
        for some in own.chunks(100) {
            let mut open: HashSet<&str> = some.iter().map(|(stamp, _)| stamp.as_str()).collect();
            for (stamp, topic) in some {
                client.emit(
                    EVENT,
                    &json!({"topic_id": topic, "body": stamp, "stamp_id": stamp}),
                );
            }
            while !open.is_empty() {
                let payload = client.expect(EVENT).await;
                assert_eq!(payload["event_type"], "sent", "{payload}");
                let data = &payload["data"];
                let stamp = data["stamp_id"].as_str().unwrap();
                open.remove(stamp);
                let known = ledger.get_mut(stamp).unwrap();
                known.ordered &= known.sent.is_some();
                let sent = known.sent.get_or_insert_with(|| data.clone());
                assert_eq!(sent, data, "the retry of {stamp}");
            }
        }
    }
}

async fn rounds(count: usize) {
    let seed: u64 = std::env::var("DRIVERS_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("DRIVERS_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options {
        seed_file: Some(seed_file()),
        ..Options::default()
    };
    let folder = Folder::new();
    let mut users: Vec<User> = Vec::new();
    let mut ledger: HashMap<String, Known> = HashMap::new();
    for round in 0..count {
        let server = Server::start_on(&folder, options.clone()).await;
        while users.len() < SENDERS {
            users.push(account::sign_up(&server).await);
        }
        check(&server, &ledger).await;
        let shared = std::cell::RefCell::new(std::mem::take(&mut ledger));
        let mut clients = Vec::new();
        for (owner, user) in users.iter().enumerate() {
            let transport = Transport::ALL[random.random_range(0..3)];
            let mut client =
                Client::connect(Kind::Raw(Eio::BOTH[owner % 2]), transport, &server).await;
            client.sign_in(user).await;
            clients.push(client);
        }
        let senders = clients.into_iter().enumerate().map(|(owner, client)| {
            traffic(
                client,
                owner,
                users[owner].id,
                round,
                random.random(),
                &shared,
            )
        });
        let senders: Vec<_> = senders.collect();
        let moment = Duration::from_millis(random.random_range(50..1_500));
        let kill = async {
            tokio::time::sleep(moment).await;
            server.kill();
        };
        futures::future::join(futures::future::join_all(senders), kill).await;
        ledger = shared.into_inner();
        println!(
            "round {round}: killed after {moment:?}, {} messages emitted so far",
            ledger.len()
        );
    }
    let server = Server::start_on(&folder, options).await;
    let acknowledged = check(&server, &ledger).await;
    assert!(
        acknowledged > count * 10,
        "only {acknowledged} messages were acknowledged"
    );
    println!(
        "{} messages emitted, {acknowledged} acknowledged",
        ledger.len()
    );
    retry_all(&server, &users, &mut ledger).await;
    assert_eq!(check(&server, &ledger).await, ledger.len());
}

fn seed_file() -> String {
    let topics: String = TOPICS
        .iter()
        .map(|id| format!("[[rooms.topics]]\nid = {id}\ntitle = \"T{id}\"\nvisibility = \"open\"\ndefault = true\n"))
        .collect();
    format!("[[rooms]]\nid = 1\ntitle = \"Room\"\n{topics}")
}

async fn two_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(2).await;
}

async fn long_ten_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(10).await;
}

async fn thorough_thirty_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(30).await;
}
