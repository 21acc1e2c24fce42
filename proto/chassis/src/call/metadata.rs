//! A [`Call`] as gRPC metadata: `grpc-timeout`, `traceparent`, and
//! `drivers-acting-user`, once for each person, `<user id>:<name, percent-encoded>`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tonic::Code;

use super::{ActingUser, Call, MAX_ACTING_USERS, TraceContext};
use crate::{id::UserId, status::Refusal};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const ACTING_USER: HeaderName = HeaderName::from_static("drivers-acting-user");

/// Writes a call over whatever the headers said of one before.
pub(crate) fn write(call: &Call, headers: &mut HeaderMap) {
    headers.insert(TIMEOUT, ascii(&format_timeout(call.time_left())));
    headers.insert(TRACEPARENT, ascii(&call.trace.to_traceparent()));
    headers.remove(ACTING_USER);
    for user in &call.acting_users {
        let name = utf8_percent_encode(&user.username, NON_ALPHANUMERIC);
        headers.append(ACTING_USER, ascii(&format!("{}:{name}", user.id)));
    }
}

/// Reads a call. A timeout that is not given is `default_timeout`; one that
/// can't be read is refused, as are acting users.
pub(crate) fn read(headers: &HeaderMap, default_timeout: Duration) -> Result<Call, Refusal> {
    let mut call = read_anonymous(headers, default_timeout)?;
    call.acting_users = read_acting_users(headers)?;
    Ok(call)
}

/// Reads a call of somebody who is not believed when he names acting users.
pub(crate) fn read_anonymous(
    headers: &HeaderMap,
    default_timeout: Duration,
) -> Result<Call, Refusal> {
    let timeout = match headers.get(TIMEOUT) {
        None => default_timeout,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(parse_timeout)
            .ok_or_else(|| malformed("grpc-timeout is 1 to 8 digits and one of H M S m u n"))?,
    };
    let mut call = Call::within(timeout);
    if let Some(trace) = headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok())
        .and_then(TraceContext::from_traceparent)
    {
        call.trace = trace;
    }
    Ok(call)
}

fn read_acting_users(headers: &HeaderMap) -> Result<Vec<ActingUser>, Refusal> {
    headers
        .get_all(ACTING_USER)
        .iter()
        // A proxy may join repeated headers with commas; names hold none, encoded.
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .take(MAX_ACTING_USERS + 1)
        .map(|text| {
            parse_acting_user(text.trim()).ok_or_else(|| {
                malformed("drivers-acting-user is <user id>:<user name, percent-encoded>")
            })
        })
        .collect()
}

pub(crate) fn malformed(message: &str) -> Refusal {
    Refusal::of_layer(Code::InvalidArgument, "METADATA_INVALID", message)
}

fn parse_acting_user(text: &str) -> Option<ActingUser> {
    let (id, name) = text.split_once(':')?;
    let username = percent_decode_str(name).decode_utf8().ok()?.into_owned();
    Some(ActingUser {
        id: UserId::new(id.parse().ok()?)?,
        username,
    })
}

/// At most 8 digits are allowed: microseconds while they fit, then milliseconds,
/// then seconds. <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn format_timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    if left.as_micros() <= MOST {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= MOST {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MOST))
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = valid.then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(number * 60 * 60)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// A header value of text that holds digits, letters and `%-:` only.
fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn user(id: i64, name: &str) -> ActingUser {
        ActingUser {
            id: UserId::new(id).unwrap(),
            username: name.to_owned(),
        }
    }

    #[test]
    fn a_call_arrives_as_it_was_sent() {
        let call = Call::within(Duration::from_secs(7))
            .acting_for(user(15, "Sardor"))
            .acting_for(user(16, "Дилшод, 100%:\u{1F600}"));
        let mut headers = HeaderMap::new();
        headers.append("drivers-acting-user", HeaderValue::from_static("1:ghost"));
        write(&call, &mut headers);
        let read = read(&headers, Duration::ZERO).unwrap();
        assert_eq!(read.acting_users, call.acting_users);
        assert_eq!(read.trace, call.trace);
        let gap = call.deadline.max(read.deadline) - call.deadline.min(read.deadline);
        assert!(gap < Duration::from_secs(1), "{gap:?}");
    }

    #[test]
    fn acting_users_joined_by_a_proxy_are_told_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("drivers-acting-user", HeaderValue::from_static("1:a, 2:b"));
        let read = read(&headers, Duration::ZERO).unwrap();
        assert_eq!(read.acting_users, [user(1, "a"), user(2, "b")]);
    }

    #[test]
    fn malformed_metadata_is_refused() {
        for (name, value) in [
            ("grpc-timeout", "1"),
            ("grpc-timeout", "S"),
            ("grpc-timeout", "123456789S"),
            ("grpc-timeout", "+1S"),
            ("grpc-timeout", "1é"),
            ("drivers-acting-user", ""),
            ("drivers-acting-user", "0:a"),
            ("drivers-acting-user", "x:a"),
            ("drivers-acting-user", "9007199254740992:a"),
            ("drivers-acting-user", "1"),
            ("drivers-acting-user", "1:%ff"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            let refusal = read(&headers, Duration::ZERO).unwrap_err();
            assert_eq!(refusal.code, Code::InvalidArgument, "{name}: {value}");
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }

    #[test]
    fn every_timeout_fits_the_format() {
        for left in [
            Duration::ZERO,
            Duration::from_micros(1),
            Duration::from_secs(99),
            Duration::from_secs(101),
            Duration::from_secs(200_000),
        ] {
            assert_eq!(parse_timeout(&format_timeout(left)), Some(left));
        }
        assert!(parse_timeout(&format_timeout(Duration::MAX)).is_some());
    }
}
