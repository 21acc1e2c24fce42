//! What every store of leases and sessions does. A backend runs all of it by
//! `conformance::suite!(a function that yields a fresh store and what keeps it alive)`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use chassis::id::UserId;

use super::{Held, Opened, Store};
use crate::{
    clock::Time,
    session::{LeaseId, Presence, Session, SessionId, Term},
};

macro_rules! suite {
    ($fresh:path) => {
        $crate::store::conformance::suite!(
            $fresh,
            a_lease_is_held_from_term_to_term,
            a_lease_that_was_never_taken_is_lost,
            a_lease_that_ran_out_never_lives_again,
            a_lease_that_was_given_back_never_lives_again,
            giving_back_a_lease_that_does_not_live_changes_nothing,
            a_user_is_online_while_a_lease_of_his_lives,
            one_living_session_of_several_is_enough,
            opening_and_closing_again_change_nothing,
            sessions_are_opened_by_living_leases_only,
            a_lease_has_a_bounded_number_of_sessions,
            a_sweep_tells_the_same_as_before_and_goes_by_steps,
            a_sweep_ends_the_sessions_of_many_users,
            a_sweep_leaves_the_living_alone,
            a_later_time_of_being_seen_stays,
            closing_counts_after_the_lease_ran_out,
            leases_do_not_touch_each_others_sessions,
        );
    };
    ($fresh:path, $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _keep) = $fresh().await;
                $crate::store::conformance::$case(store).await;
            }
        )+
    };
}
pub(crate) use suite;

const LIMIT: u64 = 1_000;
const ONE: LeaseId = LeaseId::new([1; 16]);
const OTHER: LeaseId = LeaseId::new([0xff; 16]);

fn at(ms: i64) -> Time {
    Time::from_ms(ms)
}

fn user(n: i64) -> UserId {
    UserId::new(n).unwrap()
}

fn session(user_number: i64, n: u8) -> Session {
    Session {
        user: user(user_number),
        id: SessionId::new([n; 16]),
    }
}

/// Holds a lease from one time to another.
async fn hold(store: &dyn Store, lease: LeaseId, from: i64, until: i64, take: bool) -> Held {
    let term = Term {
        from: at(from),
        until: at(until),
    };
    store.hold_lease(lease, term, take).await.unwrap()
}

async fn open(store: &dyn Store, lease: LeaseId, sessions: &[Session], now: i64) -> Opened {
    let opened = store.open_sessions(lease, sessions, at(now), LIMIT).await;
    opened.unwrap()
}

async fn close(store: &dyn Store, lease: LeaseId, sessions: &[Session], now: i64) {
    let closed = store.close_sessions(lease, sessions, at(now)).await;
    closed.unwrap();
}

/// Whether a user is online at a time, and when he was last seen.
async fn presence(store: &dyn Store, number: i64, now: i64) -> (bool, Option<i64>) {
    let presences = store.presences(&[user(number)], at(now)).await.unwrap();
    let [Presence { online, last_seen }] = presences[..] else {
        unreachable!("one was asked for: {presences:?}");
    };
    (online, last_seen.map(Time::as_ms))
}

/// Sweeps to the end; how many sessions ended.
async fn sweep(store: &dyn Store, now: i64, limit: usize) -> usize {
    let mut sessions = 0;
    loop {
        let swept = store.sweep(at(now), limit).await.unwrap();
        assert!(swept.sessions <= limit, "{swept:?}");
        sessions += swept.sessions;
        if swept.done {
            return sessions;
        }
    }
}

pub(crate) async fn a_lease_is_held_from_term_to_term(store: Arc<dyn Store>) {
    let store = &*store;
    assert_eq!(hold(store, ONE, 0, 10, true).await, Held::Living);
    assert_eq!(hold(store, ONE, 2, 12, true).await, Held::Living);
    assert_eq!(hold(store, ONE, 11, 21, false).await, Held::Living);
    assert_eq!(hold(store, ONE, 20, 30, false).await, Held::Living);
}

pub(crate) async fn a_lease_that_was_never_taken_is_lost(store: Arc<dyn Store>) {
    let store = &*store;
    assert_eq!(hold(store, ONE, 0, 10, false).await, Held::Lost);
    assert_eq!(hold(store, OTHER, 0, 10, true).await, Held::Living);
    assert_eq!(hold(store, ONE, 0, 10, false).await, Held::Lost);
    store.release_lease(ONE, at(5)).await.unwrap();
    assert_eq!(hold(store, ONE, 6, 16, false).await, Held::Lost);
}

