#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use chassis::id::{RoomId, Seq, TopicId, UserId};
use futures::future::join_all;

use crate::store::{
    DirectoryStore, FIRST_FREE_ID, Joined, MAX_MEMBERSHIPS, Membership, NewTopic, Room, Topic,
    TopicChange, Visibility,
};

fn room(id: i64) -> RoomId {
    RoomId::new(id).unwrap()
}

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

fn new_topic(in_room: i64, title: &str) -> NewTopic {
    NewTopic {
        room: room(in_room),
        title: title.to_owned(),
        visibility: Visibility::Open,
        is_default: false,
        create_time_ms: 5,
    }
}

fn seeded_topic(id: i64, is_default: bool) -> Topic {
    Topic {
        id: topic(id),
        room: room(1),
        title: format!("topic {id}"),
        visibility: Visibility::Private,
        closed: true,
        is_default,
        create_time_ms: 6,
    }
}

pub(crate) async fn rooms_are_made_read_and_listed(store: Arc<impl DirectoryStore>) {
    assert_eq!(store.rooms(None, 10).await.unwrap(), []);
    let seeded = Room {
        id: room(1),
        title: "Ташкент".to_owned(),
        create_time_ms: 1,
    };
    assert!(store.seed_room(&seeded).await.unwrap());
    let mut made = join_all((0..5).map(|n| {
        let store = store.clone();
        async move { store.create_room(&format!("room {n}"), n).await.unwrap() }
    }))
    .await;
    made.sort_by_key(|room| room.id);
    assert!(made.iter().all(|room| room.id.get() >= FIRST_FREE_ID));
    for room in &made {
        assert_eq!(store.room(room.id).await.unwrap().as_ref(), Some(room));
    }
    assert_eq!(store.room(room(7)).await.unwrap(), None);
    let mut all = vec![seeded];
    all.extend(made);
    assert_eq!(
        store.rooms(None, 10).await.unwrap(),
        all,
        "ids are unique and ascend"
    );
    assert_eq!(store.rooms(None, 2).await.unwrap(), all[..2]);
    assert_eq!(store.rooms(Some(all[1].id), 3).await.unwrap(), all[2..5]);
    assert_eq!(store.rooms(Some(all[5].id), 3).await.unwrap(), []);
}

