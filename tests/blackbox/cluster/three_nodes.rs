//! Three nodes, each with all data: one may be away.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::message::v1::{Direction, ListEntriesRequest};
use tests::api::Api;
use tests::cases;
use tests::cassandra::Cluster;
use tests::patience;
use tests::server::{Folder, Options, Server};
use tests::trial::World;
use tokio::time::{sleep, timeout};

use super::{FREEZE, GOES_ON};
use crate::traffic::Traffic;
use crate::traffic::probe::Probe;

cases! {
    Cluster:
        one_node_killed_sends_go_on,
        two_nodes_killed_sends_are_refused_and_nothing_is_lost_or_doubled,
        a_frozen_node_decides_nothing_when_it_comes_back,
        a_node_that_missed_commits_shows_no_hole,
        thorough_one_node_killed_twenty_times,
        thorough_two_nodes_killed_twenty_times,
        thorough_a_node_frozen_twenty_times,
        thorough_nodes_that_missed_commits_answer_twenty_times;
}

const NODES: u32 = 3;

/// Three nodes take half a minute to start, and as long to make the tables.
static SHARED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);

struct Shared {
    cluster: Cluster,
    folder: Arc<Folder>,
}

impl Shared {
    async fn get() -> Arc<Self> {
        let lock = || SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = lock().clone();
        if let Some(shared) = shared {
            shared.cluster.mend().await;
            return shared;
        }
        let shared = Arc::new(Self {
            cluster: Cluster::start(NODES).await,
            folder: Folder::new(),
        });
        *lock() = Some(Arc::clone(&shared));
        shared
    }

    async fn server(&self) -> Server {
        let options = Options {
            store: Some(self.cluster.url(self.folder.keyspace())),
            ..Options::default()
        };
        Server::start_on(&self.folder, options).await
    }
}

pub(super) fn end() {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
}

async fn one_killed(rounds: u32) {
    let shared = Shared::get().await;
    let cluster = &shared.cluster;
    let server = shared.server().await;
    let mut traffic = Traffic::new();
    let mut probe = Probe::new(&server).await;
    for _ in 0..rounds {
        let node = 1 + traffic.one_of(NODES);
        let moment = traffic.moment(50..1_500);
        let fault = async {
            sleep(moment).await;
            cluster.kill(node).await;
            let took = probe.goes_on_within(GOES_ON).await;
            println!("node {node} killed after {moment:?}; sends go on after {took:?}");
            // The two that are left have found out by then.
            sleep(FREEZE).await;
            probe.goes_on_within(GOES_ON).await;
        };
        traffic.during(&server, fault).await;
        traffic.check(&server).await;
        traffic.settle_all(&server).await;
        cluster.restart(node).await;
        probe.goes_on_within(GOES_ON).await;
        traffic.check(&server).await;
    }
    traffic.check_all(&server).await;
}

async fn one_node_killed_sends_go_on(_: World) {
    one_killed(1).await;
}

async fn thorough_one_node_killed_twenty_times(_: World) {
    one_killed(20).await;
}

async fn two_killed(rounds: u32) {
    let shared = Shared::get().await;
    let cluster = &shared.cluster;
    let server = shared.server().await;
    let mut traffic = Traffic::new();
    let mut probe = Probe::new(&server).await;
    for _ in 0..rounds {
        let first = traffic.one_of(NODES);
        let (first, second) = (1 + first, 1 + (first + 1) % NODES);
        let (moment, between) = (traffic.moment(50..1_500), traffic.moment(0..1_500));
        let fault = async {
            sleep(moment).await;
            cluster.kill(first).await;
            sleep(between).await;
            cluster.kill(second).await;
            probe.is_refused_within(FREEZE).await;
            cluster.restart(first).await;
            let took = probe.goes_on_within(GOES_ON).await;
            println!("nodes {first} and {second} killed; sends go on after {took:?}");
            cluster.restart(second).await;
            probe.goes_on_within(GOES_ON).await;
        };
        traffic.during(&server, fault).await;
        traffic.check(&server).await;
        traffic.settle_all(&server).await;
    }
    traffic.check_all(&server).await;
}

async fn two_nodes_killed_sends_are_refused_and_nothing_is_lost_or_doubled(_: World) {
    two_killed(1).await;
}

