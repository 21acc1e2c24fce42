//! What a load balancer needs to bring the polls of a session to the gateway that holds
//! it: the cookie `io` with the session's id, as Engine.IO's own servers set it. A
//! balancer can learn it from the answer and find it again in the query of each request,
//! so that clients need not keep cookies.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header::SET_COOKIE};
use http_body_util::BodyExt as _;

/// The answer to a handshake over polling, with the cookie.
pub(super) async fn with_cookie(response: Response<Body>) -> Response<Body> {
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already.
    let body = body.collect().await.unwrap_or_default().to_bytes();
    let cookie = session_id(&body)
        .map(|id| format!("io={id}; Path=/socket.io/; HttpOnly; SameSite=Lax"))
        .and_then(|cookie| HeaderValue::try_from(cookie).ok());
    if let Some(cookie) = cookie {
        parts.headers.insert(SET_COOKIE, cookie);
    }
    Response::from_parts(parts, Body::from(body))
}

/// The id in the packet that opens a session, whatever is around it in its generation.
fn session_id(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?;
    let (_, id) = text.split_once("\"sid\":\"")?;
    Some(id.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_the_opening_packet_of_both_generations() {
        for body in [
            r#"0{"sid":"AAAA_b-c","upgrades":["websocket"],"pingInterval":25000}"#,
            r#"52:0{"sid":"AAAA_b-c","upgrades":[],"pingInterval":25000}2:40"#,
        ] {
            assert_eq!(session_id(body.as_bytes()), Some("AAAA_b-c"));
        }
        assert_eq!(session_id(b"6"), None);
        assert_eq!(session_id(b"\xff"), None);
    }
}
