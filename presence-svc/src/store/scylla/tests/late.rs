//! Sweepers who act on what they read when it is no longer so.

use tokio::{runtime::Handle, task::block_in_place};

use super::*;

/// Sweeps once through while something else happens in front of the first `statement`.
async fn sweep_with<F>(
    replica: &Replica,
    now: i64,
    statement: &'static str,
    happens: impl Fn() -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()>,
{
    let met = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&met);
    replica.cql.fail(move |name| {
        if name == statement && times.fetch_add(1, Ordering::SeqCst) == 0 {
            block_in_place(|| Handle::current().block_on(happens()));
        }
        Fault::None
    });
    replica.sweep(now).await;
    replica.cql.heal();
    assert!(met.load(Ordering::SeqCst) > 0, "no {statement}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_whose_clock_is_ahead_ends_no_lease_that_was_just_renewed() {
    let (one, other, _keyspace) = two().await;
    let other = Arc::new(other);
    let (lease, user) = (lease(1), user(1));
    other.hold(lease, 0, 10, true).await;
    other.open(lease, &[session(user, 1)], 1).await;
    let renewing = Arc::clone(&other);
    sweep_with(&one, 12, "lease_end", move || {
        let other = Arc::clone(&renewing);
        async move { assert_eq!(other.hold(lease, 8, 18, false).await, Held::Living) }
    })
    .await;
    assert_eq!(other.presences(&[user], 12).await, [(true, None)]);
    assert_eq!(other.hold(lease, 13, 23, false).await, Held::Living);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_whose_clock_is_ahead_keeps_when_a_lease_was_just_given_back() {
    let (one, other, _keyspace) = two().await;
    let other = Arc::new(other);
    let (lease, user) = (lease(1), user(1));
    other.hold(lease, 0, 10, true).await;
    other.open(lease, &[session(user, 1)], 1).await;
    let releasing = Arc::clone(&other);
    sweep_with(&one, 12, "lease_end", move || {
        let other = Arc::clone(&releasing);
        async move {
            let now = Time::from_ms(9);
            other.store.release_lease(lease, now).await.unwrap();
            assert_eq!(other.presences(&[user], 9).await, [(false, Some(9))]);
        }
    })
    .await;
    assert_eq!(one.presences(&[user], 12).await, [(false, Some(9))]);
    one.sweep(settled(12)).await;
    assert_eq!(one.presences(&[user], 12).await, [(false, Some(9))]);
    one.nothing_is_left(lease, &[user]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_who_is_late_changes_nothing_of_a_lease_that_was_taken_anew() {
    let (one, other, _keyspace) = two().await;
    let other = Arc::new(other);
    let anew = settled(20);
    let late = [(20, "lease_mark_swept"), (anew, "lease_forget")];
    for (number, (now, statement)) in late.into_iter().enumerate() {
        let lease = lease(number);
        other.hold(lease, 0, 10, true).await;
        if now == anew {
            other.sweep(20).await;
        }
        let taking = Arc::clone(&other);
        sweep_with(&one, now, statement, move || {
            let other = Arc::clone(&taking);
            async move {
                other.sweep(20).await;
                other.sweep(anew).await;
                assert_eq!(other.store.leases.one(lease).await, Ok(None));
                assert_eq!(
                    other.hold(lease, anew, anew + 100, true).await,
                    Held::Living
                );
            }
        })
        .await;
        let row = other.store.leases.one(lease).await.unwrap().unwrap();
        assert_eq!(row.swept, None, "{statement}");
        let renewed = other.hold(lease, anew + 50, anew + 150, false).await;
        assert_eq!(renewed, Held::Living, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_whom_another_overtook_begins_the_next_round_and_the_next_lease_at_the_start() {
    let (one, other, _keyspace) = two().await;
    // Users of the partitions 0, 1, 2 and 3.
    let users = [15, 0, 1, 2].map(user);
    let first = lease(1);
    other.hold(first, 0, 10, true).await;
    let sessions = [1, 2, 3].map(|n| session(users[n], 1));
    other.open(first, &sessions, 1).await;
    let swept = one.store.sweep(Time::from_ms(20), 2).await.unwrap();
    assert_eq!(swept.sessions, 2);
    assert_eq!(other.sweep(20).await, 1);

    let second = lease(2);
    other.hold(second, 0, 10, true).await;
    other.open(second, &[session(users[0], 2)], 1).await;
    assert_eq!(one.sweep(20).await, 1);
    other.sweep(settled(20)).await;

    // And so in the second round, in front of which somebody's late opening fell.
    let third = lease(3);
    other.hold(third, 0, 10, true).await;
    other.open(third, &sessions, 1).await;
    one.store.sweep(Time::from_ms(20), 2).await.unwrap();
    other.sweep(20).await;
    let ids = Ids::from([session(users[0], 3).id]);
    let opening = (other.store.sessions).add(third, users[0], Open::default(), ids);
    opening.await.unwrap();
    one.sweep(settled(20)).await;
    for lease in [first, second, third] {
        one.nothing_is_left(lease, &users).await;
    }
}
