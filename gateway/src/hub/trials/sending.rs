//! Who sends, whatever the services do: stalls, lost answers, and more than can be sent.

use std::{collections::HashMap, time::Duration};

use chassis::id::TopicId;
use tokio::time::Instant;

use super::{
    HEALED, calm,
    stage::{Stage, Trouble, message, topic},
};
use crate::rules::NewMessage;

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
async fn who_waits_is_not_refused_as_long_as_more_goes_with_each_call() {
    const TOPICS: i64 = 600;
    const MESSAGES: usize = 5_000;
    let stage = Stage::new(calm());
    let mut sender = stage.sign_in(1).await;
    let topics: Vec<TopicId> = (2..2 + TOPICS).map(|id| stage.log.open_topic(id)).collect();
    // 250 calls a second, and twice as many messages for ten seconds.
    stage.log.each_call_takes(Duration::from_millis(4));
    let mut open = HashMap::new();
    let began = Instant::now();
    for (n, topic_id) in (0..MESSAGES).zip(topics.into_iter().cycle()) {
        let stamp = n.to_string();
        let message = NewMessage {
            topic_id,
            ..message(&stamp, "x")
        };
        stage.send(&sender, message);
        open.insert(stamp, Instant::now());
        let next = began + Duration::from_millis(2) * n as u32;
        while let Some(left) = next.checked_duration_since(Instant::now())
            && let Some((stamp, was_sent)) = sender.answered(left).await
        {
            assert!(was_sent, "{stamp}");
            let waited = open.remove(&stamp).unwrap().elapsed();
            assert!(waited < Duration::from_secs(4), "{stamp}: {waited:?}");
        }
    }
    let answered_meanwhile = MESSAGES - open.len();
    println!("{answered_meanwhile} of {MESSAGES} were sent meanwhile");
    assert!(
        answered_meanwhile * 4 > MESSAGES * 3,
        "{answered_meanwhile}"
    );
    while !open.is_empty() {
        let (stamp, was_sent) = sender.answered(HEALED).await.unwrap();
        assert!(was_sent, "{stamp}");
        open.remove(&stamp);
    }
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
async fn what_was_told_before_it_was_sent_again_never_fails_either() {
    let limit = Duration::from_secs(2);
    let stage = Stage::with_send_limit(calm(), limit);
    let mut sender = stage.sign_in(1).await;
    stage.send(&sender, message("a", "hello"));
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    // He sent it again before that reached him.
    stage.log.trouble(Trouble::Away, u32::MAX);
    stage.send(&sender, message("a", "hello"));
    tokio::time::sleep(limit * 2).await;
    sender.hears_nothing().await;
    stage.log.trouble(Trouble::Away, 0);
    assert_eq!(sender.sent(HEALED).await, (1, "hello".into()));
    stage.end().await;
}
