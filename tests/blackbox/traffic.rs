//! People who send all the time while something breaks, and a ledger of all that
//! they were told, to hold against what is stored afterwards.

pub(crate) mod probe;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proto::message::v1::Visibility;
use proto::message::v1::entry::Kind as EntryKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tests::account::{self, User};
use tests::api::Api;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::patience;
use tests::server::Server;

const EVENT: &str = "message_events";
const SENDERS: usize = 6;
const TOPICS: usize = 3;
/// After so many rounds they talk in new topics: all of a topic is read after each round, and
/// of those that they left once more at the end.
const ROUNDS_IN_TOPICS: usize = 4;
/// Each rushes for so long at a time, and then says little: what a machine can do for half a
/// minute makes logs that take as long to read.
const RUSH: Duration = Duration::from_secs(2);
const CALM: Duration = Duration::from_secs(6);
/// Who has so many without an answer waits: a phone's person would, long before.
const UNANSWERED: usize = 100;
/// By then every message is answered, with `unavailable` if nothing else is known; it is
/// more than any time limit of the gateway.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest that a send may be refused when all parts serve again.
const RECOVERY: Duration = Duration::from_secs(15);

/// What is known of one message.
#[derive(Clone)]
struct Known {
    owner: usize,
    topic: i64,
    /// Its data, once the server has said `sent`.
    sent: Option<Value>,
    /// Whether only its first emit can have stored it, so that it has its place in the
    /// order of its sender.
    ordered: bool,
}

/// The people, their topics, and the ledger.
pub(crate) struct Traffic {
    random: StdRng,
    users: Vec<User>,
    /// Those they talk in.
    topics: Vec<i64>,
    left: Vec<i64>,
    ledger: HashMap<String, Known>,
    /// Stamps that were sent again until all was known of them.
    settled: HashSet<String>,
    rounds: usize,
}

