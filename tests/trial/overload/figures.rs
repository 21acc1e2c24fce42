//! What became of the messages of some seconds.

use std::collections::BTreeMap;
use std::fmt;

use tests::history::Moment;

/// What became of one message.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// When it was due to be emitted.
    pub(super) due: Moment,
    pub(super) answered: Moment,
    /// Why it failed, if it did.
    pub(super) failed: Option<String>,
}

/// What became of the messages of a span of time.
pub(super) struct Span {
    seconds: f64,
    /// How many were due in it.
    due: usize,
    /// How many it was told in it that they are sent.
    sent: usize,
    /// How many that were due in it have failed by now, by code.
    pub(super) failed: BTreeMap<String, usize>,
    /// How long those took that were due in it and are sent by now, in order; milliseconds.
    took: Vec<Moment>,
}

impl Span {
    pub(super) fn of(answers: &[Answer], open: usize, began: Moment, ended: Moment) -> Self {
        let within = |at| (began..ended).contains(&at);
        let mut span = Self {
            seconds: (ended - began) as f64 / 1_000.0,
            due: open,
            sent: 0,
            failed: BTreeMap::new(),
            took: Vec::new(),
        };
        for answer in answers {
            span.due += usize::from(within(answer.due));
            match &answer.failed {
                None => {
                    span.sent += usize::from(within(answer.answered));
                    if within(answer.due) {
                        span.took.push(answer.answered - answer.due);
                    }
                }
                Some(code) if within(answer.due) => {
                    *span.failed.entry(code.clone()).or_default() += 1;
                }
                Some(_) => {}
            }
        }
        span.took.sort_unstable();
        span
    }

    /// Messages a second that were due.
    pub(super) fn offered(&self) -> f64 {
        self.due as f64 / self.seconds
    }

    /// Messages a second that were sent.
    pub(super) fn goodput(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// Messages a second that failed.
    pub(super) fn refused(&self) -> f64 {
        self.failed.values().sum::<usize>() as f64 / self.seconds
    }

    /// In how many milliseconds this share of those that were sent had its answer.
    pub(super) fn took(&self, share: f64) -> Moment {
        let last = self.took.len().saturating_sub(1);
        let at = (last as f64 * share) as usize;
        self.took.get(at).copied().unwrap_or(0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} a second offered, {:.0} sent, failed {:?}, half in {} ms, 99 of 100 in {} ms, all in {} ms",
            self.offered(),
            self.goodput(),
            self.failed,
            self.took(0.5),
            self.took(0.99),
            self.took(1.0)
        )
    }
}