pub(crate) async fn rooms_are_listed_however_many(store: Arc<impl DirectoryStore>) {
    let mut made = join_all((0..40).map(|n| {
        let store = store.clone();
        async move { store.create_room(&format!("room {n}"), n).await.unwrap() }
    }))
    .await;
    made.sort_by_key(|room| room.id);
    assert_eq!(store.rooms(None, 100).await.unwrap(), made);
    let mut all: Vec<Room> = Vec::new();
    loop {
        let after = all.last().map(|room| room.id);
        let page = store.rooms(after, 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all, made);
}

pub(crate) async fn of_racing_seeds_one_is_made(store: Arc<impl DirectoryStore>) {
    let rooms: Vec<Room> = (0..8)
        .map(|n| Room {
            id: room(1),
            title: format!("room {n}"),
            create_time_ms: 1,
        })
        .collect();
    let made = join_all(rooms.iter().map(|room| store.seed_room(room))).await;
    let made = rooms
        .iter()
        .zip(made)
        .filter(|(_, made)| *made.as_ref().unwrap());
    let [(made, _)] = made.collect::<Vec<_>>()[..] else {
        panic!("not one room");
    };
    assert_eq!(store.room(room(1)).await.unwrap().as_ref(), Some(made));

    // As if the seed file had been changed between the starts of two replicas.
    for id in 1..=4 {
        let topics: Vec<Topic> = (0..8)
            .map(|n| Topic {
                title: format!("topic {n}"),
                room: room(n + 1),
                ..seeded_topic(id, n % 2 == 0)
            })
            .collect();
        let made = join_all(topics.iter().map(|topic| store.seed_topic(topic))).await;
        let made = topics
            .iter()
            .zip(made)
            .filter(|(_, made)| *made.as_ref().unwrap());
        let [(made, _)] = made.collect::<Vec<_>>()[..] else {
            panic!("not one topic");
        };
        assert_eq!(store.topic(topic(id)).await.unwrap().as_ref(), Some(made));
        for topic in &topics {
            let listed = store.topics(topic.room, None, 10).await.unwrap();
            assert_eq!(listed.contains(made), topic.room == made.room);
            assert!(listed.iter().all(|listed| listed.room == topic.room));
        }
        let defaults = store.default_topics().await.unwrap();
        assert_eq!(defaults.contains(&made.id), made.is_default);
    }
}

pub(crate) async fn what_is_seeded_twice_stays_as_it_was(store: Arc<impl DirectoryStore>) {
    let first = Room {
        id: room(1),
        title: "first".to_owned(),
        create_time_ms: 1,
    };
    assert!(store.seed_room(&first).await.unwrap());
    let second = Room {
        title: "second".to_owned(),
        ..first.clone()
    };
    assert!(!store.seed_room(&second).await.unwrap());
    assert_eq!(store.room(room(1)).await.unwrap(), Some(first));

    let first = seeded_topic(1, true);
    assert!(store.seed_topic(&first).await.unwrap());
    let second = Topic {
        title: "second".to_owned(),
        room: room(2),
        ..first.clone()
    };
    assert!(!store.seed_topic(&second).await.unwrap());
    assert_eq!(store.topic(topic(1)).await.unwrap(), Some(first));
    assert_eq!(store.topics(room(2), None, 10).await.unwrap(), []);
}

pub(crate) async fn topics_are_made_read_and_changed(store: Arc<impl DirectoryStore>) {
    let made = store.create_topic(&new_topic(1, "рейс")).await.unwrap();
    assert!(made.id.get() >= FIRST_FREE_ID);
    let other = store.create_topic(&new_topic(1, "other")).await.unwrap();
    assert!(other.id > made.id);
    let mut expected = Topic {
        id: made.id,
        room: room(1),
        title: "рейс".to_owned(),
        visibility: Visibility::Open,
        closed: false,
        is_default: false,
        create_time_ms: 5,
    };
    assert_eq!(made, expected);
    assert_eq!(
        store.topic(made.id).await.unwrap().as_ref(),
        Some(&expected)
    );

    let nothing = TopicChange::default();
    let same = store.update_topic(made.id, &nothing).await.unwrap();
    assert_eq!(same.as_ref(), Some(&expected));
    let change = TopicChange {
        title: Some("new".to_owned()),
        visibility: Some(Visibility::Private),
        closed: Some(true),
    };
    expected.title = "new".to_owned();
    expected.visibility = Visibility::Private;
    expected.closed = true;
    let changed = store.update_topic(made.id, &change).await.unwrap();
    assert_eq!(changed.as_ref(), Some(&expected));
    assert_eq!(
        store.topic(made.id).await.unwrap().as_ref(),
        Some(&expected)
    );
    let reopened = TopicChange {
        closed: Some(false),
        ..TopicChange::default()
    };
    expected.closed = false;
    let changed = store.update_topic(made.id, &reopened).await.unwrap();
    assert_eq!(changed.as_ref(), Some(&expected));
    assert_eq!(store.topic(other.id).await.unwrap(), Some(other));
    assert_eq!(store.update_topic(topic(77), &change).await.unwrap(), None);
    assert_eq!(store.topic(topic(77)).await.unwrap(), None);
}

pub(crate) async fn racing_changes_of_a_topic_are_all_made(store: Arc<impl DirectoryStore>) {
    let id = store.create_topic(&new_topic(1, "first")).await.unwrap().id;
    for n in 0..10 {
        let is_odd = n % 2 == 1;
        let visibility = if is_odd {
            Visibility::Open
        } else {
            Visibility::Private
        };
        let changes = [
            TopicChange {
                title: Some(format!("title {n}")),
                ..TopicChange::default()
            },
            TopicChange {
                visibility: Some(visibility),
                ..TopicChange::default()
            },
            TopicChange {
                closed: Some(!is_odd),
                ..TopicChange::default()
            },
        ];
        for changed in join_all(changes.iter().map(|change| store.update_topic(id, change))).await {
            assert_eq!(changed.unwrap().unwrap().id, id);
        }
        let now = store.topic(id).await.unwrap().unwrap();
        assert_eq!(
            (now.title, now.visibility, now.closed),
            (format!("title {n}"), visibility, !is_odd)
        );
    }
}

pub(crate) async fn topics_are_listed_by_room(store: Arc<impl DirectoryStore>) {
    let mut of_rooms = [Vec::new(), Vec::new()];
    for n in 0..6 {
        let of_room = &mut of_rooms[n % 2];
        let new = new_topic(n as i64 % 2 + 1, &format!("topic {n}"));
        of_room.push(store.create_topic(&new).await.unwrap());
    }
    let seeded = seeded_topic(1, false);
    assert!(store.seed_topic(&seeded).await.unwrap());
    of_rooms[0].insert(0, seeded);
    let [first, second] = &of_rooms;
    assert_eq!(store.topics(room(1), None, 10).await.unwrap(), *first);
    assert_eq!(store.topics(room(2), None, 10).await.unwrap(), *second);
    assert_eq!(store.topics(room(1), None, 2).await.unwrap(), first[..2]);
    assert_eq!(
        store.topics(room(1), Some(first[1].id), 1).await.unwrap(),
        first[2..3]
    );
    assert_eq!(store.topics(room(3), None, 10).await.unwrap(), []);
}

pub(crate) async fn default_topics_are_known(store: Arc<impl DirectoryStore>) {
    assert_eq!(store.default_topics().await.unwrap(), []);
    for (id, is_default) in [(3, true), (1, true), (2, false)] {
        store
            .seed_topic(&seeded_topic(id, is_default))
            .await
            .unwrap();
    }
    let made = NewTopic {
        is_default: true,
        ..new_topic(1, "made")
    };
    let made = store.create_topic(&made).await.unwrap();
    let closed = TopicChange {
        closed: Some(true),
        ..TopicChange::default()
    };
    store.update_topic(made.id, &closed).await.unwrap();
    let mut known = store.default_topics().await.unwrap();
    known.sort();
    assert_eq!(known, [topic(1), topic(3), made.id]);
}

pub(crate) async fn a_user_joins_and_leaves_once(store: Arc<impl DirectoryStore>) {
    let wish = membership(1, 1);
    assert_eq!(store.membership(topic(1), user(1)).await.unwrap(), None);
    let Joined::New(joined, version) = store.join(&wish).await.unwrap() else {
        panic!("not new");
    };
    assert_eq!(joined, wish);
    assert!(version >= 1);
    let later = Membership {
        joined_at: Seq::new(99),
        join_time_ms: 99,
        ..wish
    };
    assert_eq!(store.join(&later).await.unwrap(), Joined::Already(wish));
    assert_eq!(
        store.membership(topic(1), user(1)).await.unwrap(),
        Some(wish)
    );
    assert_eq!(
        store.membership_versions(&[user(1)]).await.unwrap(),
        [version]
    );

    let left = store.leave(topic(1), user(1)).await.unwrap().unwrap();
    assert!(left > version);
    assert_eq!(store.leave(topic(1), user(1)).await.unwrap(), None);
    assert_eq!(store.leave(topic(2), user(2)).await.unwrap(), None);
    assert_eq!(store.membership(topic(1), user(1)).await.unwrap(), None);
    assert_eq!(store.members(topic(1), None, 10).await.unwrap(), []);
    assert_eq!(store.memberships(user(1), None, 10).await.unwrap(), []);
    assert_eq!(store.membership_versions(&[user(1)]).await.unwrap(), [left]);

    let Joined::New(joined, again) = store.join(&later).await.unwrap() else {
        panic!("not new after he left");
    };
    assert_eq!(joined, later);
    assert!(again > left);
}

pub(crate) async fn racing_joins_make_one_membership(store: Arc<impl DirectoryStore>) {
    let answers = join_all((0..8).map(|n| {
        let store = store.clone();
        let wish = Membership {
            joined_at: Seq::new(n),
            ..membership(1, 1)
        };
        async move { store.join(&wish).await.unwrap() }
    }))
    .await;
    let new: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Joined::New(membership, version) => Some((*membership, *version)),
            _ => None,
        })
        .collect();
    let [(joined, version)] = new[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(
        answers
            .iter()
            .filter(|a| **a == Joined::Already(joined))
            .count(),
        7
    );
    assert_eq!(store.members(topic(1), None, 10).await.unwrap(), [joined]);
    assert_eq!(
        store.membership_versions(&[user(1)]).await.unwrap(),
        [version]
    );
}

