//! The events' payloads: what the client must send, and how it is told that it did not.

use std::collections::HashMap;

use chassis::id::{MAX_ID, MessageId, TopicId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    attrs,
    error::FailCode,
    frame::Frame,
    rules::{NewMessage, SignedIn},
};

/// The event that signs in.
pub(crate) const SIGNIN_REQUEST: &str = "signin_request";
const SIGNIN_RESPONSE: &str = "signin_response";
/// The event of messages, in both directions.
pub const MESSAGE_EVENTS: &str = "message_events";
/// The event of typing, in both directions.
pub const TYPING_EVENT: &str = "typing_event";

/// Most characters of a stamp.
const MAX_STAMP: usize = 64;
/// Most characters of a body.
const MAX_BODY: usize = 4_096;

/// A failed `message_events`.
#[must_use]
pub fn message_failure(code: FailCode, sentence: &str, stamp_id: Option<&str>) -> Frame {
    #[derive(Serialize)]
    struct Failure<'a> {
        event_type: &'static str,
        data: (),
        code: &'static str,
        message: &'a str,
        stamp_id: Option<&'a str>,
    }
    Frame::event(
        MESSAGE_EVENTS,
        &Failure {
            event_type: "fail",
            data: (),
            code: code.as_str(),
            message: sentence,
            stamp_id,
        },
    )
}

/// A failed `typing_event`. The seed spells its key "staus".
#[must_use]
pub fn typing_failure(code: FailCode, sentence: &str) -> Frame {
    #[derive(Serialize)]
    struct Failure<'a> {
        staus: &'static str,
        status: &'static str,
        data: Cause<'a>,
    }
    #[derive(Serialize)]
    struct Cause<'a> {
        code: &'static str,
        message: &'a str,
    }
    Frame::event(
        TYPING_EVENT,
        &Failure {
            staus: "fail",
            status: "fail",
            data: Cause {
                code: code.as_str(),
                message: sentence,
            },
        },
    )
}

/// Why a sign-in failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignInFailure {
    TokenNotGiven,
    InvalidToken,
    OtherUser,
}

pub(crate) fn sign_in_failure(failure: SignInFailure) -> Frame {
    #[derive(Serialize)]
    struct Failure {
        status: &'static str,
        code: &'static str,
        data: &'static str,
    }
    let (code, data) = match failure {
        SignInFailure::TokenNotGiven => ("missing_key", "token not given"),
        SignInFailure::InvalidToken => ("invalid_token", "invalid token"),
        SignInFailure::OtherUser => ("already_signed_in", "already signed in as another user"),
    };
    Frame::event(
        SIGNIN_RESPONSE,
        &Failure {
            status: "fail",
            code,
            data,
        },
    )
}

pub(crate) fn sign_in_success(user: &SignedIn) -> Frame {
    #[derive(Serialize)]
    struct Success<'a> {
        status: &'static str,
        user_id: UserId,
        username: &'a str,
        roles: &'a [String],
    }
    Frame::event(
        SIGNIN_RESPONSE,
        &Success {
            status: "ok",
            user_id: user.user_id,
            username: &user.username,
            roles: &user.roles,
        },
    )
}

/// An event, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Event {
    /// Which one.
    pub(crate) name: String,
    /// Its first argument; further ones are ignored. Not JSON: the event could
    /// only be made out by its beginning.
    pub(crate) payload: Result<Option<Box<RawValue>>, NotJson>,
}

/// The arguments are no JSON array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

impl Event {
    /// Reads the array of an event packet; `None` when not even the name can be made out.
    pub(crate) fn parse(arguments: &str) -> Option<Self> {
        if let Ok(array) = serde_json::from_str::<Vec<&RawValue>>(arguments) {
            let mut array = array.into_iter();
            return Some(Self {
                name: serde_json::from_str(array.next()?.get()).ok()?,
                payload: Ok(array.next().map(ToOwned::to_owned)),
            });
        }
        // Python's json writes NaN, which is none: its sender deserves an answer.
        let (name, _) = arguments.strip_prefix("[\"")?.split_once("\",")?;
        Some(Self {
            name: name.to_owned(),
            payload: Err(NotJson),
        })
    }
}

