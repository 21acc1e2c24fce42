//! Who is let in, shown what, and left alone.

use super::*;

#[test]
fn a_stranger_is_not_told_who_types() {
    let mut story = Story::told();
    let (topic, user) = (TOPIC, ANN);
    story.client(EVE).event(2_020, What::Typed { topic, user });
    assert_eq!(story.kinds(), [Kind::Overheard]);
}

#[test]
fn a_stranger_hears_nothing() {
    let mut story = Story::told();
    story.client(EVE).shown(2_020, &message(1, 2_000));
    assert_eq!(story.kinds(), [Kind::Overheard]);

    let mut story = Story::told();
    story.client(EVE);
    assert_eq!(story.kinds(), []);
}

/// Eve, who joins after all and leaves, is shown the second message at this time.
fn leaver(shown: Moment) -> Story {
    let mut story = Story::told();
    story.client(EVE).shown(shown, &message(2, 3_000));
    for (joins, began, done) in [(true, 1_000, 1_100), (false, 2_000, 2_100)] {
        story.0.memberships.push(Membership {
            user: EVE,
            topic: TOPIC,
            joins,
            began: START + began,
            done: START + done,
        });
    }
    story
}

#[test]
fn delivery_ends_after_leaving() {
    assert_eq!(leaver(9_000).kinds(), [Kind::AfterLeaving]);
    assert_eq!(leaver(7_000).kinds(), []);
    let mut story = leaver(9_000);
    story.fault(2_500, 4_000, false);
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_connection_ends_after_revocation() {
    let revoked = |ended| {
        let mut story = Story::told();
        story.of(BOB).ends(ended, by_server());
        story.0.revocations.push(Revocation {
            user: BOB,
            token: 0,
            began: START + 4_000,
            done: START + 4_100,
        });
        story.kinds()
    };
    assert_eq!(revoked(12_000), [Kind::AfterRevocation]);
    assert_eq!(revoked(9_000), []);
}

#[test]
fn a_healthy_phone_is_left_alone() {
    let mut story = Story::told();
    story.of(BOB).ends(10_000, by_server());
    assert_eq!(story.kinds(), [Kind::CutOff]);
    story.fault(9_000, 9_500, false);
    assert_eq!(
        story.kinds(),
        [Kind::CutOff],
        "of a fault that cuts nobody off"
    );
    story.fault(9_000, 9_500, true);
    assert_eq!(story.kinds(), []);

    let mut story = Story::told();
    story.of(BOB).ends(10_000, End::ByClient);
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_live_token_is_let_in() {
    let mut story = Story::told();
    let mut bob = story.client(BOB);
    bob.0.signed_in = None;
    let code = "invalid_token".to_owned();
    bob.event(900, What::Refused { code });
    bob.ends(1_000, End::ByClient);
    assert_eq!(story.kinds(), [Kind::NotLetIn]);
    story.0.revocations.push(Revocation {
        user: BOB,
        token: 0,
        began: START + 100,
        done: START + 200,
    });
    story.of(BOB).ends(1_000, by_server());
    assert_eq!(story.kinds(), []);

    let mut story = Story::told();
    let mut bob = story.client(BOB);
    bob.0.signed_in = None;
    bob.ends(28_000, End::ByClient);
    assert_eq!(story.kinds(), [Kind::NotLetIn]);
    story.fault(1_000, 10_000, false);
    assert_eq!(story.kinds(), []);
}
