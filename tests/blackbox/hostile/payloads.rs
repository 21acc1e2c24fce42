//! Several hundred things that nobody means well with.

use bytes::Bytes;

/// Bytes on a fresh TCP connection.
pub(super) fn tcp() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &b""[..],
        b"\0",
        b"\r\n\r\n",
        b"\n\n\n\n",
        b"GET",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"get / http/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://other.example/sign_up HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.0\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nx\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\nzz\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n",
        b"POST /sign_up HTTP/1.1\r\nhost: a\r\nexpect: coffee\r\ncontent-length: 10\r\n\r\n",
        b"GET / HTTP/1.1\r\n: novalue\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: \x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\r\n folded\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /../../../etc/passwd HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 1\r\nsec-websocket-key: x\r\n\r\n",
        b"GET /socket.io/?EIO=3&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81",
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    all.push(vec![0xff; 70_000]);
    all.push(vec![b'A'; 200_000]);
    all.push([b"GET /", &vec![b'a'; 100_000][..], b" HTTP/1.1\r\n\r\n"].concat());
    all.push(
        [
            b"GET / HTTP/1.1\r\nx: ",
            &vec![b'a'; 100_000][..],
            b"\r\n\r\n",
        ]
        .concat(),
    );
    all.push(
        [
            b"GET / HTTP/1.1\r\n",
            &b"x: y\r\n".repeat(5_000)[..],
            b"\r\n",
        ]
        .concat(),
    );
    all.push(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500));
    all.push(b"GET /socket.io/?EIO=3&transport=polling HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50));
    all
}

/// Requests: method, path, content type, body.
pub(super) fn requests() -> Vec<(String, String, String, Bytes)> {
    let mut all = Vec::new();
    let mut ask = |method: &str, path: &str, content_type: &str, body: Vec<u8>| {
        all.push((
            method.to_owned(),
            path.to_owned(),
            content_type.to_owned(),
            Bytes::from(body),
        ));
    };
    let long = "a".repeat(20_000);
    for query in [
        "",
        "?",
        "?EIO=4",
        "?transport=polling",
        "?EIO=0&transport=polling",
        "?EIO=2&transport=polling",
        "?EIO=5&transport=polling",
        "?EIO=-4&transport=polling",
        "?EIO=99999999999999999999&transport=polling",
        "?EIO=four&transport=polling",
        "?EIO=4&transport=",
        "?EIO=4&transport=flashsocket",
        "?EIO=4&transport=POLLING",
        "?EIO=4&transport=webtransport",
        "?EIO=4&transport=websocket",
        "?EIO=4&EIO=3&transport=polling&transport=websocket",
        "?EIO=4&transport=polling&sid=",
        "?EIO=4&transport=polling&sid=x",
        "?EIO=3&transport=polling&sid=AAAAAAAAAAAAAAAA",
        "?EIO=4&transport=polling&sid=%00%00",
        "?EIO=4&transport=polling&sid=%F0%9F%9A%97",
        "?EIO=4&transport=polling&sid=../../secret",
        "?EIO=4&transport=polling&sid=____________________",
        "?EIO=4&transport=polling&b64=1",
        "?EIO=3&transport=polling&b64=1",
        "?EIO=3&transport=polling&j=0",
        "?EIO=3&transport=polling&j=alert(1)",
        "?EIO=4&transport=polling&%zz=%",
        "?&&&&====",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
            ask(
                method,
                &format!("/socket.io/{query}"),
                "text/plain",
                b"40".to_vec(),
            );
        }
    }
    ask(
        "GET",
        &format!("/socket.io/?EIO=4&transport=polling&sid={long}"),
        "text/plain",
        Vec::new(),
    );
    ask(
        "GET",
        &format!("/socket.io/?EIO=4&transport=polling&t={long}"),
        "text/plain",
        Vec::new(),
    );
    for path in [
        "/socket.io",
        "/socket.io/x",
        "/socket.io/../sign_up",
        "//socket.io//",
        "/%2e%2e/",
        "/sign_up?x=y",
        "/SIGN_UP",
    ] {
        ask("GET", path, "text/plain", Vec::new());
        ask("POST", path, "application/json", b"{}".to_vec());
    }
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let deep_value = format!(r#"{{"phone_number":{}"#, r#"{"a":"#.repeat(9_000));
    for body in [
        "",
        "null",
        "{",
        "{}}",
        "[[[[[[",
        r#"{"phone_number":1e999}"#,
        r#"{"phone_number":NaN}"#,
        r#"{"phone_number":"\ud800"}"#,
        r#"{"phone_number":"998901234567","phone_number":"998901234568"}"#,
        r#"{"phone_number":"998901234567","username":"\u0000","gcm_token":"g","device_type":"web"}"#,
        r#"{"phone_number":"'; DROP TABLE users; --","username":"x","gcm_token":"g","device_type":"web"}"#,
        r#"{"__proto__":{"phone_number":"998901234567"},"constructor":1}"#,
        "\u{feff}{}",
        &deep,
        &deep_value,
    ] {
        for content_type in [
            "application/json",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-16",
            "",
        ] {
            ask("POST", "/sign_up", content_type, body.as_bytes().to_vec());
        }
    }
    for body in [
        "%",
        "%zz=%zz",
        "a=%ff%fe",
        "phone_number",
        "=&=&=&",
        "phone_number=%00&username=%00",
    ] {
        ask(
            "POST",
            "/sign_up",
            "application/x-www-form-urlencoded",
            body.as_bytes().to_vec(),
        );
    }
    ask(
        "POST",
        "/sign_up",
        "application/x-www-form-urlencoded",
        b"a=b&".repeat(12_000),
    );
    ask("POST", "/sign_up", "application/json", vec![0xff; 1_000]);
    ask("POST", "/sign_up", "application/json", vec![b' '; 60_000]);
    all
}

