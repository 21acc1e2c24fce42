//! What every backend of the bus has to do. `bus_conformance!` runs it all
//! against the buses that a closure makes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::{Bus, Received, Subject, Subscription, reached};
use crate::id::{TopicId, UserId};

const LIMIT: Duration = Duration::from_secs(5);

/// Makes a test of each case below, against the bus that `$make`, an async
/// closure, makes.
macro_rules! bus_conformance {
    ($make:expr) => {
        bus_conformance! { @cases $make;
            a_subscriber_gets_the_events_of_its_subject_only
            every_subscriber_of_a_subject_gets_its_events
            events_of_one_publisher_keep_their_order
            after_a_flush_nothing_is_missed
            a_dropped_subscription_leaves_the_others_alone
            publishing_to_nobody_is_harmless
            a_slow_subscriber_is_told_that_it_lost_events_and_goes_on
            an_unbroken_bus_never_reconnects
        }
    };
    (@cases $make:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::bus::conformance::$case(($make)().await).await;
            }
        )*
    };
}

fn topic(id: i64) -> Subject {
    Subject::Topic(TopicId::new(id).unwrap())
}

async fn next(subscription: &mut Subscription) -> Received {
    timeout(LIMIT, subscription.recv()).await.unwrap().unwrap()
}

async fn next_event(subscription: &mut Subscription) -> Bytes {
    match next(subscription).await {
        Received::Event(event) => event,
        Received::Lost => panic!("events were lost"),
    }
}

async fn subscribed(bus: &Arc<dyn Bus>, subject: Subject) -> Subscription {
    let subscription = bus.subscribe(subject).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
    subscription
}

pub(crate) async fn a_subscriber_gets_the_events_of_its_subject_only(bus: Arc<dyn Bus>) {
    let mut of_topic = subscribed(&bus, topic(1)).await;
    let mut of_user = subscribed(&bus, Subject::User(UserId::new(1).unwrap())).await;
    bus.publish(topic(2), Bytes::from_static(b"other topic"));
    bus.publish(Subject::Heads, Bytes::from_static(b"heads"));
    bus.publish(topic(1), Bytes::from_static(b"topic"));
    bus.publish(
        Subject::User(UserId::new(1).unwrap()),
        Bytes::from_static(b"user"),
    );
    assert_eq!(next_event(&mut of_topic).await, "topic");
    assert_eq!(next_event(&mut of_user).await, "user");
}

pub(crate) async fn every_subscriber_of_a_subject_gets_its_events(bus: Arc<dyn Bus>) {
    let mut first = subscribed(&bus, topic(1)).await;
    let mut second = subscribed(&bus, topic(1)).await;
    bus.publish(topic(1), Bytes::from_static(b"both"));
    assert_eq!(next_event(&mut first).await, "both");
    assert_eq!(next_event(&mut second).await, "both");
}

pub(crate) async fn events_of_one_publisher_keep_their_order(bus: Arc<dyn Bus>) {
    let mut subscription = subscribed(&bus, topic(1)).await;
    for number in 0..500_u32 {
        bus.publish(topic(1), Bytes::copy_from_slice(&number.to_be_bytes()));
    }
    for number in 0..500_u32 {
        assert_eq!(
            next_event(&mut subscription).await,
            &number.to_be_bytes()[..]
        );
    }
}

pub(crate) async fn after_a_flush_nothing_is_missed(bus: Arc<dyn Bus>) {
    for round in 1..=50 {
        let mut subscription = subscribed(&bus, topic(round)).await;
        bus.publish(topic(round), Bytes::from_static(b"first"));
        assert_eq!(next_event(&mut subscription).await, "first");
    }
}

pub(crate) async fn a_dropped_subscription_leaves_the_others_alone(bus: Arc<dyn Bus>) {
    let dropped = subscribed(&bus, topic(1)).await;
    let mut kept = subscribed(&bus, topic(1)).await;
    drop(dropped);
    bus.publish(topic(1), Bytes::from_static(b"still here"));
    assert_eq!(next_event(&mut kept).await, "still here");

    let mut again = subscribed(&bus, topic(1)).await;
    bus.publish(topic(1), Bytes::from_static(b"new"));
    assert_eq!(next_event(&mut again).await, "new");
}

pub(crate) async fn publishing_to_nobody_is_harmless(bus: Arc<dyn Bus>) {
    bus.publish(topic(1), Bytes::from_static(b"nobody listens"));
    let mut subscription = subscribed(&bus, topic(1)).await;
    bus.publish(topic(1), Bytes::from_static(b"somebody does"));
    assert_eq!(next_event(&mut subscription).await, "somebody does");
}

pub(crate) async fn a_slow_subscriber_is_told_that_it_lost_events_and_goes_on(bus: Arc<dyn Bus>) {
    const PUBLISHED: usize = 100_000;
    let mut slow = subscribed(&bus, topic(1)).await;
    let mut other = subscribed(&bus, topic(2)).await;
    for number in 0..PUBLISHED {
        bus.publish(topic(1), Bytes::from_static(b"flood"));
        // A bus loses as well what is published faster than its broker takes it.
        if number % 500 == 0 {
            bus.flush(LIMIT).await.unwrap();
        }
    }
    bus.publish(topic(2), Bytes::from_static(b"not held up"));
    assert_eq!(next_event(&mut other).await, "not held up");

    // What was kept for it is bounded: it hears of the loss long before the end.
    let mut kept = 0;
    while next(&mut slow).await != Received::Lost {
        kept += 1;
    }
    assert!(kept <= PUBLISHED / 10, "{kept} events were kept");

    timeout(LIMIT, async {
        loop {
            bus.publish(topic(1), Bytes::from_static(b"afterwards"));
            if next(&mut slow).await == Received::Event(Bytes::from_static(b"afterwards")) {
                return;
            }
        }
    })
    .await
    .unwrap();
}

pub(crate) async fn an_unbroken_bus_never_reconnects(bus: Arc<dyn Bus>) {
    timeout(LIMIT, reached(bus.as_ref())).await.unwrap();
    let reconnects = bus.reconnects();
    let _subscription = subscribed(&bus, topic(1)).await;
    assert!(!reconnects.has_changed().unwrap());
    assert!(*bus.connected().borrow());
}
