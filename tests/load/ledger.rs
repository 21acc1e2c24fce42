//! What was sent, what was heard of it, and whether that was right.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use xxhash_rust::xxh3::{Xxh3Builder, xxh3_64};

use crate::dialect::{Message, Said};

/// Longest latency that is told apart: a minute, in microseconds.
const LONGEST_US: u64 = 60_000_000;
/// Violations that are kept; there may be as many as deliveries.
const KEPT: usize = 20;

type Map<K, V> = HashMap<K, V, Xxh3Builder>;

/// A message that not everybody has heard yet.
struct OnItsWay {
    topic: usize,
    sender: usize,
    /// When it was due, whenever it was sent.
    due: Instant,
    left: usize,
    /// By what its frames are known.
    frames: Vec<u64>,
}

/// What one connection has heard of each topic that it listens to.
pub(crate) struct Listener {
    number: usize,
    /// The newest seq of each topic, by the topic's place.
    heard: Vec<(usize, u64)>,
}

impl Listener {
    /// The connection of this number, which has heard nothing of topics that are new.
    pub(crate) fn new(number: usize, mut topics: Vec<usize>) -> Self {
        topics.sort_unstable();
        let heard = topics.into_iter().map(|topic| (topic, 0)).collect();
        Self { number, heard }
    }

    pub(crate) fn topics(&self) -> usize {
        self.heard.len()
    }

    fn hear(&mut self, topic: usize, seq: u64) -> Result<(), String> {
        let place = self.heard.binary_search_by_key(&topic, |(topic, _)| *topic);
        let Some((_, newest)) = place.ok().and_then(|place| self.heard.get_mut(place)) else {
            return Err("hears a topic that is not its own".to_owned());
        };
        let before = std::mem::replace(newest, seq.max(*newest));
        if seq == before + 1 {
            return Ok(());
        }
        Err(match seq > before {
            true => format!("hears seq {seq} behind {before}: a hole"),
            false => format!("hears seq {seq} behind {before}: doubled, or out of order"),
        })
    }
}

/// What was measured within a span of time.
pub(crate) struct Span {
    pub(crate) began: Instant,
    pub(crate) length: Duration,
    pub(crate) deliveries: u64,
    /// Messages that the last of their listeners heard in the span.
    pub(crate) messages: u64,
    pub(crate) failures: u64,
    /// From when a message was due to each of its deliveries; microseconds.
    pub(crate) delivery: Histogram<u64>,
    /// From when a message was due until its sender was told; microseconds.
    pub(crate) answer: Histogram<u64>,
    /// Deliveries of each second.
    pub(crate) by_second: Vec<u64>,
}

impl Span {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_US, 3);
        let (Ok(delivery), Ok(answer)) = (histogram(), histogram()) else {
            unreachable!("these bounds are valid")
        };
        Self {
            began: Instant::now(),
            length: Duration::ZERO,
            deliveries: 0,
            messages: 0,
            failures: 0,
            delivery,
            answer,
            by_second: Vec::new(),
        }
    }

    fn count(&mut self, now: Instant) {
        self.deliveries += 1;
        let second = (now - self.began).as_secs() as usize;
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        if let Some(count) = self.by_second.get_mut(second) {
            *count += 1;
        }
    }
}

/// The book of one target.
pub(crate) struct Ledger {
    /// Place of a topic by its id.
    topics: Map<i64, usize>,
    members: usize,
    next: u64,
    on_their_way: Map<u64, OnItsWay>,
    /// What the frames of those say. All listeners of a message get the same bytes, so
    /// a frame is understood once.
    frames: Map<u64, (usize, u64, u64)>,
    span: Span,
    violations: Vec<String>,
    violated: u64,
}

impl Ledger {
    /// Of topics with these ids, each with as many members.
    pub(crate) fn new(topics: &[i64], members: usize) -> Self {
        let places = topics.iter().enumerate().map(|(place, id)| (*id, place));
        Self {
            topics: places.collect(),
            members,
            next: 1,
            on_their_way: Map::default(),
            frames: Map::default(),
            span: Span::new(),
            violations: Vec::new(),
            violated: 0,
        }
    }

    /// Notes a message that is about to be sent; its number.
    pub(crate) fn send(&mut self, topic: usize, sender: usize, due: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        let message = OnItsWay {
            topic,
            sender,
            due,
            left: self.members,
            frames: Vec::with_capacity(1),
        };
        self.on_their_way.insert(number, message);
        number
    }

    /// Messages that not everybody has heard.
    pub(crate) fn on_their_way(&self) -> usize {
        self.on_their_way.len()
    }

    /// Begins a span of time; what the one before had.
    pub(crate) fn begin_span(&mut self) -> Span {
        let mut span = std::mem::replace(&mut self.span, Span::new());
        span.length = span.began.elapsed();
        span
    }