/// Bodies of a polling POST.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        ":",
        "1",
        "1:",
        ":1",
        "0:",
        "-1:2",
        "2:40:",
        "99999999999999999999:4",
        "4294967296:40",
        "2 :40",
        "+2:40",
        "0x2:40",
        "2:40,2:40",
        "2:402:",
        "1:41:41:4",
        "3:40",
        "1:40",
        "a:40",
        "٢:40",
        "2\u{1f600}:40",
        "1:\u{1f600}",
        "2:\u{1f600}",
        "\u{1e}",
        "\u{1e}\u{1e}\u{1e}",
        "40\u{1e}",
        "\u{1e}40",
        "40\u{1e}\u{1e}41",
        "bAAAA",
        "b",
        "b!!!!",
        "b====",
        "6:bAAAAA",
        "2:b4",
        "d=40",
        "d=2:40",
        "d=\\n",
        "42",
        "4:42[]",
        "\0",
        "\u{feff}2:40",
        "2:\u{fffd}",
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
    all.extend([
        b"\xff\xfe".to_vec(),
        b"2:4\xff".to_vec(),
        b"\x00\x02\xff40".to_vec(),
        b"\x01\x09\x09\x09\xff".to_vec(),
        b"\x00\xff\xff".to_vec(),
        vec![0; 50_000],
        b"1:2".repeat(40_000),
        b"2\x1e".repeat(60_000),
        b"\x1e".repeat(100_000),
        b"1:6".repeat(10_000),
        b"2:40".repeat(10_000),
        b"40\x1e".repeat(10_000),
        b"0:".repeat(50_000),
    ]);
    all
}

