//! `POST /sign_up`.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{
    client::{Answer, http},
    rig::{Rig, token},
};
use crate::config::{Config, Rate, RateLimits};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn request() -> Value {
    json!({"phone_number": "998901234567", "username": "Нодир", "gcm_token": "g",
        "device_type": "android", "unknown": [1]})
}

async fn sign_up(rig: &Rig, content_type: &str, body: &str) -> Answer {
    http(
        rig.address,
        "POST",
        "/sign_up",
        content_type,
        body.as_bytes(),
    )
    .await
}

async fn refused(rig: &Rig, body: &Value) -> (u16, Value, Value) {
    let answer = sign_up(rig, JSON, &body.to_string()).await;
    let json = answer.json();
    assert_eq!(json["status"], "fail");
    (answer.status, json["code"].clone(), json["data"].clone())
}

#[tokio::test]
async fn an_account_is_answered_with_its_token() {
    let rig = Rig::new().await;
    let form = "phone_number=%2B998901234568&username=%D0%9D+1&gcm_token=g&device_type=ios";
    for (content_type, body) in [
        (JSON, request().to_string()),
        ("Application/JSON; charset=utf-8", request().to_string()),
        (FORM, form.to_owned()),
    ] {
        let answer = sign_up(&rig, content_type, &body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.json(),
            json!({"status": "ok", "user_id": 101, "token": token(101)})
        );
    }
}

#[tokio::test]
async fn a_key_that_is_missing_null_blank_or_no_text_is_named() {
    let rig = Rig::new().await;
    for key in ["phone_number", "username", "gcm_token", "device_type"] {
        let mut without = request();
        without.as_object_mut().unwrap().remove(key);
        let missing = (400, json!("missing_key"), json!(format!("{key} not given")));
        assert_eq!(refused(&rig, &without).await, missing);
        for blank in [json!(null), json!(""), json!(" \t\u{2003}")] {
            let mut request = request();
            request[key] = blank;
            assert_eq!(refused(&rig, &request).await, missing);
        }
        for wrong in [json!(7), json!(["a"]), json!({}), json!(true)] {
            let mut request = request();
            request[key] = wrong;
            let (status, code, data) = refused(&rig, &request).await;
            assert_eq!((status, code), (400, json!("invalid_key")));
            assert!(data.as_str().unwrap().starts_with(key));
        }
    }
    let answer = sign_up(&rig, FORM, "phone_number=1&username=&gcm_token=g").await;
    assert_eq!(answer.json()["data"], "username not given");
}

#[tokio::test]
async fn what_the_account_service_refuses_has_its_code() {
    let rig = Rig::new().await;
    let with = |key: &str, value: &str| {
        let mut request = request();
        request[key] = json!(value);
        request
    };
    for (request, status, code) in [
        (
            with("phone_number", "+998 90 123-45-67"),
            409,
            "phone_number_taken",
        ),
        (with("username", "Сардор"), 409, "username_taken"),
        (with("device_type", "telephone"), 400, "invalid_key"),
    ] {
        let refused = refused(&rig, &request).await;
        assert_eq!((refused.0, refused.1), (status, json!(code)));
    }
    rig.echo.away.store(true, Ordering::SeqCst);
    let answer = sign_up(&rig, JSON, &request().to_string()).await;
    assert_eq!(
        (answer.status, answer.json()["code"].clone()),
        (503, json!("unavailable"))
    );
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let rig = Rig::new().await;
    let deep = "[".repeat(50_000);
    for (content_type, body, status, code) in [
        (JSON, "{", 400, "malformed"),
        (JSON, "[]", 400, "malformed"),
        (JSON, "", 400, "malformed"),
        (JSON, "{\"username\":\"\\ud800\"}", 400, "malformed"),
        (JSON, deep.as_str(), 400, "malformed"),
        (FORM, "username=%FF", 400, "malformed"),
        ("text/plain", "{}", 415, "unsupported_media_type"),
        ("", "{}", 415, "unsupported_media_type"),
    ] {
        let answer = sign_up(&rig, content_type, body).await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (status, json!(code))
        );
    }
    let large = "x".repeat(100_000);
    let answer = sign_up(&rig, JSON, &large).await;
    assert_eq!(
        (answer.status, answer.json()["code"].clone()),
        (413, json!("too_large"))
    );
    for method in ["GET", "PUT", "DELETE"] {
        let answer = http(rig.address, method, "/sign_up", JSON, b"").await;
        assert_eq!(answer.status, 405);
        assert_eq!(answer.json()["code"], "method_not_allowed");
    }
    assert_eq!(http(rig.address, "GET", "/", "", b"").await.status, 404);
}

#[tokio::test]
async fn an_address_that_signs_up_too_often_is_told_when_to_come_back() {
    let rig = Rig::with(Config {
        rate_limits: RateLimits {
            sign_up: Rate::new(2, 1),
            ..RateLimits::default()
        },
        ..Config::default()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(
            sign_up(&rig, JSON, &request().to_string()).await.status,
            200
        );
    }
    let answer = sign_up(&rig, JSON, &request().to_string()).await;
    assert_eq!(
        (answer.status, answer.json()["code"].clone()),
        (429, json!("rate_limited"))
    );
    assert!(answer.head.contains("\r\nretry-after: "));
}
