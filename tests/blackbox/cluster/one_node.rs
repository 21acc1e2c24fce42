//! A database of one node: what it lost, nobody else has.

use tests::cases;
use tests::cassandra::Cluster;
use tests::server::{Folder, Options, Server};
use tests::trial::World;
use tokio::time::sleep;

use super::{FREEZE, GOES_ON};
use crate::traffic::Traffic;
use crate::traffic::probe::Probe;

cases! {
    Cluster:
        kill_9_of_database_and_drivers_loses_doubles_and_reorders_nothing,
        what_a_frozen_database_left_unknown_is_decided_rightly,
        thorough_kill_9_of_database_and_drivers_twenty_times_each,
        thorough_the_database_frozen_twenty_times;
}

async fn kills(rounds: u32) {
    let cluster = Cluster::start(1).await;
    let folder = Folder::new();
    let options = Options {
        store: Some(cluster.url(folder.keyspace())),
        ..Options::default()
    };
    let mut traffic = Traffic::new();
    let mut server = Server::start_on(&folder, options.clone()).await;
    for round in 0..rounds {
        let (moment, between) = (traffic.moment(50..1_500), traffic.moment(0..400));
        let mut probe = Probe::new(&server).await;
        let fault = async {
            probe.goes_on_within(GOES_ON).await;
            sleep(moment).await;
            match round % 3 {
                0 => cluster.kill(1).await,
                1 => server.kill(),
                _ => {
                    server.kill();
                    sleep(between).await;
                    cluster.kill(1).await;
                }
            }
            cluster.mend().await;
            if server.is_running() {
                let took = probe.goes_on_within(GOES_ON).await;
                println!("sends go on after {took:?}");
            }
        };
        traffic.during(&server, fault).await;
        println!("round {round}: the kill came after {moment:?}");
        if !server.is_running() {
            server = Server::start_on(&folder, options.clone()).await;
        }
        traffic.check(&server).await;
    }
    let acknowledged = traffic.acknowledged();
    assert!(
        acknowledged > rounds as usize * 10,
        "only {acknowledged} messages were acknowledged"
    );
    traffic.check_all(&server).await;
}

async fn kill_9_of_database_and_drivers_loses_doubles_and_reorders_nothing(_: World) {
    kills(3).await;
}

async fn thorough_kill_9_of_database_and_drivers_twenty_times_each(_: World) {
    kills(60).await;
}

async fn freezes(rounds: u32) {
    let cluster = Cluster::start(1).await;
    let folder = Folder::new();
    let options = Options {
        store: Some(cluster.url(folder.keyspace())),
        ..Options::default()
    };
    let mut traffic = Traffic::new();
    let server = Server::start_on(&folder, options).await;
    let mut probe = Probe::new(&server).await;
    for round in 0..rounds {
        let moment = traffic.moment(50..1_500);
        let fault = async {
            sleep(moment).await;
            cluster.freeze(1).await;
            probe.is_refused_within(FREEZE).await;
            sleep(FREEZE).await;
            cluster.thaw(1).await;
            probe.goes_on_within(GOES_ON).await
        };
        let took = traffic.during(&server, fault).await;
        println!("round {round}: frozen after {moment:?}; sends go on after {took:?}");
        traffic.check(&server).await;
    }
    traffic.check_all(&server).await;
}

async fn what_a_frozen_database_left_unknown_is_decided_rightly(_: World) {
    freezes(1).await;
}

async fn thorough_the_database_frozen_twenty_times(_: World) {
    freezes(20).await;
}
