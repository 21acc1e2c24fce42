//! The log on a CQL cluster against the same statements sent raw, side by side.
//!
//! ```sh
//! DRIVERS_BENCH_CQL=127.0.0.1:9042 cargo bench -p message-svc --bench cql -- [group|lone|topics|pages|ends|restart]…
//! ```
//!
//! Each measure runs its two sides in interleaved pairs, and prints the median of the
//! pairs' ratios with the least and the greatest. Absolute figures say little on a
//! shared machine. `DRIVERS_BENCH_PAIRS` sets the number of pairs (11),
//! `DRIVERS_BENCH_TOPICS` the topics of `restart` (10,000), `DRIVERS_BENCH_MESSAGES` the
//! messages of the long topic of `pages` (1,000,000).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark ends where it can't go on"
)]

#[path = "cql/ends.rs"]
mod ends;
#[path = "cql/group.rs"]
mod group;
#[path = "cql/pages.rs"]
mod pages;
#[path = "cql/raw.rs"]
mod raw;
#[path = "cql/restart.rs"]
mod restart;
#[path = "cql/rig.rs"]
mod rig;

use crate::rig::Rig;

type Measure = (&'static str, fn(&Rig) -> futures::future::BoxFuture<'_, ()>);

const MEASURES: [Measure; 6] = [
    ("group", |rig| Box::pin(group::sixteen_senders(rig))),
    ("lone", |rig| Box::pin(group::lone_message(rig))),
    ("topics", |rig| Box::pin(group::sixty_four_topics(rig))),
    ("pages", |rig| Box::pin(pages::long_and_short(rig))),
    ("ends", |rig| Box::pin(ends::segment_ends(rig))),
    ("restart", |rig| Box::pin(restart::many_topics(rig))),
];

fn main() {
    // Cargo hands flags of its own over, as `--bench`.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    for name in &wanted {
        assert!(
            MEASURES.iter().any(|(known, _)| known == name),
            "there is no measure `{name}`"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rig = Rig::new().await;
        for (name, measure) in MEASURES {
            if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
                println!("\n{name}");
                measure(&rig).await;
            }
        }
        rig.end().await;
    });
}
