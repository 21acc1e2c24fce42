//! How an append whose outcome is not known is decided.

use std::{collections::VecDeque, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};

use super::topic::Waiting;
use crate::{
    entry::{Entry, Segment},
    store::{AppendError, Appended, LogStore},
};

pub(super) enum Settled {
    /// So many entries from the first on are in the log.
    Applied(usize),
    /// None is, and the head is here.
    Stale(u32),
    /// The first entry alone was refused, before it was executed.
    Refused(String),
    /// No definite answer was to be had.
    Unknown(String),
}

/// Appends entries until the answer is definite.
///
/// An unknown outcome is settled by the identical batch, whose condition makes
/// that harmless; then by smaller ones, for the batch itself may be what the
/// store can't take in time. Once one of them is decided, the head has moved or
/// is known, and whatever is still under way can no longer apply.
pub(super) async fn settle(
    store: &dyn LogStore,
    segment: &Segment,
    head: u32,
    entries: &[Entry],
    waiting: &mut VecDeque<Waiting>,
) -> Settled {
    let mut count = entries.len();
    loop {
        let batch = entries.get(..count).unwrap_or(entries);
        let mut refused = None;
        let mut unknown = None;
        let mut pauses = settling_pauses().build();
        loop {
            match store.append(segment, head, batch).await {
                Ok(Appended::Applied) => return Settled::Applied(count),
                Ok(Appended::Stale { head: truth }) => return Settled::Stale(truth),
                Err(AppendError::Refused(why)) => {
                    refused = Some(why);
                    break;
                }
                Err(AppendError::Unknown(why)) => {
                    metrics::counter!("drivers_message_unknown_outcomes_total").increment(1);
                    waiting
                        .iter_mut()
                        .take(count)
                        .for_each(|waiting| waiting.tried = true);
                    unknown = Some(why);
                }
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break,
            }
        }
        let abandoned = waiting.iter().all(Waiting::is_abandoned);
        match (unknown, refused) {
            (Some(why), _) if count == 1 || abandoned => return Settled::Unknown(why),
            (None, Some(why)) if count == 1 => return Settled::Refused(why),
            _ => count = count.div_ceil(2),
        }
    }
}

/// Between the three tries of one batch.
fn settling_pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .with_factor(4.0)
        .with_jitter()
        .with_max_times(2)
}
