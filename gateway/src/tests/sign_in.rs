//! `signin_request`.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    client::{Polling, Ws},
    rig::{Rig, eventually, token},
};
use crate::{config::Config, frame::Generation};

fn impatient() -> Config {
    Config {
        auth_timeout: Duration::from_millis(500),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_live_token_signs_in_and_anything_else_is_told_apart() {
    let rig = Rig::new().await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        let mut ws = Ws::connect(&rig, generation).await;
        for request in [
            r#"["signin_request"]"#,
            r#"["signin_request",null]"#,
            r#"["signin_request",{"token":null}]"#,
        ] {
            ws.send(&format!("42{request}")).await;
            assert_eq!(
                ws.event("signin_response").await,
                json!({"status": "fail", "code": "missing_key", "data": "token not given"})
            );
        }
        ws.emit("signin_request", json!({"token": format!(" {}", token(1))}))
            .await;
        assert_eq!(
            ws.event("signin_response").await,
            json!({"status": "fail", "code": "invalid_token", "data": "invalid token"})
        );
        ws.emit("signin_request", json!({"token": token(1)})).await;
        assert_eq!(
            ws.event("signin_response").await,
            json!({"status": "ok", "user_id": 1, "username": "Имя 1", "roles": ["driver"]})
        );
    }
}

#[tokio::test]
async fn the_fifth_failure_ends_the_socket() {
    let rig = Rig::new().await;
    let mut ws = Ws::connect(&rig, Generation::Eio4).await;
    for _ in 0..6 {
        ws.emit("signin_request", json!({"token": token(999_999)}))
            .await;
    }
    for _ in 0..5 {
        assert_eq!(ws.event("signin_response").await["code"], "invalid_token");
    }
    assert_eq!(ws.rest().await.first().unwrap(), "41");
    assert_eq!(rig.echo.asked.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn who_does_not_sign_in_in_time_loses_his_transport_whichever_it_is() {
    let rig = Rig::with(impatient()).await;
    for generation in [Generation::Eio3, Generation::Eio4] {
        let mut silent = Ws::connect(&rig, generation).await;
        assert_eq!(silent.rest().await.first().unwrap(), "41");
        let mut polling = Polling::open(&rig, generation).await;
        if generation == Generation::Eio4 {
            polling.send(&["40"]).await;
        }
        assert!(polling.text().await.starts_with("40"));
        assert_eq!(polling.text().await, "41");
        rig.wait_for_sockets(0).await;
        let answer = polling.poll().await;
        assert_eq!(
            (answer.status, answer.json()["code"].clone()),
            (400, json!(1))
        );
    }
    // Not even in the namespace.
    let mut mute = Ws::open(rig.address, "EIO=4").await;
    assert!(mute.rest().await.len() >= 2);
}

#[tokio::test]
async fn while_the_service_is_away_a_sign_in_waits_and_what_is_behind_it_too() {
    let rig = Rig::new().await;
    rig.echo.away.store(true, Ordering::SeqCst);
    let mut ws = Ws::connect(&rig, Generation::Eio4).await;
    ws.emit("signin_request", json!({"token": token(1)})).await;
    ws.emit("message_events", json!({"topic_id": 1, "body": "behind"}))
        .await;
    eventually("a second try", || rig.echo.asked.load(Ordering::SeqCst) > 1).await;
    rig.echo.away.store(false, Ordering::SeqCst);
    assert_eq!(ws.event("signin_response").await["status"], "ok");
    assert_eq!(ws.event("message_events").await["data"]["body"], "behind");
}

#[tokio::test]
async fn a_sign_in_that_waits_too_long_ends_unanswered() {
    let rig = Rig::with(impatient()).await;
    rig.echo.away.store(true, Ordering::SeqCst);
    let mut ws = Ws::connect(&rig, Generation::Eio4).await;
    ws.emit("signin_request", json!({"token": token(1)})).await;
    assert_eq!(ws.text().await, "41");
}

#[tokio::test]
async fn an_event_before_the_sign_in_fails_in_its_own_way_and_ends_the_socket() {
    let rig = Rig::new().await;
    for (event, failure) in [
        (
            json!(["message_events", {"stamp_id": "S"}]),
            Some(
                json!(["message_events", {"event_type": "fail", "data": null,
                "code": "not-authenticated", "message": "sign in first", "stamp_id": "S"}]),
            ),
        ),
        (
            json!(["typing_event", {}]),
            Some(json!(["typing_event", {"staus": "fail", "status": "fail",
                "data": {"code": "not-authenticated", "message": "sign in first"}}])),
        ),
        (json!(["something_else", 1]), None),
    ] {
        let mut ws = Ws::connect(&rig, Generation::Eio4).await;
        ws.send(&format!("42{event}")).await;
        if let Some(failure) = failure {
            let text = ws.text().await;
            let got: serde_json::Value = serde_json::from_str(&text[2..]).unwrap();
            assert_eq!(got, failure);
        }
        let begun = Instant::now();
        assert_eq!(ws.rest().await.first().unwrap(), "41");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the transport ends too"
        );
    }
    rig.wait_for_sockets(0).await;
    assert_eq!(rig.echo.left.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn signing_in_again_answers_the_same_user_and_refuses_another() {
    let rig = Rig::new().await;
    let mut ws = Ws::signed_in(&rig, Generation::Eio4, 1).await;
    ws.emit("signin_request", json!({"token": token(1)})).await;
    assert_eq!(ws.event("signin_response").await["user_id"], 1);
    ws.emit("signin_request", json!({"token": token(2)})).await;
    assert_eq!(
        ws.event("signin_response").await["code"],
        "already_signed_in"
    );
    ws.emit("message_events", json!({"topic_id": 1, "body": "b"}))
        .await;
    assert_eq!(ws.event("message_events").await["data"]["owner"]["id"], 1);
    assert_eq!(rig.echo.listeners.lock().unwrap().len(), 1);
}
