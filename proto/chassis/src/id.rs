//! The numbers that name things. Each is an integer from 1 to 2^53 - 1, so that
//! it is exact in JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest id: the largest integer that a JSON reader with 64-bit floats
/// keeps exact (`Number.MAX_SAFE_INTEGER`, ECMA-262).
pub const MAX_ID: i64 = (1 << 53) - 1;

macro_rules! id {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// The id of this number, if it is from 1 to [`MAX_ID`].
            #[must_use]
            pub const fn new(number: i64) -> Option<Self> {
                if number >= 1 && number <= MAX_ID { Some(Self(number)) } else { None }
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Names a user.
    UserId
}
id! {
    /// Names a room.
    RoomId
}
id! {
    /// Names a topic.
    TopicId
}
id! {
    /// Names an entry of a topic's log; ascends with its seq.
    MessageId
}

/// A place in a topic's log: 1, 2, 3 … without a hole. 0 stands before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(i64);

impl Seq {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The seq of this number; a negative one counts as 0.
    #[must_use]
    pub const fn new(number: i64) -> Self {
        if number < 0 { Self(0) } else { Self(number) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The one behind it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