pub(crate) async fn a_lease_that_ran_out_never_lives_again(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    let sessions: Vec<Session> = (0..4).map(|n| session(15, n)).collect();
    open(store, ONE, &sessions, 1).await;
    assert_eq!(hold(store, ONE, 10, 20, false).await, Held::Lost);
    assert_eq!(hold(store, ONE, 11, 21, true).await, Held::Lost);
    // A sweep that was cut off, and a clock that went back.
    store.sweep(at(12), 2).await.unwrap();
    assert_eq!(hold(store, ONE, 9, 19, false).await, Held::Lost);
    assert_eq!(presence(store, 15, 9).await, (false, Some(0)));
    sweep(store, 12, 2).await;
    assert_eq!(hold(store, ONE, 9, 19, false).await, Held::Lost);
}

pub(crate) async fn a_lease_that_was_given_back_never_lives_again(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    open(store, ONE, &[session(15, 1)], 1).await;
    store.release_lease(ONE, at(5)).await.unwrap();
    assert_eq!(presence(store, 15, 5).await, (false, Some(5)));
    store.release_lease(ONE, at(7)).await.unwrap();
    assert_eq!(presence(store, 15, 7).await, (false, Some(5)));
    assert_eq!(hold(store, ONE, 6, 16, true).await, Held::Lost);
    // Nor for a term that is over before the one that it had.
    assert_eq!(hold(store, ONE, 6, 8, true).await, Held::Lost);
    assert_eq!(sweep(store, 8, 100).await, 1);
    assert_eq!(presence(store, 15, 9).await, (false, Some(5)));
}

pub(crate) async fn giving_back_a_lease_that_does_not_live_changes_nothing(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    open(store, ONE, &[session(15, 1)], 1).await;
    store.release_lease(ONE, at(10)).await.unwrap();
    assert_eq!(presence(store, 15, 11).await, (false, Some(0)));
    assert_eq!(sweep(store, 12, 100).await, 1);
    assert_eq!(presence(store, 15, 12).await, (false, Some(0)));
    // One that nobody knows can still be taken.
    store.release_lease(OTHER, at(12)).await.unwrap();
    assert_eq!(hold(store, OTHER, 13, 23, true).await, Held::Living);
}

pub(crate) async fn a_user_is_online_while_a_lease_of_his_lives(store: Arc<dyn Store>) {
    let store = &*store;
    assert_eq!(presence(store, 15, 0).await, (false, None));
    hold(store, ONE, 0, 10, true).await;
    assert_eq!(open(store, ONE, &[session(15, 1)], 1).await, Opened::All);
    assert_eq!(presence(store, 15, 9).await, (true, None));
    assert_eq!(presence(store, 16, 9).await, (false, None));
    // Nobody swept: what the lease says counts.
    assert_eq!(presence(store, 15, 10).await, (false, Some(0)));
    hold(store, ONE, 8, 18, false).await;
    assert_eq!(presence(store, 15, 10).await, (true, None));
    assert_eq!(presence(store, 15, 18).await, (false, Some(8)));
}

pub(crate) async fn one_living_session_of_several_is_enough(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 100, true).await;
    hold(store, OTHER, 0, 10, true).await;
    open(store, ONE, &[session(15, 1), session(15, 2)], 1).await;
    open(store, OTHER, &[session(15, 3)], 1).await;
    assert_eq!(presence(store, 15, 10).await, (true, Some(0)));
    close(store, ONE, &[session(15, 1)], 11).await;
    assert_eq!(presence(store, 15, 11).await, (true, Some(11)));
    close(store, ONE, &[session(15, 2)], 12).await;
    assert_eq!(presence(store, 15, 12).await, (false, Some(12)));
}

pub(crate) async fn opening_and_closing_again_change_nothing(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 100, true).await;
    let twice = [session(15, 1), session(15, 1)];
    assert_eq!(open(store, ONE, &twice, 1).await, Opened::All);
    assert_eq!(open(store, ONE, &twice, 2).await, Opened::All);
    close(store, ONE, &twice, 5).await;
    assert_eq!(presence(store, 15, 6).await, (false, Some(5)));
    close(store, ONE, &twice, 8).await;
    assert_eq!(presence(store, 15, 9).await, (false, Some(5)));
    close(store, OTHER, &twice, 9).await;
    assert_eq!(presence(store, 15, 9).await, (false, Some(5)));
}

pub(crate) async fn sessions_are_opened_by_living_leases_only(store: Arc<dyn Store>) {
    let store = &*store;
    let one = [session(15, 1)];
    assert_eq!(open(store, ONE, &one, 1).await, Opened::LeaseLost);
    hold(store, ONE, 0, 10, true).await;
    assert_eq!(open(store, ONE, &one, 10).await, Opened::LeaseLost);
    hold(store, ONE, 5, 20, false).await;
    store.release_lease(ONE, at(6)).await.unwrap();
    assert_eq!(open(store, ONE, &one, 7).await, Opened::LeaseLost);
    assert_eq!(presence(store, 15, 7).await, (false, None));
}

