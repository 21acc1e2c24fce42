//! Fields of requests, each by its rule and under its name in the schema.

use std::time::Duration;

use chassis::{
    call::Call,
    id::{RoomId, TopicId, UserId},
};
use proto::message::v1 as pb;

use crate::{
    directory::Asker,
    error::Error,
    log::{Direction, MAX_AGE},
    store::Visibility,
};

/// Most ids that one call can ask about.
const MAX_IDS: usize = 1_000;

pub(super) fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Error {
    Error::FieldInvalid {
        field: field.into(),
        rule: rule.into(),
    }
}

pub(super) fn topic_id(number: i64) -> Result<TopicId, Error> {
    TopicId::new(number).ok_or_else(|| invalid("topic_id", ID_RULE))
}

pub(super) fn room_id(number: i64) -> Result<RoomId, Error> {
    RoomId::new(number).ok_or_else(|| invalid("room_id", ID_RULE))
}

pub(super) fn user_id(number: i64) -> Result<UserId, Error> {
    UserId::new(number).ok_or_else(|| invalid("user_id", ID_RULE))
}

pub(super) fn topic_ids(numbers: &[i64]) -> Result<Vec<TopicId>, Error> {
    ids("topic_ids", numbers, TopicId::new)
}

pub(super) fn user_ids(numbers: &[i64]) -> Result<Vec<UserId>, Error> {
    ids("user_ids", numbers, UserId::new)
}

const ID_RULE: &str = "must be from 1 to 9007199254740991";

fn ids<I>(field: &str, numbers: &[i64], id: fn(i64) -> Option<I>) -> Result<Vec<I>, Error> {
    if numbers.len() > MAX_IDS {
        return Err(invalid(field, format!("must hold at most {MAX_IDS}")));
    }
    let ids = numbers.iter().enumerate();
    ids.map(|(place, number)| {
        id(*number).ok_or_else(|| invalid(format!("{field}[{place}]"), ID_RULE))
    })
    .collect()
}

pub(super) fn max_age(ms: i32) -> Result<Duration, Error> {
    let age = u64::try_from(ms).map(Duration::from_millis).ok();
    age.filter(|age| *age <= MAX_AGE)
        .ok_or_else(|| invalid("max_age_ms", "must be from 0 to 1000"))
}

pub(super) fn direction(value: i32) -> Result<Direction, Error> {
    match pb::Direction::try_from(value) {
        Ok(pb::Direction::Unspecified | pb::Direction::Forward) => Ok(Direction::Forward),
        Ok(pb::Direction::Backward) => Ok(Direction::Backward),
        Err(_) => Err(invalid("direction", "must be a value of Direction")),
    }
}

/// `None` for unspecified.
pub(super) fn visibility(value: i32) -> Result<Option<Visibility>, Error> {
    match pb::Visibility::try_from(value) {
        Ok(pb::Visibility::Unspecified) => Ok(None),
        Ok(pb::Visibility::Open) => Ok(Some(Visibility::Open)),
        Ok(pb::Visibility::Private) => Ok(Some(Visibility::Private)),
        Err(_) => Err(invalid("visibility", "must be a value of Visibility")),
    }
}

/// For whom a call about this user is made: a person asks about himself only.
pub(super) fn asker(call: &Call, user: UserId) -> Result<Asker, Error> {
    if call.acting_users.is_empty() {
        Ok(Asker::Service)
    } else if call.acting_users.iter().all(|acting| acting.id == user) {
        Ok(Asker::Person)
    } else {
        Err(invalid("user_id", "must be the acting user"))
    }
}
