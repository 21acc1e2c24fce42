//! Several replicas behind one channel, of which some fail.

#![allow(clippy::panic, clippy::indexing_slicing)]

use std::sync::Mutex;

use proto::message::v1::{SendMessagesRequest, message_service_client::MessageServiceClient};
use tokio::task::JoinSet;

use super::{
    super::names::Resolve,
    stand::{Mode, Replica},
    *,
};
use crate::telemetry::Metrics;

async fn several(count: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(Replica::new(|_| Answer::Ok).await);
    }
    replicas
}

fn channel(replicas: &[Replica]) -> Channel {
    let urls: Vec<String> = (replicas.iter())
        .map(|it| format!("http://{}", it.address))
        .collect();
    // What is lost here is lost by the replicas, not for want of a budget.
    let limits = ClientConfig {
        retries_per_second: 1_000,
        ..ClientConfig::default()
    };
    (Channel::connect(&urls.join(","), secret()).unwrap()).with_limits(&limits)
}

async fn send(channel: &Channel, topic: TopicId) -> Result<(), Status> {
    let call = Call::within(LIMIT).about(topic);
    let mut client = MessageServiceClient::new(channel.clone());
    let sent = client.send_messages(call.request(SendMessagesRequest::default()));
    timeout(LIMIT, sent).await.unwrap().map(|_| ())
}

/// The replicas that took something since they were asked last, by their places.
fn took(replicas: &[Replica]) -> Vec<usize> {
    let took = replicas.iter().map(Replica::took).enumerate();
    took.filter(|(_, took)| *took > 0)
        .map(|(at, _)| at)
        .collect()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = timeout(LIMIT, waiting).await;
    assert!(came.is_ok(), "waited in vain until {what}");
}

#[tokio::test]
async fn calls_are_spread_over_all_replicas() {
    let replicas = several(3).await;
    let channel = channel(&replicas);
    for _ in 0..300 {
        issue_token(&channel, LIMIT).await.unwrap();
    }
    for replica in &replicas {
        let took = replica.took();
        assert!((50..150).contains(&took), "one of three took {took} of 300");
    }
}

