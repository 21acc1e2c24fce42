//! What users and services notice of the rules.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::{Mutex, atomic::Ordering::SeqCst};

use super::{double::Double, *};
use crate::log::trials::Memory;

#[derive(Default)]
struct Heard(Mutex<Vec<(UserId, i64, MembershipChange)>>);

impl MembershipAnnouncer for Heard {
    fn changed(&self, user: UserId, version: i64, change: MembershipChange) {
        self.0.lock().unwrap().push((user, version, change));
    }
}

impl Heard {
    fn take(&self) -> Vec<(UserId, i64, MembershipChange)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct House {
    directory: Arc<Directory>,
    store: Arc<Double>,
    heard: Arc<Heard>,
    room: RoomId,
}

const LIMITS: Limits = Limits {
    topics: 1_000,
    memberships: 1_000,
    kept_for: Duration::from_secs(2),
};

async fn house() -> House {
    house_with(LIMITS).await
}

async fn house_with(limits: Limits) -> House {
    house_over(Double::default(), limits).await
}

async fn house_over(store: Double, limits: Limits) -> House {
    let store = Arc::new(store);
    let heard = Arc::new(Heard::default());
    let directory = Directory::new(
        Arc::clone(&store) as _,
        Memory::new(),
        Arc::clone(&heard) as _,
        limits,
    );
    let room = directory.create_room("Drivers").await.unwrap().id;
    House {
        directory: Arc::new(directory),
        store,
        heard,
        room,
    }
}

impl House {
    async fn topic(&self, visibility: Visibility, is_default: bool) -> TopicId {
        let topic = self
            .directory
            .create_topic(self.room, "a topic", visibility, is_default);
        topic.await.unwrap().id
    }

