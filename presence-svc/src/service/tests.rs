#![allow(clippy::unwrap_used)]

use std::sync::{
    Mutex,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use chassis::{
    bus::{BusError, Subscription},
    embedded::Embedded,
};
use tempfile::TempDir;
use tokio::{
    spawn,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    App, Config, build,
    store::{
        embedded::EmbeddedStore,
        failing::{FailingStore, Fault},
    },
};

/// A bus that keeps what is published.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) published: Mutex<Vec<(Subject, Bytes)>>,
}

#[async_trait]
impl Bus for Recorder {
    fn publish(&self, subject: Subject, event: Bytes) {
        self.published.lock().unwrap().push((subject, event));
    }

    async fn subscribe(&self, _subject: Subject) -> Result<Subscription, BusError> {
        Err(BusError::Unavailable("only records".to_owned()))
    }

    async fn flush(&self, _limit: Duration) -> Result<(), BusError> {
        Ok(())
    }

    fn connected(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// A clock that stands until it is moved.
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(crate) fn advance(&self, span: Duration) {
        let ms = i64::try_from(span.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_ms(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct World {
    pub(crate) app: App,
    pub(crate) store: Arc<FailingStore>,
    pub(crate) bus: Arc<Recorder>,
    pub(crate) clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl World {
    fn presences(&self) -> Presences {
        self.app.presences.clone()
    }
}

/// It is 1,000,000 ms after the epoch, a sweep runs every 5 ms once the app
/// runs, and a lease has at most 3 sessions.
pub(crate) async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("presence");
    let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
    let embedded = EmbeddedStore::new(db).await.unwrap();
    let store = Arc::new(FailingStore::new(Arc::new(embedded)));
    let bus = Arc::new(Recorder::default());
    let clock = Arc::new(ManualClock(AtomicI64::new(1_000_000)));
    let config = Config {
        sweep_interval_ms: 5.try_into().unwrap(),
        max_sessions_per_lease: 3.try_into().unwrap(),
    };
    World {
        app: build(&config, store.clone(), bus.clone(), clock.clone()),
        store,
        bus,
        clock,
        _folder: folder,
    }
}

const LEASE: LeaseId = LeaseId::new([1; 16]);
const TTL: Duration = Duration::from_secs(10);

fn session(user: i64, n: u8) -> Session {
    Session {
        user: UserId::new(user).unwrap(),
        id: SessionId::new([n; 16]),
    }
}

#[tokio::test]
async fn a_gateway_that_renews_keeps_its_users_online_and_one_that_died_does_not() {
    let world = world().await;
    let rules = world.presences();
    let user = session(15, 1).user;
    let until = rules.renew_lease(LEASE, TTL, true).await.unwrap();
    assert_eq!(until, Time::from_ms(1_010_000));
    rules.open_sessions(LEASE, &[session(15, 1)]).await.unwrap();

    world.clock.advance(Duration::from_secs(6));
    rules.renew_lease(LEASE, TTL, false).await.unwrap();
    world.clock.advance(Duration::from_secs(6));
    let online = Presence {
        online: true,
        last_seen: None,
    };
    assert_eq!(rules.presences(&[user]).await, Ok(vec![online]));

    world.clock.advance(Duration::from_secs(4));
    let gone = Presence {
        online: false,
        last_seen: Some(Time::from_ms(1_006_000)),
    };
    assert_eq!(rules.presences(&[user]).await, Ok(vec![gone]));
    assert_eq!(
        rules.renew_lease(LEASE, TTL, false).await,
        Err(Error::LeaseLost)
    );
    assert_eq!(
        rules.open_sessions(LEASE, &[session(15, 2)]).await,
        Err(Error::LeaseLost)
    );

    let next = LeaseId::new([2; 16]);
    rules.renew_lease(next, TTL, true).await.unwrap();
    rules.open_sessions(next, &[session(15, 1)]).await.unwrap();
    let [presence] = rules.presences(&[user]).await.unwrap()[..] else {
        unreachable!("one was asked for");
    };
    assert!(presence.online);
}

#[tokio::test]
async fn a_lease_given_back_ends_its_sessions_now() {
    let world = world().await;
    let rules = world.presences();
    rules.renew_lease(LEASE, TTL, true).await.unwrap();
    rules.open_sessions(LEASE, &[session(15, 1)]).await.unwrap();
    world.clock.advance(Duration::from_secs(3));
    rules.release_lease(LEASE).await.unwrap();
    let gone = Presence {
        online: false,
        last_seen: Some(Time::from_ms(1_003_000)),
    };
    let user = session(15, 1).user;
    assert_eq!(rules.presences(&[user]).await, Ok(vec![gone]));
}

#[tokio::test]
async fn calls_whose_answers_were_lost_may_be_repeated() {
    let world = world().await;
    let rules = world.presences();
    let one = [session(15, 1)];
    for fault in [Fault::Before, Fault::After] {
        world.store.fail_next([fault]);
        let lost = rules.renew_lease(LEASE, TTL, true).await;
        assert!(matches!(lost, Err(Error::Store(_))), "{lost:?}");
    }
    rules.renew_lease(LEASE, TTL, true).await.unwrap();
    for fault in [Fault::Before, Fault::After] {
        world.store.fail_next([fault]);
        assert!(rules.open_sessions(LEASE, &one).await.is_err());
    }
    rules.open_sessions(LEASE, &one).await.unwrap();
    // Each of them counted once.
    let others = [session(16, 2), session(17, 3)];
    rules.open_sessions(LEASE, &others).await.unwrap();
    assert_eq!(
        rules.open_sessions(LEASE, &[session(18, 4)]).await,
        Err(Error::TooManySessions)
    );
    world.store.fail_next([Fault::After]);
    assert!(rules.close_sessions(LEASE, &one).await.is_err());
    world.clock.advance(Duration::from_secs(1));
    rules.close_sessions(LEASE, &one).await.unwrap();
    let [presence] = rules.presences(&[one[0].user]).await.unwrap()[..] else {
        unreachable!("one was asked for");
    };
    assert_eq!(presence.last_seen, Some(Time::from_ms(1_000_000)));
}

#[tokio::test]
async fn the_sweeper_cleans_up_behind_dead_gateways_although_the_store_fails_at_times() {
    let world = world().await;
    let rules = world.presences();
    rules.renew_lease(LEASE, TTL, true).await.unwrap();
    rules.open_sessions(LEASE, &[session(15, 1)]).await.unwrap();
    world
        .store
        .fail_next([Fault::Before, Fault::After, Fault::Before]);
    world.clock.advance(TTL);
    let shutdown = CancellationToken::new();
    let runs = spawn(world.app.run(shutdown.clone()));
    // Once swept, the lease is not even known to be lost: it can be taken again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.store.faults_left() > 0 || rules.renew_lease(LEASE, TTL, true).await.is_err() {
        assert!(Instant::now() < deadline, "never swept");
        sleep(Duration::from_millis(5)).await;
    }
    let gone = Presence {
        online: false,
        last_seen: Some(Time::from_ms(1_000_000)),
    };
    let user = session(15, 1).user;
    assert_eq!(rules.presences(&[user]).await, Ok(vec![gone]));
    shutdown.cancel();
    runs.await.unwrap();
}
