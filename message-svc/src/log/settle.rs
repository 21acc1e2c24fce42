//! How an append whose outcome is not known is decided.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use chassis::id::{TopicId, UserId};
use tokio::time::Instant;

use super::{ADMITTED_FOR, Admission, topic::Waiting};
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
    /// The store is away, and executed nothing of what was sent last.
    Unavailable(String),
    /// No definite answer was to be had.
    Unknown(String),
}

/// Appends entries until the answer is definite.
///
/// An unknown outcome is settled by the identical batch, whose condition makes
/// that harmless; then by smaller ones, for the batch itself may be what the
/// store can't take in time. Once one of them is decided, the head has moved or
/// is known, and whatever is still under way can no longer apply.
///
/// Nothing is sent that rests on too old an admission: its senders are asked for again.
pub(super) async fn settle(
    store: &dyn LogStore,
    segment: &Segment,
    head: u32,
    entries: &[Entry],
    waiting: &mut VecDeque<Waiting>,
    mut senders: Senders<'_>,
) -> Settled {
    let mut unsure = false;
    let mut count = entries.len();
    let settled = loop {
        let batch = entries.get(..count).unwrap_or(entries);
        let tried = try_batch(
            store,
            segment,
            head,
            batch,
            waiting,
            &mut senders,
            &mut unsure,
        );
        match tried.await {
            #[cfg(feature = "sabotage")]
            _ if unsure && chassis::sabotage::is("unknown_is_refused") => {
                break Settled::Unknown(String::new());
            }
            Ok(Appended::Applied) => break Settled::Applied(count),
            Ok(Appended::Stale { head }) => break Settled::Stale(head),
            Err(AppendError::Unavailable(why)) => break Settled::Unavailable(why),
            Err(AppendError::Refused(why)) if count == 1 => break Settled::Refused(why),
            Err(AppendError::Unknown(why))
                if count == 1
                    || waiting.iter().all(Waiting::is_abandoned)
                    || !senders.may_post(waiting).await =>
            {
                break Settled::Unknown(why);
            }
            Err(AppendError::Refused(_) | AppendError::Unknown(_)) => count = count.div_ceil(2),
        }
    };
    if unsure {
        let decided = match settled {
            Settled::Applied(whole) if whole == entries.len() => "applied",
            Settled::Applied(_) => "smaller_batch",
            Settled::Stale(_) => "stale",
            Settled::Refused(_) | Settled::Unavailable(_) | Settled::Unknown(_) => "open",
        };
        metrics::counter!("drivers_message_settled_outcomes_total", "decided" => decided)
            .increment(1);
    }
    settled
}

/// Sends one batch until its outcome is known, up to three times.
async fn try_batch(
    store: &dyn LogStore,
    segment: &Segment,
    head: u32,
    batch: &[Entry],
    waiting: &mut VecDeque<Waiting>,
    senders: &mut Senders<'_>,
    unsure: &mut bool,
) -> Result<Appended, AppendError> {
    let mut pauses = settling_pauses().build();
    loop {
        let error = match store.append(segment, head, batch).await {
            #[cfg(feature = "sabotage")]
            Err(AppendError::Unknown(_)) if chassis::sabotage::is("unknown_is_applied") => {
                return Ok(Appended::Applied);
            }
            Err(AppendError::Unknown(why)) => {
                metrics::counter!("drivers_message_unknown_outcomes_total").increment(1);
                *unsure = true;
                (waiting.iter_mut().take(batch.len())).for_each(|waiting| waiting.tried = true);
                AppendError::Unknown(why)
            }
            // This one never will be executed; what was sent before may be yet.
            Err(AppendError::Refused(why)) if *unsure => return Err(AppendError::Unknown(why)),
            Err(AppendError::Unavailable(why)) => AppendError::Unavailable(why),
            answer => return answer,
        };
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
        if !senders.may_post(waiting).await {
            return Err(error);
        }
    }
}

/// The senders of a batch, and until when they may post.
pub(super) struct Senders<'a> {
    pub(super) admission: &'a dyn Admission,
    pub(super) topic: TopicId,
    pub(super) until: Instant,
}

impl Senders<'_> {
    /// Whether they may still, or again.
    async fn may_post(&mut self, waiting: &VecDeque<Waiting>) -> bool {
        let now = Instant::now();
        if now < self.until {
            return true;
        }
        let senders: HashSet<UserId> = waiting.iter().map(|one| one.owner.id).collect();
        for sender in senders {
            if self.admission.admit(self.topic, sender).await.is_err() {
                return false;
            }
        }
        self.until = now + ADMITTED_FOR;
        true
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
