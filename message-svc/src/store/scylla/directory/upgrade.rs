//! A program that knows only the first migration goes on while the next is applied.

#![allow(clippy::unwrap_used)]

use chassis::{
    cql::{
        Cql, CqlError,
        migrations::{Migrations, migrate},
        testing::fresh_keyspace,
    },
    id::Seq,
};

use super::Directory;
use crate::store::{
    Appended, DirectoryStore as _, LogStore as _,
    conformance::log::{message, topic},
    scylla::{MIGRATIONS, ScyllaStore, log::Log},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_written_while_the_tables_of_the_directory_are_made() {
    let log_alone = Migrations {
        files: MIGRATIONS.files.split_at(1).0,
        ..MIGRATIONS
    };
    let (cql, keyspace) = Box::pin(fresh_keyspace(&[log_alone])).await;
    // The program of before had no directory at all: here one of another keyspace.
    let (elsewhere, _elsewhere) = Box::pin(fresh_keyspace(&[MIGRATIONS])).await;
    log_alone.check(&cql).await.unwrap();
    let before = ScyllaStore {
        log: Log::open(&cql),
        directory: Directory::open(&elsewhere),
    };
    let too_early = ScyllaStore::open(&cql).await.err().unwrap().to_string();
    assert!(too_early.contains("0002_directory.cql"), "{too_early}");

    let first = before.open_segment(topic(1), None, Seq::new(1), 1_024);
    let segment = first.await.unwrap().segment;
    let url = keyspace.url.clone();
    let migrating = tokio::spawn(async move { migrate(&url, &[MIGRATIONS]).await });
    let mut head = 0;
    loop {
        // One more behind the end.
        let is_last = migrating.is_finished() || head + 1 == segment.capacity;
        let entry = message(1, &head.to_string());
        let appended = before.append(&segment, head, &[entry]).await.unwrap();
        assert_eq!(appended, Appended::Applied);
        head += 1;
        if is_last {
            break;
        }
    }
    let applied = migrating.await.unwrap().unwrap();
    assert_eq!(applied, ["message-svc/0002_directory.cql"]);

    let anew = Cql::connect(&keyspace.url).await.unwrap();
    let after = ScyllaStore::open(&anew).await.unwrap();
    assert_eq!(after.load(topic(1)).await.unwrap().unwrap().head, head);
    let entries = after.read(&segment, 0..head).await.unwrap();
    assert_eq!(entries, before.read(&segment, 0..head).await.unwrap());
    after.create_room("Ташкент", 1).await.unwrap();
    let again = log_alone.check(&cql).await;
    assert!(matches!(again, Err(CqlError::Refused(_))), "{again:?}");
}
