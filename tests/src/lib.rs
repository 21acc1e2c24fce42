//! The harness of the black-box suites: it starts the real `drivers`, speaks to
//! it as phones and internal services do, and knows nothing but the contract.
//!
//! A harness stops a test by panicking: there is nobody to hand an error to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

use std::time::Duration;

pub mod account;
pub mod api;
pub mod authority;
pub mod cassandra;
pub mod checker;
pub mod client;
pub mod engine;
pub mod history;
pub mod http;
pub mod nats;
pub mod part;
pub mod processors;
pub mod proxy;
pub mod server;
pub mod trial;

/// The longest a test waits for one thing that should come at once, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A limit, as many times longer as `DRIVERS_TEST_PATIENCE` says (1): for long runs on a
/// machine that does other things besides.
///
/// # Panics
/// The variable is no number.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    let factor = std::env::var("DRIVERS_TEST_PATIENCE");
    limit
        * factor.map_or(1, |factor| {
            factor.parse().expect("DRIVERS_TEST_PATIENCE is a number")
        })
}