pub(crate) async fn a_lease_has_a_bounded_number_of_sessions(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    hold(store, OTHER, 0, 10, true).await;
    let three = [session(1, 1), session(2, 2), session(3, 3)];
    let two = [session(3, 3), session(4, 4)];
    let open = async |lease, sessions: &[Session]| {
        let opened = store.open_sessions(lease, sessions, at(1), 3).await;
        opened.unwrap()
    };
    assert_eq!(open(ONE, &three).await, Opened::All);
    assert_eq!(open(ONE, &three).await, Opened::All);
    assert_eq!(open(ONE, &two).await, Opened::TooMany);
    assert_eq!(presence(store, 4, 2).await, (false, None));
    assert_eq!(open(OTHER, &two).await, Opened::All);
    close(store, ONE, &[session(1, 1)], 2).await;
    close(store, ONE, &[session(1, 1)], 2).await;
    hold(store, ONE, 2, 12, false).await;
    assert_eq!(open(ONE, &two).await, Opened::All);
    assert_eq!(open(ONE, &[session(5, 5)]).await, Opened::TooMany);
}

pub(crate) async fn a_sweep_tells_the_same_as_before_and_goes_by_steps(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    hold(store, ONE, 3, 13, false).await;
    let sessions: Vec<Session> = (0..10).map(|n| session(n + 1, 7)).collect();
    open(store, ONE, &sessions, 4).await;
    assert_eq!(sweep(store, 12, 3).await, 0);
    for _ in 0..2 {
        for number in 1..=10 {
            assert_eq!(presence(store, number, 13).await, (false, Some(3)));
        }
        store.sweep(at(13), 3).await.unwrap();
    }
    assert_eq!(sweep(store, 13, 3).await, 4);
    assert_eq!(sweep(store, 13, 3).await, 0);
    for number in 1..=10 {
        assert_eq!(presence(store, number, 14).await, (false, Some(3)));
    }
}

pub(crate) async fn a_sweep_ends_the_sessions_of_many_users(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    // More than a store reads at a time, even if all of them come to lie in one partition.
    let users: Vec<i64> = (1..=300).map(|n| n * 1_024).collect();
    let sessions: Vec<Session> = users.iter().map(|user| session(*user, 7)).collect();
    assert_eq!(open(store, ONE, &sessions, 1).await, Opened::All);
    assert_eq!(sweep(store, 10, 1_000).await, users.len());
    for user in [users[0], users[299]] {
        assert_eq!(presence(store, user, 11).await, (false, Some(0)));
    }
}

pub(crate) async fn a_sweep_leaves_the_living_alone(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    hold(store, OTHER, 0, 20, true).await;
    open(store, ONE, &[session(15, 1)], 1).await;
    open(store, OTHER, &[session(15, 1), session(16, 2)], 1).await;
    assert_eq!(sweep(store, 15, 100).await, 1);
    assert_eq!(presence(store, 15, 15).await, (true, Some(0)));
    assert_eq!(presence(store, 16, 15).await, (true, None));
    assert_eq!(hold(store, OTHER, 15, 30, false).await, Held::Living);
}

pub(crate) async fn a_later_time_of_being_seen_stays(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    hold(store, OTHER, 0, 100, true).await;
    open(store, ONE, &[session(15, 1)], 1).await;
    open(store, OTHER, &[session(15, 2)], 1).await;
    close(store, OTHER, &[session(15, 2)], 9).await;
    assert_eq!(presence(store, 15, 11).await, (false, Some(9)));
    sweep(store, 11, 100).await;
    assert_eq!(presence(store, 15, 11).await, (false, Some(9)));
}

pub(crate) async fn closing_counts_after_the_lease_ran_out(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 10, true).await;
    open(store, ONE, &[session(15, 1)], 1).await;
    close(store, ONE, &[session(15, 1)], 12).await;
    assert_eq!(presence(store, 15, 13).await, (false, Some(12)));
    assert_eq!(sweep(store, 13, 100).await, 0);
    assert_eq!(presence(store, 15, 13).await, (false, Some(12)));
}

pub(crate) async fn leases_do_not_touch_each_others_sessions(store: Arc<dyn Store>) {
    let store = &*store;
    hold(store, ONE, 0, 100, true).await;
    hold(store, OTHER, 0, 100, true).await;
    let same = [session(15, 1)];
    open(store, ONE, &same, 1).await;
    open(store, OTHER, &same, 1).await;
    close(store, ONE, &same, 2).await;
    assert_eq!(presence(store, 15, 3).await, (true, Some(2)));
    store.release_lease(OTHER, at(4)).await.unwrap();
    assert_eq!(presence(store, 15, 5).await, (false, Some(4)));
    assert_eq!(
        store
            .presences(&[user(16), user(15), user(15)], at(5))
            .await,
        Ok([None, Some(at(4)), Some(at(4))]
            .map(|last_seen| Presence {
                online: false,
                last_seen
            })
            .to_vec())
    );
    assert_eq!(store.presences(&[], at(5)).await, Ok(Vec::new()));
}
