//! A prefix of its own for each test, on a real server.

/// Names the server, `host:port`.
pub const VARIABLE: &str = "DRIVERS_TEST_NATS";

/// The URL of a bus on the shared server that nobody else uses; two buses of it meet.
///
/// # Panics
/// When [`VARIABLE`] is not set: a test without its server has failed.
#[must_use]
#[allow(clippy::panic, reason = "only tests call it")]
pub fn fresh_url() -> String {
    let Ok(server) = std::env::var(VARIABLE) else {
        panic!(
            "{VARIABLE} is not set: start a server by `tests/nats/start FOLDER` and set it to the address that it prints, or run `tests/run`"
        );
    };
    format!("nats://{server}?prefix=t{:016x}", rand::random::<u64>())
}
