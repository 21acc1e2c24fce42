//! `signin_request` → `signin_response`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::cases;
use tests::client::Client;
use tests::engine::{Eio, Polling, Ws};
use tests::trial::{IMPATIENCE, World};

cases! {
    EachClient:
        success_is_ok_with_user_id_username_roles,
        without_a_token_it_is_token_not_given,
        no_data_and_data_that_is_no_object_are_token_not_given,
        any_other_token_is_invalid_token,
        after_a_failure_the_socket_stays_and_may_try_again,
        five_failures_end_the_socket,
        without_sign_in_the_server_disconnects_in_time,
        who_signed_in_in_time_stays,
        a_message_before_sign_in_fails_and_disconnects,
        typing_before_sign_in_fails_and_disconnects,
        an_unknown_event_before_sign_in_disconnects_without_payload,
        unknown_events_after_sign_in_are_ignored,
        events_behind_a_sign_in_wait_for_its_outcome,
        events_behind_a_refused_sign_in_fail,
        signing_in_twice_answers_ok_again,
        another_users_token_is_refused,
        when_it_says_ok_the_socket_is_a_listener_already;
    Once:
        long_the_auth_timeout_is_60_seconds,
        disconnect_ends_the_websocket_too,
        disconnect_ends_the_polling_session_too,
        after_disconnect_a_client_can_do_nothing;
}

fn failed(payload: &Value, data: &str, code: &str) {
    assert_eq!(
        payload,
        &json!({"status": "fail", "data": data, "code": code})
    );
}

async fn answer(client: &mut Client, request: &Value) -> Value {
    client.emit("signin_request", request);
    client.expect("signin_response").await
}

async fn success_is_ok_with_user_id_username_roles(world: World) {
    let user = world.user().await;
    let mut client = world.connect().await;
    let payload = answer(&mut client, &json!({"token": user.token})).await;
    assert_eq!(
        payload,
        json!({"status": "ok", "user_id": user.id, "username": user.username, "roles": []})
    );
}

async fn without_a_token_it_is_token_not_given(world: World) {
    let mut client = world.connect().await;
    for request in [json!({}), json!({"token": null}), json!({"Token": "x"})] {
        failed(
            &answer(&mut client, &request).await,
            "token not given",
            "missing_key",
        );
    }
}

async fn no_data_and_data_that_is_no_object_are_token_not_given(world: World) {
    for some in [
        vec!["", "null", "7"],
        vec!["true", "\"446f8da7c5904653bec11557c3416f6f\"", "[]"],
    ] {
        let mut client = world.connect().await;
        for arg in some {
            let args: Vec<&str> = [arg].into_iter().filter(|arg| !arg.is_empty()).collect();
            client.emit_raw("signin_request", &args);
            failed(
                &client.expect("signin_response").await,
                "token not given",
                "missing_key",
            );
        }
    }
}

async fn any_other_token_is_invalid_token(world: World) {
    let user = world.user().await;
    let token = &user.token;
    let wrong = [
        json!(""),
        json!("   "),
        json!(format!(" {token}")),
        json!(format!("{token} ")),
        json!(format!("{token}\u{0}")),
        json!(&token[..31]),
        json!(format!("{token}0")),
        json!("446f8da7c5904653bec11557c3416f6f"),
        json!("Ж".repeat(32)),
        json!("x".repeat(100_000)),
        json!(7),
        json!(true),
        json!([token]),
        json!({"token": token}),
    ];
    let upper = token.to_uppercase();
    let wrong: Vec<Value> = wrong
        .into_iter()
        .chain((upper != *token).then(|| json!(upper)))
        .collect();
    for some in wrong.chunks(4) {
        let mut client = world.connect().await;
        for token in some {
            let payload = answer(&mut client, &json!({ "token": token })).await;
            failed(&payload, "invalid token", "invalid_token");
        }
    }
}

async fn after_a_failure_the_socket_stays_and_may_try_again(world: World) {
    let user = world.user().await;
    let mut client = world.connect().await;
    failed(
        &answer(&mut client, &json!({})).await,
        "token not given",
        "missing_key",
    );
    for _ in 0..3 {
        let payload = answer(&mut client, &json!({"token": "0"})).await;
        failed(&payload, "invalid token", "invalid_token");
    }
    client.sign_in(&user).await;
}

