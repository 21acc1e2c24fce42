//! What every party to the contract shares: ids, calls, errors, the bus,
//! configuration, telemetry, health and shutdown.

pub mod bus;
pub mod call;
pub mod id;
pub mod status;
