//! The six promises, each with cases that fall when it is broken.

mod durable;
mod exactly_once;
mod never_silent;
mod no_gaps;
mod no_one_elses;
mod one_order;

use tests::trial::Case;

pub(crate) fn cases() -> Vec<Case> {
    [
        durable::cases(),
        exactly_once::cases(),
        one_order::cases(),
        no_gaps::cases(),
        never_silent::cases(),
        no_one_elses::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