    /// Messages and deliveries of the span that goes on.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.span.messages, self.span.deliveries)
    }

    /// What was wrong, as far as it is kept, and how often.
    pub(crate) fn violations(&self) -> (&[String], u64) {
        (&self.violations, self.violated)
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.violated += 1;
        if self.violations.len() < KEPT {
            self.violations.push(what);
        }
    }

    /// Takes a packet, by `understand` unless its bytes are known. Says how many messages
    /// are over by it, for all have heard them or they have failed, and what it says unless
    /// it is about a message.
    pub(crate) fn hear(
        &mut self,
        listener: &mut Listener,
        packet: &[u8],
        now: Instant,
        understand: impl FnOnce(&[u8], usize) -> Result<Said, String>,
    ) -> Result<(usize, Option<Said>), String> {
        let frame = xxh3_64(packet);
        if let Some((topic, seq, number)) = self.frames.get(&frame).copied() {
            return Ok((self.delivered(listener, topic, seq, number, now), None));
        }
        match understand(packet, listener.topics())? {
            Said::Message(message) => Ok((self.first_heard(listener, frame, message, now), None)),
            Said::Failed(Some(number), why) => Ok((self.failed(number, &why), None)),
            other => Ok((0, Some(other))),
        }
    }

    /// Somebody is told that another types, which has no place in the order.
    pub(crate) fn typed(&mut self, now: Instant) {
        self.span.count(now);
    }

    fn first_heard(
        &mut self,
        listener: &mut Listener,
        frame: u64,
        message: Message,
        now: Instant,
    ) -> usize {
        let Some(topic) = self.topics.get(&message.topic).copied() else {
            self.violated(format!(
                "hears of topic {}, which is none of ours",
                message.topic
            ));
            return 0;
        };
        let number = message.number.unwrap_or_default();
        match self.on_their_way.get_mut(&number) {
            Some(known) if known.topic == topic => {
                known.frames.push(frame);
                self.frames.insert(frame, (topic, message.seq, number));
            }
            Some(_) => self.violated(format!("message {number} is delivered in another topic")),
            // Doubled; or not of ours, which takes a place in the order none the less.
            None => {}
        }
        self.delivered(listener, topic, message.seq, number, now)
    }

    fn delivered(
        &mut self,
        listener: &mut Listener,
        topic: usize,
        seq: u64,
        number: u64,
        now: Instant,
    ) -> usize {
        if let Err(what) = listener.hear(topic, seq) {
            self.violated(format!("connection {} {what}", listener.number));
        }
        self.span.count(now);
        let Some(message) = self.on_their_way.get_mut(&number) else {
            return 0;
        };
        let latency = u64::try_from((now - message.due).as_micros()).unwrap_or(LONGEST_US);
        self.span.delivery.saturating_record(latency);
        if message.sender == listener.number {
            self.span.answer.saturating_record(latency);
        }
        message.left = message.left.saturating_sub(1);
        if message.left > 0 {
            return 0;
        }
        self.span.messages += 1;
        self.forget(number);
        1
    }

    fn failed(&mut self, number: u64, why: &str) -> usize {
        self.span.failures += 1;
        if why != "unavailable" && why != "rate_limited" {
            self.violated(format!("message {number} was refused: {why}"));
        }
        self.forget(number);
        1
    }

    fn forget(&mut self, number: u64) {
        let gone = self.on_their_way.remove(&number);
        for frame in gone.into_iter().flat_map(|message| message.frames) {
            self.frames.remove(&frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    fn packet(seq: u64, number: u64) -> Vec<u8> {
        format!(r#"42["message_events",{{"event_type":"sent","data":{{"stamp_id":"{number}","topic_id":9,"seq":{seq}}}}}]"#).into_bytes()
    }

    struct House {
        ledger: Ledger,
        listeners: Vec<Listener>,
    }

    impl House {
        fn of(members: usize) -> Self {
            Self {
                ledger: Ledger::new(&[9], members),
                listeners: (0..members).map(|n| Listener::new(n, vec![0])).collect(),
            }
        }

        fn hear(&mut self, who: usize, seq: u64, number: u64) -> usize {
            let dialect = Dialect::SocketIo;
            let understand = |packet: &[u8], topics| dialect.understand(packet, topics);
            let packet = packet(seq, number);
            let listener = &mut self.listeners[who];
            let heard = self
                .ledger
                .hear(listener, &packet, Instant::now(), understand);
            heard.unwrap().0
        }
    }

    #[test]
    fn a_message_is_over_when_the_last_has_heard_it_and_forgotten_then() {
        let mut house = House::of(3);
        let number = house.ledger.send(0, 1, Instant::now());
        assert_eq!([0, 1, 2].map(|who| house.hear(who, 1, number)), [0, 0, 1]);
        assert_eq!(house.ledger.violations().1, 0);
        assert_eq!(
            (house.ledger.on_their_way(), house.ledger.frames.len()),
            (0, 0)
        );
        let span = house.ledger.begin_span();
        assert_eq!(
            (span.deliveries, span.messages, span.answer.len()),
            (3, 1, 1)
        );
    }

    #[test]
    fn holes_doubles_and_disorder_are_found_before_and_after_a_message_is_over() {
        let mut house = House::of(1);
        let numbers: Vec<u64> = (0..4)
            .map(|_| house.ledger.send(0, 0, Instant::now()))
            .collect();
        house.hear(0, 1, numbers[0]);
        house.hear(0, 1, numbers[0]);
        assert_eq!(house.ledger.violations().1, 1, "a double");
        house.hear(0, 3, numbers[2]);
        assert_eq!(house.ledger.violations().1, 2, "a hole");
        house.hear(0, 2, numbers[1]);
        assert_eq!(house.ledger.violations().1, 3, "out of order");
        house.hear(0, 4, numbers[3]);
        assert_eq!(house.ledger.violations().1, 3);
    }
}
