#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use chassis::id::{MessageId, Seq, TopicId, UserId};
use futures::future::join_all;

use crate::{
    entry::{Content, Entry, Kind, Segment, SegmentId, Stamp},
    store::{Appended, FullSegment, LogStore, StampFilter, Stamped, Tail},
};

pub(crate) fn topic(id: i64) -> TopicId {
    TopicId::new(id).unwrap()
}

/// A message of this user and stamp, with a body that tells it.
pub(crate) fn message(owner: i64, stamp: &str) -> Entry {
    Entry {
        owner: UserId::new(owner).unwrap(),
        owner_name: format!("user {owner}"),
        stamp: Stamp::Given(stamp.to_owned()),
        sent_at_ms: 1_455_667_133_264,
        kind: Kind::Message(Content {
            body: format!("{owner} says {stamp}"),
            reply_to: None,
            attrs: None,
            has_media: false,
        }),
    }
}

fn messages(owner: i64, count: u32) -> Vec<Entry> {
    (0..count).map(|n| message(owner, &n.to_string())).collect()
}

async fn first_segment(store: &impl LogStore, topic: TopicId, capacity: u32) -> Segment {
    let tail = store
        .open_segment(topic, None, Seq::new(1), capacity)
        .await
        .unwrap();
    assert_eq!(tail.head, 0);
    tail.segment
}

async fn next_segment(store: &impl LogStore, full: &Segment, capacity: u32) -> Segment {
    let tail = store
        .open_segment(full.topic, Some(full.id), full.end(), capacity)
        .await
        .unwrap();
    assert_eq!(tail.head, 0);
    tail.segment
}

async fn append(store: &impl LogStore, segment: &Segment, head: u32, entries: &[Entry]) {
    let appended = store.append(segment, head, entries).await.unwrap();
    assert_eq!(appended, Appended::Applied);
}

pub(crate) async fn a_topic_begins_without_a_segment(store: Arc<impl LogStore>) {
    assert_eq!(store.load(topic(1)).await.unwrap(), None);
    assert_eq!(store.segment_at(topic(1), Seq::new(1)).await.unwrap(), None);
    assert_eq!(store.heads(&[topic(1)]).await.unwrap(), [Seq::ZERO]);
    let before = store.full_segments(topic(1), Seq::new(1), 8).await.unwrap();
    assert_eq!(before, []);
}

pub(crate) async fn a_segment_is_opened_once_whoever_asks(store: Arc<impl LogStore>) {
    let opened = join_all((1..=8).map(|n| {
        let store = store.clone();
        async move {
            store
                .open_segment(topic(1), None, Seq::new(1), n * 8)
                .await
                .unwrap()
        }
    }))
    .await;
    let first = &opened[0];
    assert!(opened.iter().all(|tail| tail == first), "{opened:?}");
    assert_eq!(first.segment.topic, topic(1));
    assert_eq!(first.segment.first_seq, Seq::new(1));
    assert_eq!(store.load(topic(1)).await.unwrap().as_ref(), Some(first));

    append(&*store, &first.segment, 0, &messages(1, 2)).await;
    let again = store
        .open_segment(topic(1), None, Seq::new(1), 1024)
        .await
        .unwrap();
    assert_eq!(
        again,
        Tail {
            head: 2,
            ..first.clone()
        }
    );
}

pub(crate) async fn numbers_of_segments_are_unique_and_ascend_within_a_topic(
    store: Arc<impl LogStore>,
) {
    let mut last: Vec<Segment> = Vec::new();
    for id in 1..=3 {
        last.push(first_segment(&*store, topic(id), 1).await);
    }
    let mut numbers: HashSet<SegmentId> = last.iter().map(|segment| segment.id).collect();
    for _ in 0..5 {
        for before in &mut last {
            append(&*store, before, 0, &messages(1, 1)).await;
            let next = next_segment(&*store, before, 1).await;
            assert!(next.id > before.id);
            assert!(numbers.insert(next.id));
            *before = next;
        }
    }
    assert_eq!(numbers.len(), 18);
}