#[tokio::test]
async fn a_replica_that_was_killed_is_left_and_found_again() {
    let replicas = several(2).await;
    let channel = channel(&replicas);
    for _ in 0..20 {
        get_user(&channel, LIMIT).await.unwrap();
    }
    replicas[0].mode.send_replace(Mode::Refuses);
    for _ in 0..20 {
        get_user(&channel, LIMIT).await.unwrap();
    }
    took(&replicas);
    // Nobody goes there any more, so calls that can't be sent again succeed too.
    for _ in 0..200 {
        issue_token(&channel, LIMIT).await.unwrap();
    }
    assert_eq!(took(&replicas), [1]);

    replicas[0].mode.send_replace(Mode::Serves);
    let back = Instant::now();
    until("it has calls again", async || {
        issue_token(&channel, LIMIT).await.unwrap();
        replicas[0].took() > 0
    })
    .await;
    assert!(
        back.elapsed() < Duration::from_secs(3),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn a_replica_that_hangs_is_left_within_two_seconds() {
    let replicas = several(2).await;
    let channel = channel(&replicas);
    for _ in 0..20 {
        get_user(&channel, LIMIT).await.unwrap();
    }
    replicas[0].mode.send_replace(Mode::Hangs);
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let channel = channel.clone();
        calls.spawn(async move { get_user(&channel, LIMIT).await });
    }
    while let Some(answered) = calls.join_next().await {
        answered.unwrap().unwrap();
    }
    let left = begun.elapsed();
    assert!(left < Duration::from_secs(2), "{left:?}");
    println!("50 calls, half of them to a replica that hangs, took {left:?}");

    took(&replicas);
    // These can't be sent again, so one that hung would fail.
    for _ in 0..200 {
        issue_token(&channel, LIMIT).await.unwrap();
    }
    assert_eq!(took(&replicas), [1]);

    replicas[0].mode.send_replace(Mode::Serves);
    until("it has calls again", async || {
        issue_token(&channel, LIMIT).await.unwrap();
        replicas[0].took() > 0
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_answers_others_meanwhile_is_not_left() {
    let hangs = Replica::new(|_| Answer::Ok).await;
    hangs.mode.send_replace(Mode::Hangs);
    let peers = format!("http://{}", hangs.address).parse().unwrap();
    let credentials = Credentials::Secret(secret());
    let replicas = Replicas::new("test", &peers, credentials, Names::of_the_system()).unwrap();
    let tried = Tried::default();
    let begin = || replicas.pick(None, &tried);
    let (slow, quick) = (begin().await, begin().await);
    quick.note(Outcome::Answered);
    slow.note(Outcome::TimedOut);
    assert!(!slow.replica().is_down());
    let silent = begin().await;
    silent.note(Outcome::TimedOut);
    assert!(silent.replica().is_down());
}

#[tokio::test]
async fn a_caller_in_a_hurry_finds_out_too() {
    let replicas = several(2).await;
    let channel = channel(&replicas);
    replicas[0].mode.send_replace(Mode::Hangs);
    let begun = Instant::now();
    let mut answered = 0;
    while answered < 20 {
        // Less than a try may have, so no try of these ever times out by itself.
        match get_user(&channel, Duration::from_millis(100)).await {
            Ok(()) => answered += 1,
            Err(_) => answered = 0,
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn behind_one_address_another_connection_is_made_when_one_hangs() {
    // A load balancer of connections: the first one goes to a replica that hangs.
    let replicas = several(2).await;
    let at = [replicas[0].address, replicas[1].address];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let balancer = tokio::spawn(async move {
        for replica in at.into_iter().cycle() {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(replica).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let channel = Channel::connect(&format!("http://{address}"), secret()).unwrap();
    get_user(&channel, LIMIT).await.unwrap();
    assert_eq!(took(&replicas), [0]);
    replicas[0].mode.send_replace(Mode::Hangs);
    let begun = Instant::now();
    get_user(&channel, LIMIT).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(took(&replicas), [1]);
    balancer.abort();
}

#[tokio::test]
async fn a_retry_goes_to_another_replica() {
    let replicas = [
        Replica::new(|_| Answer::Fail(Code::Unavailable)).await,
        Replica::new(|_| Answer::Ok).await,
    ];
    let channel = channel(&replicas);
    for number in 1..=50 {
        send(&channel, TopicId::new(number).unwrap()).await.unwrap();
        get_user(&channel, LIMIT).await.unwrap();
        assert!(replicas[0].took() <= 2);
        assert_eq!(replicas[1].took(), 2);
    }
}

#[tokio::test]
async fn a_topic_has_a_replica_and_another_one_while_that_is_away() {
    let replicas = several(3).await;
    let channel = channel(&replicas);
    let topics: Vec<TopicId> = (1..=30).filter_map(TopicId::new).collect();
    let mut owners = Vec::new();
    for topic in &topics {
        for _ in 0..3 {
            send(&channel, *topic).await.unwrap();
        }
        let took = took(&replicas);
        assert_eq!(took.len(), 1, "the sends of {topic} went to {took:?}");
        owners.push(took[0]);
    }
    replicas[0].mode.send_replace(Mode::Refuses);
    for (topic, owner) in topics.iter().zip(&owners) {
        send(&channel, *topic).await.unwrap();
        send(&channel, *topic).await.unwrap();
        let took = took(&replicas);
        assert_eq!(took.len(), 1, "the sends of {topic} went to {took:?}");
        assert!(*owner == 0 || took[0] == *owner, "{topic} has moved");
    }
    replicas[0].mode.send_replace(Mode::Serves);
    until("its topics are back", async || {
        for topic in &topics {
            send(&channel, *topic).await.unwrap();
        }
        replicas[0].took() == owners.iter().filter(|owner| **owner == 0).count()
    })
    .await;
}

/// Resolves every name to what the test says.
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<Option<Vec<SocketAddr>>>>);

impl Resolver {
    fn says(&self, found: Option<&[&Replica]>) {
        *self.0.lock().unwrap() = found.map(|all| all.iter().map(|it| it.address).collect());
    }
}

impl Resolve for Resolver {
    fn resolve(&self, _: Address) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        let found = self.0.lock().unwrap().clone();
        Box::pin(async move { found.ok_or_else(|| std::io::Error::other("no answer")) })
    }
}

#[tokio::test]
async fn replicas_come_and_go_as_their_name_says() {
    let mut replicas = several(2).await;
    replicas.push(Replica::new(|_| Answer::After(Duration::from_millis(300))).await);
    let [one, other, slow] = replicas.as_slice() else {
        unreachable!("there are three");
    };
    let resolver = Resolver::default();
    let names = Names {
        resolver: Arc::new(resolver.clone()),
        every: Duration::from_millis(20),
    };
    let peers: Peers = "dns:///message-svc:8081".parse().unwrap();
    let credentials = Credentials::Secret(secret());
    let found = Replicas::new("message-svc", &peers, credentials, names).unwrap();
    let channel = Channel::over(Transport::Remote(Arc::new(found)));

    let error = get_user(&channel, Duration::from_millis(200))
        .await
        .unwrap_err();
    assert_eq!(status::reason(&error).as_deref(), Some("NO_REPLICA"));
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { issue_token(&channel, LIMIT).await }
    });
    tokio::task::yield_now().await;
    resolver.says(Some(&[one]));
    waiting.await.unwrap().unwrap();

    resolver.says(Some(&[one, slow]));
    until("the new one has calls", async || {
        issue_token(&channel, LIMIT).await.unwrap();
        slow.took() > 0
    })
    .await;

    // What it is at work on when it goes is answered.
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let channel = channel.clone();
        calls.spawn(async move { issue_token(&channel, LIMIT).await });
    }
    until("it is at work", async || {
        slow.requests.load(Ordering::SeqCst) > 0
    })
    .await;
    resolver.says(Some(&[one, other]));
    while let Some(answered) = calls.join_next().await {
        answered.unwrap().unwrap();
    }
    slow.took();
    until("the next one has calls", async || {
        issue_token(&channel, LIMIT).await.unwrap();
        other.took() > 0
    })
    .await;

    for nothing in [None, Some([].as_slice())] {
        resolver.says(nothing);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            issue_token(&channel, LIMIT).await.unwrap();
        }
    }
    assert_eq!(slow.took(), 0);
    // Who stayed all the time was connected to once.
    assert_eq!(one.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_replica_that_is_not_ready_is_passed_over() {
    let replicas = several(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let starting = format!("http://{}", listener.local_addr().unwrap());
    let readiness = Readiness::new();
    let latch = readiness.latch("the database");
    let later = crate::server::Later::<Script<fn(usize) -> Answer>>::new();
    let services =
        Services::new(ServerConfig::default(), Gate::Secret(secret())).with(later.clone());
    let server = tokio::spawn(async move {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        crate::server::serve(listener, services, &readiness, &shutdown).await
    });
    let both = format!("http://{},{starting}", replicas[0].address);
    let channel = Channel::connect(&both, secret()).unwrap();
    until("it is passed over", async || {
        for _ in 0..20 {
            if issue_token(&channel, LIMIT).await.is_err() {
                return false;
            }
        }
        true
    })
    .await;
    later.is(Script {
        requests: Arc::clone(&replicas[0].requests),
        answer: |_| Answer::Ok,
    });
    drop(latch);
    replicas[0].mode.send_replace(Mode::Refuses);
    until("it has the calls", async || {
        get_user(&channel, LIMIT).await.is_ok()
    })
    .await;
    server.abort();
}

#[tokio::test]
async fn it_is_known_how_many_there_are_and_how_many_are_well() {
    let (recorder, metrics) = Metrics::detached();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let replicas = several(2).await;
    let channel = channel(&replicas);
    let says = |known: usize, healthy: usize| {
        let text = metrics.render();
        [("", known), ("_healthy", healthy)]
            .iter()
            .all(|(name, count)| {
                text.contains(&format!(
                    "drivers_grpc_client_replicas{name}{{service=\"services\"}} {count}\n"
                ))
            })
    };
    assert!(says(2, 2), "{}", metrics.render());
    replicas[0].mode.send_replace(Mode::Refuses);
    until("one is left", async || {
        get_user(&channel, LIMIT).await.unwrap();
        says(2, 1)
    })
    .await;
    assert!(!metrics.render().contains("127.0.0.1"));
    drop(channel);
    until("they are forgotten", async || says(0, 0)).await;
}

#[tokio::test]
async fn old_connections_are_replaced_and_no_call_notices() {
    let config = ServerConfig {
        max_connection_age_s: 1,
        ..ServerConfig::default()
    };
    let replicas = [Replica::with(config, |_| Answer::After(Duration::from_millis(5))).await];
    let channel = channel(&replicas);
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let channel = channel.clone();
        callers.spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(4) {
                // It can't be sent again, so one that is cut off is lost.
                issue_token(&channel, LIMIT).await.unwrap();
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let connections = replicas[0].connections.load(Ordering::SeqCst);
    assert!((3..=6).contains(&connections), "{connections}");
}
