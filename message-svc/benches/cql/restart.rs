//! A service that starts while thousands of topics are in use.

use std::time::{Duration, Instant};

use chassis::id::TopicId;
use futures::{StreamExt as _, stream};
use rand::RngExt as _;

use crate::rig::{REST, Rig, message, number_of, percentile, send};

/// So many sends a second come in, whatever becomes of those before.
const RATE: u32 = 100;
const SPAN: Duration = Duration::from_secs(30);

pub(crate) async fn many_topics(rig: &Rig) {
    let count = number_of("DRIVERS_BENCH_TOPICS", 10_000);
    let topics: Vec<TopicId> = (0..count).map(|_| rig.fresh_topic()).collect();
    let log = rig.log().await;
    let begun = Instant::now();
    stream::iter(topics.clone())
        .for_each_concurrent(32, |topic| {
            let log = log.clone();
            async move {
                // Full but for one slot, which is the dearest to load.
                let batch = (0..1_023).map(|_| message(1)).collect();
                let deadline = Instant::now() + Duration::from_secs(120);
                for answer in log.send(topic, batch, deadline.into()).await {
                    answer.unwrap();
                }
            }
        })
        .await;
    println!(
        "  {count} topics of 1,023 messages were filled in {:.0?}",
        begun.elapsed()
    );
    drop(log);
    tokio::time::sleep(REST).await;

    for rate in [RATE, RATE * 4] {
        let log = rig.log().await;
        let begun = Instant::now();
        let mut sends = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        while begun.elapsed() < SPAN {
            ticks.tick().await;
            let topic = topics[rand::rng().random_range(0..topics.len())];
            let log = log.clone();
            let intended = begun.elapsed();
            sends.push(tokio::spawn(async move {
                (intended, send(&log, topic, 1).await)
            }));
        }
        let mut latencies = Vec::new();
        for send in sends {
            latencies.push(send.await.unwrap());
        }
        let mut first: Vec<Duration> = latencies
            .iter()
            .filter(|(at, _)| *at < Duration::from_secs(1))
            .map(|(_, latency)| *latency)
            .collect();
        let mut all: Vec<Duration> = latencies.into_iter().map(|(_, latency)| latency).collect();
        println!(
            "  a new log, {rate} sends/s over all of them: first second p99 {:.2?}, {} s p50 {:.2?} p99 {:.2?} longest {:.2?}, target below 2 s",
            percentile(&mut first, 0.99),
            SPAN.as_secs(),
            percentile(&mut all, 0.5),
            percentile(&mut all, 0.99),
            percentile(&mut all, 1.0)
        );
    }
}
