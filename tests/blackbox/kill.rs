//! kill -9 at random moments under traffic.

use tests::cases;
use tests::server::{Folder, Options, Server};
use tests::trial::World;

use crate::traffic::Traffic;

cases! {
    Once:
        two_rounds_lose_double_and_reorder_nothing,
        long_ten_rounds_lose_double_and_reorder_nothing,
        thorough_thirty_rounds_lose_double_and_reorder_nothing;
}

async fn rounds(count: usize) {
    let mut traffic = Traffic::new();
    let folder = Folder::new();
    let mut round = 0;
    // Where all moments are early, little has been sent: then there are more of them.
    while round < count || (round < 3 * count && traffic.acknowledged() <= count * 10) {
        let server = Server::start_on(&folder, Options::default()).await;
        traffic.check(&server).await;
        let moment = traffic.moment(50..1_500);
        let kill = async {
            tokio::time::sleep(moment).await;
            server.kill();
        };
        traffic.during(&server, kill).await;
        println!("round {round}: killed after {moment:?}");
        round += 1;
    }
    let server = Server::start_on(&folder, Options::default()).await;
    traffic.check(&server).await;
    let acknowledged = traffic.acknowledged();
    assert!(
        acknowledged > count * 10,
        "only {acknowledged} messages were acknowledged"
    );
    traffic.check_all(&server).await;
}

async fn two_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(2).await;
}

async fn long_ten_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(10).await;
}

async fn thorough_thirty_rounds_lose_double_and_reorder_nothing(_: World) {
    rounds(30).await;
}