async fn five_failures_end_the_socket(world: World) {
    let mut client = world.connect().await;
    for _ in 0..5 {
        let payload = answer(&mut client, &json!({"token": "0"})).await;
        failed(&payload, "invalid token", "invalid_token");
    }
    client.expect_end().await;
}

async fn without_sign_in_the_server_disconnects_in_time(world: World) {
    let world = world.impatient();
    let started = Instant::now();
    let mut client = world.connect().await;
    let connected = Instant::now();
    client
        .expect_end_within(IMPATIENCE + Duration::from_secs(8))
        .await;
    assert!(
        started.elapsed() >= IMPATIENCE,
        "after {:?}",
        started.elapsed()
    );
    assert!(
        connected.elapsed() < IMPATIENCE + Duration::from_secs(5),
        "after {:?}",
        connected.elapsed()
    );
    assert!(client.rest().is_empty());
}

async fn long_the_auth_timeout_is_60_seconds(world: World) {
    let started = Instant::now();
    let mut client = world.connect().await;
    client.emit("signin_request", &json!({"token": "0"}));
    failed(
        &client.expect("signin_response").await,
        "invalid token",
        "invalid_token",
    );
    client.expect_end_within(Duration::from_secs(65)).await;
    assert!(
        started.elapsed() >= Duration::from_secs(60),
        "after {:?}",
        started.elapsed()
    );
}

async fn who_signed_in_in_time_stays(world: World) {
    let world = world.impatient();
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    assert!(
        client
            .next_within(IMPATIENCE + Duration::from_secs(2))
            .await
            .is_none()
    );
    client.emit(
        "message_events",
        &json!({"topic_id": topic, "body": "still here"}),
    );
    assert_eq!(client.expect("message_events").await["event_type"], "sent");
}

async fn a_message_before_sign_in_fails_and_disconnects(world: World) {
    let mut client = world.connect().await;
    client.emit(
        "message_events",
        &json!({"topic_id": 1, "body": "foobar", "stamp_id": "S1"}),
    );
    let payload = client.expect("message_events").await;
    let message = payload["message"].as_str().unwrap();
    assert!(!message.is_empty());
    assert_eq!(
        payload,
        json!({"event_type": "fail", "data": null, "code": "not-authenticated", "message": message, "stamp_id": "S1"})
    );
    client.expect_end().await;
}

async fn typing_before_sign_in_fails_and_disconnects(world: World) {
    let mut client = world.connect().await;
    client.emit("typing_event", &json!({"user_id": 1, "topic_id": 1}));
    let payload = client.expect("typing_event").await;
    let message = payload["data"]["message"].as_str().unwrap();
    assert_eq!(
        payload,
        json!({"staus": "fail", "status": "fail", "data": {"code": "not-authenticated", "message": message}})
    );
    client.expect_end().await;
}

async fn an_unknown_event_before_sign_in_disconnects_without_payload(world: World) {
    let mut client = world.connect().await;
    client.emit("hello", &json!({"a": 1}));
    client.expect_end().await;
    assert!(client.rest().is_empty());
}

async fn unknown_events_after_sign_in_are_ignored(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    for name in ["hello", "message", "signin_response", "события"] {
        client.emit(name, &json!({"topic_id": topic, "body": "ignored"}));
    }
    client.emit(
        "message_events",
        &json!({"topic_id": topic, "body": "seen"}),
    );
    let payload = client.expect("message_events").await;
    assert_eq!(payload["data"]["body"], "seen");
    assert_eq!(payload["data"]["seq"], 1);
    client.expect_nothing_more();
}

async fn events_behind_a_sign_in_wait_for_its_outcome(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.connect().await;
    client.emit("signin_request", &json!({"token": user.token}));
    for number in 0..20 {
        client.emit(
            "message_events",
            &json!({"topic_id": topic, "body": number.to_string()}),
        );
    }
    assert_eq!(client.expect("signin_response").await["status"], "ok");
    for number in 0..20 {
        assert_eq!(
            client.expect("message_events").await["data"]["body"],
            number.to_string()
        );
    }
}

