//! One device of somebody: it connects, talks, retries, listens, and connects again; and
//! writes down all that it emits and sees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::history::{Connection, End, Event, Message, Moment, What, now};
use tokio::time::sleep;

use crate::cast::{Cast, Outgoing, Person, Phase};

const EVENT: &str = "message_events";
const TYPING: &str = "typing_event";
/// A little more than the checker allows for an answer.
const ANSWER: Moment = 22_000;
/// Of what has no answer by then a part is sent by another device, too.
const DOUBT: Moment = 2_500;
const DOUBTED: f64 = 0.3;
/// What is not known to be sent is sent again after so long, milliseconds.
const AGAIN: std::ops::Range<Moment> = 300..2_500;
/// Who waits for so many answers says nothing.
const UNANSWERED: usize = 100;

/// A device, and what it does.
pub(crate) struct Phone {
    cast: Arc<Cast>,
    person: Arc<Person>,
    random: StdRng,
    /// How long it stays connected, milliseconds.
    stays: std::ops::Range<u64>,
    /// How often it says something, milliseconds between.
    says: Option<std::ops::Range<u64>>,
}

impl Phone {
    pub(crate) fn new(
        cast: &Arc<Cast>,
        person: &Arc<Person>,
        number: usize,
        says: std::ops::Range<u64>,
        seed: u64,
    ) -> Self {
        // Each second one stays for long, and shows whether anybody is cut off.
        let stays = if number.is_multiple_of(2) {
            4_000..20_000
        } else {
            60_000..600_000
        };
        Self {
            cast: Arc::clone(cast),
            person: Arc::clone(person),
            random: StdRng::seed_from_u64(seed),
            stays,
            says: person.role.talks().then_some(says),
        }
    }

    /// Works until the trial is over.
    pub(crate) async fn run(mut self) {
        let mut gateway = self.random.random_range(0..self.cast.doors.len());
        while self.cast.phase() < Phase::Over {
            let live = self.connect(gateway).await;
            if !live {
                // As phones do, at another address if there is one.
                gateway = (gateway + 1) % self.cast.doors.len();
                sleep(Duration::from_millis(self.random.random_range(50..600))).await;
            } else if self.random.random_bool(0.5) {
                gateway = self.random.random_range(0..self.cast.doors.len());
            }
        }
    }

    /// One connection, from its beginning to its end; whether it was signed in.
    async fn connect(&mut self, gateway: usize) -> bool {
        let kind = Kind::Raw(Eio::BOTH[self.random.random_range(0..2)]);
        let transport = Transport::ALL[self.random.random_range(0..3)];
        let (token, number) = {
            let state = self.person.state();
            (state.tokens.last().cloned(), state.tokens.len() - 1)
        };
        let mut session = Session {
            person: &self.person,
            cast: &self.cast,
            record: Connection {
                user: self.person.id,
                label: format!("{kind} on {transport}"),
                gateway,
                token: number,
                opened: now(),
                signed_in: None,
                ended: None,
                events: Vec::new(),
            },
            open: HashMap::new(),
        };
        let limit = Duration::from_secs(10);
        let door = self.cast.doors[gateway];
        let end = match Client::try_connect(kind, transport, door, limit).await {
            Err(why) => End::ByServer(why),
            Ok(mut client) => {
                let request = json!({"token": token.unwrap_or_default()});
                client.emit("signin_request", &request);
                let stays = self.random.random_range(self.stays.clone());
                session
                    .go_on(&mut client, stays, self.says.as_ref(), &mut self.random)
                    .await
            }
        };
        session.end(end)
    }
}

/// What a device knows of its connection.
struct Session<'a> {
    person: &'a Person,
    cast: &'a Cast,
    record: Connection,
    /// What it emitted and has no answer to, each since when.
    open: HashMap<String, (Moment, Outgoing, bool)>,
}

