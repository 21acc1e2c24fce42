//! The whole system in one process: the gateway and the three services, above
//! stores in one folder or one keyspace, and a bus in memory.

pub mod app;
pub mod banner;
pub mod config;
mod flags;
pub mod process;
