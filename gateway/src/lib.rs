//! The edge: HTTPS sign-up and Socket.IO for the phones.

pub mod frame;
pub mod outbox;
pub mod rules;
