#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{testing::fresh_url, *};
use crate::{
    bus::{self, Received, reached},
    id::TopicId,
};

mod signing_in;

/// By when a thing that has to happen has happened.
const LIMIT: Duration = Duration::from_secs(20);

bus_conformance!(async || bus::connect(&fresh_url()).await.unwrap());

/// A server that a test may break. It ends with this, or with the test process.
struct Broker {
    folder: TempDir,
    address: String,
}

impl Broker {
    async fn start(config: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("drivers-nats-")
            .tempdir()
            .unwrap();
        let mut command = script("start", folder.path());
        command.env("NATS_CONFIG", config);
        let address = run(command).await;
        Self { folder, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn connect(&self) -> Arc<dyn Bus> {
        self.connect_with("").await
    }

    async fn connect_with(&self, keys: &str) -> Arc<dyn Bus> {
        bus::connect(&format!("nats://{}?{keys}", self.address))
            .await
            .unwrap()
    }

    /// Ends it with SIGKILL; returns when it is gone.
    async fn kill(&self) {
        self.signal(&["KILL", "again"]).await;
    }

    /// Stops it: its connections stay open, and nothing is answered.
    async fn freeze(&self) {
        self.signal(&["STOP"]).await;
    }

    async fn thaw(&self) {
        self.signal(&["CONT"]).await;
    }

    async fn restart(&self) {
        run(script("start", self.folder.path())).await;
    }

    async fn signal(&self, arguments: &[&str]) {
        let mut command = script("stop", self.folder.path());
        command.args(arguments);
        run(command).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = script("stop", self.folder.path()).arg("KILL").status();
    }
}

fn script(name: &str, folder: &Path) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/nats");
    let mut command = Command::new(scripts.join(name));
    if name == "start" {
        command.args(["--with-parent", &std::process::id().to_string()]);
    }
    command.arg(folder).stdin(Stdio::null());
    command.env_remove("NATS_CONFIG");
    command
}

async fn run(mut command: Command) -> String {
    let output = spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn topic(id: i64) -> Subject {
    Subject::Topic(TopicId::new(id).unwrap())
}

async fn is_there(bus: &Arc<dyn Bus>, there: bool) {
    let mut connected = bus.connected();
    let changed = timeout(LIMIT, connected.wait_for(|is| *is == there));
    changed.await.unwrap().unwrap();
}

async fn next(subscription: &mut Subscription) -> Received {
    timeout(LIMIT, subscription.recv()).await.unwrap().unwrap()
}

fn event(text: &'static str) -> Received {
    Received::Event(Bytes::from_static(text.as_bytes()))
}

/// Publishes, and waits until the broker has it.
async fn publish_and_flush(bus: &Arc<dyn Bus>, subject: Subject, text: &'static str) {
    bus.publish(subject, Bytes::from_static(text.as_bytes()));
    bus.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn two_buses_of_one_prefix_meet_and_others_do_not() {
    let url = fresh_url();
    let (here, there) = (
        bus::connect(&url).await.unwrap(),
        bus::connect(&url).await.unwrap(),
    );
    let stranger = bus::connect(&fresh_url()).await.unwrap();
    let mut subscription = here.subscribe(topic(1)).await.unwrap();
    here.flush(LIMIT).await.unwrap();
    for bus in [&stranger, &there] {
        reached(bus.as_ref()).await;
    }
    publish_and_flush(&stranger, topic(1), "stranger").await;
    publish_and_flush(&there, topic(1), "there").await;
    assert_eq!(next(&mut subscription).await, event("there"));
}

#[tokio::test]
async fn a_bus_on_a_broker_may_misbehave() {
    let url = format!("{}&drop=1&seed=7", fresh_url());
    let bus = bus::connect(&url).await.unwrap();
    let honest = url.replace("drop=1", "drop=0");
    let honest = bus::connect(&honest).await.unwrap();
    let mut subscription = bus.subscribe(topic(1)).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
    reached(honest.as_ref()).await;
    for _ in 0..100 {
        bus.publish(topic(1), Bytes::from_static(b"lost"));
    }
    honest.publish(topic(1), Bytes::from_static(b"kept"));
    assert_eq!(next(&mut subscription).await, event("kept"));
}

#[tokio::test]
async fn an_event_takes_the_trace_along() {
    let url = fresh_url();
    let bus = bus::connect(&url).await.unwrap();
    reached(bus.as_ref()).await;
    let (server, prefix) = url
        .trim_start_matches("nats://")
        .split_once("?prefix=")
        .unwrap();
    let listener = async_nats::connect(server).await.unwrap();
    let mut raw = listener
        .subscribe(format!("{prefix}.v1.topic.5"))
        .await
        .unwrap();
    // Its own answer to itself says that the server has the subscription.
    publish_and_flush(&bus, topic(6), "other").await;
    listener
        .publish(format!("{prefix}.v1.topic.5"), "first".into())
        .await
        .unwrap();
    assert_eq!(raw.next().await.unwrap().payload, "first");

    let trace = TraceContext::fresh();
    trace
        .spanning(async { bus.publish(topic(5), Bytes::from_static(b"traced")) })
        .await;
    let message = timeout(LIMIT, raw.next()).await.unwrap().unwrap();
    let header = message
        .headers
        .unwrap()
        .get("traceparent")
        .unwrap()
        .to_string();
    let arrived = TraceContext::from_traceparent(&header).unwrap();
    assert_eq!(arrived.trace_id, trace.trace_id);
    assert_ne!(arrived.span_id, trace.span_id);
}

#[tokio::test]
async fn a_subscription_ends_with_the_bus() {
    let bus = bus::connect(&fresh_url()).await.unwrap();
    let mut here = bus.subscribe(Subject::Heads).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
    drop(bus);
    assert_eq!(timeout(LIMIT, here.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_broker_that_is_away_at_first_is_found_later() {
    let broker = Broker::start("").await;
    broker.kill().await;
    let bus = broker.connect().await;
    assert!(!*bus.connected().borrow());
    let reconnects = bus.reconnects();
    let mut subscription = bus.subscribe(topic(1)).await.unwrap();
    let mut with_another = bus.subscribe(topic(1)).await.unwrap();
    let short = Duration::from_millis(300);
    let error = bus.flush(short).await.unwrap_err();
    assert!(matches!(error, BusError::TimedOut(limit) if limit == short));

    let flushing = bus.flush(LIMIT);
    let (flushed, ()) = tokio::join!(flushing, broker.restart());
    flushed.unwrap();
    assert!(*bus.connected().borrow());
    assert!(!reconnects.has_changed().unwrap(), "nothing was lost yet");
    bus.publish(topic(1), Bytes::from_static(b"at last"));
    assert_eq!(next(&mut subscription).await, event("at last"));
    assert_eq!(next(&mut with_another).await, event("at last"));
}

#[tokio::test]
async fn subscriptions_survive_a_broker_that_is_killed_and_started_again() {
    let broker = Broker::start("").await;
    let bus = broker.connect().await;
    let mut reconnects = bus.reconnects();
    let mut before = bus.subscribe(topic(1)).await.unwrap();
    bus.flush(LIMIT).await.unwrap();

    for round in 1..=3 {
        broker.kill().await;
        is_there(&bus, false).await;
        let mut meanwhile = bus.subscribe(topic(2)).await.unwrap();
        drop(bus.subscribe(topic(3)).await.unwrap());
        let started = Instant::now();
        for _ in 0..100_000 {
            bus.publish(topic(1), Bytes::from_static(&[0; 512]));
        }
        assert!(started.elapsed() < Duration::from_secs(5));

        broker.restart().await;
        let back = Instant::now();
        timeout(LIMIT, reconnects.changed()).await.unwrap().unwrap();
        assert_eq!(*reconnects.borrow_and_update(), round);
        assert!(
            back.elapsed() < Duration::from_secs(4),
            "{:?}",
            back.elapsed()
        );
        bus.publish(topic(1), Bytes::from_static(b"back"));
        assert_eq!(next(&mut before).await, event("back"));
        bus.publish(topic(2), Bytes::from_static(b"back, too"));
        assert_eq!(next(&mut meanwhile).await, event("back, too"));
    }
}

#[tokio::test]
async fn what_waits_for_the_broker_is_no_more_than_its_subscribers() {
    let broker = Broker::start("").await;
    broker.kill().await;
    let url = NatsUrl::parse(&format!("nats://{}", broker.address), |_, _| Ok(false)).unwrap();
    let bus = NatsBus::connect(&url).await.unwrap();
    let mut kept = Vec::new();
    for number in 1..=20_000 {
        let subscription = bus.subscribe(topic(number)).await.unwrap();
        if number <= 10_000 {
            kept.push(subscription);
        }
    }
    assert_eq!(bus.door.outside(), 10_000);
    broker.restart().await;
    bus.flush(LIMIT).await.unwrap();
    assert_eq!(bus.door.outside(), 0);
    for (number, subscription) in (1..).zip(&mut kept).step_by(999) {
        bus.publish(topic(number), Bytes::from_static(b"here"));
        assert_eq!(next(subscription).await, event("here"));
    }
}

#[tokio::test]
async fn a_broker_that_hangs_is_left_and_publishing_never_waits_for_it() {
    let broker = Broker::start("").await;
    let bus = broker.connect().await;
    let mut reconnects = bus.reconnects();
    let mut subscription = bus.subscribe(topic(1)).await.unwrap();
    bus.flush(LIMIT).await.unwrap();

    broker.freeze().await;
    let frozen = Instant::now();
    let mut longest = Duration::ZERO;
    let event_of_64_kib = Bytes::from(vec![0; 64 * 1024]);
    while *bus.connected().borrow() {
        assert!(frozen.elapsed() < LIMIT);
        let begun = Instant::now();
        for _ in 0..100 {
            bus.publish(topic(2), event_of_64_kib.clone());
        }
        longest = longest.max(begun.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        frozen.elapsed() < Duration::from_secs(6),
        "{:?}",
        frozen.elapsed()
    );
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(bus.flush(Duration::from_millis(100)).await.is_err());

    broker.thaw().await;
    let thawed = Instant::now();
    timeout(LIMIT, reconnects.changed()).await.unwrap().unwrap();
    assert!(
        thawed.elapsed() < Duration::from_secs(4),
        "{:?}",
        thawed.elapsed()
    );
    bus.publish(topic(1), Bytes::from_static(b"awake"));
    while next(&mut subscription).await != event("awake") {}
}

#[tokio::test]
async fn room_is_given_back_and_what_does_not_fit_is_lost() {
    let broker = Broker::start("").await;
    let url = NatsUrl::parse(&format!("nats://{}", broker.address), |_, _| Ok(false)).unwrap();
    let bus = NatsBus::connect(&url).await.unwrap();
    bus.flush(LIMIT).await.unwrap();
    assert_eq!(
        bus.try_publish(topic(1), vec![0; 2 << 20].into()),
        Err("too_large")
    );
    // Nothing here lets the client work meanwhile.
    let large = Bytes::from(vec![0; 512 * 1024]);
    for _ in 0..64 {
        assert_eq!(bus.try_publish(topic(1), large.clone()), Ok(()));
    }
    assert_eq!(bus.try_publish(topic(1), large), Err("full"));
    assert_eq!(bus.room.available_permits(), 0);
    bus.flush(LIMIT).await.unwrap();
    assert_eq!(bus.room.available_permits(), ROOM);
    for _ in 0..COMMANDS {
        assert_eq!(bus.try_publish(topic(1), Bytes::new()), Ok(()));
    }
    assert_eq!(bus.try_publish(topic(1), Bytes::new()), Err("full"));
    bus.flush(LIMIT).await.unwrap();
    broker.kill().await;
    let mut connected = bus.connected();
    timeout(LIMIT, connected.wait_for(|is| !is))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bus.try_publish(topic(1), Bytes::new()), Err("away"));
}
