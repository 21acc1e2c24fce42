//! Conditional appends without a log: what the cluster itself can do.

use std::time::{Duration, Instant};

use chassis::cql::{Applied, Conditional, Cql, Part, Values, Write};

use crate::rig::{BODY, Rig};

/// The statements of an append to the log's own table.
#[derive(Clone)]
pub(crate) struct Raw {
    cql: Cql,
    first: Conditional,
    head: Conditional,
    row: Write,
}

/// A partition that appends go to, and its head.
pub(crate) struct Partition {
    segment: i64,
    head: i32,
}

/// Segments of raw appends; no log ever takes such numbers here.
const FIRST_SEGMENT: i64 = 1 << 40;

impl Raw {
    pub(crate) async fn new(rig: &Rig) -> Self {
        let cql = rig.cql.clone();
        Self {
            first: cql
                .conditional("raw_first", "UPDATE message_log SET head = ? WHERE segment = ? IF head = NULL"),
            head: cql
                .conditional("raw_head", "UPDATE message_log SET head = ? WHERE segment = ? IF head = ?"),
            row: cql
                .write(
                    "raw_row",
                    "INSERT INTO message_log (segment, slot, owner, stamp, body, sent_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
                ),
            cql,
        }
    }

    pub(crate) fn partition() -> Partition {
        Partition {
            segment: FIRST_SEGMENT + i64::from(rand::random::<u32>()),
            head: 0,
        }
    }

    /// Appends so many rows by one conditional batch.
    pub(crate) async fn append(&self, to: &mut Partition, rows: usize) {
        // As long as a segment of the log.
        if to.head as usize + rows > 1_024 {
            *to = Self::partition();
        }
        let new_head = to.head + rows as i32;
        let (first, later) = ((new_head, to.segment), (new_head, to.segment, to.head));
        let values: Vec<_> = (to.head..new_head)
            .map(|slot| {
                (
                    to.segment,
                    slot,
                    1_i64,
                    format!("{slot:032}"),
                    BODY,
                    1_455_667_133_264_i64,
                )
            })
            .collect();
        let mut parts = vec![if to.head == 0 {
            Part::If(&self.first, &first as &dyn Values)
        } else {
            Part::If(&self.head, &later as &dyn Values)
        }];
        parts.extend(
            values
                .iter()
                .map(|row| Part::Also(&self.row, row as &dyn Values)),
        );
        assert_eq!(
            self.cql
                .apply_batch_once("raw_append", &parts)
                .await
                .unwrap(),
            Applied::Yes
        );
        to.head = new_head;
    }

    /// Single-row appends to one partition, one after the other; rows a second.
    pub(crate) async fn single_rows(&self, span: Duration) -> f64 {
        let mut partition = Self::partition();
        let begun = Instant::now();
        let mut rows = 0_u32;
        while begun.elapsed() < span {
            self.append(&mut partition, 1).await;
            rows += 1;
        }
        f64::from(rows) / begun.elapsed().as_secs_f64()
    }

    /// Writers that each append batches of these sizes to a partition of their own; rows a second.
    pub(crate) async fn batches(&self, sizes: Vec<Vec<usize>>) -> f64 {
        let rows: usize = sizes.iter().flatten().sum();
        let begun = Instant::now();
        let writers: Vec<_> = sizes
            .into_iter()
            .map(|sizes| {
                let raw = self.clone();
                tokio::spawn(async move {
                    let mut partition = Self::partition();
                    for size in sizes {
                        raw.append(&mut partition, size).await;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        rows as f64 / begun.elapsed().as_secs_f64()
    }
}