/// Engine.IO packets as text.
pub(super) fn packets() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        " ",
        "0",
        "00",
        r#"0{"sid":"x"}"#,
        "1",
        "11",
        "2",
        "2probe",
        "2\u{0}",
        "3",
        "3probe",
        "3x",
        "5",
        "55",
        "6",
        "6x",
        "7",
        "8",
        "9",
        "a",
        "b",
        "b4",
        "bAAAA",
        "b!!",
        "Ж",
        "\u{1f600}",
        "\u{0}",
        "4",
        "4 ",
        "4x",
        "4-1",
        "40",
        "40{}",
        "40[]",
        "40null",
        "40\"",
        "40{",
        r#"40{"token":"x"}"#,
        "40/",
        "40/,",
        "40/admin",
        "40/admin,",
        "40/admin,{}",
        "40/admin?token=x,{}",
        "40//",
        "40/\u{0},",
        "40,",
        "40,{}",
        "41",
        "41/",
        "41/admin,",
        "41x",
        "42",
        "42[",
        "42]",
        "42[]",
        "42{}",
        "42null",
        "42\"a\"",
        "427",
        "42[1]",
        "42[null]",
        "42[[]]",
        "42[{}]",
        "42[true]",
        r#"42["a"#,
        r#"42["a""#,
        r#"42["a",]"#,
        r#"42["a"]]"#,
        r#"42["a"] "#,
        r#"42["a"]x"#,
        r#"42['a']"#,
        r#"42["\ud800"]"#,
        r#"42["\u0000"]"#,
        r#"42["a",NaN]"#,
        r#"42["a",1e999999]"#,
        r#"42["a",-]"#,
        r#"42["a",01]"#,
        r#"42["a",undefined]"#,
        r#"42["connect"]"#,
        r#"42["disconnect"]"#,
        r#"42["error"]"#,
        r#"42["connect_error"]"#,
        r#"42["newListener"]"#,
        r#"42["__proto__"]"#,
        r#"42["constructor",{}]"#,
        r#"42["disconnecting"]"#,
        r#"420["a"]"#,
        r#"421["a"]"#,
        r#"4299999999999999999999999["a"]"#,
        r#"42-1["a"]"#,
        r#"421.5["a"]"#,
        r#"42007["a"]"#,
        r#"42 7["a"]"#,
        "427",
        r#"42/admin,["a"]"#,
        r#"42/admin,7["a"]"#,
        r#"42/["a"]"#,
        r#"42/,["a"]"#,
        r#"42,["a"]"#,
        "43",
        "430[]",
        "431[]",
        r#"439999["a"]"#,
        r#"43["a"]"#,
        "43-1[]",
        "44",
        r#"44{"message":"x"}"#,
        "44\"x\"",
        "45",
        "450-[]",
        r#"450-["a"]"#,
        r#"451-["a",{"_placeholder":true,"num":0}]"#,
        r#"451-["a",{"_placeholder":true,"num":-1}]"#,
        r#"451-["a",{"_placeholder":true,"num":999999999999}]"#,
        r#"451-["a",{"_placeholder":true,"num":"x"}]"#,
        r#"451-["a",{"_placeholder":true}]"#,
        r#"452-["a",{"_placeholder":true,"num":0}]"#,
        r#"45999999999-["a"]"#,
        r#"4518446744073709551616-["a"]"#,
        r#"45-1-["a"]"#,
        r#"45["a"]"#,
        "45-",
        r#"451-/admin,["a"]"#,
        "46",
        "460-[]",
        "461-1[]",
        r#"461-99999999["a",{"_placeholder":true,"num":0}]"#,
        "47",
        "48",
        "49",
        "4:",
        "4\u{1f600}",
    ]
    .iter()
    .map(|&packet| packet.to_owned())
    .collect();
    all.extend([
        format!("42[\"{}\"]", "n".repeat(100_000)),
        format!("42[\"a\",{}{}]", "[".repeat(100_000), "]".repeat(100_000)),
        format!("42[\"a\",{}", "[".repeat(200_000)),
        format!("42[\"a\",{}", "{\"a\":".repeat(40_000)),
        format!("42{}", "[".repeat(200_000)),
        format!("42{}[\"a\"]", "9".repeat(100_000)),
        format!("45{}-[\"a\"]", "9".repeat(100_000)),
        format!("42/{},[\"a\"]", "n".repeat(100_000)),
        format!("40/{}", "n".repeat(100_000)),
        format!("40{}", "{\"a\":".repeat(40_000)),
        format!("42[\"a\"{}]", ",1".repeat(60_000)),
        format!("42[\"a\",{{{}\"z\":1}}]", "\"k\":1,".repeat(30_000)),
        format!("42[\"a\",\"{}\"]", "\\ud83d\\ude97".repeat(15_000)),
        format!("42[\"a\",{}]", "9".repeat(200_000)),
        "x".repeat(300_000),
        "4".repeat(300_000),
    ]);
    all
}

