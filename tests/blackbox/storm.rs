//! Connect-and-reset storms leave no sessions, descriptors or memory behind.

use std::time::{Duration, Instant};

use futures::StreamExt;
use tests::account::{self, User};
use tests::cases;
use tests::engine::{Eio, Polling, Ws};
use tests::server::{Options, Server, key, metric};
use tests::trial::World;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

cases! {
    Alone:
        a_storm_leaves_nothing_behind,
        long_storms_leave_nothing_behind;
}

const AT_ONCE: usize = 32;

/// Some ways to come and go without a word.
async fn come_and_go(server: &Server, user: &User, number: usize) {
    let at = server.at.public;
    let eio = Eio::BOTH[number % 2];
    // What fails here failed because the storm is one.
    match number / 2 % 8 {
        0 => {
            if let Ok(tcp) = TcpStream::connect(at).await {
                let _ = tcp.set_zero_linger();
            }
        }
        1 => {
            if let Ok(mut tcp) = TcpStream::connect(at).await {
                let _ = tcp
                    .write_all(b"POST /sign_up HTTP/1.1\r\nhost: a\r\ncontent-le")
                    .await;
                let _ = tcp.set_zero_linger();
            }
        }
        // The request for a websocket, and gone before the answer.
        2 => {
            if let Ok(mut tcp) = TcpStream::connect(at).await {
                let request = format!(
                    "GET /socket.io/?EIO={}&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n\
                     upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                    eio.number()
                );
                let _ = tcp.write_all(request.as_bytes()).await;
                let _ = tcp.set_zero_linger();
            }
        }
        3 => {
            if let Ok(ws) = Ws::open(at, eio, None).await {
                ws.reset();
            }
        }
        4 => {
            if let Ok(ws) = Ws::connect(at, eio).await {
                ws.reset();
            }
        }
        5 => {
            if let Ok(mut ws) = Ws::connect(at, eio).await {
                let _ = ws
                    .send(&format!(
                        r#"42["signin_request",{{"token":"{}"}}]"#,
                        user.token
                    ))
                    .await;
                if number.is_multiple_of(3) {
                    let _ = ws.packet().await;
                }
                ws.reset();
            }
        }
        // A polling session that is left alone.
        6 => {
            let _ = Polling::connect(at, eio).await;
        }
        // An upgrade that is never finished.
        _ => {
            if let Ok(session) = Polling::connect(at, eio).await
                && let Ok(mut ws) = Ws::open(at, eio, Some(&session.sid)).await
            {
                let _ = ws.send("2probe").await;
                ws.reset();
            }
        }
    }
}

async fn storm(server: &Server, user: &User, count: usize) {
    futures::stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |number| come_and_go(server, user, number))
        .await;
}

/// Waits until what the storm opened is gone.
async fn calm(server: &Server, descriptors: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (sockets, open) = (server.metric(metric::SOCKETS).await, server.descriptors());
        if sockets == Some(0.0) && open <= descriptors + 4 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "a minute after the storm: sockets {sockets:?}, descriptors {open} (before: {descriptors})"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn storms(count: usize, rounds: usize) {
    let options = Options::default()
        .with(key::PING_INTERVAL_MS, 2_000)
        .with(key::PING_TIMEOUT_MS, 2_000);
    let server = Server::start(options).await;
    let user = account::sign_up(&server).await;
    let descriptors = server.descriptors();
    // The first storm fills what is kept for reuse; what it left is measured on those behind it.
    storm(&server, &user, count).await;
    calm(&server, descriptors).await;
    let memory = server.memory();
    for _ in 0..rounds {
        storm(&server, &user, count).await;
        calm(&server, descriptors).await;
    }
    let grown = server.memory().saturating_sub(memory);
    println!(
        "{} connections, memory {} KiB, grown by {} KiB",
        count * (rounds + 1),
        memory >> 10,
        grown >> 10
    );
    // A session that leaks keeps some 10 KiB and more.
    let leaked = grown / u64::try_from(count * rounds).unwrap();
    assert!(
        grown < 4 << 20 || leaked < 1_024,
        "memory grew by {leaked} bytes for each connection"
    );
    let again = account::sign_up(&server).await;
    let mut ws = Ws::connect(server.at.public, Eio::V4).await.unwrap();
    ws.send(&format!(
        r#"42["signin_request",{{"token":"{}"}}]"#,
        again.token
    ))
    .await
    .unwrap();
    assert!(ws.packet().await.unwrap().contains("ok"));
}

async fn a_storm_leaves_nothing_behind(_: World) {
    storms(800, 1).await;
}

async fn long_storms_leave_nothing_behind(_: World) {
    storms(4_000, 3).await;
}