impl Traffic {
    /// Takes its seed from `DRIVERS_TEST_SEED`, or makes one up; prints it.
    pub(crate) fn new() -> Self {
        let seed: u64 = std::env::var("DRIVERS_TEST_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("DRIVERS_TEST_SEED={seed}");
        Self {
            random: StdRng::seed_from_u64(seed),
            users: Vec::new(),
            topics: Vec::new(),
            left: Vec::new(),
            ledger: HashMap::new(),
            settled: HashSet::new(),
            rounds: 0,
        }
    }

    /// A random number of milliseconds.
    pub(crate) fn moment(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// One of as many.
    pub(crate) fn one_of(&mut self, count: u32) -> u32 {
        self.random.random_range(0..count)
    }

    /// The topics they talk in, in the round that begins.
    pub(crate) async fn topics(&mut self, server: &Server) -> Vec<i64> {
        self.settle(server).await;
        self.topics.clone()
    }

    /// How many messages were emitted.
    pub(crate) fn emitted(&self) -> usize {
        self.ledger.len()
    }

    /// How many of them were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        let sent = |known: &&Known| known.sent.is_some();
        self.ledger.values().filter(sent).count()
    }

    /// Lets the people talk until `fault` is done, and then until all is answered. Each
    /// hears every message of his topics, in order, once, as long as he is connected.
    pub(crate) async fn during<T>(&mut self, server: &Server, fault: impl Future<Output = T>) -> T {
        self.settle(server).await;
        let round = self.rounds;
        self.rounds += 1;
        let mut clients = Vec::new();
        for (owner, user) in self.users.iter().enumerate() {
            let transport = Transport::ALL[self.random.random_range(0..3)];
            let kind = Kind::Raw(Eio::BOTH[owner % 2]);
            let mut client = Client::connect(kind, transport, server).await;
            client.sign_in(user).await;
            clients.push(client);
        }
        let ledger = RefCell::new(std::mem::take(&mut self.ledger));
        let over = Cell::new(false);
        let mut people = Vec::new();
        for (owner, client) in clients.into_iter().enumerate() {
            let person = Person {
                owner,
                user_id: self.users[owner].id,
                topics: &self.topics,
                ledger: &ledger,
                over: &over,
                unanswered: HashSet::new(),
                heard: HashMap::new(),
            };
            let random = StdRng::seed_from_u64(self.random.random());
            people.push(person.talk(client, round, random));
        }
        let fault = async {
            let outcome = fault.await;
            over.set(true);
            outcome
        };
        let (_, outcome) = futures::future::join(futures::future::join_all(people), fault).await;
        self.ledger = ledger.into_inner();
        outcome
    }

    /// Makes the people, the first time, and their topics, whenever they need new ones.
    async fn settle(&mut self, server: &Server) {
        while self.users.len() < SENDERS {
            self.users
                .push(account::sign_up_patiently(server.at.public).await);
        }
        let topics_made = (self.left.len() + self.topics.len()) / TOPICS;
        if topics_made * ROUNDS_IN_TOPICS > self.rounds {
            return;
        }
        self.left.append(&mut self.topics);
        let members: Vec<i64> = self.users.iter().map(|user| user.id).collect();
        for _ in 0..TOPICS {
            let topic = Api::of(server).topic(Visibility::Private, &members).await;
            self.topics.push(topic);
        }
    }

    /// Of the topics they talk in: every acknowledged message is there once, as it was
    /// acknowledged, in a log without a hole, and each sender's in the order in which he emitted.
    pub(crate) async fn check(&self, server: &Server) {
        self.check_those(&self.topics, server).await;
    }

    /// The same of all topics that they ever talked in, once every message is known.
    pub(crate) async fn check_all(&mut self, server: &Server) {
        self.settle_all(server).await;
        let topics = [&self.left[..], &self.topics].concat();
        let stored = self.check_those(&topics, server).await;
        assert_eq!(stored, self.emitted());
    }

    /// How many messages are stored.
    async fn check_those(&self, topics: &[i64], server: &Server) -> usize {
        let mut found = HashSet::new();
        for topic in topics {
            let mut newest: HashMap<(String, String), u32> = HashMap::new();
            let mut last_id = 0;
            let history = Api::of(server).history(*topic).await;
            for (at, entry) in history.into_iter().enumerate() {
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
                let stamp = message.stamp_id;
                assert!(found.insert(stamp.clone()), "{stamp} is there twice");
                let known = &self.ledger[&stamp];
                assert_eq!(known.topic, *topic);
                assert_eq!(message.body, stamp);
                if known.ordered {
                    let [owner, round, number] = stamp.split('/').collect::<Vec<_>>()[..] else {
                        panic!("{stamp}");
                    };
                    let number = number.parse().unwrap();
                    let before = newest.insert((owner.to_owned(), round.to_owned()), number);
                    assert!(
                        before.is_none_or(|before| before < number),
                        "{stamp} is out of order"
                    );
                }
                if let Some(sent) = &known.sent {
                    assert_eq!(sent["id"], entry.id, "{stamp}");
                    assert_eq!(sent["seq"], entry.seq, "{stamp}");
                    assert_eq!(sent["sent_at"], entry.sent_at_ms, "{stamp}");
                }
            }
        }
        let there = self
            .ledger
            .iter()
            .filter(|(_, known)| topics.contains(&known.topic));
        for (stamp, known) in there {
            assert!(
                known.sent.is_none() || found.contains(stamp),
                "{stamp} was acknowledged and is lost"
            );
        }
        println!(
            "{} messages emitted, {} acknowledged, {} stored in {} topics",
            self.emitted(),
            self.acknowledged(),
            found.len(),
            topics.len()
        );
        found.len()
    }

    /// Sends every stamp again, and one in twenty of those that were settled before, until it
    /// is answered with `sent`: what was acknowledged has the same id and seq, what was not
    /// becomes known now.
    pub(crate) async fn settle_all(&mut self, server: &Server) {
        let (settled, random) = (&self.settled, &mut self.random);
        // In an order that the seed repeats.
        let mut stamps: Vec<&String> = self.ledger.keys().collect();
        stamps.sort();
        let due: HashSet<&String> = (stamps.into_iter())
            .filter(|stamp| !settled.contains(*stamp) || random.random_range(0..20) == 0)
            .collect();
        let everybody = self.users.iter().enumerate().map(|(owner, user)| {
            let mut own: Vec<_> = (self.ledger.iter())
                .filter(|(stamp, known)| known.owner == owner && due.contains(stamp))
                .map(|(stamp, known)| (stamp.clone(), known.topic))
                .collect();
            // As a phone would: in about the order in which it emitted them.
            own.sort_by_cached_key(|(stamp, _)| (stamp.len(), stamp.clone()));
            settle(server, user, Kind::Raw(Eio::BOTH[owner % 2]), own)
        });
        let answers = futures::future::join_all(everybody).await;
        for (stamp, data) in answers.into_iter().flatten() {
            let known = self.ledger.get_mut(&stamp).unwrap();
            known.ordered &= known.sent.is_some();
            let sent = known.sent.get_or_insert_with(|| data.clone());
            assert_eq!(*sent, data, "the retry of {stamp}");
            self.settled.insert(stamp);
        }
        assert_eq!(self.acknowledged(), self.emitted());
    }
}

/// Sends one person's stamps again until each is sent; what he is told of each.
async fn settle(
    server: &Server,
    user: &User,
    kind: Kind,
    own: Vec<(String, i64)>,
) -> Vec<(String, Value)> {
    let mut client = Client::connect(kind, Transport::Websocket, server).await;
    client.sign_in(user).await;
    let mut told = Vec::new();
    for some in own.chunks(100) {
        let mut open: HashMap<&str, i64> = HashMap::new();
        for (stamp, topic) in some {
            open.insert(stamp, *topic);
            emit(&client, *topic, stamp);
        }
        let deadline = Instant::now() + patience(RECOVERY);
        while !open.is_empty() {
            let payload = client.expect(EVENT).await;
            if payload["event_type"] == "fail" {
                // Which says to do just this.
                assert_eq!(payload["code"], "unavailable", "{payload}");
                assert!(
                    Instant::now() < deadline,
                    "{} of {} open: {payload}",
                    open.len(),
                    some.len()
                );
                let stamp = payload["stamp_id"].as_str().unwrap();
                emit(&client, open[stamp], stamp);
                continue;
            }
            let data = &payload["data"];
            let stamp = data["stamp_id"].as_str().unwrap();
            // What others settle is heard of, too.
            if data["owner"]["id"] == user.id && open.remove(stamp).is_some() {
                told.push((stamp.to_owned(), data.clone()));
            }
        }
    }
    told
}

fn emit(client: &Client, topic: i64, stamp: &str) {
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": stamp, "stamp_id": stamp}),
    );
}