async fn thorough_two_nodes_killed_twenty_times(_: World) {
    two_killed(20).await;
}

/// What was sent to it lies in its sockets until it goes on, long after others have decided.
async fn frozen(rounds: u32) {
    let shared = Shared::get().await;
    let cluster = &shared.cluster;
    let server = shared.server().await;
    let mut traffic = Traffic::new();
    let mut probe = Probe::new(&server).await;
    for _ in 0..rounds {
        let node = 1 + traffic.one_of(NODES);
        let moment = traffic.moment(50..1_500);
        let fault = async {
            sleep(moment).await;
            cluster.freeze(node).await;
            let took = probe.goes_on_within(GOES_ON).await;
            println!("node {node} frozen after {moment:?}; sends go on after {took:?}");
            sleep(FREEZE).await;
            cluster.thaw(node).await;
            // It now does what it was asked to, under traffic.
            sleep(Duration::from_secs(2)).await;
            probe.goes_on_within(GOES_ON).await;
        };
        traffic.during(&server, fault).await;
        traffic.check(&server).await;
        traffic.settle_all(&server).await;
    }
    traffic.check_all(&server).await;
}

async fn a_frozen_node_decides_nothing_when_it_comes_back(_: World) {
    frozen(1).await;
}

async fn thorough_a_node_frozen_twenty_times(_: World) {
    frozen(20).await;
}

/// Each node is away in turn, so that each misses what the next one's absence makes it answer.
async fn missed(rounds: u32) {
    let shared = Shared::get().await;
    let cluster = &shared.cluster;
    let server = shared.server().await;
    let mut traffic = Traffic::new();
    let mut probe = Probe::new(&server).await;
    let away = traffic.moment(2_000..5_000);
    for _ in 0..rounds {
        let topics = traffic.topics(&server).await;
        let (over, pages) = (Cell::new(false), Cell::new(0));
        let turns = async {
            for node in 1..=NODES {
                cluster.freeze(node).await;
                sleep(away).await;
                cluster.thaw(node).await;
                probe.goes_on_within(GOES_ON).await;
                // It answers again, and has missed what came meanwhile.
                let before = pages.get();
                let read = async {
                    while pages.get() < before + 2 {
                        sleep(Duration::from_millis(20)).await;
                    }
                };
                let read = timeout(patience(GOES_ON), read).await;
                assert!(read.is_ok(), "nothing is read once node {node} is back");
            }
            over.set(true);
        };
        let fault = futures::future::join(turns, read(&server, &topics, &over, &pages));
        traffic.during(&server, fault).await;
        println!("{} pages were read", pages.get());
        traffic.check(&server).await;
        traffic.settle_all(&server).await;
    }
    traffic.check_all(&server).await;
}

/// Reads the topics' newest and oldest pages until it is over: no seq is ever missing in one.
async fn read(server: &Server, topics: &[i64], over: &Cell<bool>, pages: &Cell<usize>) {
    let mut messages = Api::of(server).messages;
    while !over.get() {
        for (topic, direction) in topics
            .iter()
            .flat_map(|topic| [Direction::Forward, Direction::Backward].map(|way| (*topic, way)))
        {
            let request = ListEntriesRequest {
                topic_id: topic,
                direction: direction.into(),
                start_seq: 0,
                page_size: 500,
                page_token: String::new(),
            };
            let page = match messages.list_entries(request).await {
                Ok(page) => page.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                    continue;
                }
            };
            let seqs: Vec<i64> = page.entries.iter().map(|entry| entry.seq).collect();
            let step = if direction == Direction::Forward {
                1
            } else {
                -1
            };
            for pair in seqs.windows(2) {
                assert_eq!(pair[1], pair[0] + step, "a hole in topic {topic}: {seqs:?}");
            }
            if let (Direction::Forward, Some(first)) = (direction, seqs.first()) {
                assert_eq!(*first, 1, "the beginning of topic {topic} is missing");
            }
            pages.set(pages.get() + 1);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn a_node_that_missed_commits_shows_no_hole(_: World) {
    missed(1).await;
}

async fn thorough_nodes_that_missed_commits_answer_twenty_times(_: World) {
    missed(20).await;
}
