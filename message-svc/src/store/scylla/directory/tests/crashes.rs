//! A process that dies in front of each request of a change, and answers that get lost.

use chassis::id::RoomId;

use super::*;
use crate::store::{Joined, NewTopic, Room, StoreError, Topic, TopicChange, Visibility};

/// What became of a change whose request `at` went wrong.
enum Outcome<T> {
    /// The process died.
    Crashed,
    Answered(Result<T, StoreError>),
}

/// Makes a change over and over, for each fault, each time of another number and with one
/// request more that succeeds, until none fails. `check` gets the number and the outcome, with
/// all healed. Adds the numbers to those that are taken.
async fn at_every_request<T>(
    replica: &Replica,
    taken: &mut Vec<i64>,
    prepare: impl AsyncFn(i64),
    change: impl AsyncFn(i64) -> Result<T, StoreError>,
    check: impl AsyncFn(i64, Outcome<T>),
) {
    for fault in FAULTS {
        for at in 0.. {
            // So far apart that users lie in different buckets.
            let number = 1 + 40_000 * i64::try_from(taken.len()).unwrap();
            taken.push(number);
            prepare(number).await;
            let (requests, died) = replica.fail_at(at, fault);
            let outcome = tokio::select! {
                answer = change(number) => Outcome::Answered(answer),
                () = died.notified() => Outcome::Crashed,
            };
            replica.cql.heal();
            let is_whole = requests.load(SeqCst) <= at;
            if is_whole && !matches!(outcome, Outcome::Answered(Ok(_))) {
                panic!("a change fails by itself");
            }
            check(number, outcome).await;
            if is_whole {
                break;
            }
        }
    }
}

