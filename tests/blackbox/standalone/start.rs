//! What keeps it from starting is said in one clear sentence.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tests::account;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Ended, Folder, Options, Server, key};
use tests::trial::World;

cases! {
    Embedded:
        a_second_process_on_one_folder_says_so_and_stops,
        a_damaged_store_says_what_is_damaged_and_never_starts_empty,
        a_missing_store_file_is_an_error,
        a_start_that_fails_is_at_no_moment_ready,
        a_port_in_use_is_named,
        a_certificate_that_can_not_be_read_is_named,
        an_unknown_key_is_named_with_its_source,
        a_bad_value_is_named_with_its_source_and_what_was_expected,
        a_wrong_seed_file_is_named_with_the_line;
}

/// It ended by itself with an error, which holds each of these words, and tells of no panic.
fn says(ended: &Ended, words: &[&str]) {
    assert!(!ended.status.success(), "exit code 0:\n{}", ended.log);
    assert!(
        ended.status.code().is_some(),
        "ended by a signal:\n{}",
        ended.log
    );
    for word in words {
        assert!(
            ended.log.to_lowercase().contains(&word.to_lowercase()),
            "no {word:?} in:\n{}",
            ended.log
        );
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    assert!(!ended.log.contains("stack backtrace"), "{}", ended.log);
}

async fn a_second_process_on_one_folder_says_so_and_stops(_: World) {
    let folder = Folder::new();
    let first = Server::start_on(&folder, Options::default()).await;
    let ended = Server::refused(&folder, Options::default()).await;
    says(&ended, &["use", &folder.data().display().to_string()]);
    account::sign_up(&first).await;
}

/// A folder with accounts and messages in it, after an orderly end, and its store files.
async fn full_folder() -> (Arc<Folder>, Vec<PathBuf>) {
    let folder = Folder::new();
    let server = Server::start_on(&folder, Options::default()).await;
    let user = account::sign_up(&server).await;
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, &server).await;
    client.sign_in(&user).await;
    for number in 0..200 {
        client.emit(
            "message_events",
            &json!({"topic_id": 1, "body": format!("{number} {}", "text ".repeat(100))}),
        );
    }
    for _ in 0..200 {
        assert_eq!(client.expect("message_events").await["event_type"], "sent");
    }
    server.terminate();
    assert!(
        server
            .ended_within(std::time::Duration::from_secs(30))
            .await
            .success()
    );
    let files = fs::read_dir(folder.data())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let stores: Vec<PathBuf> = files
        .filter(|path| fs::metadata(path).unwrap().len() > 4_096)
        .collect();
    assert!(
        !stores.is_empty(),
        "no store in {}",
        folder.data().display()
    );
    (folder, stores)
}

async fn a_damaged_store_says_what_is_damaged_and_never_starts_empty(_: World) {
    let (folder, stores) = full_folder().await;
    let wholes: Vec<Vec<u8>> = stores
        .iter()
        .map(|store| fs::read(store).unwrap())
        .collect();
    // Files of one store belong together: a start with one of them damaged changes the other.
    let restore = || {
        for (store, whole) in stores.iter().zip(&wholes) {
            fs::write(store, whole).unwrap();
        }
    };
    for (store, whole) in stores.iter().zip(&wholes) {
        // Nothing, half of it, no head, a head of rubbish, and a block of rubbish wherever something stands.
        let mut damaged = vec![
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            whole[4_096..].to_vec(),
            [&[0xa5; 4_096], &whole[4_096..]].concat(),
        ];
        let used = whole
            .chunks(4_096)
            .enumerate()
            .filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let used: Vec<usize> = used.map(|(number, _)| number).collect();
        for number in used.iter().step_by(used.len().div_ceil(8)) {
            let mut torn = whole.clone();
            let end = torn.len().min(number * 4_096 + 4_096);
            torn[number * 4_096..end]
                .iter_mut()
                .for_each(|byte| *byte ^= 0xff);
            damaged.push(torn);
        }
        for (number, content) in damaged.into_iter().enumerate() {
            fs::write(store, content).unwrap();
            let started = tokio::task::spawn_blocking({
                let folder = Arc::clone(&folder);
                move || Server::start_blocking(&folder, &Options::default())
            });
            match started.await.unwrap() {
                Err(ended) => says(&ended, &[&store.display().to_string()]),
                // A block that holds nothing any more may be anything: all there was is there.
                Ok(server) => {
                    let history = tests::api::Api::of(&server).history(1).await;
                    assert_eq!(
                        history.len(),
                        200,
                        "damage {number} of {} was not noticed",
                        store.display()
                    );
                }
            }
            restore();
        }
    }
    let server = Server::start_on(&folder, Options::default()).await;
    assert_eq!(tests::api::Api::of(&server).history(1).await.len(), 200);
}

async fn a_missing_store_file_is_an_error(_: World) {
    let (folder, stores) = full_folder().await;
    for store in stores {
        let aside = folder.file("aside");
        fs::rename(&store, &aside).unwrap();
        let ended = Server::refused(&folder, Options::default()).await;
        says(&ended, &[&store.display().to_string(), "missing"]);
        assert!(!store.exists(), "an empty one was made");
        fs::rename(&aside, &store).unwrap();
    }
    let server = Server::start_on(&folder, Options::default()).await;
    assert_eq!(tests::api::Api::of(&server).history(1).await.len(), 200);
}

