//! Several processes at once.

use futures::future::join_all;
use tokio::{runtime::Handle, task::block_in_place};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_that_sweep_at_once_do_it_once() {
    let (one, other, _keyspace) = two().await;
    let users: Vec<UserId> = (0..120).map(user).collect();
    let leases = [1, 2, 3].map(lease);
    for (lease, users) in leases.into_iter().zip(users.chunks(40)) {
        one.hold(lease, 5, 10, true).await;
        let sessions: Vec<Session> = users.iter().map(|user| session(*user, 1)).collect();
        assert_eq!(one.open(lease, &sessions, 6).await, Opened::All);
    }
    for now in [20, settled(20)] {
        let (ended, ended_too) = tokio::join!(one.sweep(now), other.sweep(now));
        // Each session is ended by one; a write whose outcome stayed unknown may count too.
        assert!(now > 20 || ended + ended_too >= users.len());
        for presence in one.presences(&users, 20).await {
            assert_eq!(presence, (false, Some(5)));
        }
    }
    for lease in leases {
        one.nothing_is_left(lease, &users).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_change_what_one_user_has_open_lose_nothing() {
    let (one, other, _keyspace) = two().await;
    let lease = lease(1);
    one.hold(lease, 0, 1_000, true).await;
    let sessions: Vec<Session> = (0..12).map(|n| session(user(1), n)).collect();
    let open = async |(n, session): (usize, &Session)| {
        let replica = if n % 2 == 0 { &one } else { &other };
        let session = [*session];
        loop {
            let now = Time::from_ms(1);
            let opened = replica.store.open_sessions(lease, &session, now, LIMIT);
            match opened.await {
                Ok(opened) => break assert_eq!(opened, Opened::All),
                Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
            }
        }
    };
    let opens = join_all(sessions.iter().enumerate().map(open));
    timeout(Duration::from_mins(1), opens).await.unwrap();
    let row: Open = other.store.sessions.look(lease, user(1)).await.unwrap();
    assert_eq!(row.ids, sessions.iter().map(|session| session.id).collect());
    for (n, session) in sessions.iter().enumerate() {
        let presence = other.presences(&[user(1)], 2).await;
        assert!(presence[0].0, "{n} closed");
        one.close(lease, &[*session], 2).await;
    }
    assert_eq!(other.presences(&[user(1)], 3).await, [(false, Some(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_opened_while_the_last_one_is_closed_stays_open() {
    let (one, other, _keyspace) = two().await;
    let (lease, user) = (lease(1), user(1));
    one.hold(lease, 0, 1_000, true).await;
    one.open(lease, &[session(user, 1)], 1).await;
    let closes = AtomicUsize::new(0);
    one.cql.fail(move |name| {
        if name == "user_sessions_empty" && closes.fetch_add(1, Ordering::SeqCst) == 0 {
            let second = [session(user, 2)];
            let opened =
                block_in_place(|| Handle::current().block_on(other.open(lease, &second, 1)));
            assert_eq!(opened, Opened::All);
        }
        Fault::None
    });
    one.close(lease, &[session(user, 1)], 2).await;
    one.cql.heal();
    let row: Open = one.store.sessions.look(lease, user).await.unwrap();
    assert_eq!(row.ids, Ids::from([session(user, 2).id]));
    assert_eq!(one.presences(&[user], 3).await, [(true, Some(2))]);
}

/// Opens sessions while another sweeps the lease in front of the `at`th request, and dies
/// in front of the next if `dies`. How many requests there were, and what came of it.
async fn open_swept_at(
    one: &Replica,
    other: &Arc<Replica>,
    (lease, sessions): (LeaseId, &[Session]),
    at: usize,
    dies: bool,
) -> (usize, Option<Opened>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let died = Arc::new(Notify::new());
    let (count, dying, sweeper) = (Arc::clone(&requests), Arc::clone(&died), Arc::clone(other));
    one.cql.fail(move |_| {
        let request = count.fetch_add(1, Ordering::SeqCst);
        if request == at {
            block_in_place(|| Handle::current().block_on(sweeper.sweep(20)));
        }
        if dies && request > at {
            dying.notify_one();
            return Fault::CrashBefore;
        }
        Fault::None
    });
    let opened = select! {
        opened = one.open(lease, sessions, 5) => Some(opened),
        () = died.notified() => None,
    };
    one.cql.heal();
    (requests.load(Ordering::SeqCst), opened)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_while_his_lease_is_swept_leaves_nothing_behind() {
    let (one, other, _keyspace) = two().await;
    let other = Arc::new(other);
    let mut number = 0;
    for dies in [false, true] {
        for at in 0.. {
            number += 1;
            let (lease, users) = (lease(number), [0, 1].map(|n| user(2 * number + n)));
            other.hold(lease, 0, 10, true).await;
            let sessions = users.map(|user| session(user, 1));
            let (requests, opened) =
                open_swept_at(&one, &other, (lease, &sessions), at, dies).await;
            if requests <= at {
                assert_eq!(opened, Some(Opened::All));
                assert!(at > 20, "opening is {at} requests");
                break;
            }
            if !dies {
                assert_eq!(opened, Some(Opened::LeaseLost), "swept at {at}");
                for user in users {
                    let known = other.store.sessions.of_user(user).await.unwrap();
                    assert_eq!(known.leases, [], "swept at {at}");
                }
            }
            for (online, seen) in other.presences(&users, 20).await {
                assert!(
                    !online && seen.is_none_or(|seen| seen == 0),
                    "swept at {at}"
                );
            }
            other.sweep(settled(20)).await;
            other.nothing_is_left(lease, &users).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_counts_what_a_lease_has_open() {
    let (one, other, _keyspace) = two().await;
    let lease = lease(1);
    one.hold(lease, 0, 1_000, true).await;
    let sessions: Vec<Session> = (0..9).map(|n| session(user(n / 2), n)).collect();
    let open = async |replica: &Replica, sessions: &[Session]| {
        let opened = replica
            .store
            .open_sessions(lease, sessions, Time::from_ms(1), 5);
        opened.await.unwrap()
    };
    assert_eq!(open(&one, &sessions[..4]).await, Opened::All);
    one.close(lease, &sessions[..1], 2).await;
    assert_eq!(open(&other, &sessions[4..7]).await, Opened::TooMany);
    assert_eq!(open(&other, &sessions[1..6]).await, Opened::All);
    assert_eq!(open(&other, &sessions[6..7]).await, Opened::TooMany);
    assert_eq!(other.presences(&[user(3)], 3).await, [(false, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_comes_late_shortens_nothing() {
    let (one, other, _keyspace) = two().await;
    let lease = lease(1);
    one.hold(lease, 0, 10, true).await;
    assert_eq!(one.hold(lease, 8, 18, false).await, Held::Living);
    assert_eq!(other.hold(lease, 3, 13, false).await, Held::Living);
    assert_eq!(
        one.open(lease, &[session(user(1), 1)], 15).await,
        Opened::All
    );
    assert_eq!(one.hold(lease, 17, 27, false).await, Held::Living);
}