const FAULTS: [Fault; 4] = [
    Fault::CrashBefore,
    Fault::AnswerLost,
    Fault::Lost,
    Fault::Refused,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_join_is_made_or_not_wherever_it_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let mut users = Vec::new();
    // Whether the user had memberships before.
    for had in [false, true] {
        let prepare = async |n| {
            if had {
                second.store.join(&membership(2, n)).await.unwrap();
            }
        };
        let before = i64::from(had);
        let change = async |n| first.store.join(&membership(1, n)).await;
        let check = async |n, outcome| {
            let wish = membership(1, n);
            let now = second.store.membership(topic(1), user(n)).await.unwrap();
            let made = now.is_some();
            assert!(now.is_none_or(|now| now == wish));
            assert_eq!(
                version(&second.store, user(n)).await,
                before + i64::from(made)
            );
            let listed = second.store.members(topic(1), None, 1_000).await.unwrap();
            assert_eq!(listed.contains(&wish), made);
            if let Outcome::Answered(Ok(joined)) = outcome {
                assert_eq!(joined, Joined::New(wish, before + 1));
                assert!(made);
            }
            let later = Membership {
                joined_at: Seq::new(99),
                ..wish
            };
            let again = second.store.join(&later).await.unwrap();
            assert_eq!(
                again,
                if made {
                    Joined::Already(wish)
                } else {
                    Joined::New(later, before + 1)
                }
            );
        };
        at_every_request(&first, &mut users, prepare, change, check).await;
    }
    check_listings(&second.store, &[1, 2], &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leave_is_made_or_not_wherever_it_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let prepare = async |n| {
        second.store.join(&membership(1, n)).await.unwrap();
    };
    let change = async |n| first.store.leave(topic(1), user(n)).await;
    let check = async |n, outcome| {
        let now = second.store.membership(topic(1), user(n)).await.unwrap();
        let made = now.is_none();
        assert_eq!(version(&second.store, user(n)).await, 1 + i64::from(made));
        let listed = second.store.members(topic(1), None, 1_000).await.unwrap();
        assert_eq!(listed.contains(&membership(1, n)), !made);
        if let Outcome::Answered(Ok(version)) = outcome {
            assert_eq!(version, Some(2));
            assert!(made);
        }
        let again = second.store.leave(topic(1), user(n)).await.unwrap();
        assert_eq!(again, (!made).then_some(2));
    };
    let mut users = Vec::new();
    at_every_request(&first, &mut users, prepare, change, check).await;
    check_listings(&second.store, &[1], &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_is_made_whole_or_not_at_all_wherever_it_is_cut_off() {
    let topics: Vec<i64> = (1..=20).collect();
    let (first, second, _keyspace) = pair().await;
    let joined = |n| Membership {
        joined_at: Seq::new(1),
        ..membership(2, n)
    };
    let prepare = async |n| {
        second.store.join(&joined(n)).await.unwrap();
    };
    let of = |n| topics.iter().map(move |topic| membership(*topic, n));
    let change = async |n| {
        let memberships: Vec<_> = of(n).collect();
        first.store.enrol(user(n), &memberships).await
    };
    let check = async |n, outcome| {
        let before = vec![joined(n)];
        let all: Vec<_> = of(n)
            .map(|row| {
                if row.topic == topic(2) {
                    joined(n)
                } else {
                    row
                }
            })
            .collect();
        let now = second.store.memberships(user(n), None, 100).await.unwrap();
        let made = now != before;
        assert!(!made || now == all, "{now:?}");
        assert_eq!(version(&second.store, user(n)).await, 1 + i64::from(made));
        if let Outcome::Answered(Ok(version)) = outcome {
            assert_eq!(version, 2);
            assert!(made);
        }
        let again = second.store.enrol(user(n), &all).await.unwrap();
        assert_eq!(again, 2);
    };
    let mut users = Vec::new();
    at_every_request(&first, &mut users, prepare, change, check).await;
    check_listings(&second.store, &topics, &users).await;
}

fn room() -> RoomId {
    RoomId::new(1).unwrap()
}

fn new_topic(number: i64) -> NewTopic {
    NewTopic {
        room: room(),
        title: format!("topic {number}"),
        visibility: Visibility::Private,
        is_default: true,
        create_time_ms: 5,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_made_whole_or_not_at_all_wherever_its_making_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let change = async |n| first.store.create_topic(&new_topic(n)).await;
    let check = async |n, outcome| {
        let listed = second.store.topics(room(), None, 500).await.unwrap();
        let with_title = listed
            .iter()
            .filter(|topic| topic.title == new_topic(n).title);
        let with_title: Vec<_> = with_title.collect();
        assert!(with_title.len() <= 1);
        if let Outcome::Answered(Ok(topic)) = outcome {
            assert_eq!(with_title, [&topic]);
        }
        for topic in &listed {
            let one = second.store.topic(topic.id).await.unwrap();
            assert_eq!(one.as_ref(), Some(topic));
        }
        let ids: Vec<_> = listed.iter().map(|topic| topic.id).collect();
        assert_eq!(second.store.default_topics().await.unwrap(), ids);
        assert_eq!(members(&second.store, topic(1), 10).await, []);
    };
    at_every_request(&first, &mut Vec::new(), async |_| {}, change, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_the_seed_is_made_by_the_next_start_wherever_its_making_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let seeded = |n: i64| Topic {
        id: topic(n),
        room: room(),
        title: format!("topic {n}"),
        visibility: Visibility::Open,
        closed: false,
        is_default: true,
        create_time_ms: 5,
    };
    let change = async |n| first.store.seed_topic(&seeded(n)).await;
    let check = async |n, outcome| {
        let made = second.store.topic(topic(n)).await.unwrap();
        if let Outcome::Answered(Ok(is_new)) = outcome {
            assert!(is_new && made.is_some());
        }
        let again = second.store.seed_topic(&seeded(n)).await.unwrap();
        assert_eq!(again, made.is_none());
    };
    let mut ids = Vec::new();
    at_every_request(&first, &mut ids, async |_| {}, change, check).await;
    let all: Vec<_> = ids.into_iter().map(seeded).collect();
    // The counter of ids stands at its first number, so only that bucket is listed.
    let listed = second.store.topics(room(), None, 500).await.unwrap();
    assert!(all.starts_with(&listed) && !listed.is_empty());
    assert_eq!(
        second.store.default_topics().await.unwrap().len(),
        all.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_changed_once_or_not_at_all_wherever_its_change_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let id = second.store.create_topic(&new_topic(0)).await.unwrap().id;
    let title = |n: i64| TopicChange {
        title: Some(format!("title {n}")),
        ..TopicChange::default()
    };
    let change = async |n| first.store.update_topic(id, &title(n)).await;
    let check = async |n, outcome: Outcome<Option<Topic>>| {
        let now = second.store.topic(id).await.unwrap().unwrap();
        if let Outcome::Answered(Ok(changed)) = outcome {
            assert_eq!(changed.as_ref(), Some(&now));
            assert_eq!(Some(&now.title), title(n).title.as_ref());
        }
        let closed = TopicChange {
            closed: Some(!now.closed),
            ..TopicChange::default()
        };
        let changed = second.store.update_topic(id, &closed).await.unwrap();
        assert_eq!(changed.unwrap().title, now.title);
    };
    at_every_request(&first, &mut Vec::new(), async |_| {}, change, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_made_once_or_not_at_all_wherever_its_making_is_cut_off() {
    let (first, second, _keyspace) = pair().await;
    let title = |n: i64| format!("room {n}");
    let change = async |n| first.store.create_room(&title(n), n).await;
    let check = async |n, outcome: Outcome<Room>| {
        let listed = second.store.rooms(None, 500).await.unwrap();
        let with_title = listed.iter().filter(|room| room.title == title(n));
        let with_title: Vec<_> = with_title.collect();
        assert!(with_title.len() <= 1);
        match outcome {
            Outcome::Answered(Ok(room)) => assert_eq!(with_title, [&room]),
            Outcome::Answered(Err(error)) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            }
            Outcome::Crashed => {}
        }
    };
    at_every_request(&first, &mut Vec::new(), async |_| {}, change, check).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_the_seed_whose_making_was_cut_off_is_what_a_later_seed_says() {
    let (first, second, _keyspace) = pair().await;
    let early = Topic {
        id: topic(1),
        room: RoomId::new(2).unwrap(),
        title: "early".to_owned(),
        visibility: Visibility::Open,
        closed: false,
        is_default: true,
        create_time_ms: 5,
    };
    first.cql.fail(|name| match name {
        "topic_insert" => Fault::Refused,
        _ => Fault::None,
    });
    let refused = first.store.seed_topic(&early).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    let later = Topic {
        room: room(),
        title: "later".to_owned(),
        is_default: false,
        ..early.clone()
    };
    assert!(second.store.seed_topic(&later).await.unwrap());
    assert_eq!(second.store.topics(early.room, None, 10).await.unwrap(), []);
    let listed = second.store.topics(room(), None, 10).await.unwrap();
    assert_eq!(listed, [later]);
    assert_eq!(second.store.default_topics().await.unwrap(), []);
}

/// Does `fault` to the first `statement`, and holds the second one back until released.
/// To be told by the receiver when it is about to be made.
fn hold_the_second(
    replica: &Replica,
    statement: &'static str,
    fault: Fault,
) -> (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (reached, about_to) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel();
    let state = Mutex::new((0, reached, released));
    replica.cql.fail(move |name| {
        if name != statement {
            return Fault::None;
        }
        let mut state = state.lock().unwrap();
        state.0 += 1;
        match state.0 {
            1 => return fault,
            2 => {
                state.1.send(()).unwrap();
                tokio::task::block_in_place(|| state.2.recv()).unwrap();
            }
            _ => {}
        }
        Fault::None
    });
    (about_to, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_went_unanswered_never_undoes_what_followed() {
    let (first, second, _keyspace) = pair().await;
    let first = Arc::new(first);

    let id = second.store.create_topic(&new_topic(0)).await.unwrap().id;
    let (about_to, release) = hold_the_second(&first, "topic_update", Fault::AnswerLost);
    let unanswered = tokio::spawn({
        let first = Arc::clone(&first);
        let closed = TopicChange {
            closed: Some(true),
            ..TopicChange::default()
        };
        async move { first.store.update_topic(id, &closed).await }
    });
    tokio::task::block_in_place(|| about_to.recv()).unwrap();
    let reopened = TopicChange {
        closed: Some(false),
        ..TopicChange::default()
    };
    second.store.update_topic(id, &reopened).await.unwrap();
    release.send(()).unwrap();
    let told = unanswered.await.unwrap();
    assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    assert!(!second.store.topic(id).await.unwrap().unwrap().closed);

    let (about_to, release) = hold_the_second(&first, "membership_change", Fault::AnswerLost);
    let unanswered = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.store.join(&membership(1, 1)).await }
    });
    tokio::task::block_in_place(|| about_to.recv()).unwrap();
    let left = second.store.leave(topic(1), user(1)).await.unwrap();
    assert_eq!(left, Some(2));
    release.send(()).unwrap();
    let told = unanswered.await.unwrap();
    assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    assert_eq!(version(&second.store, user(1)).await, 2);
    check_listings(&second.store, &[1], &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_lost_is_not_taken_for_that_of_another() {
    let (first, second, _keyspace) = pair().await;
    let first = Arc::new(first);

    let id = second.store.create_topic(&new_topic(0)).await.unwrap().id;
    let (about_to, release) = hold_the_second(&first, "topic_update", Fault::Lost);
    let lost = tokio::spawn({
        let first = Arc::clone(&first);
        let closed = TopicChange {
            closed: Some(true),
            ..TopicChange::default()
        };
        async move { first.store.update_topic(id, &closed).await }
    });
    tokio::task::block_in_place(|| about_to.recv()).unwrap();
    let retitled = TopicChange {
        title: Some("of another".to_owned()),
        ..TopicChange::default()
    };
    second.store.update_topic(id, &retitled).await.unwrap();
    release.send(()).unwrap();
    let told = lost.await.unwrap().unwrap();
    let now = second.store.topic(id).await.unwrap();
    assert_eq!(told, now);
    let now = now.unwrap();
    assert_eq!((now.title.as_str(), now.closed), ("of another", true));

    // Both make the first version of what the user has.
    let (about_to, release) = hold_the_second(&first, "membership_change", Fault::Lost);
    let lost = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.store.join(&membership(1, 1)).await }
    });
    tokio::task::block_in_place(|| about_to.recv()).unwrap();
    let (wish, other) = (membership(1, 1), membership(2, 1));
    let joined = second.store.join(&other).await.unwrap();
    assert_eq!(joined, Joined::New(other, 1));
    release.send(()).unwrap();
    assert_eq!(lost.await.unwrap().unwrap(), Joined::New(wish, 2));
    assert_eq!(version(&second.store, user(1)).await, 2);
    check_listings(&second.store, &[1, 2], &[1]).await;
}
