//! Pages of a long topic and of a short one.

use std::time::{Duration, Instant};

use chassis::id::{Seq, TopicId};
use message_svc::log::{Direction, Log};
use rand::RngExt as _;

use crate::rig::{Pairs, REST, Rig, message, number_of, percentile};

const PAGE: usize = 50;
/// Of some segments, as the long one.
const SHORT: i64 = 3_000;

pub(crate) async fn long_and_short(rig: &Rig) {
    let messages = i64::try_from(number_of("DRIVERS_BENCH_MESSAGES", 1_000_000)).unwrap();
    let log = rig.log().await;
    let begun = Instant::now();
    let long = vec![fill(&log, rig.fresh_topic(), messages).await];
    // Against one short topic, which the database has in its caches as a whole, and against
    // as many messages in short topics, of which it has as little as of the long one.
    let mut short = Vec::new();
    for _ in 0..messages / SHORT {
        short.push(fill(&log, rig.fresh_topic(), SHORT).await);
    }
    println!(
        "  twice {messages} messages were appended in {:.0?}",
        begun.elapsed()
    );
    tokio::time::sleep(REST).await;
    for direction in [Direction::Backward, Direction::Forward] {
        for short in [&short[..], &short[..1]] {
            for _ in 0..1_000 {
                page(&log, &long, direction, messages).await;
                page(&log, short, direction, SHORT).await;
            }
            let pairs = Pairs::default();
            for _ in 0..Pairs::count() {
                let (mut of_long, mut of_short) = (Vec::new(), Vec::new());
                for _ in 0..200 {
                    of_long.push(page(&log, &long, direction, messages).await);
                    of_short.push(page(&log, short, direction, SHORT).await);
                }
                let ms = |values: &mut [Duration]| percentile(values, 0.5).as_secs_f64() * 1_000.0;
                pairs.add(ms(&mut of_long), ms(&mut of_short));
            }
            let what = format!(
                "a page of {PAGE}, {direction:?}, from anywhere in a long topic against {} short",
                short.len()
            );
            pairs.report(&what, "ms", "0.9 to 1.1");
        }
    }
}

async fn fill(log: &Log, topic: TopicId, messages: i64) -> TopicId {
    let mut left = messages;
    while left > 0 {
        let some = left.min(2_048);
        let deadline = Instant::now() + Duration::from_secs(60);
        let batch = (0..some).map(|_| message(1)).collect();
        for answer in log.send(topic, batch, deadline.into()).await {
            answer.unwrap();
        }
        left -= some;
    }
    topic
}

/// How long a whole page takes.
async fn page(log: &Log, topics: &[TopicId], direction: Direction, messages: i64) -> Duration {
    let page = i64::try_from(PAGE).unwrap();
    let topic = topics[rand::rng().random_range(0..topics.len())];
    let start = rand::rng().random_range(page..messages - page);
    let begun = Instant::now();
    let found = log
        .page(topic, direction, Some(Seq::new(start)), PAGE)
        .await
        .unwrap();
    assert_eq!(found.len(), PAGE);
    begun.elapsed()
}