/// An object with the last value of each of its keys.
type Object<'a> = HashMap<String, &'a RawValue>;

fn object(payload: Option<&RawValue>) -> Option<Object<'_>> {
    serde_json::from_str(payload?.get()).ok()
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The value of a key; null is none.
fn value<'a>(object: &Object<'a>, key: &str) -> Option<&'a RawValue> {
    object.get(key).copied().filter(|value| !is_null(value))
}

/// The token of a `signin_request`, of any form.
pub(crate) fn token(payload: Option<&RawValue>) -> Result<String, SignInFailure> {
    let object = object(payload).ok_or(SignInFailure::TokenNotGiven)?;
    let token = value(&object, "token").ok_or(SignInFailure::TokenNotGiven)?;
    serde_json::from_str(token.get()).map_err(|_| SignInFailure::InvalidToken)
}

/// Which rule a payload breaks, and the stamp it came with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidMessage {
    pub(crate) rule: &'static str,
    pub(crate) stamp_id: Option<String>,
}

/// The stamp of a message that is refused unread, to be echoed.
pub(crate) fn stamp_of(payload: Option<&RawValue>) -> Option<String> {
    let object = object(payload)?;
    serde_json::from_str(value(&object, "stamp_id")?.get()).ok()
}

/// The message of a `message_events` request.
pub(crate) fn new_message(payload: Option<&RawValue>) -> Result<NewMessage, InvalidMessage> {
    let invalid = |rule| InvalidMessage {
        rule,
        stamp_id: stamp_of(payload),
    };
    let object = object(payload).ok_or(invalid("the payload must be a JSON object"))?;
    let read = || -> Result<NewMessage, &'static str> {
        Ok(NewMessage {
            stamp_id: stamp_id(&object)?,
            topic_id: topic_id(&object)?,
            body: body(&object)?,
            reply_to: reply_to(&object)?,
            attrs: attrs(&object)?,
            has_media: has_media(&object)?,
        })
    };
    read().map_err(invalid)
}

