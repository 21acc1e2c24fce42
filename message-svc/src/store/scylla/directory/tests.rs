#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod crashes;
mod listings;
mod races;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
};

use chassis::{
    clock::now_ms,
    cql::faults::Fault,
    id::{RoomId, Seq, TopicId, UserId},
};

use crate::store::{
    DirectoryStore as _, Membership, NewTopic, TopicChange, Visibility,
    scylla::{
        ScyllaStore,
        replica::{Replica, fresh, pair},
    },
};

crate::store::conformance::directory_suite!(fresh);

fn topic(id: i64) -> TopicId {
    TopicId::new(id).unwrap()
}

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn membership(of_topic: i64, of_user: i64) -> Membership {
    Membership {
        topic: topic(of_topic),
        user: user(of_user),
        joined_at: Seq::new(of_topic * 7),
        join_time_ms: of_user * 11,
    }
}

/// All members of a topic, page by page.
async fn members(store: &ScyllaStore, of: TopicId, page: usize) -> Vec<Membership> {
    let mut all: Vec<Membership> = Vec::new();
    loop {
        let after = all.last().map(|row| row.user);
        let more = store.members(of, after, page).await.unwrap();
        let is_last = more.len() < page;
        all.extend(more);
        if is_last {
            return all;
        }
    }
}

async fn version(store: &ScyllaStore, of: UserId) -> i64 {
    store.membership_versions(&[of]).await.unwrap()[0]
}

/// The members of each topic are those that these users' memberships say, no more and no less.
async fn check_listings(store: &ScyllaStore, topics: &[i64], users: &[i64]) {
    let mut expected: BTreeMap<TopicId, Vec<Membership>> = BTreeMap::new();
    let mut users = users.to_vec();
    users.sort_unstable();
    for of in users {
        for row in store.memberships(user(of), None, 2_000).await.unwrap() {
            expected.entry(row.topic).or_default().push(row);
        }
    }
    for of in topics {
        let expected = expected.remove(&topic(*of)).unwrap_or_default();
        // The first listing settles what it finds open; the second believes it.
        for page in [3, 1_000] {
            assert_eq!(members(store, topic(*of), page).await, expected);
        }
    }
    assert!(expected.is_empty(), "{expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_says_when_and_what_was_not_says_nothing() {
    let (store, _replica) = fresh().await;
    let longest = (store.directory.timeout + super::MAX_SKEW).as_millis() as i64;
    store.enrol(user(1), &[membership(1_001, 1)]).await.unwrap();
    let made = NewTopic {
        room: RoomId::new(1).unwrap(),
        title: "a topic".to_owned(),
        visibility: Visibility::Open,
        is_default: false,
        create_time_ms: 1,
    };
    let made = store.create_topic(&made).await.unwrap().id;
    assert_eq!(store.changed_ms(made, user(1)).await.unwrap(), 0);

    let before = now_ms();
    store.leave(topic(1_001), user(1)).await.unwrap();
    let left = store.changed_ms(made, user(1)).await.unwrap() - longest;
    assert!((before - 1..=now_ms() + 1).contains(&left), "{left}");
    assert_eq!(store.changed_ms(made, user(2)).await.unwrap(), 0);

    let change = TopicChange {
        closed: Some(true),
        ..TopicChange::default()
    };
    store.update_topic(made, &change).await.unwrap();
    let closed = store.changed_ms(made, user(2)).await.unwrap() - longest;
    assert!((left..=now_ms() + 1).contains(&closed), "{closed}");
}
