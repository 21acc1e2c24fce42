#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::*;
use crate::identity::Secret;

fn credentials() -> Credentials {
    Credentials::Secret(Secret::new("0123456789abcdef0123456789abcdef").unwrap())
}

fn replicas(peers: &str) -> Replicas {
    let peers = peers.parse().unwrap();
    Replicas::new("tests", &peers, credentials(), Names::of_the_system()).unwrap()
}

fn topics() -> impl Iterator<Item = TopicId> {
    (1..=3_000).filter_map(TopicId::new)
}

fn owner(replicas: &Replicas, topic: TopicId) -> String {
    let known = replicas.set.known.borrow();
    let chosen = choose(&known, Some(topic), &Tried::default());
    chosen.unwrap().name().to_owned()
}

#[tokio::test]
async fn topics_are_spread_and_only_those_of_a_replica_that_goes_move() {
    let three = replicas("http://a:1,http://b:1,http://c:1");
    // The order in which they are listed means nothing.
    let two = replicas("http://c:1,http://a:1");
    let mut shares = HashMap::new();
    for topic in topics() {
        let (before, after) = (owner(&three, topic), owner(&two, topic));
        *shares.entry(before.clone()).or_insert(0) += 1;
        if before != "b:1" {
            assert_eq!(before, after, "topic {topic} has moved");
        }
    }
    assert_eq!(shares.len(), 3);
    assert!(
        shares.values().all(|share| (800..1_200).contains(share)),
        "{shares:?}"
    );
}

#[tokio::test]
async fn who_is_down_or_was_tried_comes_last() {
    let replicas = replicas("http://a:1,http://b:1,http://c:1");
    let known = replicas.set.known.borrow().clone();
    for topic in [None, TopicId::new(7)] {
        let mut tried = Tried::default();
        for _ in 0..3 {
            let chosen = choose(&known, topic, &tried).unwrap();
            assert!(!tried.replicas.iter().any(|it| Arc::ptr_eq(it, &chosen)));
            tried.push(&chosen);
        }
        // All were tried: any but the last one.
        let chosen = choose(&known, topic, &tried).unwrap();
        assert!(!Arc::ptr_eq(&chosen, tried.replicas.last().unwrap()));
    }
    let [one, other, third] = known.as_slice() else {
        unreachable!("there are three");
    };
    for replica in [other, third] {
        let call = Arc::clone(replica).begin();
        call.note(super::super::Outcome::TimedOut);
    }
    let mut tried = Tried::default();
    tried.push(one);
    for topic in topics() {
        let chosen = choose(&known, Some(topic), &tried).unwrap();
        assert!(Arc::ptr_eq(&chosen, one), "one that is down was preferred");
    }
}

#[tokio::test]
async fn who_is_only_busy_keeps_a_topic_for_one_more_try() {
    let replicas = replicas("http://a:1,http://b:1,http://c:1");
    let known = replicas.set.known.borrow().clone();
    for topic in topics() {
        let mut tried = Tried::default();
        let mut next = || {
            let chosen = choose(&known, Some(topic), &tried).unwrap();
            tried.push(&chosen);
            tried.stay();
            chosen
        };
        let (first, second, third) = (next(), next(), next());
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &third));
    }
}

#[tokio::test]
async fn the_less_busy_of_two_is_taken() {
    let replicas = replicas("http://a:1,http://b:1");
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(replicas.pick(None, &Tried::default()).await);
    }
    let known = replicas.set.known.borrow().clone();
    assert!(known.iter().all(|it| it.in_flight() == 50));
    drop(calls);
    assert!(known.iter().all(|it| it.in_flight() == 0));
}
