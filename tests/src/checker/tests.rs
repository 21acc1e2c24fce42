//! For each violation a small history that has it, and one that is nearly the same and has not.

mod access;

use std::sync::Arc;

use super::*;
use crate::history::{Call, End, Event, Membership, Revocation, body_of};

const TOPIC: i64 = 7;
const ANN: i64 = 1;
const BOB: i64 = 2;
const EVE: i64 = 3;
/// When the trial begins; the clients sign in a second later.
const START: Moment = 1_700_000_000_000;

/// A message of Ann's: number `seq`, sent so many milliseconds after the start.
fn message(seq: i64, after: Moment) -> Message {
    let stamp = format!("s{seq}");
    Message {
        id: 1_000 + seq,
        topic: TOPIC,
        seq,
        owner: ANN,
        body: body_of(&stamp),
        stamp,
        attrs: String::new(),
        reply_to: 0,
        sent_at: START + after,
    }
}

/// A history in the making. Ann and Bob are members from before the start, Eve is not.
struct Story(History);

/// A connection in the making.
struct Client<'a>(&'a mut Connection);

impl Story {
    fn new() -> Self {
        let memberships = [ANN, BOB]
            .map(|user| Membership {
                user,
                topic: TOPIC,
                joins: true,
                began: START - 2_000,
                done: START - 1_000,
            })
            .to_vec();
        Self(History {
            memberships,
            over: START + 60_000,
            ..History::default()
        })
    }

    /// One in which Ann sends messages 1 and 2 and Bob hears them.
    fn told() -> Self {
        let mut story = Self::new();
        let log = [message(1, 2_000), message(2, 3_000)];
        let mut ann = story.client(ANN);
        for entry in &log {
            ann.emits(entry.sent_at - START - 10, &entry.stamp);
            ann.shown(entry.sent_at - START + 10, entry);
        }
        let mut bob = story.client(BOB);
        for entry in &log {
            bob.shown(entry.sent_at - START + 20, entry);
        }
        story.log(log.to_vec());
        story
    }

    fn client(&mut self, user: i64) -> Client<'_> {
        self.0.connections.push(Connection {
            user,
            label: "raw".into(),
            gateway: usize::from(user == BOB),
            token: 0,
            opened: START,
            signed_in: Some(START + 1_000),
            ended: None,
            events: Vec::new(),
        });
        Client(self.0.connections.last_mut().unwrap())
    }

    fn of(&mut self, user: i64) -> Client<'_> {
        let connections = self.0.connections.iter_mut();
        let mut of_user = connections.filter(|connection| connection.user == user);
        Client(of_user.next().unwrap())
    }

    fn log(&mut self, entries: Vec<Message>) {
        self.0.logs.insert(TOPIC, entries);
    }

    fn entries(&mut self) -> &mut Vec<Message> {
        self.0.logs.get_mut(&TOPIC).unwrap()
    }

    /// A fault of Bob's gateway.
    fn fault(&mut self, began: Moment, ended: Moment, cuts: bool) {
        self.0.faults.push(Fault {
            kind: "kill gateway".into(),
            target: "1".into(),
            began: START + began,
            ended: START + ended,
            deafens: vec![1],
            cuts: if cuts { vec![1] } else { Vec::new() },
        });
    }

    fn kinds(&self) -> Vec<Kind> {
        let findings = check(&self.0, &Limits::default());
        findings.by_kind().into_keys().collect()
    }
}

impl Client<'_> {
    fn event(&mut self, after: Moment, what: What) -> &mut Self {
        self.0.events.push(Event {
            at: START + after,
            what,
        });
        self
    }

    fn emits(&mut self, after: Moment, stamp: &str) -> &mut Self {
        let stamp = stamp.to_owned();
        self.event(
            after,
            What::Emitted {
                topic: TOPIC,
                stamp,
            },
        )
    }

    fn shown(&mut self, after: Moment, message: &Message) -> &mut Self {
        self.event(after, What::Shown(Arc::new(message.clone())))
    }

    fn fails(&mut self, after: Moment, stamp: &str, code: &str) -> &mut Self {
        let (stamp, code) = (stamp.to_owned(), code.to_owned());
        self.event(after, What::Failed { stamp, code })
    }

    fn forgets(&mut self, seq: i64) {
        self.0
            .events
            .retain(|event| !matches!(&event.what, What::Shown(one) if one.seq == seq));
    }

    fn ends(&mut self, after: Moment, end: End) {
        self.0.ended = Some((START + after, end));
    }
}

