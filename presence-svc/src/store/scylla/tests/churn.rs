//! What coming and going leaves behind.

use std::time::Instant;

use super::*;

/// How many sessions he opens and closes, and how often: with a tombstone for each of the
/// 5,000, a read takes six times as long.
const SESSIONS: usize = 50;
const TIMES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_came_and_went_for_weeks_is_asked_about_as_quickly_as_a_new_one() {
    let (one, _, _keyspace) = two().await;
    let lease = lease(1);
    one.hold(lease, 0, 1_000, true).await;
    let (old, new) = (user(1), user(2));
    for time in 0..TIMES {
        let numbers = time * SESSIONS..(time + 1) * SESSIONS;
        let sessions: Vec<Session> = numbers.map(|n| session(old, n)).collect();
        one.open(lease, &sessions, 1).await;
        one.close(lease, &sessions, 1).await;
    }
    let sessions = [session(old, TIMES * SESSIONS), session(new, 0)];
    one.open(lease, &sessions, 1).await;
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..200 {
        for (user, taken) in [old, new].iter().zip(&mut taken) {
            let begun = Instant::now();
            assert!(one.presences(&[*user], 2).await[0].0);
            taken.push(begun.elapsed());
        }
    }
    let [old, new] = taken.map(|mut taken| {
        taken.sort();
        taken[taken.len() / 2]
    });
    assert!(old < 3 * new, "the old one {old:?}, the new one {new:?}");
}