async fn events_behind_a_refused_sign_in_fail(world: World) {
    let mut client = world.connect().await;
    client.emit("signin_request", &json!({"token": "0"}));
    client.emit("message_events", &json!({"topic_id": 1, "body": "foobar"}));
    failed(
        &client.expect("signin_response").await,
        "invalid token",
        "invalid_token",
    );
    assert_eq!(
        client.expect("message_events").await["code"],
        "not-authenticated"
    );
    client.expect_end().await;
}

async fn signing_in_twice_answers_ok_again(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let mut client = world.signed_in(&user).await;
    client.sign_in(&user).await;
    let another = proto::user::v1::IssueTokenRequest { user_id: user.id };
    let token = world
        .api()
        .users
        .issue_token(another)
        .await
        .unwrap()
        .into_inner()
        .token;
    assert_eq!(
        answer(&mut client, &json!({ "token": token })).await["status"],
        "ok"
    );
    // And he is a listener once, not three times.
    client.emit("message_events", &json!({"topic_id": topic, "body": "1"}));
    client.emit("message_events", &json!({"topic_id": topic, "body": "2"}));
    for body in ["1", "2"] {
        assert_eq!(client.expect("message_events").await["data"]["body"], body);
    }
    client.expect_nothing_more();
}

async fn another_users_token_is_refused(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topic = world.topic(&[&one, &two]).await;
    let mut client = world.signed_in(&one).await;
    let payload = answer(&mut client, &json!({"token": two.token})).await;
    let sentence = payload["data"].as_str().unwrap();
    failed(&payload, sentence, "already_signed_in");
    client.emit(
        "message_events",
        &json!({"topic_id": topic, "body": "who am I"}),
    );
    let payload = client.expect("message_events").await;
    assert_eq!(
        payload["data"]["owner"],
        json!({"id": one.id, "username": one.username})
    );
}

async fn when_it_says_ok_the_socket_is_a_listener_already(world: World) {
    let (one, two) = (world.user().await, world.user().await);
    let topics = [
        world.topic(&[&one, &two]).await,
        world.topic(&[&one, &two]).await,
    ];
    let mut other = world.other(&two).await;
    let mut client = world.signed_in(&one).await;
    for topic in topics {
        other.emit(
            "message_events",
            &json!({"topic_id": topic, "body": "at once"}),
        );
    }
    let mut heard: Vec<i64> = Vec::new();
    for _ in topics {
        heard.push(
            client.expect("message_events").await["data"]["topic_id"]
                .as_i64()
                .unwrap(),
        );
        other.expect("message_events").await;
    }
    heard.sort_unstable();
    assert_eq!(heard, topics);
}

async fn disconnect_ends_the_websocket_too(world: World) {
    for eio in Eio::BOTH {
        let mut ws = Ws::connect(world.server().at.public, eio).await.unwrap();
        ws.send(r#"42["hello"]"#).await.unwrap();
        // The client never closes; the server has to.
        ws.ended_within(Duration::from_secs(5)).await.unwrap();
    }
}

async fn disconnect_ends_the_polling_session_too(world: World) {
    for eio in Eio::BOTH {
        let session = Polling::connect(world.server().at.public, eio)
            .await
            .unwrap();
        let _ = session.post(r#"42["hello"]"#).await;
        let deadline = Instant::now() + Duration::from_secs(5);
        while session
            .poll()
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            assert!(Instant::now() < deadline, "the session still lives");
        }
        assert_eq!(session.post("42[\"hello\"]").await.unwrap().status, 400);
    }
}

async fn after_disconnect_a_client_can_do_nothing(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    for eio in Eio::BOTH {
        let mut ws = Ws::connect(world.server().at.public, eio).await.unwrap();
        ws.send(r#"42["hello"]"#).await.unwrap();
        let _ = ws
            .send(&format!(
                r#"42["signin_request",{{"token":"{}"}}]"#,
                user.token
            ))
            .await;
        let _ = ws
            .send(&format!(
                r#"42["message_events",{{"topic_id":{topic},"body":"ghost"}}]"#
            ))
            .await;
        while let Some(packet) = ws.packet().await {
            assert!(!packet.starts_with("42"), "{packet}");
        }
    }
    assert_eq!(world.api().history(topic).await, []);
}
