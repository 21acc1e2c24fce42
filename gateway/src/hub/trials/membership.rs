//! Who becomes a member or ceases to be one while something is under way to him.

use std::time::Duration;

use chassis::{bus::misbehaving::Misbehaviour, id::TopicId};

use super::{
    HEALED, calm,
    stage::{Socket, Stage, Trouble, message, topic},
};

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