fn stamp_id(object: &Object<'_>) -> Result<Option<String>, &'static str> {
    let Some(stamp) = value(object, "stamp_id") else {
        return Ok(None);
    };
    let stamp: String = serde_json::from_str(stamp.get()).map_err(|_| "stamp_id must be a text")?;
    if stamp.chars().count() > MAX_STAMP {
        return Err("stamp_id must have at most 64 characters");
    }
    Ok(Some(stamp).filter(|stamp| !stamp.is_empty()))
}

fn topic_id(object: &Object<'_>) -> Result<TopicId, &'static str> {
    let topic = value(object, "topic_id").ok_or("topic_id not given")?;
    integer(topic)
        .and_then(TopicId::new)
        .ok_or("topic_id must be an integer from 1 to 9007199254740991")
}

fn body(object: &Object<'_>) -> Result<String, &'static str> {
    let body = value(object, "body").ok_or("body not given")?;
    let body: String = serde_json::from_str(body.get()).map_err(|_| "body must be a text")?;
    if body.chars().count() > MAX_BODY {
        return Err("body must have at most 4096 characters");
    }
    if body.chars().all(char::is_whitespace) {
        return Err("body must have a character that is not blank");
    }
    Ok(body)
}

fn reply_to(object: &Object<'_>) -> Result<Option<MessageId>, &'static str> {
    let Some(reply_to) = value(object, "reply_to") else {
        return Ok(None);
    };
    match integer(reply_to) {
        Some(0) => Ok(None),
        Some(id) if id > 0 => Ok(MessageId::new(id)),
        _ => Err("reply_to must be an integer from 0 to 9007199254740991"),
    }
}

fn attrs(object: &Object<'_>) -> Result<Option<Box<RawValue>>, &'static str> {
    value(object, "attrs").map(attrs::compact).transpose()
}

fn has_media(object: &Object<'_>) -> Result<bool, &'static str> {
    match value(object, "has_media").map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err("has_media must be true or false"),
    }
}

/// The user and the topic of a `typing_event` request.
pub(crate) fn typing(payload: Option<&RawValue>) -> Result<(UserId, TopicId), &'static str> {
    let object = object(payload).ok_or("the payload must be a JSON object")?;
    let user = value(&object, "user_id").ok_or("user_id not given")?;
    let user = integer(user)
        .and_then(UserId::new)
        .ok_or("user_id must be an integer from 1 to 9007199254740991")?;
    Ok((user, topic_id(&object)?))
}

/// The number, if it is whole and exact in JSON. JSON knows no integers, so 1.0 and
/// 1e3 are as good as 1 and 1000.
fn integer(value: &RawValue) -> Option<i64> {
    let text = value.get();
    if let Ok(number) = text.parse::<i64>() {
        return (number.unsigned_abs() <= MAX_ID.unsigned_abs()).then_some(number);
    }
    let number: f64 = serde_json::from_str(text).ok()?;
    // Up to MAX_ID every whole f64 is exact.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    (number.fract() == 0.0 && number.abs() <= MAX_ID as f64).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn read(json: &str) -> Result<NewMessage, InvalidMessage> {
        new_message(Some(&raw(json)))
    }

    fn rule(json: &str) -> &'static str {
        read(json).unwrap_err().rule
    }

    fn with(pair: &str) -> String {
        format!("{{\"topic_id\":1,\"body\":\"b\",{pair}}}")
    }

    #[test]
    fn the_example_of_the_seed_is_read() {
        let message = read(
            r#"{"stamp_id":"123ABC","topic_id":1,"body":"foobar","reply_to":null,"attrs":null,"has_media":false}"#,
        )
        .unwrap();
        assert_eq!(message.stamp_id.as_deref(), Some("123ABC"));
        assert_eq!(message.topic_id.get(), 1);
        assert_eq!(message.body, "foobar");
        assert!(message.reply_to.is_none() && message.attrs.is_none() && !message.has_media);
    }

    #[test]
    fn what_is_not_required_may_be_left_out_or_null() {
        for pair in [
            "\"x\":1",
            "\"stamp_id\":null",
            "\"stamp_id\":\"\"",
            "\"reply_to\":0",
            "\"has_media\":null",
            "\"attrs\":null",
        ] {
            let message = read(&with(pair)).unwrap();
            assert!(message.stamp_id.is_none() && message.reply_to.is_none());
            assert!(message.attrs.is_none() && !message.has_media);
        }
    }

    #[test]
    fn each_broken_rule_is_named_with_its_key() {
        let long = "я".repeat(65);
        for (json, expected) in [
            ("[]".to_owned(), "the payload must be a JSON object"),
            ("{}".to_owned(), "topic_id not given"),
            ("{\"topic_id\":1}".to_owned(), "body not given"),
            (
                "{\"topic_id\":1,\"body\":null}".to_owned(),
                "body not given",
            ),
            (
                "{\"topic_id\":1,\"body\":7}".to_owned(),
                "body must be a text",
            ),
            (
                "{\"topic_id\":1,\"body\":\" \\u2003\\n\"}".to_owned(),
                "body must have a character that is not blank",
            ),
            (
                "{\"topic_id\":1,\"body\":\"\"}".to_owned(),
                "body must have a character that is not blank",
            ),
            (
                format!("{{\"topic_id\":1,\"body\":\"{}\"}}", "я".repeat(4_097)),
                "body must have at most 4096 characters",
            ),
            (
                "{\"topic_id\":1,\"body\":\"\\ud800\"}".to_owned(),
                "body must be a text",
            ),
            (with("\"stamp_id\":1"), "stamp_id must be a text"),
            (
                with(&format!("\"stamp_id\":\"{long}\"")),
                "stamp_id must have at most 64 characters",
            ),
            (
                with("\"reply_to\":-1"),
                "reply_to must be an integer from 0 to 9007199254740991",
            ),
            (
                with("\"reply_to\":\"1\""),
                "reply_to must be an integer from 0 to 9007199254740991",
            ),
            (with("\"has_media\":1"), "has_media must be true or false"),
        ] {
            assert_eq!(rule(&json), expected, "{json}");
        }
        for topic in [
            "0",
            "-1",
            "1.5",
            "\"1\"",
            "true",
            "[1]",
            "9007199254740992",
            "1e400",
            "99999999999999999999",
        ] {
            let json = format!("{{\"topic_id\":{topic},\"body\":\"b\"}}");
            assert_eq!(
                rule(&json),
                "topic_id must be an integer from 1 to 9007199254740991",
                "{json}"
            );
        }
    }

    #[test]
    fn lengths_count_characters_and_bodies_are_kept_as_sent() {
        let body = format!(" {} ", "😀".repeat(4_094));
        let message = read(&format!("{{\"topic_id\":1,\"body\":\"{body}\"}}")).unwrap();
        assert_eq!(message.body, body);
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        for topic in ["1000", "1000.0", "1e3", "9007199254740991"] {
            let json = format!("{{\"topic_id\":{topic},\"body\":\"b\"}}");
            assert!(read(&json).is_ok(), "{json}");
        }
    }

    #[test]
    fn of_a_key_given_twice_the_last_one_counts() {
        let message = read("{\"topic_id\":1,\"body\":\"a\",\"topic_id\":2,\"bo\\u0064y\":\"b\"}");
        let message = message.unwrap();
        assert_eq!((message.topic_id.get(), message.body.as_str()), (2, "b"));
    }

    #[test]
    fn a_refusal_echoes_the_stamp() {
        let refusal = read("{\"stamp_id\":\"S\",\"body\":\"b\"}").unwrap_err();
        assert_eq!(refusal.stamp_id.as_deref(), Some("S"));
        assert_eq!(
            message_failure(FailCode::InvalidMessage, refusal.rule, Some("S"))
                .text(crate::frame::Generation::Eio4)
                .as_str(),
            r#"2["message_events",{"event_type":"fail","data":null,"code":"invalid_message","message":"topic_id not given","stamp_id":"S"}]"#
        );
    }

    #[test]
    fn tokens_are_told_apart_from_no_token() {
        use SignInFailure::{InvalidToken, TokenNotGiven};
        assert_eq!(token(None), Err(TokenNotGiven));
        for (json, expected) in [
            ("null", Err(TokenNotGiven)),
            ("\"t\"", Err(TokenNotGiven)),
            ("[\"t\"]", Err(TokenNotGiven)),
            ("{}", Err(TokenNotGiven)),
            ("{\"token\":null}", Err(TokenNotGiven)),
            ("{\"token\":1}", Err(InvalidToken)),
            ("{\"token\":{}}", Err(InvalidToken)),
            ("{\"token\":\"\\ud800\"}", Err(InvalidToken)),
            ("{\"token\":\"\"}", Ok(String::new())),
            ("{\"token\":\"abc\"}", Ok("abc".to_owned())),
        ] {
            assert_eq!(token(Some(&raw(json))), expected, "{json}");
        }
    }

    #[test]
    fn typing_needs_both_keys() {
        let typing = |json| typing(Some(&raw(json)));
        assert!(typing("{\"user_id\":1,\"topic_id\":12}").is_ok());
        assert_eq!(typing("{\"topic_id\":12}"), Err("user_id not given"));
        assert_eq!(typing("{\"user_id\":1}"), Err("topic_id not given"));
        assert!(typing("{\"user_id\":\"1\",\"topic_id\":12}").is_err());
        assert_eq!(
            typing_failure(FailCode::NotAMember, "no")
                .text(crate::frame::Generation::Eio4)
                .as_str(),
            r#"2["typing_event",{"staus":"fail","status":"fail","data":{"code":"not_a_member","message":"no"}}]"#
        );
    }

    #[test]
    fn an_event_that_is_no_json_is_known_by_its_beginning() {
        let event = Event::parse("[\"message_events\",{\"topic_id\":NaN}]").unwrap();
        assert_eq!(event.name, MESSAGE_EVENTS);
        assert_eq!(event.payload.unwrap_err(), NotJson);
        for arguments in ["[]", "[1]", "[\"\\ud800\"]", "[", "[\"e", "{}"] {
            assert!(Event::parse(arguments).is_none(), "{arguments}");
        }
        let deep = format!("[\"e\",{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(Event::parse(&deep).unwrap().name, "e");
    }
}
