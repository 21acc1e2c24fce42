//! The edge: HTTPS sign-up and Socket.IO for the phones.