pub(crate) async fn an_entry_is_read_back_as_it_was_appended(store: Arc<impl LogStore>) {
    let segment = first_segment(&*store, topic(1), 1024).await;
    let rich = Entry {
        owner: UserId::new(chassis::id::MAX_ID).unwrap(),
        owner_name: "Сардор 🚚".to_owned(),
        stamp: Stamp::MadeUp("a\0b".to_owned()),
        sent_at_ms: -1,
        kind: Kind::Message(Content {
            body: "  \n\"\\🚚\u{0}\u{feff} ".to_owned(),
            reply_to: segment.message_id(0),
            attrs: Some("{\"a\":1.10,\"b\":[null,true]}".to_owned()),
            has_media: true,
        }),
    };
    let empty_attrs = {
        let mut entry = message(2, "x");
        let Kind::Message(content) = &mut entry.kind;
        content.attrs = Some(String::new());
        entry
    };
    let entries = [message(1, "plain"), rich, empty_attrs];
    append(&*store, &segment, 0, &entries).await;
    assert_eq!(store.read(&segment, 0..3).await.unwrap(), entries);
    let stamps: Vec<Stamped> = entries.iter().map(Stamped::from).collect();
    assert_eq!(store.stamps(&segment, 0..3).await.unwrap(), stamps);
    assert_eq!(
        store.load(topic(1)).await.unwrap(),
        Some(Tail { segment, head: 3 })
    );
}

pub(crate) async fn an_append_at_another_head_is_stale_and_writes_nothing(
    store: Arc<impl LogStore>,
) {
    let segment = first_segment(&*store, topic(1), 1024).await;
    let entries = messages(1, 5);
    append(&*store, &segment, 0, &entries[..3]).await;
    // The same once more, as after an unknown outcome, and one that thinks itself ahead.
    for head in [0, 2, 4, 1023] {
        let stale = store.append(&segment, head, &entries[..1]).await.unwrap();
        assert_eq!(stale, Appended::Stale { head: 3 });
    }
    assert_eq!(store.read(&segment, 0..1024).await.unwrap(), entries[..3]);
    append(&*store, &segment, 3, &entries[3..]).await;
    assert_eq!(store.read(&segment, 0..1024).await.unwrap(), entries);
}

pub(crate) async fn of_racing_appends_at_one_head_one_is_applied(store: Arc<impl LogStore>) {
    let segment = first_segment(&*store, topic(1), 1024).await;
    let mut head = 0;
    for _ in 0..10 {
        let answers = join_all((1..=8u32).map(|writer| {
            let store = store.clone();
            // Each has another length, so that a mixture would show.
            let entries = messages(i64::from(writer), writer);
            async move { store.append(&segment, head, &entries).await.unwrap() }
        }))
        .await;
        let winners: Vec<u32> = (1..=8)
            .zip(&answers)
            .filter(|(_, answer)| **answer == Appended::Applied)
            .map(|(writer, _)| writer)
            .collect();
        let [winner] = winners[..] else {
            panic!("{answers:?}");
        };
        let new_head = head + winner;
        let losers = Appended::Stale { head: new_head };
        assert_eq!(
            answers.iter().filter(|answer| **answer == losers).count(),
            7
        );
        let read = store.read(&segment, head..1024).await.unwrap();
        assert_eq!(read, messages(i64::from(winner), winner));
        head = new_head;
    }
}

