//! The whole system in one process: the gateway and the three services, above
//! stores in one folder and a bus in memory.

pub mod app;
pub mod banner;
pub mod config;
pub mod error;
mod flags;
mod part;
pub mod process;
mod stores;
