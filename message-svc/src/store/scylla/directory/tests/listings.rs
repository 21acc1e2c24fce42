//! The listing of members, and what it costs.

use chassis::{cql::Applied, id::RoomId};
use rand::seq::SliceRandom as _;

use super::*;
use crate::store::{
    NewTopic, StoreError, Topic, Visibility,
    scylla::directory::members::{Members, Row},
};

#[tokio::test(flavor = "multi_thread")]
async fn members_of_many_buckets_come_in_pages() {
    let (first, _second, _keyspace) = pair().await;
    // Two in each of many buckets, then many in one.
    let sparse = (0..40).flat_map(|n| [n * 65_536 + 1, n * 65_536 + 65_535]);
    let dense = (0..40).map(|n| 100 * 65_536 + n);
    let users: Vec<i64> = sparse.chain(dense).collect();
    for of in &users {
        first.store.join(&membership(1, *of)).await.unwrap();
    }
    let expected: Vec<_> = users.iter().map(|of| membership(1, *of)).collect();
    for page in [1, 7, 39, 120, 1_000] {
        assert_eq!(members(&first.store, topic(1), page).await, expected);
    }
    let nobody = first.store.members(topic(2), None, 10).await.unwrap();
    assert_eq!(nobody, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_again_when_his_bucket_was_not_written_down_is_listed() {
    let (first, second, _keyspace) = pair().await;
    let wish = membership(1, 5 * 65_536);
    for fault in [Fault::Refused, Fault::Lost] {
        first.cql.fail(move |name| match name {
            "member_bucket" => fault,
            _ => Fault::None,
        });
        let refused = first.store.join(&wish).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
    first.cql.heal();
    first.store.join(&wish).await.unwrap();
    assert_eq!(members(&second.store, topic(1), 10).await, [wish]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_a_room_go_on_in_the_next_bucket() {
    let (first, second, _keyspace) = pair().await;
    let counter = first.cql.conditional(
        "counter",
        "INSERT INTO message_ids (name, next) VALUES ('topic', ?) IF NOT EXISTS",
    );
    let set = first.cql.apply(&counter, (65_534_i64,)).await;
    assert_eq!(set, Ok(Applied::Yes));
    let mut made = Vec::new();
    for n in 0..5 {
        let new = NewTopic {
            room: RoomId::new(1).unwrap(),
            title: format!("topic {n}"),
            visibility: Visibility::Open,
            is_default: false,
            create_time_ms: 5,
        };
        made.push(first.store.create_topic(&new).await.unwrap());
    }
    for limit in [1, 2, 3, 10] {
        let mut all: Vec<Topic> = Vec::new();
        loop {
            let after = all.last().map(|topic| topic.id);
            let page = second.store.topics(made[0].room, after, limit).await;
            let page = page.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        assert_eq!(all, made, "{limit} at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_settled_members_reads_their_bucket_and_a_question_is_asked_once() {
    let (first, second, _keyspace) = pair().await;
    for of in 1..=5 {
        first.store.join(&membership(1, of)).await.unwrap();
    }
    let expected: Vec<_> = (1..=6).map(|of| membership(1, of)).collect();
    let requests = second.requests();
    let listed = second.store.members(topic(1), None, 5).await.unwrap();
    assert_eq!(listed, expected[..5]);
    assert_eq!(*requests.lock().unwrap(), ["members_page"]);

    first.cql.fail(|name| match name {
        "member_settle" => Fault::Refused,
        _ => Fault::None,
    });
    first.store.join(&membership(1, 6)).await.unwrap();
    requests.lock().unwrap().clear();
    for _ in 0..2 {
        let listed = second.store.members(topic(1), None, 6).await.unwrap();
        assert_eq!(listed, expected);
    }
    let asked = ["members_page", "membership_with_state", "member_settle"];
    let expected = [&asked[..], &asked[..1]].concat();
    assert_eq!(*requests.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_change_wins_in_whatever_order_its_rows_are_written() {
    let (first, _second, keyspace) = pair().await;
    let rows = Arc::new(Members::open(&first.cql));
    for seed in 0..20 {
        // Joins and leaves by turns; the rows of each come twice, and in any order.
        let changes = 1 + seed % 5;
        let mut writes: Vec<(i64, bool)> = (1..=changes)
            .flat_map(|version| [(version, false), (version, true)])
            .collect();
        writes.extend(writes.clone());
        writes.shuffle(&mut rand::rng());
        let of = user(seed + 1);
        for (version, settled) in writes {
            let row = match version % 2 {
                1 => Row::Member(Membership {
                    joined_at: Seq::new(version),
                    ..membership(1, of.get())
                }),
                _ => Row::None,
            };
            let row = [(topic(1), row)];
            if settled {
                rows.settle_all(of, version, &row).await;
            } else {
                rows.question(of, version, &row).await.unwrap();
            }
        }
    }
    // The authority knows none of them, so who is listed is listed by his settled row alone.
    let listed = Replica::of(&keyspace).await;
    let requests = listed.requests();
    let listed = listed.store.members(topic(1), None, 100).await.unwrap();
    let expected: Vec<_> = (0..20)
        .filter(|seed| (1 + seed % 5) % 2 == 1)
        .map(|seed| Membership {
            joined_at: Seq::new(1 + seed % 5),
            ..membership(1, seed + 1)
        })
        .collect();
    assert_eq!(listed, expected);
    let asked = requests.lock().unwrap();
    assert!(!asked.contains(&"membership_with_state"), "{asked:?}");
}
