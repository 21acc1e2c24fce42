//! `POST /sign_up`.

use serde_json::{Value, json};
use tests::account::{self, unique};
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::http::{self, Response};
use tests::server::{Options, Server};
use tests::trial::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

cases! {
    Once:
        ok_has_user_id_and_token_of_32_lower_case_hex_digits,
        the_token_signs_in,
        a_form_is_as_good_as_json,
        missing_null_or_blank_is_missing_key_and_named,
        another_type_is_invalid_key,
        over_its_length_is_invalid_key_and_never_cut,
        what_is_not_an_object_is_malformed,
        another_method_is_405,
        too_large_is_413,
        another_media_type_is_415,
        too_often_is_429_with_retry_after,
        unknown_keys_are_ignored,
        lengths_are_measured_after_the_stored_form,
        a_phone_number_is_7_to_15_digits_with_an_optional_plus,
        spellings_of_one_number_are_one_account,
        a_known_number_never_hands_out_its_token,
        user_names_are_compared_by_case_folding_and_nfc,
        user_names_have_no_control_characters,
        user_names_have_no_invisible_look_alikes_at_the_ends,
        device_type_is_any_text_of_8,
        of_many_at_once_with_one_number_one_wins,
        other_paths_are_404;
    Embedded:
        only_the_sha_256_of_the_token_is_stored;
}

const KEYS: [&str; 4] = ["phone_number", "username", "gcm_token", "device_type"];

fn request() -> Value {
    let (phone_number, username) = unique();
    json!({"phone_number": phone_number, "username": username, "gcm_token": "gcm", "device_type": "android"})
}

fn request_with(key: &str, value: Value) -> Value {
    let mut request = request();
    request[key] = value;
    request
}

async fn post(server: &Server, content_type: &str, body: impl Into<bytes::Bytes>) -> Response {
    let headers = [("content-type", content_type)];
    http::request(server.at.public, "POST", "/sign_up", &headers, body)
        .await
        .unwrap()
}

async fn sign_up(server: &Server, request: &Value) -> Response {
    post(server, "application/json", request.to_string()).await
}

async fn accepted(server: &Server, request: &Value) -> Value {
    let answer = sign_up(server, request).await;
    assert_eq!(answer.status, 200, "{request}: {}", answer.text());
    answer.json()
}

/// Asserts a failure with its three keys; returns the sentence.
fn failed(answer: &Response, status: u16, code: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let sentence = body["data"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        body,
        json!({"status": "fail", "code": code, "data": sentence})
    );
    assert!(!sentence.is_empty());
    sentence
}

async fn refused(server: &Server, request: &Value, status: u16, code: &str) -> String {
    let answer = sign_up(server, request).await;
    assert_eq!(answer.status, status, "{request}: {}", answer.text());
    failed(&answer, status, code)
}

async fn ok_has_user_id_and_token_of_32_lower_case_hex_digits(world: World) {
    let answer = accepted(world.server(), &request()).await;
    let (id, token) = (
        answer["user_id"].as_i64().unwrap(),
        answer["token"].as_str().unwrap(),
    );
    assert_eq!(
        answer,
        json!({"status": "ok", "user_id": id, "token": token})
    );
    assert!(id > 0 && id < 1 << 53);
    assert_eq!(token.len(), 32);
    assert!(
        token
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')),
        "{token}"
    );
    let another = accepted(world.server(), &request()).await;
    assert_ne!(answer["token"], another["token"]);
    assert_ne!(answer["user_id"], another["user_id"]);
}

async fn the_token_signs_in(world: World) {
    let user = world.user().await;
    let mut client = world.connect().await;
    client.emit("signin_request", &json!({"token": user.token}));
    let answer = client.expect("signin_response").await;
    assert_eq!(
        answer,
        json!({"status": "ok", "user_id": user.id, "username": user.username, "roles": []})
    );
}

