//! People for tests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http;
use crate::server::Server;

/// Somebody with an account.
#[derive(Clone, Debug)]
pub struct User {
    /// His id.
    pub id: i64,
    /// His name.
    pub username: String,
    /// His token.
    pub token: String,
    /// His phone number.
    pub phone_number: String,
}

/// Two numbers that no other account of any test has.
#[must_use]
pub fn unique() -> (String, String) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    (format!("9989{number:08}"), format!("user{number}"))
}

/// Signs somebody up over HTTP.
///
/// # Panics
/// The server refused it.
pub async fn sign_up(server: &Server) -> User {
    sign_up_at(server.at.public).await
}

/// Signs somebody up at the HTTP port of a gateway.
///
/// # Panics
/// It was refused.
pub async fn sign_up_at(gateway: SocketAddr) -> User {
    try_sign_up_at(gateway).await.unwrap()
}

/// The same where a database that has just started, or is busy, may refuse it at first.
///
/// # Panics
/// It was refused five times.
pub async fn sign_up_patiently(gateway: SocketAddr) -> User {
    for _ in 0..5 {
        match try_sign_up_at(gateway).await {
            Ok(user) => return user,
            Err(why) => println!("{why}"),
        }
    }
    panic!("nobody can sign up");
}

/// The same, where it may be refused.
///
/// # Errors
/// It was, or the gateway can't be reached.
///
/// # Panics
/// The answer is none of ours.
pub async fn try_sign_up_at(gateway: SocketAddr) -> Result<User, String> {
    let (phone_number, username) = unique();
    try_sign_up_as(gateway, phone_number, username).await
}

/// The same for somebody with this number and this name.
///
/// # Errors
/// As [`try_sign_up_at`].
///
/// # Panics
/// As [`try_sign_up_at`].
pub async fn try_sign_up_as(
    gateway: SocketAddr,
    phone_number: String,
    username: String,
) -> Result<User, String> {
    let body = serde_json::json!({
        "phone_number": phone_number,
        "username": username,
        "gcm_token": "gcm",
        "device_type": "android",
    });
    let answer = http::request(
        gateway,
        "POST",
        "/sign_up",
        &[("content-type", "application/json")],
        body.to_string(),
    )
    .await?;
    if answer.status != 200 {
        return Err(format!("sign_up: {}", answer.text()));
    }
    let answer = answer.json();
    Ok(User {
        id: answer["user_id"].as_i64().unwrap(),
        username,
        token: answer["token"].as_str().unwrap().to_owned(),
        phone_number,
    })
}
