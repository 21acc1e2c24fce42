//! Leases of gateways, and the sessions that live by them.

use chassis::id::UserId;

use crate::clock::Time;

/// Names a lease: 16 random bytes, made by the gateway that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId([u8; 16]);

/// Names a session: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

macro_rules! bytes {
    ($name:ident) => {
        impl $name {
            /// The id of these bytes.
            #[must_use]
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }
    };
}
bytes!(LeaseId);
bytes!(SessionId);

/// One connection of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// The user.
    pub user: UserId,
    /// The connection.
    pub id: SessionId,
}

/// How long a lease lasts unless it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it was taken or renewed: until then its sessions were certainly there.
    pub from: Time,
    /// From when on it no longer lives.
    pub until: Time,
}

/// What is known of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether he has a session by a living lease.
    pub online: bool,
    /// When a session of his last ended, or was last known to live by a lease
    /// that ended; `None` for never.
    pub last_seen: Option<Time>,
}