impl Session<'_> {
    fn note(&mut self, what: What) {
        self.record.events.push(Event { at: now(), what });
    }

    /// Talks and listens until it has been long enough, or it ends.
    async fn go_on(
        &mut self,
        client: &mut Client,
        stays: u64,
        says: Option<&std::ops::Range<u64>>,
        random: &mut StdRng,
    ) -> End {
        let leaves = self.record.opened + Moment::try_from(stays).unwrap_or(Moment::MAX);
        let mut says_at = now();
        loop {
            let pause = Duration::from_millis(random.random_range(10..40));
            while let Some(event) = client.next_within(pause).await {
                if let Err(end) = self.hear(&event.name, &event.payload(), random) {
                    return end;
                }
            }
            if let Some(why) = client.ended() {
                return End::ByServer(why.to_owned());
            }
            let now = now();
            let is_over = self.cast.phase() == Phase::Over;
            if is_over || (now >= leaves && self.cast.phase() == Phase::Talk) {
                return End::ByClient;
            }
            if self.record.signed_in.is_none() {
                if now > self.record.opened + ANSWER {
                    return End::ByClient;
                }
                continue;
            }
            if self.doubt(now, random) {
                return End::ByClient;
            }
            self.retry(client);
            if let Some(says) = says
                && now >= says_at.max(self.person.silent_until)
                && self.cast.phase() == Phase::Talk
                && self.open.len() < UNANSWERED
            {
                says_at = now + Moment::try_from(random.random_range(says.clone())).unwrap_or(0);
                self.talk(client, random);
            }
        }
    }

    /// What came in; the end, where it means one.
    fn hear(&mut self, name: &str, payload: &Value, random: &mut StdRng) -> Result<(), End> {
        if name == "signin_response" {
            if payload["status"] == "ok" {
                self.record.signed_in = Some(now());
                return Ok(());
            }
            let code = payload["code"].as_str().unwrap_or("none").to_owned();
            self.note(What::Refused { code });
            return Err(End::ByClient);
        }
        if name == TYPING && payload["status"].is_null() {
            let number = |key: &str| payload[key].as_i64().unwrap_or_default();
            self.note(What::Typed {
                topic: number("topic_id"),
                user: number("user_id"),
            });
        }
        if name != EVENT {
            return Ok(());
        }
        if payload["event_type"] == "sent"
            && let Some(message) = Message::shown(&payload["data"])
        {
            if message.owner == self.person.id {
                self.open.remove(&message.stamp);
                self.person.state().settle(&message.stamp);
            } else {
                self.person.state().heard(message.topic, message.id);
            }
            let message = self.cast.recorder.keep(message);
            self.note(What::Shown(message));
            return Ok(());
        }
        let stamp = payload["stamp_id"].as_str().unwrap_or_default().to_owned();
        let code = payload["code"].as_str().unwrap_or("none").to_owned();
        self.open.remove(&stamp);
        let mut state = self.person.state();
        if matches!(code.as_str(), "unavailable" | "rate_limited") {
            if let Some(outgoing) = state.of_stamp(&stamp) {
                state.doubt(outgoing, now() + random.random_range(AGAIN));
            }
        } else {
            state.settle(&stamp);
        }
        drop(state);
        self.note(What::Failed { stamp, code });
        Ok(())
    }

    /// Lets another device try what has no answer; whether it is time to give up.
    fn doubt(&mut self, now: Moment, random: &mut StdRng) -> bool {
        for (since, outgoing, doubted) in self.open.values_mut() {
            if now > *since + DOUBT && !*doubted {
                *doubted = true;
                if random.random_bool(DOUBTED) {
                    self.person.state().doubt(outgoing.clone(), now);
                }
            }
            if now > *since + ANSWER {
                return true;
            }
        }
        false
    }

    fn retry(&mut self, client: &Client) {
        for _ in 0..8 {
            let due = self.person.state().due();
            match due {
                Some(outgoing) => self.emit(client, outgoing),
                None => return,
            }
        }
    }

    fn talk(&mut self, client: &Client, random: &mut StdRng) {
        // What was settled long ago is asked for once more.
        if random.random_bool(0.1) {
            let old = self.person.state().old(random.random_range(0..1_000));
            if let Some(old) = old {
                self.emit(client, old);
            }
        }
        let topics = self.cast.talked_in_by(self.person.role);
        for _ in 0..random.random_range(1..4) {
            let topic = topics[random.random_range(0..topics.len())];
            if random.random_bool(0.2) {
                let typing = json!({"user_id": self.person.id, "topic_id": topic});
                client.emit(TYPING, &typing);
            }
            let outgoing = {
                let mut state = self.person.state();
                let replies = random.random_bool(0.25);
                let reply_to = if replies { state.last_of(topic) } else { 0 };
                state.write(self.person.id, topic, reply_to)
            };
            self.emit(client, outgoing);
        }
    }

    fn emit(&mut self, client: &Client, outgoing: Outgoing) {
        self.note(What::Emitted {
            topic: outgoing.topic,
            stamp: outgoing.stamp.clone(),
        });
        client.emit(EVENT, &outgoing.request());
        self.open
            .entry(outgoing.stamp.clone())
            .or_insert((now(), outgoing, false));
    }

    /// Writes the connection down; whether it was signed in.
    fn end(mut self, end: End) -> bool {
        let ended = now();
        {
            let mut state = self.person.state();
            for (_, outgoing, _) in self.open.into_values() {
                state.doubt(outgoing, ended);
            }
        }
        let was_in = self.record.signed_in.is_some();
        self.record.ended = Some((ended, end));
        let record = self.record;
        self.cast
            .recorder
            .add(|history| history.connections.push(record));
        was_in
    }
}
