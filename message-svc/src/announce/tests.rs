//! What is heard on the bus.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use async_trait::async_trait;
use chassis::{
    bus::{BusError, Subscription},
    id::MessageId,
};
use proto::event::v1::topic_event::Event;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::entry::{Content, Entry, Kind, Stamp};

/// A bus that records what is published.
#[derive(Default)]
pub(crate) struct Tape(Mutex<Vec<(Subject, Bytes)>>);

impl Tape {
    pub(crate) fn take(&self) -> Vec<(Subject, Bytes)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Bus for Tape {
    fn publish(&self, subject: Subject, event: Bytes) {
        self.0.lock().unwrap().push((subject, event));
    }

    async fn subscribe(&self, _: Subject) -> Result<Subscription, BusError> {
        Ok(Subscription::new(mpsc::channel(1).1, ()))
    }

    async fn flush(&self, _: Duration) -> Result<(), BusError> {
        Ok(())
    }

    fn connected(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

fn topic(number: i64) -> TopicId {
    TopicId::new(number).unwrap()
}

fn user() -> UserId {
    UserId::new(15).unwrap()
}

fn placed(topic: TopicId, seq: i64, body: &str) -> Placed {
    Placed {
        topic,
        id: MessageId::new(1_024 + seq).unwrap(),
        seq: Seq::new(seq),
        entry: Entry {
            owner: user(),
            owner_name: "Sardor".into(),
            stamp: Stamp::MadeUp("made-up".into()),
            sent_at_ms: 1_455_667_133_264,
            kind: Kind::Message(Content {
                body: body.into(),
                reply_to: None,
                attrs: None,
                has_media: false,
            }),
        },
    }
}

fn entries(event: &Bytes) -> Vec<proto::message::v1::Entry> {
    match TopicEvent::decode(event.clone()).unwrap().event.unwrap() {
        Event::EntriesAppended(appended) => appended.entries,
        Event::Typing(_) => panic!("nobody typed"),
    }
}

fn heads(events: &[(Subject, Bytes)]) -> Vec<Vec<(i64, i64)>> {
    let events = events
        .iter()
        .filter(|(subject, _)| *subject == Subject::Heads);
    let events = events.map(|(_, event)| HeadsAnnounced::decode(event.clone()).unwrap());
    events
        .map(|event| {
            let heads = event.heads.into_iter();
            heads.map(|head| (head.topic_id, head.seq)).collect()
        })
        .collect()
}

#[test]
fn entries_are_announced_at_once_in_order_and_in_events_of_bounded_size() {
    let tape = Arc::new(Tape::default());
    let announcements = Announcements::new(Arc::clone(&tape) as _);
    let body = "x".repeat(4_096);
    let appended: Vec<_> = (1..=200).map(|seq| placed(topic(49), seq, &body)).collect();
    announcements.appended(&appended);

    let events = tape.take();
    assert!((4..=5).contains(&events.len()), "{}", events.len());
    let mut seqs = Vec::new();
    for (subject, event) in events {
        assert_eq!(subject, Subject::Topic(topic(49)));
        assert!(event.len() < 260 * 1024);
        seqs.extend(entries(&event).iter().map(|entry| entry.seq));
    }
    assert_eq!(seqs, (1..=200).collect::<Vec<i64>>());
}

#[tokio::test(start_paused = true)]
async fn heads_are_repeated_for_ten_seconds_and_no_longer() {
    let tape = Arc::new(Tape::default());
    let announcements = Announcements::new(Arc::clone(&tape) as _);
    announcements.appended(&[placed(topic(49), 7, "foobar")]);
    announcements.appended(&[placed(topic(49), 8, "foobar")]);
    tape.take();

    let stop = CancellationToken::new();
    let repeated = announcements.repeat(&stop);
    let listen = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for second in 0..10 {
            assert_eq!(heads(&tape.take()), [[(49, 8)]], "second {second}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(tape.take(), []);
        announcements.appended(&[placed(topic(50), 1, "foobar")]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(heads(&tape.take()), [[(50, 1)]]);
        stop.cancel();
    };
    tokio::join!(repeated, listen);
}

#[tokio::test(start_paused = true)]
async fn heads_of_many_topics_go_into_several_events() {
    let tape = Arc::new(Tape::default());
    let announcements = Announcements::new(Arc::clone(&tape) as _);
    for number in 1..=2_500 {
        announcements.appended(&[placed(topic(number), 1, "foobar")]);
    }
    tape.take();
    announcements.repeat_heads().await;
    let events = heads(&tape.take());
    let sizes: Vec<_> = events.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    let mut topics: Vec<_> = events
        .concat()
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    topics.sort_unstable();
    assert_eq!(topics, (1..=2_500).collect::<Vec<i64>>());
}

#[tokio::test(start_paused = true)]
async fn changes_of_memberships_are_announced_at_once_and_again_in_their_order() {
    let tape = Arc::new(Tape::default());
    let announcements = Announcements::new(Arc::clone(&tape) as _);
    let joined = MembershipChange::Joined(topic(49), Seq::new(7));
    announcements.changed(user(), 1, MembershipChange::Enrolled);
    announcements.changed(user(), 2, joined);
    announcements.changed(user(), 3, MembershipChange::Left(topic(49)));
    announcements.changed(user(), 4, MembershipChange::Removed(topic(1)));

    let events = tape.take();
    let told: Vec<_> = events
        .iter()
        .map(|(subject, event)| {
            assert_eq!(*subject, Subject::User(user()));
            match UserEvent::decode(event.clone()).unwrap().event.unwrap() {
                user_event::Event::MembershipChanged(changed) => changed,
                user_event::Event::TokensRevoked(_) => panic!("no token ended"),
            }
        })
        .collect();
    let changed = |version, topic_id, change| MembershipChanged {
        user_id: 15,
        version,
        topic_id,
        change,
    };
    let joined = Change::Joined(Joined { joined_at_seq: 7 });
    let left = |removed| Some(Change::Left(Left { removed }));
    assert_eq!(
        told,
        [
            changed(1, 0, None),
            changed(2, 49, Some(joined)),
            changed(3, 49, left(false)),
            changed(4, 1, left(true)),
        ]
    );
    for _ in 0..10 {
        announcements.repeat_changes().await;
        assert_eq!(tape.take(), events);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    announcements.repeat_changes().await;
    assert_eq!(tape.take(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_repeated_is_bounded() {
    let tape = Arc::new(Tape::default());
    let announcements = Announcements::new(Arc::clone(&tape) as _);
    for version in 0..MAX_CHANGES as i64 + 10 {
        announcements.changed(user(), version, MembershipChange::Enrolled);
    }
    assert_eq!(
        tape.take().len(),
        MAX_CHANGES + 10,
        "each is announced once"
    );
    announcements.repeat_changes().await;
    assert_eq!(tape.take().len(), MAX_CHANGES);
}
