//! Processes that die, and requests that go wrong, at every step.

use super::*;

/// What is known of the users of `lived` before, during and after the sweep.
const SEEN: [(bool, Option<i64>); 3] = [(false, Some(5)), (false, Some(3)), (false, Some(7))];

/// A lease that ran out at 10 and was last renewed at 3: one user left at 5, the second has
/// three sessions, the third one, and one that he closed at 7.
async fn lived(replica: &Replica, lease: LeaseId, [left, stays, closed]: [UserId; 3]) {
    replica.hold(lease, 0, 9, true).await;
    replica.hold(lease, 3, 10, false).await;
    let many = [1, 2, 3].map(|n| session(stays, n));
    let others = [session(left, 1), session(closed, 1), session(closed, 2)];
    replica.open(lease, &many, 4).await;
    replica.open(lease, &others, 4).await;
    replica.close(lease, &[session(left, 1)], 5).await;
    replica.close(lease, &[session(closed, 1)], 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_dies_anywhere_is_finished_by_another() {
    let (one, other, _keyspace) = two().await;
    for at in 0.. {
        let (lease, users) = (lease(at), [0, 1, 2].map(|n| user(3 * at + n)));
        lived(&other, lease, users).await;
        assert_eq!(other.presences(&users, 20).await, SEEN);
        let is_done = one.dies(at, async {
            one.sweep(20).await;
            assert_eq!(one.presences(&users, 20).await, SEEN);
            one.sweep(settled(20)).await;
        });
        let is_done = is_done.await.is_some();
        assert_eq!(other.presences(&users, 20).await, SEEN, "died at {at}");
        if at > 0 {
            assert_eq!(other.hold(lease, 9, 19, false).await, Held::Lost);
        }
        other.sweep(20).await;
        assert_eq!(other.presences(&users, 20).await, SEEN, "died at {at}");
        other.sweep(settled(20)).await;
        assert_eq!(other.presences(&users, 20).await, SEEN, "died at {at}");
        other.nothing_is_left(lease, &users).await;
        if is_done {
            assert!(at > 20, "a sweep is {at} writes");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_opening_or_closing_leaves_what_can_be_repeated_and_swept() {
    let (one, other, _keyspace) = two().await;
    for at in 0.. {
        let (lease, users) = (lease(at), [0, 1, 2].map(|n| user(3 * at + n)));
        let sessions = users.map(|user| session(user, 1));
        other.hold(lease, 0, 100, true).await;
        other.open(lease, &[session(users[0], 7)], 1).await;

        let opened = one.dies(at, one.open(lease, &sessions, 2)).await;
        assert_eq!(opened.unwrap_or(Opened::All), Opened::All);
        assert_eq!(other.open(lease, &sessions, 3).await, Opened::All);
        assert_eq!(other.presences(&users, 4).await, [(true, None); 3]);

        let closed = one.dies(at, one.close(lease, &sessions, 5)).await;
        for (online, seen) in other.presences(&users, 6).await {
            assert!(online || seen == Some(5), "died at {at}");
        }
        other.close(lease, &sessions, 6).await;
        let presences = other.presences(&users, 7).await;
        assert!(presences[0].0, "has another session, died at {at}");
        for (online, seen) in &presences[1..] {
            assert!(
                !online && (seen == &Some(5) || seen == &Some(6)),
                "died at {at}"
            );
        }

        // And once more, without anybody who repeats it.
        let again = users.map(|user| session(user, 2));
        one.dies(at, one.open(lease, &again, 8)).await;
        other
            .store
            .release_lease(lease, Time::from_ms(9))
            .await
            .unwrap();
        assert_eq!(other.presences(&users[..1], 9).await, [(false, Some(9))]);
        let before = other.presences(&users, 9).await;
        other.sweep(9).await;
        assert_eq!(other.presences(&users, 9).await, before, "died at {at}");
        other.sweep(settled(9)).await;
        assert_eq!(other.presences(&users, 9).await, before, "died at {at}");
        other.nothing_is_left(lease, &users).await;
        if opened.is_some() && closed.is_some() {
            assert!(at > 5, "opening and closing are {at} writes");
            break;
        }
    }
}

/// The life of a lease, each call repeated as a gateway does; and how many were repeated.
async fn life(replica: &Replica, lease: LeaseId, users: [UserId; 2]) -> usize {
    let store = &replica.store;
    let sessions = users.map(|user| session(user, 1));
    let time = Time::from_ms;
    let mut repeated = 0;
    macro_rules! repeat {
        ($call:expr) => {
            match $call.await {
                Ok(done) => done,
                Err(StoreError::Unavailable(_)) => {
                    repeated += 1;
                    $call.await.unwrap()
                }
                Err(error) => unreachable!("{error}"),
            }
        };
    }
    for (from, take) in [(0, true), (1, false), (2, true)] {
        let term = Term {
            from: time(from),
            until: time(from + 50),
        };
        assert_eq!(repeat!(store.hold_lease(lease, term, take)), Held::Living);
    }
    for now in [3, 4] {
        let opened = repeat!(store.open_sessions(lease, &sessions, time(now), 2));
        assert_eq!(opened, Opened::All);
    }
    let presences = repeat!(store.presences(&users, time(5)));
    assert!(presences.iter().all(|presence| presence.online));
    repeat!(store.close_sessions(lease, &sessions[..1], time(6)));
    repeat!(store.release_lease(lease, time(7)));
    while !repeat!(store.sweep(time(7), 2)).done {}
    while !repeat!(store.sweep(time(settled(7)), 2)).done {}
    repeated
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_wrong_anywhere_changes_nothing_in_the_end() {
    let (one, other, _keyspace) = two().await;
    let mut number = 0;
    for fault in [Fault::AnswerLost, Fault::Lost] {
        for at in 0.. {
            number += 1;
            let (lease, users) = (lease(number), [0, 1].map(|n| user(2 * number + n)));
            let (repeated, failed) = one.fails(at, fault, life(&one, lease, users)).await;
            let expected = [(false, Some(6)), (false, Some(7))];
            assert_eq!(other.presences(&users, 8).await, expected, "{failed:?}");
            other.nothing_is_left(lease, &users).await;
            match failed {
                // A conditional write is settled by itself, whatever became of its answer.
                Some(name) if is_conditional(name) => assert_eq!(repeated, 0, "{name}"),
                Some(name) => assert_eq!(repeated, 1, "{name}"),
                None => break,
            }
        }
    }
}

fn is_conditional(name: &str) -> bool {
    const PLAIN: [&str; 4] = [
        "user_seen",
        "lease_user",
        "lease_user_count",
        "lease_users_delete",
    ];
    !READS.contains(&name) && !PLAIN.contains(&name)
}
