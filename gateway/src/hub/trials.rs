//! The rules behind the edge, over services that are played and a bus that loses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod membership;
mod sending;
mod stage;

use std::time::Duration;

use chassis::bus::misbehaving::Misbehaviour;

use self::stage::{Stage, message, topic};

const HEALED: Duration = Duration::from_secs(5);

fn calm() -> Misbehaviour {
    Misbehaviour {
        drop: 0.0,
        double: 0.0,
        reorder: 0.0,
        delay: Duration::ZERO,
        seed: 1,
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_once_to_its_sender_and_to_every_other_listener() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let mut second = stage.sign_in(1).await;
    let mut other = stage.sign_in(2).await;
    stage.send(&sender, message("a", "hello"));
    stage.send(&sender, message("b", "again"));
    for one in [&mut sender, &mut second, &mut other] {
        assert_eq!(one.sent(HEALED).await, (1, "hello".into()));
        assert_eq!(one.sent(HEALED).await, (2, "again".into()));
        one.hears_nothing().await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_answered_to_the_asking_socket_alone() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let mut second = stage.sign_in(1).await;
    stage.send(&sender, message("a", "hello"));
    assert_eq!(sender.sent(HEALED).await.0, 1);
    assert_eq!(second.sent(HEALED).await.0, 1);
    stage.send(&second, message("a", "hello"));
    assert_eq!(second.sent(HEALED).await, (1, "hello".into()));
    sender.hears_nothing().await;
    second.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn every_listener_gets_every_entry_in_order_whatever_the_bus_does() {
    let bad = Misbehaviour {
        drop: 0.3,
        double: 0.3,
        reorder: 0.3,
        delay: Duration::from_millis(5),
        seed: 7,
    };
    let stage = Stage::new(bad);
    let mut listeners = vec![stage.sign_in(1).await, stage.sign_in(2).await];
    for n in 0..150 {
        if n % 3 == 0 {
            stage.send(&listeners[0], message(&format!("s{n}"), "from here"));
        } else {
            stage.log.append_elsewhere(topic(), 9, &format!("e{n}"));
        }
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    for listener in &mut listeners {
        for seq in 1..=150 {
            assert_eq!(listener.sent(HEALED).await.0, seq);
        }
        listener.hears_nothing().await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crowd_gets_every_entry_in_order() {
    let stage = Stage::new(calm());
    stage.log.each_message_takes(Duration::from_millis(2));
    let mut crowd = Vec::new();
    for n in 0..100 {
        crowd.push(stage.sign_in(n % 4 + 1).await);
    }
    for n in 0..200 {
        stage.send(&crowd[n % 8], message(&format!("s{n}"), "x"));
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stage
        .until(HEALED, || stage.log.stamps(topic()).len() == 200)
        .await;
    for one in &mut crowd {
        for seq in 1..=200 {
            assert_eq!(one.sent(HEALED).await.0, seq);
        }
    }
    crowd[0].hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_no_bus_at_all_the_sweep_heals() {
    let deaf = Misbehaviour {
        drop: 1.0,
        ..calm()
    };
    let stage = Stage::new(deaf);
    let mut listener = stage.sign_in(1).await;
    for n in 0..700 {
        stage.log.append_elsewhere(topic(), 9, &format!("e{n}"));
    }
    for seq in 1..=700 {
        assert_eq!(listener.sent(HEALED).await.0, seq);
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_reach_keeps_nothing_else_back() {
    let stage = Stage::new(calm());
    let (near, far) = (topic(), stage.log.open_topic(2));
    stage.log.topic_is_out_of_reach(Some(far));
    assert_eq!(stage.heads([near, far]).await, [Some(0), None]);
    stage.log.topic_is_out_of_reach(None);
    assert_eq!(stage.heads([near, far]).await, [Some(0), Some(0)]);

    // His own membership heals, whoever else's can't be read.
    let mut listener = stage.sign_in(1).await;
    let _other = stage.sign_in(2).await;
    stage.log.user_is_out_of_reach(Some(2));
    stage.log.join(1, far);
    stage.log.append_elsewhere(far, 9, "heard");
    assert_eq!(listener.sent(HEALED).await, (1, "heard".into()));

    // Nobody's token is revoked because that can't be told.
    stage.log.tokens_are_out_of_reach(true);
    tokio::time::sleep(HEALED).await;
    assert!(!listener.session.outbox.is_ended());
    stage.log.revoke(&listener.session);
    stage.log.tokens_are_out_of_reach(false);
    let is_ended = || listener.session.outbox.is_ended();
    stage.until(HEALED, is_ended).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_user_who_was_never_enrolled_is_at_sign_in() {
    let stage = Stage::new(calm());
    stage.log.forget(5);
    let mut late = stage.sign_in(5).await;
    stage.log.append_elsewhere(topic(), 9, "hello");
    assert_eq!(late.sent(HEALED).await.0, 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_who_is_here_and_takes_a_lost_lease_well() {
    let stage = Stage::new(calm());
    let one = stage.sign_in(1).await;
    let two = stage.sign_in(2).await;
    stage
        .until(HEALED, || stage.presence.online() == [1, 2])
        .await;
    stage.presence.lose_lease();
    stage.leave(two);
    stage
        .until(Duration::from_secs(8), || stage.presence.online() == [1])
        .await;
    stage.leave(one);
    stage
        .until(HEALED, || stage.presence.online().is_empty())
        .await;
    let presence = stage.presence.clone();
    stage.end().await;
    assert!(presence.was_released());
}
