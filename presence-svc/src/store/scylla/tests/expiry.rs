//! Rows that go by themselves: those of users who have nothing open, an hour later.

use chassis::cql::Applied;
use tokio::time::{Instant, sleep};

use super::*;

/// In how many seconds the sessions and the version of a row expire; `None` for never.
async fn expires(replica: &Replica, lease: LeaseId, user: UserId) -> (Option<i32>, Option<i32>) {
    let ttls = replica.cql.read(
        "ttls",
        "SELECT TTL(sessions), TTL(version) FROM sessions_of_users WHERE user_id = ? AND lease_id = ?",
    );
    let values = (user.get(), &lease.as_bytes()[..]);
    let row = replica.cql.row(&ttls, values).await;
    row.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_never_expires_and_what_is_not_does_within_an_hour() {
    let (one, _, _keyspace) = two().await;
    let (lease, user) = (lease(1), user(1));
    one.hold(lease, 0, 1_000, true).await;
    // He comes for the first time, and again while his row is about to expire.
    for _ in 0..2 {
        one.open(lease, &[session(user, 1)], 1).await;
        assert_eq!(expires(&one, lease, user).await, (None, None));
        one.open(lease, &[session(user, 2)], 1).await;
        one.close(lease, &[session(user, 1)], 1).await;
        assert_eq!(expires(&one, lease, user).await, (None, None));
        one.close(lease, &[session(user, 2)], 1).await;
        let (ids, version) = expires(&one, lease, user).await;
        for expires in [ids, version] {
            let expires = expires.unwrap();
            // All that was under way is over long before.
            assert!((3_000..=3_600).contains(&expires), "{expires}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_expired_is_as_if_he_had_never_come() {
    let (one, _, _keyspace) = two().await;
    let (lease, user) = (lease(1), user(1));
    one.hold(lease, 0, 1_000, true).await;
    one.open(lease, &[session(user, 1)], 1).await;
    one.close(lease, &[session(user, 1)], 2).await;
    // As it was left, with a second instead of the hour.
    let hurry = one.cql.conditional(
        "hurry",
        "UPDATE sessions_of_users USING TTL 1 SET sessions = 0x, version = ? WHERE user_id = ? AND lease_id = ? \
         IF version > 0",
    );
    let values = (1_i64, user.get(), &lease.as_bytes()[..]);
    let hurried = one.cql.apply(&hurry, values).await;
    assert_eq!(hurried, Ok(Applied::Yes));
    let rows = one.cql.read(
        "rows",
        "SELECT lease_id FROM sessions_of_users WHERE user_id = ?",
    );
    let begun = Instant::now();
    loop {
        let left: Vec<(Option<Vec<u8>>,)> = one.cql.rows(&rows, (user.get(),)).await.unwrap();
        // What is left is when he was seen.
        if left == [(None,)] {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{left:?}");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(one.presences(&[user], 3).await, [(false, Some(2))]);
    assert_eq!(one.open(lease, &[session(user, 2)], 4).await, Opened::All);
    assert_eq!(one.presences(&[user], 5).await, [(true, Some(2))]);
    one.close(lease, &[session(user, 2)], 6).await;
    assert_eq!(one.presences(&[user], 7).await, [(false, Some(6))]);
}