/// The last thing such a process does is to let go of what it holds, its readiness
/// included: asked without a pause, many times over, it must not show.
async fn a_start_that_fails_is_at_no_moment_ready(_: World) {
    let (folder, stores) = full_folder().await;
    fs::write(&stores[0], "rubbish").unwrap();
    for _ in 0..30 {
        Server::refused(&folder, Options::default()).await;
    }
}

async fn a_port_in_use_is_named(_: World) {
    for flag in ["--listen", "--grpc-listen", "--admin-listen"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let options = Options {
            args: vec![flag.to_owned(), address.clone()],
            ..Options::default()
        };
        says(
            &Server::refused(&Folder::new(), options).await,
            &[&address, "in use"],
        );
    }
}

async fn a_certificate_that_can_not_be_read_is_named(_: World) {
    let folder = Folder::new();
    let make = || rcgen::generate_simple_self_signed(["api.drivers.uz".to_owned()]).unwrap();
    let (one, two) = (make(), make());
    fs::write(folder.file("chain.pem"), one.cert.pem()).unwrap();
    fs::write(folder.file("key.pem"), one.signing_key.serialize_pem()).unwrap();
    fs::write(folder.file("other.pem"), two.signing_key.serialize_pem()).unwrap();
    fs::write(folder.file("empty.pem"), "").unwrap();
    fs::write(
        folder.file("rubbish.pem"),
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    for (chain, key, named) in [
        ("absent.pem", "key.pem", "absent.pem"),
        ("chain.pem", "absent.pem", "absent.pem"),
        ("empty.pem", "key.pem", "empty.pem"),
        ("chain.pem", "empty.pem", "empty.pem"),
        ("rubbish.pem", "key.pem", "rubbish.pem"),
        ("chain.pem", "chain.pem", "chain.pem"),
        ("chain.pem", "other.pem", "other.pem"),
    ] {
        let ended = Server::refused(&folder, super::tls(&folder, chain, key)).await;
        says(&ended, &[&folder.file(named).display().to_string()]);
    }
}

async fn an_unknown_key_is_named_with_its_source(_: World) {
    let folder = Folder::new();
    let ended = Server::refused(&folder, Options::default().with("colour", "\"red\"")).await;
    says(
        &ended,
        &["colour", &folder.file("drivers.toml").display().to_string()],
    );
    let options = Options {
        env: vec![("DRIVERS_COLOUR", "red".into())],
        ..Options::default()
    };
    says(
        &Server::refused(&folder, options).await,
        &["DRIVERS_COLOUR"],
    );
    let options = Options {
        args: vec!["--colour".into(), "red".into()],
        ..Options::default()
    };
    says(&Server::refused(&folder, options).await, &["--colour"]);
    let options = Options {
        args: vec!["--config".into(), "/absent/drivers.toml".into()],
        ..Options::default()
    };
    says(
        &Server::refused(&folder, options).await,
        &["/absent/drivers.toml"],
    );
}

async fn a_bad_value_is_named_with_its_source_and_what_was_expected(_: World) {
    let folder = Folder::new();
    let file = folder.file("drivers.toml").display().to_string();
    let ended = Server::refused(
        &folder,
        Options::default().with(key::DRAIN_WINDOW_MS, "\"soon\""),
    )
    .await;
    says(&ended, &[key::DRAIN_WINDOW_MS, &file, "soon", "expected"]);
    let ended = Server::refused(
        &folder,
        Options::default().with(key::BUS, "\"nats://127.0.0.1?colour=red\""),
    )
    .await;
    says(&ended, &["bus", "colour"]);
    let ended = Server::refused(
        &folder,
        Options::default().with(key::BUS, "\"memory:?drop=2\""),
    )
    .await;
    says(&ended, &["drop"]);
    let ended = Server::refused(&folder, Options::default().with("broken", "= =")).await;
    says(&ended, &[&file]);
    for (flag, value) in [
        ("--listen", "nowhere"),
        ("--rate-limits", "maybe"),
        ("--log", "loud"),
        ("--grpc-listen", "1:2:3:4"),
    ] {
        let options = Options {
            args: vec![flag.to_owned(), value.to_owned()],
            ..Options::default()
        };
        says(&Server::refused(&folder, options).await, &[flag, value]);
    }
}

async fn a_wrong_seed_file_is_named_with_the_line(_: World) {
    let folder = Folder::new();
    let seed = folder.file("seed.toml").display().to_string();
    for wrong in [
        "[[rooms]]\nid = 1\ntitle = \"\"\n",
        "[[rooms]]\nid = 1\ntitle = \"R\"\n[[rooms.topics]]\nid = \"one\"\ntitle = \"T\"\nvisibility = \"open\"\n",
        "[[rooms]]\nid = 1\ntitle = \"R\"\n[[rooms.topics]]\nid = 1\ntitle = \"T\"\nvisibility = \"secret\"\n",
        "[[rooms]]\nid = 1\ntitle = \"R\"\ncolour = \"red\"\n",
        "[[rooms]\n",
    ] {
        let options = Options {
            seed_file: Some(wrong.to_owned()),
            ..Options::default()
        };
        says(&Server::refused(&folder, options).await, &[&seed, "line"]);
    }
    let options = Options {
        args: vec!["--seed-file".into(), "/absent/seed.toml".into()],
        ..Options::default()
    };
    says(
        &Server::refused(&folder, options).await,
        &["/absent/seed.toml"],
    );
}
