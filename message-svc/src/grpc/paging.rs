//! Pages of lists, as in <https://google.aip.dev/158>.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chassis::id::{RoomId, Seq, TopicId, UserId};
use sha2::{Digest as _, Sha256};

use super::fields::invalid;
use crate::{error::Error, log::Direction};

const DEFAULT_SIZE: usize = 50;

/// First byte of every token: a change of its form gets the next number.
const VERSION: u8 = 1;

/// What is listed, with all parameters but the page's size.
///
/// A page token holds where the next page starts, and a digest of that and of these
/// parameters, so that a token of another list, or one that was mangled, is noticed.
/// It proves nothing else: what a caller may read is checked in each call.
#[derive(Clone, Copy)]
pub(super) enum Listing {
    Entries(TopicId, Direction, Seq),
    Rooms,
    Topics(RoomId),
    Memberships(UserId),
    Members(TopicId),
}

impl Listing {
    /// Rows of a page, from what was asked for.
    pub(super) fn limit(self, page_size: i32) -> Result<usize, Error> {
        let most = match self {
            Self::Entries(..) | Self::Rooms | Self::Topics(_) => 500,
            Self::Memberships(_) | Self::Members(_) => 1_000,
        };
        match usize::try_from(page_size) {
            Ok(0) => Ok(DEFAULT_SIZE),
            Ok(size) => Ok(size.min(most)),
            Err(_) => Err(invalid("page_size", "must not be negative")),
        }
    }

    /// The token of the page that starts behind, or at, this place.
    pub(super) fn token(self, place: i64) -> String {
        let place = place.to_be_bytes();
        let mut token = vec![VERSION];
        token.extend(place);
        token.extend(self.digest(place));
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The place in a token; `None` for the first page, which has none.
    pub(super) fn place<P>(
        self,
        token: &str,
        place: fn(i64) -> Option<P>,
    ) -> Result<Option<P>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        self.decode(token).and_then(place).map(Some).ok_or_else(|| {
            invalid(
                "page_token",
                "must be the next_page_token of this list, with all else as in that call",
            )
        })
    }

    /// Cuts rows, of which one more was read than fits, to a page; the token of the next one.
    pub(super) fn cut<R>(self, rows: &mut Vec<R>, limit: usize, id: fn(&R) -> i64) -> String {
        if rows.len() <= limit {
            return String::new();
        }
        rows.truncate(limit);
        rows.last()
            .map_or_else(String::new, |last| self.token(id(last)))
    }

    fn decode(self, token: &str) -> Option<i64> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (place, digest) = bytes.strip_prefix(&[VERSION])?.split_first_chunk()?;
        (digest == self.digest(*place)).then(|| i64::from_be_bytes(*place))
    }

    fn digest(self, place: [u8; 8]) -> [u8; 8] {
        let (kind, parameters): (u8, [i64; 3]) = match self {
            Self::Entries(topic, Direction::Forward, start) => (1, [topic.get(), 1, start.get()]),
            Self::Entries(topic, Direction::Backward, start) => (1, [topic.get(), 2, start.get()]),
            Self::Rooms => (2, [0; 3]),
            Self::Topics(room) => (3, [room.get(), 0, 0]),
            Self::Memberships(user) => (4, [user.get(), 0, 0]),
            Self::Members(topic) => (5, [topic.get(), 0, 0]),
        };
        let mut digest = Sha256::new_with_prefix([VERSION, kind]);
        for parameter in parameters {
            digest.update(parameter.to_be_bytes());
        }
        digest.update(place);
        let digest: [u8; 32] = digest.finalize().into();
        digest.first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    fn topic(number: i64) -> TopicId {
        TopicId::new(number).expect("an id")
    }

    #[test]
    fn a_token_is_read_by_its_own_list_only() {
        let list = Listing::Entries(topic(7), Direction::Forward, Seq::ZERO);
        let token = list.token(51);
        assert_eq!(list.decode(&token), Some(51));
        for other in [
            Listing::Entries(topic(8), Direction::Forward, Seq::ZERO),
            Listing::Entries(topic(7), Direction::Backward, Seq::ZERO),
            Listing::Entries(topic(7), Direction::Forward, Seq::new(1)),
            Listing::Members(topic(7)),
            Listing::Rooms,
        ] {
            assert_eq!(other.decode(&token), None);
        }
    }

    #[test]
    fn a_mangled_token_is_not_read() {
        let list = Listing::Rooms;
        let token = list.token(51);
        for place in 0..token.len() {
            let mut mangled = token.clone();
            let replacement = if token[place..].starts_with('B') {
                "C"
            } else {
                "B"
            };
            mangled.replace_range(place..=place, replacement);
            assert_eq!(list.decode(&mangled), None, "{mangled}");
            assert_eq!(list.decode(&token[..place]), None);
        }
        assert_eq!(list.decode(&format!("{token}AAAA")), None);
        assert_eq!(list.decode("no token"), None);
    }
}