fn by_server() -> End {
    End::ByServer("transport close".into())
}

#[test]
fn what_went_well_has_no_violation() {
    let story = Story::told();
    assert_eq!(story.kinds(), []);
    let findings = check(&story.0, &Limits::default());
    assert_eq!(findings.delivered, 4);
    assert_eq!(findings.slowest_delivery, 20);
}

#[test]
fn an_acknowledged_message_that_is_not_in_the_log_is_lost() {
    let mut story = Story::told();
    story.entries().pop();
    assert_eq!(story.kinds(), [Kind::Lost]);

    // One that failed may be missing.
    let mut story = Story::told();
    story
        .of(ANN)
        .emits(4_000, "s3")
        .fails(5_000, "s3", "not_a_member");
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_stamp_is_in_the_log_once() {
    let mut story = Story::told();
    let twin = Message {
        stamp: "s2".into(),
        body: body_of("s2"),
        ..message(3, 3_500)
    };
    story.of(ANN).shown(3_510, &twin);
    story.of(BOB).shown(3_510, &twin);
    story.entries().push(twin);
    let kinds = story.kinds();
    assert!(kinds.contains(&Kind::Doubled), "{kinds:?}");

    // The same stamp of another owner is another message.
    let mut story = Story::told();
    let other = Message {
        owner: BOB,
        stamp: "s2".into(),
        body: body_of("s2"),
        ..message(3, 3_500)
    };
    story.of(ANN).shown(3_520, &other);
    story.of(BOB).emits(3_490, "s2").shown(3_510, &other);
    story.entries().push(other);
    assert_eq!(story.kinds(), []);
}

#[test]
fn an_entry_is_shown_once_to_a_listener() {
    let mut story = Story::told();
    story.of(BOB).shown(4_000, &message(2, 3_000));
    assert_eq!(story.kinds(), [Kind::Doubled]);

    // To the sender once for each emit.
    let mut story = Story::told();
    story
        .of(ANN)
        .emits(4_000, "s1")
        .shown(4_010, &message(1, 2_000));
    assert_eq!(story.kinds(), []);
    story.of(ANN).shown(4_020, &message(1, 2_000));
    assert_eq!(story.kinds(), [Kind::Doubled]);

    // Where he emits it elsewhere, too, its delivery may cross an emit.
    let mut other = story.client(ANN);
    other.0.signed_in = Some(START + 3_900);
    other.emits(3_980, "s1").shown(3_990, &message(1, 2_000));
    assert_eq!(story.kinds(), []);
    story.of(ANN).shown(4_030, &message(1, 2_000));
    assert_eq!(story.kinds(), [Kind::Doubled]);
}

#[test]
fn a_listener_is_shown_entries_in_their_order() {
    let mut story = Story::told();
    story.of(BOB).0.events.reverse();
    assert_eq!(story.kinds(), [Kind::OutOfOrder]);

    // An old message that its sender asks for is an answer, wherever it comes.
    let mut story = Story::told();
    let mut late = story.client(ANN);
    late.0.opened = START + 9_000;
    late.0.signed_in = Some(START + 10_000);
    late.emits(11_000, "s2").shown(11_010, &message(2, 3_000));
    late.emits(11_020, "s1").shown(11_030, &message(1, 2_000));
    assert_eq!(story.kinds(), []);
}

#[test]
fn one_sender_has_his_messages_in_the_order_of_his_emits() {
    let mut story = Story::told();
    story.of(ANN).0.events[..3].rotate_right(1);
    assert_eq!(story.kinds(), [Kind::OutOfOrder]);

    // What was sent again may have changed its place.
    story.0.calls.push(Call {
        user: ANN,
        topic: TOPIC,
        stamp: "s1".into(),
        began: START + 1_500,
        sent: None,
    });
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_listener_who_is_shown_later_entries_has_a_hole() {
    let mut story = Story::told();
    story.of(BOB).forgets(1);
    assert_eq!(story.kinds(), [Kind::Hole]);

    // What was sent before he signed in is none.
    let mut story = Story::told();
    story.of(BOB).0.signed_in = Some(START + 2_500);
    story.of(BOB).forgets(1);
    assert_eq!(story.kinds(), []);

    // Nor what was sent while he was no member.
    let mut story = Story::told();
    for (joins, began, done) in [(false, 1_100, 1_200), (true, 2_500, 2_600)] {
        story.0.memberships.push(Membership {
            user: BOB,
            topic: TOPIC,
            joins,
            began: START + began,
            done: START + done,
        });
    }
    story.of(BOB).forgets(1);
    assert_eq!(story.kinds(), []);
}

#[test]
fn the_log_has_no_hole_and_its_ids_ascend() {
    let mut story = Story::told();
    for entry in story.entries() {
        entry.seq += 1;
    }
    assert!(story.kinds().contains(&Kind::BrokenLog));
    let mut story = Story::told();
    story.entries().swap(0, 1);
    assert!(story.kinds().contains(&Kind::BrokenLog));
    let mut story = Story::told();
    story.entries()[1].id = 1;
    assert!(story.kinds().contains(&Kind::BrokenLog));
}

#[test]
fn what_is_shown_is_what_is_stored() {
    for change in [
        |entry: &mut Message| entry.sent_at += 1,
        |entry: &mut Message| entry.attrs = "1".into(),
        |entry: &mut Message| entry.id += 1,
    ] {
        let mut story = Story::told();
        change(&mut story.entries()[1]);
        assert_eq!(story.kinds(), [Kind::Differs]);
    }
    // Nobody sent what is in the log.
    let mut story = Story::told();
    story.entries()[1].body = "other".into();
    assert_eq!(story.kinds(), [Kind::Differs]);
}

#[test]
fn a_retry_is_answered_with_the_same_id() {
    let mut story = Story::told();
    let other = Message {
        id: 5_000,
        ..message(1, 2_000)
    };
    story.of(ANN).emits(4_000, "s1").shown(4_010, &other);
    assert!(story.kinds().contains(&Kind::OtherId));

    let mut story = Story::told();
    story
        .of(ANN)
        .emits(4_000, "s1")
        .shown(4_010, &message(1, 2_000));
    assert_eq!(story.kinds(), []);
}

#[test]
fn who_leaves_before_an_entry_is_due_need_not_have_it() {
    let left = |began, forgotten| {
        let mut story = Story::told();
        story.of(BOB).forgets(forgotten);
        story.0.memberships.push(Membership {
            user: BOB,
            topic: TOPIC,
            joins: false,
            began: START + began,
            done: START + began + 10,
        });
        story.kinds()
    };
    assert_eq!(left(4_000, 2), []);
    assert_eq!(left(10_000, 2), [Kind::LateHeal]);
    assert_eq!(left(4_000, 1), [Kind::Hole]);
}

#[test]
fn a_hole_in_front_of_ones_own_message_is_one_though_the_connection_ends_soon() {
    let mut story = Story::new();
    let mut first = message(1, 2_000);
    first.owner = BOB;
    story.client(BOB).emits(1_990, "s1").shown(2_020, &first);
    let second = message(2, 3_000);
    story.of(BOB).shown(3_020, &second);
    story.client(ANN).emits(2_990, "s2").shown(3_010, &second);
    story.of(ANN).0.ended = Some((START + 3_500, End::ByClient));
    story.log(vec![first, second]);
    assert_eq!(story.kinds(), [Kind::Hole]);
}

#[test]
fn who_was_shown_nothing_until_he_came_again_was_not_let_in_in_time() {
    let mut story = Story::told();
    story.of(BOB).forgets(2);
    let again = message(3, 20_000);
    story.of(BOB).shown(20_010, &again);
    story.of(ANN).emits(19_990, "s3").shown(20_010, &again);
    story.entries().push(again);
    for (joins, began) in [(false, 10_000), (true, 15_000)] {
        story.0.memberships.push(Membership {
            user: BOB,
            topic: TOPIC,
            joins,
            began: START + began,
            done: START + began + 10,
        });
    }
    assert_eq!(story.kinds(), [Kind::LateHeal]);
}

#[test]
fn the_answer_to_who_has_left_is_no_delivery() {
    let mut story = Story::told();
    let (third, mut fourth, fifth) = (message(3, 4_000), message(4, 4_000), message(5, 4_005));
    fourth.owner = BOB;
    let mut ann = story.of(ANN);
    ann.emits(3_990, "s3").emits(3_995, "s5");
    ann.shown(4_020, &third)
        .shown(4_030, &fourth)
        .shown(4_040, &fifth);
    story.of(BOB).emits(3_980, "s4").shown(4_500, &fourth);
    story.entries().extend([third, fourth, fifth.clone()]);
    story.0.memberships.push(Membership {
        user: BOB,
        topic: TOPIC,
        joins: false,
        began: START + 4_010,
        done: START + 4_100,
    });
    assert_eq!(story.kinds(), []);
    story.of(BOB).shown(4_510, &fifth);
    assert_eq!(story.kinds(), [Kind::Hole]);
}

#[test]
fn the_answer_to_a_retry_may_come_before_its_delivery() {
    let mut story = Story::told();
    let third = message(3, 4_000);
    let fourth = message(4, 4_100);
    let mut ann = story.of(ANN);
    ann.emits(3_990, "s3").emits(3_995, "s4").emits(4_005, "s4");
    ann.shown(4_110, &fourth)
        .shown(4_120, &third)
        .shown(4_130, &fourth);
    story.of(BOB).shown(4_120, &third).shown(4_130, &fourth);
    story.entries().extend([third, fourth]);
    assert_eq!(story.kinds(), []);
}

#[test]
fn a_listener_is_whole_in_time() {
    let heard = |after| {
        let mut story = Story::told();
        story.of(BOB).forgets(2);
        story.of(BOB).shown(after, &message(2, 3_000));
        story
    };
    assert_eq!(heard(10_000).kinds(), [Kind::LateHeal]);
    assert_eq!(heard(8_000).kinds(), []);

    // From the end of what was at fault with his gateway.
    let mut story = heard(10_000);
    story.fault(2_500, 5_000, false);
    assert_eq!(story.kinds(), []);
    assert_eq!(check(&story.0, &Limits::default()).slowest_heal, 5_000);
    let mut story = heard(12_000);
    story.fault(2_500, 5_000, false);
    assert_eq!(story.kinds(), [Kind::LateHeal]);
    let mut story = heard(10_000);
    story.fault(2_500, 5_000, false);
    story.0.faults[0].deafens = vec![0];
    assert_eq!(story.kinds(), [Kind::LateHeal]);

    // Who never hears it while he is there.
    let mut story = Story::told();
    story.of(BOB).forgets(2);
    assert_eq!(story.kinds(), [Kind::LateHeal]);
    story.of(BOB).ends(8_000, End::ByClient);
    assert_eq!(story.kinds(), []);
}

#[test]
fn the_outcome_of_each_send_is_told() {
    let mut story = Story::told();
    story.of(ANN).emits(4_000, "s3");
    assert_eq!(story.kinds(), [Kind::Untold]);
    story.of(ANN).fails(5_000, "s3", "unavailable");
    assert_eq!(story.kinds(), [Kind::Untold], "for it is not settled");
    story
        .of(ANN)
        .emits(6_000, "s3")
        .fails(7_000, "s3", "not_a_member");
    assert_eq!(story.kinds(), []);

    // Two emits have two answers, the second of which may be for good.
    let mut story = Story::told();
    let mut ann = story.of(ANN);
    ann.emits(4_000, "s3").emits(5_000, "s3");
    ann.fails(6_000, "s3", "unavailable")
        .fails(6_010, "s3", "not_a_member");
    assert_eq!(story.kinds(), []);

    // On each connection that lives long enough, too.
    let mut story = Story::told();
    let mut other = story.client(ANN);
    other.0.signed_in = Some(START + 3_500);
    other.emits(4_000, "s2");
    assert_eq!(story.kinds(), [Kind::Untold]);
    let last = story.0.connections.last_mut().unwrap();
    last.ended = Some((START + 10_000, End::ByClient));
    assert_eq!(story.kinds(), []);
}

#[test]
fn what_is_refused_for_good_is_not_stored() {
    let mut story = Story::told();
    story
        .of(ANN)
        .emits(4_000, "s3")
        .fails(4_100, "s3", "topic_closed");
    story.of(BOB).shown(4_020, &message(3, 4_010));
    story.of(ANN).shown(4_120, &message(3, 4_010));
    story.entries().push(message(3, 4_010));
    assert_eq!(story.kinds(), [Kind::Contradicted]);
    for event in &mut story.of(ANN).0.events {
        if let What::Failed { code, .. } = &mut event.what {
            *code = "unavailable".into();
        }
    }
    assert_eq!(story.kinds(), []);
}

#[test]
fn the_time_does_not_go_back() {
    let mut story = Story::told();
    story.entries()[1].sent_at = START + 1_999;
    assert!(story.kinds().contains(&Kind::BackInTime));
    let mut story = Story::told();
    let same = message(2, 2_000);
    for client in [ANN, BOB] {
        story.of(client).forgets(2);
        story.of(client).shown(3_050, &same);
    }
    story.entries()[1] = same;
    assert_eq!(story.kinds(), []);
}