    async fn topics_of(&self, user: UserId) -> Vec<TopicId> {
        let (_, rows) = self.directory.memberships(user, None, 1_000).await.unwrap();
        rows.iter().map(|row| row.topic).collect()
    }
}

fn user(number: i64) -> UserId {
    UserId::new(number).unwrap()
}

fn closing(closed: bool) -> TopicChange {
    TopicChange {
        closed: Some(closed),
        ..TopicChange::default()
    }
}

#[tokio::test]
async fn a_new_user_is_a_member_of_every_default_topic_once() {
    let house = house().await;
    let open = house.topic(Visibility::Open, true).await;
    let private = house.topic(Visibility::Private, true).await;
    house.topic(Visibility::Open, false).await;

    assert_eq!(house.directory.enrol(user(1)).await.unwrap(), 1);
    assert_eq!(house.topics_of(user(1)).await, [open, private]);
    let enrolled = (user(1), 1, MembershipChange::Enrolled);
    assert_eq!(house.heard.take(), [enrolled]);

    house.directory.leave(open, user(1)).await.unwrap();
    assert_eq!(house.directory.enrol(user(1)).await.unwrap(), 2);
    assert_eq!(house.topics_of(user(1)).await, [private]);
    let left = (user(1), 2, MembershipChange::Left(open));
    assert_eq!(house.heard.take(), [left]);
}

#[tokio::test]
async fn enrolment_without_default_topics_counts_too() {
    let house = house().await;
    assert_eq!(house.directory.enrol(user(1)).await.unwrap(), 1);
    house.topic(Visibility::Open, true).await;
    assert_eq!(house.directory.enrol(user(1)).await.unwrap(), 1);
    assert_eq!(house.topics_of(user(1)).await, []);
}

#[tokio::test]
async fn posting_to_an_open_topic_joins_it_and_enrols_first() {
    let house = house().await;
    let default = house.topic(Visibility::Private, true).await;
    let open = house.topic(Visibility::Open, false).await;

    house.directory.admit(open, user(1)).await.unwrap();
    assert_eq!(house.topics_of(user(1)).await, [default, open]);
    assert_eq!(
        house.heard.take(),
        [
            (user(1), 1, MembershipChange::Enrolled),
            (user(1), 2, MembershipChange::Joined(open, Seq::ZERO)),
        ]
    );
    house.directory.admit(open, user(1)).await.unwrap();
    assert_eq!(house.heard.take(), []);
}

#[tokio::test]
async fn posting_to_a_private_topic_needs_membership() {
    let house = house().await;
    let private = house.topic(Visibility::Private, false).await;
    let refused = house.directory.admit(private, user(1)).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
    let refused = house.directory.join(private, user(1), Asker::Person).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");

    let made = house.directory.join(private, user(1), Asker::Service).await;
    house.directory.admit(private, user(1)).await.unwrap();
    let again = house.directory.join(private, user(1), Asker::Person).await;
    assert_eq!(again.unwrap(), made.unwrap());
}

#[tokio::test]
async fn a_never_enrolled_user_may_post_to_a_private_default_topic() {
    let house = house().await;
    let private = house.topic(Visibility::Private, true).await;
    house.directory.admit(private, user(1)).await.unwrap();
    assert_eq!(house.topics_of(user(1)).await, [private]);
}

#[tokio::test]
async fn an_unknown_or_closed_topic_takes_nothing() {
    let house = house().await;
    let open = house.topic(Visibility::Open, false).await;
    let unknown = TopicId::new(77).unwrap();
    let refused = house.directory.admit(unknown, user(1)).await;
    assert!(matches!(refused, Err(Error::TopicNotFound)), "{refused:?}");

    house.directory.admit(open, user(1)).await.unwrap();
    let update = house.directory.update_topic(open, &closing(true)).await;
    assert!(update.unwrap().closed);
    let refused = house.directory.admit(open, user(1)).await;
    assert!(matches!(refused, Err(Error::TopicClosed)), "{refused:?}");
}

#[tokio::test]
async fn a_message_costs_no_read_of_the_store_in_the_steady_state() {
    let house = house().await;
    let open = house.topic(Visibility::Open, false).await;
    house.directory.admit(open, user(1)).await.unwrap();
    house.directory.admit(open, user(1)).await.unwrap();
    house.store.take_reads();
    for _ in 0..1_000 {
        house.directory.admit(open, user(1)).await.unwrap();
    }
    assert_eq!(house.store.take_reads(), 0);
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_read() {
    let house = house().await;
    let open = house.topic(Visibility::Open, false).await;
    house
        .directory
        .join(open, user(1), Asker::Person)
        .await
        .unwrap();
    house.store.take_reads();
    let held = house.store.hold_next_membership();
    let admissions =
        futures::future::join_all((0..100).map(|_| house.directory.admit(open, user(1))));
    let release = async {
        held.read.notified().await;
        held.release.notify_one();
    };
    let (admitted, ()) = futures::future::join(admissions, release).await;
    assert!(admitted.iter().all(Result::is_ok));
    assert_eq!(house.store.take_reads(), 2);
}

#[tokio::test]
async fn nobody_is_refused_on_the_strength_of_old_knowledge() {
    let house = house().await;
    let topic = house.topic(Visibility::Open, false).await;
    house.directory.admit(topic, user(1)).await.unwrap();
    house
        .directory
        .update_topic(topic, &closing(true))
        .await
        .unwrap();
    house.directory.admit(topic, user(1)).await.unwrap_err();

    // What another replica does is not told to this one.
    house
        .store
        .update_topic(topic, &closing(false))
        .await
        .unwrap();
    house.directory.admit(topic, user(1)).await.unwrap();

    let private = house.topic(Visibility::Private, false).await;
    house
        .directory
        .check_readers(private, &[user(1)])
        .await
        .unwrap_err();
    house
        .store
        .update_topic(
            private,
            &TopicChange {
                visibility: Some(Visibility::Open),
                ..TopicChange::default()
            },
        )
        .await
        .unwrap();
    house
        .directory
        .check_readers(private, &[user(1)])
        .await
        .unwrap();
}

#[tokio::test]
async fn what_another_replica_changed_is_known_when_the_time_is_over() {
    let house = house_with(Limits {
        kept_for: Duration::from_millis(1),
        ..LIMITS
    })
    .await;
    let private = house.topic(Visibility::Private, false).await;
    house
        .directory
        .join(private, user(1), Asker::Service)
        .await
        .unwrap();
    house.directory.admit(private, user(1)).await.unwrap();
    house.store.leave(private, user(1)).await.unwrap();
    let refused = async {
        while house.directory.admit(private, user(1)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_nobody_else_changes_is_known_until_it_changes() {
    let store = Double::default();
    store.is_alone.store(true, SeqCst);
    let limits = Limits {
        kept_for: Duration::from_millis(1),
        ..LIMITS
    };
    let house = house_over(store, limits).await;
    let private = house.topic(Visibility::Private, false).await;
    let joined = house.directory.join(private, user(1), Asker::Service);
    joined.await.unwrap();
    house.directory.admit(private, user(1)).await.unwrap();
    house.store.take_reads();
    tokio::time::sleep(10 * limits.kept_for).await;
    house.directory.admit(private, user(1)).await.unwrap();
    assert_eq!(house.store.take_reads(), 0);
    house.directory.leave(private, user(1)).await.unwrap();
    let refused = house.directory.admit(private, user(1)).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
}

#[tokio::test]
async fn a_removed_member_is_refused_at_once() {
    let house = house().await;
    let private = house.topic(Visibility::Private, false).await;
    house
        .directory
        .join(private, user(1), Asker::Service)
        .await
        .unwrap();
    house.directory.admit(private, user(1)).await.unwrap();
    house
        .directory
        .check_readers(private, &[user(1)])
        .await
        .unwrap();
    house.heard.take();

    house.directory.remove(private, user(1)).await.unwrap();
    let refused = house.directory.admit(private, user(1)).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
    let refused = house.directory.check_readers(private, &[user(1)]).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
    let removed = (user(1), 3, MembershipChange::Removed(private));
    assert_eq!(house.heard.take(), [removed]);

    house.directory.remove(private, user(1)).await.unwrap();
    assert_eq!(house.heard.take(), []);
}

#[tokio::test]
async fn nobody_is_refused_while_what_he_sent_before_may_still_be_appended_elsewhere() {
    let house = house().await;
    let private = house.topic(Visibility::Private, false).await;
    let closed = house.topic(Visibility::Open, false).await;
    let update = house.directory.update_topic(closed, &closing(true)).await;
    update.unwrap();
    let changed = |ago: Duration| {
        let ago = i64::try_from(ago.as_millis()).unwrap();
        house.store.changed_ms.store(now_ms() - ago, SeqCst);
    };
    let longest = LIMITS.kept_for + ADMITTED_FOR;
    changed(longest - Duration::from_secs(1));
    for topic in [private, closed] {
        let answer = house.directory.admit(topic, user(1)).await;
        assert!(matches!(answer, Err(Error::OutcomeUnknown)), "{answer:?}");
    }
    changed(longest);
    let answer = house.directory.admit(private, user(1)).await;
    assert!(matches!(answer, Err(Error::NotAMember)), "{answer:?}");
    let answer = house.directory.admit(closed, user(1)).await;
    assert!(matches!(answer, Err(Error::TopicClosed)), "{answer:?}");
}

#[tokio::test]
async fn a_read_that_began_before_a_removal_is_not_remembered() {
    let house = house().await;
    let private = house.topic(Visibility::Private, false).await;
    house
        .directory
        .join(private, user(1), Asker::Service)
        .await
        .unwrap();

    let held = house.store.hold_next_membership();
    let directory = Arc::clone(&house.directory);
    let admission = tokio::spawn(async move { directory.admit(private, user(1)).await });
    held.read.notified().await;
    house.directory.remove(private, user(1)).await.unwrap();
    held.release.notify_one();
    admission.await.unwrap().unwrap();

    let refused = house.directory.admit(private, user(1)).await;
    assert!(matches!(refused, Err(Error::NotAMember)), "{refused:?}");
}

#[tokio::test]
async fn a_user_can_be_a_member_of_a_thousand_topics_and_no_more() {
    let house = house().await;
    for _ in 0..MAX_MEMBERSHIPS {
        let topic = house.topic(Visibility::Open, false).await;
        house.directory.admit(topic, user(1)).await.unwrap();
    }
    let topic = house.topic(Visibility::Open, false).await;
    let refused = house.directory.admit(topic, user(1)).await;
    assert!(
        matches!(refused, Err(Error::MembershipsFull)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn there_are_at_most_as_many_default_topics_as_a_user_can_join() {
    let house = house().await;
    for _ in 0..MAX_MEMBERSHIPS {
        house.topic(Visibility::Open, true).await;
    }
    let refused = house
        .directory
        .create_topic(house.room, "one more", Visibility::Open, true)
        .await;
    match refused {
        Err(Error::FieldInvalid { field, .. }) => assert_eq!(field, "is_default"),
        other => panic!("{other:?}"),
    }
    house.topic(Visibility::Open, false).await;
}

#[tokio::test]
async fn a_title_has_1_to_128_characters_and_no_control_characters() {
    let house = house().await;
    for title in ["", "  ", "a\nb", "\u{0}", &"ж".repeat(129)] {
        match house.directory.create_room(title).await {
            Err(Error::FieldInvalid { field, .. }) => assert_eq!(field, "title"),
            other => panic!("{title:?}: {other:?}"),
        }
    }
    for title in ["a", " a ", &"ж".repeat(128)] {
        let room = house.directory.create_room(title).await.unwrap();
        assert_eq!(room.title, title);
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_not_taken_for_a_refusal() {
    let house = house().await;
    let open = house.topic(Visibility::Open, false).await;
    house
        .store
        .is_away
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let failed = house.directory.admit(open, user(1)).await;
    assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
    house
        .store
        .is_away
        .store(false, std::sync::atomic::Ordering::SeqCst);
    house.directory.admit(open, user(1)).await.unwrap();
}