async fn only_the_sha_256_of_the_token_is_stored(_: World) {
    let server = Server::start(Options::default()).await;
    let user = account::sign_up(&server).await;
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, &server).await;
    client.sign_in(&user).await;
    let bytes: Vec<u8> = (0..16)
        .map(|i| u8::from_str_radix(&user.token[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let mut folders = vec![server.folder().data()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap();
            seen += content.len();
            for needle in [user.token.as_bytes(), &bytes] {
                let found = content.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{} holds the token", path.display());
            }
        }
    }
    assert!(seen > 0);
    assert!(
        !server.log().contains(&user.token),
        "the log holds the token"
    );
}

async fn a_form_is_as_good_as_json(world: World) {
    let (phone, name) = unique();
    let body =
        format!("phone_number=%2B{phone}&username=%D0%96+{name}&gcm_token=a%26b&device_type=ios");
    let answer = post(world.server(), "application/x-www-form-urlencoded", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let taken = request_with("username", json!(format!("ж {name}")));
    refused(world.server(), &taken, 409, "username_taken").await;
    let answer = post(
        world.server(),
        "application/x-www-form-urlencoded; charset=utf-8",
        "username=x",
    )
    .await;
    assert_eq!(
        failed(&answer, 400, "missing_key"),
        "phone_number not given"
    );
    let answer = post(
        world.server(),
        "application/json; charset=utf-8",
        request().to_string(),
    )
    .await;
    assert_eq!(answer.status, 200);
}

async fn missing_null_or_blank_is_missing_key_and_named(world: World) {
    for key in KEYS {
        let mut without = request();
        without.as_object_mut().unwrap().remove(key);
        let spellings = [
            without,
            request_with(key, Value::Null),
            request_with(key, json!("")),
            request_with(key, json!(" \t ")),
        ];
        for request in spellings {
            let sentence = refused(world.server(), &request, 400, "missing_key").await;
            assert_eq!(sentence, format!("{key} not given"), "{request}");
        }
    }
    let sentence = refused(world.server(), &json!({}), 400, "missing_key").await;
    assert_eq!(sentence, "phone_number not given");
}

async fn another_type_is_invalid_key(world: World) {
    for key in KEYS {
        for value in [
            json!(7),
            json!(true),
            json!([]),
            json!({}),
            json!(["998901234567"]),
        ] {
            let sentence = refused(
                world.server(),
                &request_with(key, value),
                400,
                "invalid_key",
            )
            .await;
            assert!(sentence.contains(key), "{sentence}");
        }
    }
}

async fn over_its_length_is_invalid_key_and_never_cut(world: World) {
    for (key, value) in [
        ("phone_number", "9989012345678901".to_owned()),
        ("username", unique().1 + "ЖЖЖЖЖЖЖЖЖЖЖЖЖЖЖЖ"),
        ("device_type", "androidTV".to_owned()),
    ] {
        let sentence = refused(
            world.server(),
            &request_with(key, json!(value)),
            400,
            "invalid_key",
        )
        .await;
        assert!(sentence.contains(key), "{sentence}");
    }
    // Sixteen characters of four bytes each are sixteen.
    let number: u32 = unique().0[5..].parse().unwrap();
    let name: String = format!("{number:016}")
        .chars()
        .map(|digit| char::from_u32(0x1F600 + u32::from(digit)).unwrap())
        .collect();
    accepted(world.server(), &request_with("username", json!(name))).await;
    refused(
        world.server(),
        &request_with("username", json!(name)),
        409,
        "username_taken",
    )
    .await;
}

async fn what_is_not_an_object_is_malformed(world: World) {
    let bodies: [&[u8]; 7] = [
        b"{",
        b"[]",
        b"7",
        b"\"phone_number\"",
        b"{\"phone_number\":}",
        b"{\"username\":\"\xff\xfe\"}",
        b"{} {}",
    ];
    for body in bodies {
        let answer = post(world.server(), "application/json", body).await;
        failed(&answer, 400, "malformed");
    }
}

async fn another_method_is_405(world: World) {
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = http::request(world.server().at.public, method, "/sign_up", &[], "")
            .await
            .unwrap();
        failed(&answer, 405, "method_not_allowed");
    }
}

async fn too_large_is_413(world: World) {
    let mut stream = TcpStream::connect(world.server().at.public).await.unwrap();
    let head = "POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50000000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut part = [0; 4096];
        let count = tokio::time::timeout(tests::PATIENCE, stream.read(&mut part))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "ended: {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..count]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains(r#""code":"too_large""#), "{answer}");
}

async fn another_media_type_is_415(world: World) {
    for media_type in [
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
    ] {
        let answer = post(world.server(), media_type, request().to_string()).await;
        failed(&answer, 415, "unsupported_media_type");
    }
}

async fn too_often_is_429_with_retry_after(_: World) {
    let server = Server::start(Options {
        rate_limits: true,
        ..Options::default()
    })
    .await;
    for _ in 0..2_000 {
        let answer = sign_up(&server, &request()).await;
        if answer.status == 200 {
            continue;
        }
        failed(&answer, 429, "rate_limited");
        let seconds: u64 = answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(seconds > 0);
        return;
    }
    panic!("2,000 sign-ups from one address were let through");
}

async fn unknown_keys_are_ignored(world: World) {
    let mut request = request();
    request["colour"] = json!({"deep": [1, 2, 3]});
    request["user_id"] = json!(1);
    accepted(world.server(), &request).await;
}

async fn lengths_are_measured_after_the_stored_form(world: World) {
    let (phone, _) = unique();
    let spaced: String = phone.chars().flat_map(|digit| [digit, '-', ' ']).collect();
    accepted(
        world.server(),
        &request_with("phone_number", json!(format!("+{spaced}"))),
    )
    .await;
    let padded = format!("{}{}{}", " ".repeat(20), unique().1, " ".repeat(20));
    accepted(world.server(), &request_with("username", json!(padded))).await;
    // "é" as two characters, of which NFC makes one: 17 before, 16 after.
    let number: u64 = unique().0.parse().unwrap();
    let name = format!("e\u{301}{number:015}");
    assert_eq!(name.chars().count(), 17);
    accepted(world.server(), &request_with("username", json!(name))).await;
    let composed = format!("\u{e9}{number:015}");
    refused(
        world.server(),
        &request_with("username", json!(composed)),
        409,
        "username_taken",
    )
    .await;
}

async fn a_phone_number_is_7_to_15_digits_with_an_optional_plus(world: World) {
    let number: u64 = unique().0.parse().unwrap();
    for good in [
        format!("{:07}", number % 10_000_000),
        format!("+{number:015}"),
    ] {
        accepted(world.server(), &request_with("phone_number", json!(good))).await;
    }
    for bad in [
        "123456",
        "1234567890123456",
        "++9989012345",
        "99890+12345",
        "9989012345a",
        "99890.12345",
        "(99890)12345",
        "+",
        "٩٩٨٩٠١٢٣٤٥",
        "9989012345\u{0}",
    ] {
        let sentence = refused(
            world.server(),
            &request_with("phone_number", json!(bad)),
            400,
            "invalid_key",
        )
        .await;
        assert!(sentence.contains("phone_number"), "{sentence}");
    }
}

async fn spellings_of_one_number_are_one_account(world: World) {
    let (phone, _) = unique();
    accepted(world.server(), &request_with("phone_number", json!(phone))).await;
    let (country, rest) = phone.split_at(3);
    for spelling in [
        phone.clone(),
        format!("+{phone}"),
        format!("+{country} {} {}-{}", &rest[..2], &rest[2..5], &rest[5..]),
        format!(" {phone} "),
    ] {
        let request = request_with("phone_number", json!(spelling));
        refused(world.server(), &request, 409, "phone_number_taken").await;
    }
}

async fn a_known_number_never_hands_out_its_token(world: World) {
    let first = request();
    let token = accepted(world.server(), &first).await["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut again = vec![first.clone()];
    for key in ["username", "gcm_token", "device_type"] {
        let mut changed = first.clone();
        changed[key] = if key == "username" {
            json!(unique().1)
        } else {
            json!("other")
        };
        again.push(changed);
    }
    for request in again {
        let answer = sign_up(world.server(), &request).await;
        failed(&answer, 409, "phone_number_taken");
        assert!(!answer.text().contains(&token));
    }
}

async fn user_names_are_compared_by_case_folding_and_nfc(world: World) {
    let (_, name) = unique();
    let tail = &name[4..];
    for (taken, same) in [
        (format!("Sardor{tail}"), format!("sARDOR{tail}")),
        (format!("Жаҳон{tail}"), format!("жАҲОН{tail}")),
        (format!("stra\u{df}e{tail}"), format!("STRASSE{tail}")),
        (format!("A\u{30a}ke{tail}"), format!("\u{e5}KE{tail}")),
        (format!("σος{tail}"), format!("ΣΟΣ{tail}")),
    ] {
        accepted(world.server(), &request_with("username", json!(taken))).await;
        refused(
            world.server(),
            &request_with("username", json!(same)),
            409,
            "username_taken",
        )
        .await;
    }
}

async fn user_names_have_no_control_characters(world: World) {
    for bad in ["a\u{0}b", "a\nb", "a\u{7f}b", "a\u{85}b", "\u{1b}[31m"] {
        let sentence = refused(
            world.server(),
            &request_with("username", json!(bad)),
            400,
            "invalid_key",
        )
        .await;
        assert!(sentence.contains("username"), "{sentence}");
    }
}

/// Refused or dropped, but never a second account that looks like the first.
async fn user_names_have_no_invisible_look_alikes_at_the_ends(world: World) {
    let (_, name) = unique();
    accepted(world.server(), &request_with("username", json!(name))).await;
    for invisible in [
        '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{202e}', '\u{2060}', '\u{feff}',
        '\u{ad}', '\u{3164}', '\u{2800}', '\u{a0}', '\u{3000}', '\u{fe0f}',
    ] {
        for look_alike in [format!("{name}{invisible}"), format!("{invisible}{name}")] {
            let answer =
                sign_up(world.server(), &request_with("username", json!(look_alike))).await;
            let code = answer.json()["code"].clone();
            assert!(
                code == "invalid_key" || code == "username_taken",
                "{:?}: {}",
                look_alike.escape_unicode().to_string(),
                answer.text()
            );
        }
    }
}

async fn device_type_is_any_text_of_8(world: World) {
    for good in [
        "android",
        "ios",
        "web",
        "linux",
        "TV",
        "Ж-Ж-Ж-Ж-",
        "12345678",
    ] {
        accepted(world.server(), &request_with("device_type", json!(good))).await;
    }
}

async fn of_many_at_once_with_one_number_one_wins(world: World) {
    let (phone, _) = unique();
    let attempts = (0..20).map(|_| {
        let request = request_with("phone_number", json!(phone));
        let server = world.server();
        async move { sign_up(server, &request).await }
    });
    let answers = futures::future::join_all(attempts).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        failed(answer, 409, "phone_number_taken");
    }
}

async fn other_paths_are_404(world: World) {
    for path in ["/", "/sign_in", "/metrics", "/readyz", "/.git/config"] {
        let answer = http::request(world.server().at.public, "POST", path, &[], "")
            .await
            .unwrap();
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
}
