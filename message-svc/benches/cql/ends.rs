//! Whether a segment's end is felt.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chassis::id::TopicId;
use message_svc::log::Log;

use crate::rig::{Pairs, Rig, percentile, send};

const SEGMENT: usize = 1_024;
const SEGMENTS: usize = 4;
const SENDERS: i64 = 16;

/// The pauses between answers around each segment's end, beside those elsewhere: on a shared
/// machine both have the same noise.
pub(crate) async fn segment_ends(rig: &Rig) {
    let log = rig.log().await;
    let pairs = Pairs::default();
    let mut longest = Vec::new();
    for _ in 0..Pairs::count() {
        let topic = rig.fresh_topic();
        send(&log, topic, 1).await;
        let (at_ends, elsewhere) = pauses(&log, topic).await;
        let ms = |values: &[Duration]| values.iter().max().unwrap().as_secs_f64() * 1_000.0;
        longest.extend(at_ends.iter().copied());
        pairs.add(ms(&at_ends), ms(&elsewhere));
    }
    pairs.report(
        "the longest pause at segments' ends, against elsewhere",
        "ms",
        "below 50 ms",
    );
    println!(
        "  pauses at {} ends: median {:.1?}, longest {:.1?}",
        longest.len(),
        percentile(&mut longest, 0.5),
        percentile(&mut longest, 1.0)
    );
}

async fn pauses(log: &Log, topic: TopicId) -> (Vec<Duration>, Vec<Duration>) {
    let answered = Arc::new(Mutex::new(Vec::<Instant>::new()));
    let tasks: Vec<_> = (1..=SENDERS)
        .map(|owner| {
            let (log, answered) = (log.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                while answered.lock().unwrap().len() < SEGMENTS * SEGMENT + SEGMENT / 2 {
                    send(&log, topic, owner).await;
                    answered.lock().unwrap().push(Instant::now());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let answered = answered.lock().unwrap();
    let (mut at_ends, mut elsewhere) = (Vec::new(), Vec::new());
    let near = SENDERS as usize;
    // The pause in each stretch as long as the neighbourhood of an end.
    for from in (near..answered.len() - 2 * near).step_by(2 * near) {
        let stretch = &answered[from..from + 2 * near];
        let longest = stretch.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        let has_end = (from..from + 2 * near).any(|at| (at + 1) % SEGMENT == 0);
        if has_end {
            &mut at_ends
        } else {
            &mut elsewhere
        }
        .push(longest);
    }
    (at_ends, elsewhere)
}