pub(crate) async fn memberships_and_members_come_in_pages(store: Arc<impl DirectoryStore>) {
    let pairs = (1..=5).flat_map(|of_topic| (1..=4).map(move |of_user| (of_topic, of_user)));
    join_all(pairs.map(|(of_topic, of_user)| {
        let store = store.clone();
        async move { store.join(&membership(of_topic, of_user)).await.unwrap() }
    }))
    .await;
    let of_user: Vec<_> = (1..=5).map(|of_topic| membership(of_topic, 2)).collect();
    assert_eq!(store.memberships(user(2), None, 10).await.unwrap(), of_user);
    assert_eq!(
        store.memberships(user(2), None, 2).await.unwrap(),
        of_user[..2]
    );
    assert_eq!(
        store.memberships(user(2), Some(topic(2)), 2).await.unwrap(),
        of_user[2..4]
    );
    assert_eq!(
        store.memberships(user(2), Some(topic(5)), 2).await.unwrap(),
        []
    );
    assert_eq!(store.memberships(user(9), None, 10).await.unwrap(), []);
    let of_topic: Vec<_> = (1..=4).map(|of_user| membership(3, of_user)).collect();
    assert_eq!(store.members(topic(3), None, 10).await.unwrap(), of_topic);
    assert_eq!(
        store.members(topic(3), Some(user(1)), 2).await.unwrap(),
        of_topic[1..3]
    );
    store.leave(topic(3), user(2)).await.unwrap();
    let left = store.members(topic(3), Some(user(1)), 2).await.unwrap();
    assert_eq!(left, of_topic[2..]);
}