/// One who talks.
struct Person<'a> {
    owner: usize,
    user_id: i64,
    topics: &'a [i64],
    ledger: &'a RefCell<HashMap<String, Known>>,
    over: &'a Cell<bool>,
    unanswered: HashSet<String>,
    /// The last seq that he heard of each topic.
    heard: HashMap<i64, i64>,
}

impl Person<'_> {
    /// Writes down each message before it goes out, and each answer.
    async fn talk(mut self, mut client: Client, round: usize, mut random: StdRng) {
        let began = Instant::now();
        let mut number = 0;
        while client.is_open() && !self.over.get() {
            for _ in 0..random.random_range(1..8) {
                if self.unanswered.len() >= UNANSWERED {
                    break;
                }
                let stamp = format!("{}/{round}/{number}", self.owner);
                number += 1;
                let topic = self.topics[random.random_range(0..self.topics.len())];
                let known = Known {
                    owner: self.owner,
                    topic,
                    sent: None,
                    ordered: true,
                };
                self.ledger.borrow_mut().insert(stamp.clone(), known);
                emit(&client, topic, &stamp);
                self.unanswered.insert(stamp);
            }
            let at = began.elapsed().as_secs_f64() % (RUSH + CALM).as_secs_f64();
            let pauses = if at < RUSH.as_secs_f64() {
                1..20
            } else {
                50..500
            };
            let pause = Duration::from_millis(random.random_range(pauses));
            while let Some(event) = client.next_within(pause).await {
                self.hear(&event.payload());
            }
        }
        let deadline = Instant::now() + patience(ANSWER);
        while client.is_open() && !self.unanswered.is_empty() {
            assert!(
                Instant::now() < deadline,
                "{} messages stay without an answer, {:?} among them",
                self.unanswered.len(),
                self.unanswered.iter().next()
            );
            if let Some(event) = client.next_within(Duration::from_millis(100)).await {
                self.hear(&event.payload());
            }
        }
    }

    fn hear(&mut self, payload: &Value) {
        if payload["event_type"] == "fail" {
            assert_eq!(payload["code"], "unavailable", "{payload}");
            let stamp = payload["stamp_id"].as_str().unwrap();
            let known = &self.ledger.borrow()[stamp];
            assert!(
                self.unanswered.remove(stamp),
                "{payload} was not asked for; told before: {:?}",
                known.sent
            );
            return;
        }
        let data = &payload["data"];
        let (topic, seq) = (data["topic_id"].as_i64().unwrap(), &data["seq"]);
        let seq = seq.as_i64().unwrap();
        if let Some(last) = self.heard.insert(topic, seq) {
            assert_eq!(seq, last + 1, "heard of topic {topic}");
        }
        if data["owner"]["id"] == self.user_id {
            let stamp = data["stamp_id"].as_str().unwrap();
            // What is told to be unknown may still turn out to be stored.
            self.unanswered.remove(stamp);
            let mut ledger = self.ledger.borrow_mut();
            let known = ledger.get_mut(stamp).unwrap();
            assert!(known.sent.is_none(), "{stamp} was answered twice");
            known.sent = Some(data.clone());
        }
    }
}
