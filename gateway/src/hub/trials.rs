//! The rules behind the edge, over services that are played and a bus that loses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod stage;

use std::{collections::HashMap, time::Duration};

use chassis::{bus::misbehaving::Misbehaviour, id::TopicId};
use tokio::time::Instant;

use self::stage::{Socket, Stage, Trouble, message, topic};
use crate::rules::NewMessage;

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
async fn a_services_absence_is_bridged_and_the_order_kept() {
    for trouble in [Trouble::Away, Trouble::AnswersLost, Trouble::NotStored] {
        let stage = Stage::new(calm());
        let mut sender = stage.sign_in(1).await;
        stage.log.trouble(trouble, 6);
        for n in 0..20 {
            stage.send(&sender, message(&format!("s{n}"), "x"));
        }
        for seq in 1..=20 {
            assert_eq!(sender.sent(HEALED).await.0, seq, "{trouble:?}");
        }
        sender.hears_nothing().await;
        assert_eq!(
            stage.log.stamps(topic()),
            (0..20).map(|n| format!("s{n}")).collect::<Vec<_>>()
        );
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_did_not_come_to_it_in_time_is_asked_again_at_once() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let takes = Duration::from_millis(800);
    stage.log.each_message_takes(takes);
    stage.log.trouble(Trouble::NotStored, 5);
    let began = Instant::now();
    stage.send(&sender, message("s", "x"));
    assert_eq!(sender.sent(HEALED * 2).await.0, 1);
    let pauses = began.elapsed() - 6 * takes;
    assert!(pauses < Duration::from_millis(50), "{pauses:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_outcome_stays_open_holds_up_nobody_elses() {
    let stage = Stage::new(calm());
    let mut removed = stage.sign_in(1).await;
    let mut other = stage.sign_in(2).await;
    stage.log.keep_open(Some(1));
    stage.send(&removed, message("open", "x"));
    let began = Instant::now();
    for n in 1..=50 {
        stage.send(&other, message(&format!("s{n}"), "x"));
        assert_eq!(other.sent(HEALED).await.0, n);
        assert_eq!(removed.sent(HEALED).await.0, n);
    }
    assert!(began.elapsed() < HEALED, "{:?}", began.elapsed());
    stage.log.keep_open(None);
    assert_eq!(removed.sent(HEALED).await.0, 51);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_long_is_not_kept_waiting_for_who_came_late() {
    let limit = Duration::from_secs(2);
    let stage = Stage::with_send_limit(calm(), limit);
    let mut sender = stage.sign_in(1).await;
    stage.log.trouble(Trouble::Away, u32::MAX);
    stage.send(&sender, message("under way", "x"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    stage.send(&sender, message("waits", "x"));
    tokio::time::sleep(limit - Duration::from_millis(200)).await;
    stage.send(&sender, message("comes late", "x"));
    assert_eq!(sender.failed(limit).await, "under way");
    assert_eq!(sender.failed(limit).await, "waits");
    // The time of one more try.
    let waited = begun.elapsed();
    assert!(waited < limit + Duration::from_millis(1_500), "{waited:?}");
    assert_eq!(sender.failed(limit * 2).await, "comes late");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_more_than_can_be_sent_as_much_is_as_can_be_and_the_rest_is_told_soon() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    // 250 a second, and three times as many for four seconds.
    stage.log.each_message_takes(Duration::from_millis(4));
    let mut open = HashMap::new();
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    let began = Instant::now();
    let mut last_sent = began;
    for n in 0..200 {
        for part in 0..15 {
            let stamp = format!("{n}-{part}");
            stage.send(&sender, message(&stamp, "x"));
            open.insert(stamp, Instant::now());
        }
        let next = began + Duration::from_millis(20) * (n + 1);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let limit = if n == 199 { HEALED } else { left };
            let Some((stamp, was_sent)) = sender.answered(limit).await else {
                break;
            };
            slowest = slowest.max(open.remove(&stamp).unwrap().elapsed());
            if was_sent {
                sent += 1;
                last_sent = Instant::now();
            }
            if n == 199 && open.is_empty() {
                break;
            }
        }
    }
    assert!(open.is_empty(), "{} were never answered", open.len());
    println!(
        "{sent} sent in {:?}, slowest {slowest:?}",
        last_sent - began
    );
    let goodput = f64::from(sent) / (last_sent - began).as_secs_f64();
    assert!(goodput > 0.9 * 250.0, "{goodput} a second were sent");
    assert!(slowest < Duration::from_secs(2), "one took {slowest:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_more_topics_than_can_be_served_at_a_time_none_is_called_for_twice() {
    const TOPICS: i64 = 600;
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let topics: Vec<TopicId> = (2..2 + TOPICS).map(|id| stage.log.open_topic(id)).collect();
    // All of them at once would take two and a half times as long as a try may.
    stage.log.each_message_takes(Duration::from_millis(4));
    let began = Instant::now();
    for topic_id in topics {
        let stamp = topic_id.to_string();
        let message = NewMessage {
            topic_id,
            ..message(&stamp, "x")
        };
        stage.send(&sender, message);
    }
    for _ in 0..TOPICS {
        let (stamp, was_sent) = sender.answered(HEALED).await.unwrap();
        assert!(was_sent, "{stamp}");
    }
    let took = began.elapsed();
    assert_eq!(stage.log.send_calls(), TOPICS as usize);
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_more_than_all_topics_together_can_be_served_nobody_waits_long_for_a_refusal() {
    const TOPICS: i64 = 600;
    const TICK: Duration = Duration::from_millis(20);
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let mut topics = (2..2 + TOPICS)
        .map(|id| stage.log.open_topic(id))
        .collect::<Vec<TopicId>>()
        .into_iter()
        .cycle();
    stage.log.each_message_takes(Duration::from_millis(4));
    let mut open = HashMap::new();
    let (mut sent, mut refused) = (0, 0);
    let began = Instant::now();
    // Three times as many as can be sent for ten seconds, and half as many for five.
    for n in 0..750_u32 {
        let is_too_much = n < 500;
        for part in 0..if is_too_much { 15 } else { n % 2 * 5 } {
            let stamp = format!("{n}-{part}");
            let message = NewMessage {
                topic_id: topics.next().unwrap(),
                ..message(&stamp, "x")
            };
            stage.send(&sender, message);
            open.insert(stamp, Instant::now());
        }
        let next = began + TICK * (n + 1);
        while let Some(left) = next.checked_duration_since(Instant::now())
            && let Some((stamp, was_sent)) = sender.answered(left).await
        {
            let waited = open.remove(&stamp).unwrap().elapsed();
            *(if was_sent { &mut sent } else { &mut refused }) += 1;
            let most = match n {
                // Until it is known that it is no stall.
                0..300 => 5_000,
                300..600 => 2_000,
                _ => 500,
            };
            assert!(waited < Duration::from_millis(most), "{n}: {waited:?}");
        }
    }
    println!("{sent} sent, {refused} refused, {} open", open.len());
    assert!(sent > 250 * 10, "{sent} were sent");
    assert!(open.len() < 50, "{} are not answered", open.len());
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_large_for_a_service_that_got_slow_is_made_again_smaller() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let mut burst = async |name: &str| {
        let began = Instant::now();
        for n in 0..256 {
            stage.send(&sender, message(&format!("{name}-{n}"), "x"));
        }
        let mut sent = 0;
        for _ in 0..256 {
            sent += i32::from(sender.answered(HEALED).await.unwrap().1);
        }
        (sent, began.elapsed())
    };
    // Calls get as large as they may.
    stage.log.each_message_takes(Duration::from_micros(500));
    for warm_up in ["a", "b", "c"] {
        assert_eq!(burst(warm_up).await.0, 256);
    }
    // A call of 256 would take longer than two tries.
    stage.log.each_message_takes(Duration::from_millis(8));
    let (sent, took) = burst("d").await;
    println!("{sent} sent in {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // What goes in the second for which they wait.
    assert!(sent >= 125, "{sent} were sent");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_told_over_the_bus_never_fails_when_its_call_does() {
    // Longer than the longest pause between two calls.
    let limit = Duration::from_secs(2);
    let stage = Stage::with_send_limit(calm(), limit);
    let mut sender = stage.sign_in(1).await;
    stage.log.trouble(Trouble::AnswersLost, u32::MAX);
    stage.send(&sender, message("a", "hello"));
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    tokio::time::sleep(limit + limit / 2).await;
    sender.hears_nothing().await;
    stage.log.trouble(Trouble::Away, 0);
    stage.send(&sender, message("b", "again"));
    assert_eq!(sender.sent(HEALED).await, (2, "again".into()));
    sender.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_had_his_message_and_was_removed_before_its_answer_is_not_told_again() {
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let mut other = stage.sign_in(2).await;
    stage.log.trouble(Trouble::AnswersLost, 1);
    stage.send(&sender, message("a", "hello"));
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    stage.log.keep_open(Some(1));
    stage.log.leave(1, topic());
    let removed = || !stage.is_member(&sender, topic());
    stage.until(HEALED, removed).await;
    stage.log.keep_open(None);
    sender.hears_nothing().await;
    stage.send(&other, message("b", "and on"));
    assert_eq!(other.sent(HEALED).await.0, 1);
    assert_eq!(other.sent(HEALED).await.0, 2);
    sender.hears_nothing().await;
    // He asks again.
    stage.send(&sender, message("a", "hello"));
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_his_message_waits_behind_a_hole_is_told_of_it_and_of_nothing_else() {
    let lossy = Misbehaviour {
        drop: 1.0,
        ..calm()
    };
    let stage = Stage::new(lossy);
    let mut sender = stage.sign_in(1).await;
    let mut other = stage.sign_in(2).await;
    stage.log.entries_are_away(true);
    stage.log.append_elsewhere(topic(), 9, "the hole");
    stage.send(&sender, message("a", "hello"));
    stage
        .until(HEALED, || stage.log.stamps(topic()).len() == 2)
        .await;
    stage.log.leave(1, topic());
    let removed = || !stage.is_member(&sender, topic());
    stage.until(HEALED, removed).await;
    sender.hears_nothing().await;
    stage.log.entries_are_away(false);
    assert_eq!(sender.sent(HEALED).await, (2, "hello".into()));
    assert_eq!(other.sent(HEALED).await.0, 1);
    assert_eq!(other.sent(HEALED).await.0, 2);
    sender.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_he_is_brought_up_to_his_own_message_is_told_of_it() {
    let stage = Stage::new(calm());
    let open = stage.log.open_topic(2);
    let mut other = stage.sign_in(2).await;
    stage.log.join(2, open);
    stage.until(HEALED, || stage.is_member(&other, open)).await;
    stage.log.append_elsewhere(open, 9, "before");
    assert_eq!(other.sent(HEALED).await.0, 1);
    let mut sender = stage.sign_in(1).await;
    stage.log.entries_are_away(true);
    stage.log.join(1, open);
    stage.log.append_elsewhere(open, 9, "missed");
    stage.until(HEALED, || stage.is_member(&sender, open)).await;
    let mut own = message("a", "hello");
    own.topic_id = open;
    stage.send(&sender, own);
    sender.hears_nothing().await;
    stage.log.leave(1, open);
    assert_eq!(sender.sent(HEALED).await, (3, "hello".into()));
    stage.log.entries_are_away(false);
    assert_eq!(other.sent(HEALED).await.0, 2);
    assert_eq!(other.sent(HEALED).await.0, 3);
    sender.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_posts_to_an_open_topic_is_answered_once_and_listens_from_then_on() {
    let stage = Stage::new(calm());
    let open = stage.log.open_topic(2);
    let mut sender = stage.sign_in(1).await;
    let mut second = stage.sign_in(1).await;
    stage.log.append_elsewhere(open, 9, "before");
    let mut first = message("a", "hello");
    first.topic_id = open;
    stage.send(&sender, first);
    assert_eq!(sender.sent(HEALED).await, (2, "hello".into()));
    assert_eq!(second.sent(HEALED).await, (2, "hello".into()));
    stage.log.append_elsewhere(open, 9, "after");
    assert_eq!(sender.sent(HEALED).await.0, 3);
    assert_eq!(second.sent(HEALED).await.0, 3);
    sender.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_becomes_a_member_by_a_message_that_is_sent_twice_is_answered_once() {
    let stage = Stage::new(calm());
    let open = stage.log.open_topic(2);
    let mut sender = stage.sign_in(1).await;
    let mut first = message("a", "hello");
    first.topic_id = open;
    stage.log.trouble(Trouble::AnswersLost, 1);
    stage.send(&sender, first.clone());
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    stage.log.append_elsewhere(open, 9, "after");
    assert_eq!(sender.sent(HEALED).await, (2, "after".into()));
    sender.hears_nothing().await;
    // He left, and asks again.
    stage.log.leave(1, open);
    stage
        .until(HEALED, || !stage.is_member(&sender, open))
        .await;
    stage.send(&sender, first);
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    sender.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_joined_late_is_given_what_he_missed_and_who_is_removed_hears_no_more() {
    let stage = Stage::new(calm());
    let other = stage.log.open_topic(2);
    let mut listener = stage.sign_in(1).await;
    stage.log.append_elsewhere(other, 9, "before he joined");
    stage.log.join(1, other);
    for n in 0..400 {
        stage.log.append_elsewhere(other, 9, &format!("e{n}"));
    }
    // The event was never published: the version tells.
    for seq in 2..=401 {
        assert_eq!(listener.sent(HEALED).await.0, seq);
    }
    stage.log.leave(1, other);
    stage
        .until(HEALED, || stage.listens_only_to(&listener, topic()))
        .await;
    stage.log.append_elsewhere(other, 9, "after he left");
    listener.hears_nothing().await;
    stage.end().await;
}

/// Somebody who has become a member of a topic that can't be opened, and what was said there.
async fn joined_in_the_dark(stage: &Stage) -> (Socket, TopicId) {
    let other = stage.log.open_topic(2);
    let listener = stage.sign_in(1).await;
    stage.log.heads_are_away(true);
    stage.log.join(1, other);
    stage
        .until(HEALED, || stage.is_member(&listener, other))
        .await;
    stage.log.append_elsewhere(other, 9, "in the dark");
    (listener, other)
}

#[tokio::test(start_paused = true)]
async fn who_is_joined_while_the_topic_can_not_be_opened_listens_however_late_it_can() {
    let stage = Stage::new(calm());
    let (mut listener, _) = joined_in_the_dark(&stage).await;
    // Longer than anybody waits for an answer.
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.log.heads_are_away(false);
    assert_eq!(listener.sent(HEALED).await, (1, "in the dark".into()));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_he_waits_to_listen_hears_nothing() {
    let stage = Stage::new(calm());
    let (mut listener, other) = joined_in_the_dark(&stage).await;
    stage.log.leave(1, other);
    stage
        .until(HEALED, || !stage.is_member(&listener, other))
        .await;
    stage.log.heads_are_away(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    listener.hears_nothing().await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_ends_its_sockets_though_the_event_is_lost() {
    let stage = Stage::new(calm());
    let revoked = stage.sign_in(1).await;
    let other = stage.sign_in(2).await;
    stage.log.revoke(&revoked.session);
    stage
        .until(HEALED, || revoked.session.outbox.is_ended())
        .await;
    assert!(!other.session.outbox.is_ended());
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
