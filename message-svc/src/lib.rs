//! The message service: rooms, topics, members, and the log of each topic.

pub mod entry;
pub mod error;
pub mod store;