pub(crate) async fn a_user_has_at_most_so_many_memberships(store: Arc<impl DirectoryStore>) {
    let most = i64::try_from(MAX_MEMBERSHIPS).unwrap();
    let enrolled: Vec<_> = (1..=most - 10).map(|of| membership(of, 1)).collect();
    store.enrol(user(1), &enrolled).await.unwrap();
    let joins = (most - 9..=most).map(|of_topic| {
        let store = store.clone();
        async move { store.join(&membership(of_topic, 1)).await.unwrap() }
    });
    let joined = join_all(joins).await;
    assert!(
        joined
            .iter()
            .all(|joined| matches!(joined, Joined::New(..)))
    );
    let more = membership(most + 1, 1);
    assert_eq!(store.join(&more).await.unwrap(), Joined::Full);
    assert_eq!(store.membership(more.topic, more.user).await.unwrap(), None);
    let known = membership(1, 1);
    assert_eq!(store.join(&known).await.unwrap(), Joined::Already(known));
    assert!(matches!(
        store.join(&membership(most + 1, 2)).await.unwrap(),
        Joined::New(..)
    ));
    store.leave(topic(1), user(1)).await.unwrap();
    assert!(matches!(store.join(&more).await.unwrap(), Joined::New(..)));
    assert_eq!(store.join(&known).await.unwrap(), Joined::Full);
}

pub(crate) async fn a_user_is_enrolled_once_and_keeps_what_he_joined_before(
    store: Arc<impl DirectoryStore>,
) {
    let before = Membership {
        joined_at: Seq::new(1),
        ..membership(2, 1)
    };
    store.join(&before).await.unwrap();
    let defaults = [membership(1, 1), membership(2, 1), membership(3, 1)];
    let version = store.enrol(user(1), &defaults).await.unwrap();
    assert!(version >= 1);
    let all = [membership(1, 1), before, membership(3, 1)];
    assert_eq!(store.memberships(user(1), None, 10).await.unwrap(), all);

    let left = store.leave(topic(3), user(1)).await.unwrap().unwrap();
    assert!(left > version);
    let more = [membership(3, 1), membership(4, 1)];
    assert_eq!(
        store.enrol(user(1), &more).await.unwrap(),
        left,
        "he left it on purpose"
    );
    assert_eq!(
        store.memberships(user(1), None, 10).await.unwrap(),
        all[..2]
    );

    let version = store.enrol(user(2), &[]).await.unwrap();
    assert!(
        version >= 1,
        "enrolled, although there is nothing to be a member of"
    );
    assert_eq!(store.enrol(user(2), &more).await.unwrap(), version);
    assert_eq!(store.memberships(user(2), None, 10).await.unwrap(), []);
}

pub(crate) async fn versions_come_in_the_order_asked(store: Arc<impl DirectoryStore>) {
    for _ in 0..3 {
        store.join(&membership(1, 3)).await.unwrap();
        store.leave(topic(1), user(3)).await.unwrap();
    }
    let one = store.enrol(user(1), &[membership(1, 1)]).await.unwrap();
    let asked = [user(3), user(2), user(1), user(3)];
    let versions = store.membership_versions(&asked).await.unwrap();
    assert_eq!(versions.len(), 4);
    assert_eq!((versions[1], versions[2]), (0, one));
    assert_eq!(versions[0], versions[3]);
    assert!(versions[0] > one);
    assert_eq!(
        store.membership_versions(&[]).await.unwrap(),
        Vec::<i64>::new()
    );
}