/// Bytes on a websocket behind its handshake.
pub(super) fn frames() -> Vec<Vec<u8>> {
    let masked = |head: &[u8], body: &[u8]| [head, &[0, 0, 0, 0], body].concat();
    vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        vec![0x81],
        b"\x81\x01a".to_vec(),                                     // not masked
        masked(b"\x81\x82", b"\xff\xfe"),                          // no UTF-8
        masked(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", b"x"), // 2^63 bytes announced
        masked(b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", b"x"), // and more
        masked(b"\x81\xff\x00\x00\x00\x00\x40\x00\x00\x00", b"x"), // 1 GiB announced
        masked(b"\x81\xfe\x00\x01", b"4"),                         // a length longer than needed
        masked(b"\xc1\x82", b"40"),                                // reserved bits
        masked(b"\xf1\x82", b"40"),
        masked(b"\x83\x82", b"40"), // reserved opcodes
        masked(b"\x8f\x82", b"40"),
        masked(b"\x80\x82", b"40"), // continues nothing
        masked(b"\x00\x82", b"40"),
        [masked(b"\x01\x81", b"4"), masked(b"\x01\x81", b"2")].concat(), // a message in a message
        [masked(b"\x01\x81", b"4"), masked(b"\x82\x81", b"2")].concat(),
        masked(b"\x01\x82", b"42"), // never ends
        masked(b"\x00\x80", b"").repeat(1_000),
        [
            masked(b"\x01\x80", b""),
            masked(b"\x00\x80", b"").repeat(20_000),
        ]
        .concat(),
        [
            masked(b"\x01\x81", b"4"),
            masked(b"\x00\x81", b"2").repeat(300_000),
        ]
        .concat(),
        masked(b"\x89\xfe\x01\x00", &[0; 256]), // a ping over 125 bytes
        masked(b"\x09\x80", b""),               // a ping in pieces
        masked(b"\x89\x80", b"").repeat(10_000), // pings without end
        masked(b"\x8a\x80", b"").repeat(10_000),
        masked(b"\x88\x80", b""), // closes
        masked(b"\x88\x81", b"\x03"),
        masked(b"\x88\x82", b"\x00\x00"),
        masked(b"\x88\x82", b"\xff\xff"),
        masked(b"\x88\x84", b"\x03\xe8\xff\xfe"),
        [masked(b"\x88\x80", b""), masked(b"\x81\x82", b"42")].concat(),
        masked(b"\x88\x80", b"").repeat(100),
        masked(b"\x82\x80", b""), // binary
        masked(b"\x82\xfe\xff\xff", &[4; 65_535]),
        masked(b"\x81\x80", b"").repeat(1_000), // empty texts
        masked(b"\x81\x82", b"40").repeat(2_000), // connects without end
        masked(b"\x81\x81", b"2").repeat(5_000),
        masked(b"\x81\x81", b"6").repeat(5_000),
    ]
}

/// Events on a socket that signed in.
pub(super) fn events() -> Vec<String> {
    let mut all = Vec::new();
    let values = [
        "null",
        "true",
        "0",
        "-0",
        "-1",
        "1.0",
        "1e3",
        "1e999",
        "-1e999",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "0.1",
        "1e-400",
        "9007199254740993",
        "\"\"",
        "\"1\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "[]",
        "[1]",
        "{}",
        "{\"a\":1}",
        "{\"$gt\":\"\"}",
        "\"'; DROP TABLE messages; --\"",
        "\"<script>alert(1)</script>\"",
        "\"\\r\\n\\r\\n\"",
        "\"%s%n%x\"",
        "\"../../../etc/passwd\"",
        "\"\u{202e}\u{200b}\"",
    ];
    for value in values {
        all.push(format!(r#"42["message_events",{value}]"#));
        all.push(format!(r#"42["typing_event",{value}]"#));
        all.push(format!(r#"42["signin_request",{{"token":{value}}}]"#));
        all.push(format!(
            r#"42["typing_event",{{"user_id":{value},"topic_id":{value}}}]"#
        ));
        for key in [
            "stamp_id",
            "topic_id",
            "body",
            "reply_to",
            "attrs",
            "has_media",
        ] {
            all.push(format!(
                r#"42["message_events",{{"topic_id":1,"body":"x","{key}":{value}}}]"#
            ));
        }
    }
    let deep = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    for attrs in [
        deep(64),
        deep(65),
        deep(128),
        deep(1_000),
        deep(100_000),
        "{\"a\":1,\"a\":2}".into(),
        "9".repeat(8_000),
    ] {
        all.push(format!(
            r#"42["message_events",{{"topic_id":1,"body":"x","attrs":{attrs}}}]"#
        ));
    }
    all.push(format!(
        r#"42["message_events",{{"topic_id":1,"body":"{}"}}]"#,
        "\\u0000".repeat(4_096)
    ));
    all.push(format!(
        r#"42["message_events",{{"topic_id":1,"body":"{}"}}]"#,
        "x".repeat(250_000)
    ));
    all.push(format!(
        r#"42["message_events",{{"topic_id":1,"body":"x"{}}}]"#,
        r#","body":"y""#.repeat(1_000)
    ));
    all.push(r#"42["message_events"]"#.to_owned());
    all.push(
        r#"42["message_events",{"topic_id":1,"body":"x"},{"topic_id":1,"body":"y"}]"#.to_owned(),
    );
    all.push(r#"429007199254740993["message_events",{"topic_id":1,"body":"x"}]"#.to_owned());
    all.push(r#"4299999999999999999999999["message_events",{"topic_id":1,"body":"x"}]"#.to_owned());
    all.push(
        r#"451-["message_events",{"topic_id":1,"body":{"_placeholder":true,"num":0}}]"#.to_owned(),
    );
    all
}
