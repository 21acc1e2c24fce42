//! The whole edge over real connections, in front of rules that only echo.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod client;
mod ending;
mod hostile;
mod rig;
mod sign_in;
mod sign_up;
mod talking;
