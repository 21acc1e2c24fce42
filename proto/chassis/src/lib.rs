//! What every party to the contract shares: ids, calls, errors, the bus,
//! configuration, telemetry, health and shutdown.

pub mod admin;
pub mod bus;
pub mod call;
pub mod client;
pub mod clock;
mod cluster_url;
pub mod config;
pub mod cql;
pub mod database;
pub mod embedded;
pub mod health;
pub mod id;
pub mod identity;
mod methods;
pub mod program;
#[cfg(feature = "sabotage")]
pub mod sabotage;
pub mod secret_file;
pub mod server;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod tls;