pub(crate) async fn racing_writers_leave_no_hole_and_no_double(store: Arc<impl LogStore>) {
    let segment = first_segment(&*store, topic(1), 200).await;
    let writers = (1..=4).map(|owner| {
        let store = store.clone();
        tokio::spawn(async move {
            let entries = messages(owner, 50);
            let (mut head, mut written) = (0, 0);
            while written < entries.len() {
                let batch = &entries[written..(written + 7).min(entries.len())];
                match store.append(&segment, head, batch).await.unwrap() {
                    Appended::Applied => {
                        head += u32::try_from(batch.len()).unwrap();
                        written += batch.len();
                    }
                    Appended::Stale { head: found } => head = found,
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(
        store.load(topic(1)).await.unwrap(),
        Some(Tail { segment, head: 200 })
    );
    let log = store.read(&segment, 0..200).await.unwrap();
    assert_eq!(log.len(), 200);
    for owner in 1..=4 {
        let own: Vec<Entry> = log
            .iter()
            .filter(|entry| entry.owner.get() == owner)
            .cloned()
            .collect();
        assert_eq!(
            own,
            messages(owner, 50),
            "each writer's entries, once and in its order"
        );
    }
}

pub(crate) async fn a_read_ends_where_the_entries_end(store: Arc<impl LogStore>) {
    let segment = first_segment(&*store, topic(1), 8).await;
    assert_eq!(store.read(&segment, 0..8).await.unwrap(), []);
    let entries = messages(1, 5);
    append(&*store, &segment, 0, &entries).await;
    assert_eq!(store.read(&segment, 0..8).await.unwrap(), entries);
    assert_eq!(store.read(&segment, 1..3).await.unwrap(), entries[1..3]);
    assert_eq!(store.read(&segment, 4..1024).await.unwrap(), entries[4..]);
    let stamps: Vec<Stamped> = entries.iter().map(Stamped::from).collect();
    assert_eq!(store.stamps(&segment, 3..1024).await.unwrap(), stamps[3..]);
    for nothing in [5..8, 2..2, 7..1024] {
        assert_eq!(store.read(&segment, nothing.clone()).await.unwrap(), []);
        assert_eq!(store.stamps(&segment, nothing).await.unwrap(), []);
    }
}

pub(crate) async fn a_full_segment_is_followed_by_one_with_its_own_capacity(
    store: Arc<impl LogStore>,
) {
    let first = first_segment(&*store, topic(1), 4).await;
    append(&*store, &first, 0, &messages(1, 4)).await;
    assert_eq!(
        store.load(topic(1)).await.unwrap(),
        Some(Tail {
            segment: first,
            head: 4
        }),
        "full, and still the newest"
    );
    let second = next_segment(&*store, &first, 16).await;
    assert_eq!((second.first_seq, second.capacity), (Seq::new(5), 16));
    assert_eq!(
        store.load(topic(1)).await.unwrap(),
        Some(Tail {
            segment: second,
            head: 0
        })
    );
    assert_eq!(store.heads(&[topic(1)]).await.unwrap(), [Seq::new(4)]);
    append(&*store, &second, 0, &messages(1, 2)).await;
    assert_eq!(store.heads(&[topic(1)]).await.unwrap(), [Seq::new(6)]);
    for (seq, segment) in [
        (0, None),
        (1, Some(first)),
        (4, Some(first)),
        (5, Some(second)),
    ] {
        assert_eq!(
            store.segment_at(topic(1), Seq::new(seq)).await.unwrap(),
            segment,
            "{seq}"
        );
    }
    assert_eq!(
        store
            .segment_at(topic(1), Seq::new(i64::MAX))
            .await
            .unwrap(),
        Some(second)
    );
}

pub(crate) async fn an_entry_is_found_by_its_id(store: Arc<impl LogStore>) {
    let first = first_segment(&*store, topic(1), 4).await;
    append(&*store, &first, 0, &messages(1, 4)).await;
    let second = next_segment(&*store, &first, 4).await;
    let entries = messages(2, 2);
    append(&*store, &second, 0, &entries).await;
    let id = second.message_id(1).unwrap();
    let found = store.find(id).await.unwrap();
    assert_eq!(found, Some((second, entries[1].clone())));
    let unwritten = second.message_id(2).unwrap();
    let beyond = MessageId::new(second.id.get() * 1024 + 1023).unwrap();
    let no_segment = MessageId::new((second.id.get() + 1) * 1024).unwrap();
    let below_all = MessageId::new(1).unwrap();
    let above_all = MessageId::new(chassis::id::MAX_ID).unwrap();
    for id in [unwritten, beyond, no_segment, below_all, above_all] {
        assert_eq!(store.find(id).await.unwrap(), None, "{id}");
    }
}

pub(crate) async fn heads_come_in_the_order_asked(store: Arc<impl LogStore>) {
    for id in 1..=3 {
        let segment = first_segment(&*store, topic(id), 1024).await;
        let count = u32::try_from(id).unwrap() * 10;
        append(&*store, &segment, 0, &messages(1, count)).await;
    }
    let asked = [3, 99, 1, 2, 3].map(topic);
    let heads = store.heads(&asked).await.unwrap();
    assert_eq!(heads, [30, 0, 10, 20, 30].map(Seq::new));
    assert_eq!(store.heads(&[]).await.unwrap(), []);
}

pub(crate) async fn the_largest_batch_is_appended_at_once(store: Arc<impl LogStore>) {
    let segment = first_segment(&*store, topic(1), 1024).await;
    let entries: Vec<Entry> = messages(1, 256)
        .into_iter()
        .map(|mut entry| {
            let Kind::Message(content) = &mut entry.kind;
            content.body = "я".repeat(400);
            entry
        })
        .collect();
    append(&*store, &segment, 0, &entries).await;
    assert_eq!(store.read(&segment, 0..256).await.unwrap(), entries);

    let mut longest = message(1, &"ъ".repeat(64));
    let Kind::Message(content) = &mut longest.kind;
    content.body = "🚚".repeat(4096);
    content.attrs = Some(format!("\"{}\"", "a".repeat(8190)));
    append(&*store, &segment, 256, std::slice::from_ref(&longest)).await;
    assert_eq!(store.read(&segment, 256..257).await.unwrap(), [longest]);
}

pub(crate) async fn full_segments_come_newest_first_with_their_filters(store: Arc<impl LogStore>) {
    let mut segments = vec![first_segment(&*store, topic(1), 2).await];
    for n in 0..4 {
        append(&*store, &segments[n], 0, &messages(1, 2)).await;
        segments.push(next_segment(&*store, &segments[n], 2).await);
    }
    let other = first_segment(&*store, topic(2), 2).await;
    let filter = |n: i64| StampFilter {
        last_sent_at_ms: n * 100,
        bytes: Bytes::from(vec![u8::try_from(n).unwrap(); 2_500]),
    };
    store.put_filter(&other, &filter(9)).await.unwrap();
    for n in [0, 1, 3] {
        store.put_filter(&segments[n], &filter(7)).await.unwrap();
        store
            .put_filter(&segments[n], &filter(n as i64))
            .await
            .unwrap();
    }
    let full = |n: usize| FullSegment {
        segment: segments[n],
        filter: (n != 2).then(|| filter(n as i64)),
    };
    assert_eq!(
        all_full_segments(&*store, &segments[4], 8).await,
        [full(3), full(2), full(1), full(0)]
    );
    assert_eq!(
        all_full_segments(&*store, &segments[4], 1).await.len(),
        4,
        "one by one"
    );
    assert_eq!(
        all_full_segments(&*store, &segments[2], 8).await,
        [full(1), full(0)]
    );
}

/// All segments in front of one, as a caller gets them who asks for so many at a time.
async fn all_full_segments(
    store: &impl LogStore,
    current: &Segment,
    limit: u32,
) -> Vec<FullSegment> {
    let mut all: Vec<FullSegment> = Vec::new();
    loop {
        let before = all.last().map_or(current, |oldest| &oldest.segment);
        let found = store
            .full_segments(current.topic, before.first_seq, limit)
            .await
            .unwrap();
        assert!(found.len() <= limit as usize);
        if found.is_empty() {
            return all;
        }
        all.extend(found);
    }
}

pub(crate) async fn topics_do_not_mix(store: Arc<impl LogStore>) {
    let segments = join_all((1..=20).map(|id| {
        let store = store.clone();
        async move {
            let segment = first_segment(&*store, topic(id), 1024).await;
            append(&*store, &segment, 0, &messages(id, 3)).await;
            append(&*store, &segment, 3, &messages(id + 100, 2)).await;
            segment
        }
    }))
    .await;
    for (id, segment) in (1..).zip(segments) {
        let log = store.read(&segment, 0..1024).await.unwrap();
        assert_eq!(log[..3], messages(id, 3));
        assert_eq!(log[3..], messages(id + 100, 2));
    }
}
