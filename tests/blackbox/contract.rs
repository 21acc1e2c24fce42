//! `contract.md`, sentence by sentence: each case is named for the sentence it holds up.

mod membership;
mod message_bytes;
mod message_events;
mod sign_up;
mod signin;
mod typing;

use tests::trial::Case;

pub(crate) fn cases() -> Vec<Case> {
    [
        sign_up::cases(),
        signin::cases(),
        message_events::cases(),
        message_bytes::cases(),
        typing::cases(),
        membership::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
