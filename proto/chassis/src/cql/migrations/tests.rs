//! Against a real server: see [`testing::VARIABLE`].

#![allow(clippy::unwrap_used, clippy::panic)]

use futures::future::join_all;

use super::*;
use crate::cql::{faults::Fault, testing};

const ONE: Migration = Migration {
    name: "0001_one.cql",
    text: "CREATE TABLE IF NOT EXISTS one (id bigint PRIMARY KEY, what text);",
};

const TWO: Migration = Migration {
    name: "0002_two.cql",
    text: "CREATE TABLE IF NOT EXISTS two (id bigint PRIMARY KEY);
           CREATE TABLE IF NOT EXISTS three (id bigint PRIMARY KEY);",
};

const fn service(files: &'static [Migration]) -> Migrations {
    Migrations {
        service: "a-svc",
        files,
    }
}

const FIRST: Migrations = service(&[ONE]);
const BOTH: Migrations = service(&[ONE, TWO]);
const OTHER: Migrations = Migrations {
    service: "b-svc",
    files: &[Migration {
        name: "0001_else.cql",
        text: "CREATE TABLE IF NOT EXISTS four (id bigint PRIMARY KEY)",
    }],
};

async fn refusal(url: &CqlUrl, migrations: Migrations) -> String {
    let migrated = migrate(url, &[migrations]).await;
    let cql = Cql::connect(url).await.unwrap();
    let checked = migrations.check(&cql).await;
    match (migrated, checked) {
        (Err(CqlError::Refused(one)), Err(CqlError::Refused(other))) => {
            assert_eq!(one, other);
            one
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_cut_into_its_statements() {
    let migration = Migration {
        name: "0001_a.cql",
        text: "-- What it holds; and why.\nCREATE TABLE a ( -- all\n  id int\n);\n\nCREATE TABLE b (id int)  ;\n-- end",
    };
    assert_eq!(
        migration.statements(),
        ["CREATE TABLE a (\n  id int\n)", "CREATE TABLE b (id int)"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_migrate_at_once_apply_each_file_once() {
    let url = testing::fresh_url();
    let all = join_all((0..4).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { migrate(&url, &[BOTH, OTHER]).await })
    }))
    .await;
    let mut applied: Vec<String> = all
        .into_iter()
        .flat_map(|migrated| migrated.unwrap().unwrap())
        .collect();
    applied.sort();
    assert_eq!(
        applied,
        [
            "a-svc/0001_one.cql",
            "a-svc/0002_two.cql",
            "b-svc/0001_else.cql"
        ]
    );
    let cql = Cql::connect(&url).await.unwrap();
    let _keyspace = testing::Keyspace::of(&cql);
    for table in ["one", "two", "three", "four"] {
        let insert = format!("INSERT INTO {table} (id) VALUES (1) IF NOT EXISTS");
        let insert = cql.conditional("insert", &insert);
        assert_eq!(cql.apply(&insert, ()).await, Ok(Applied::Yes), "{table}");
    }
    assert_eq!(migrate(&url, &[BOTH, OTHER]).await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_from_what_was_applied_is_named() {
    let (cql, keyspace) = testing::fresh_keyspace(&[FIRST]).await;
    let url = &keyspace.url;
    let pending = BOTH.check(&cql).await.unwrap_err().to_string();
    assert!(
        pending.contains("0002_two.cql of a-svc was not applied yet"),
        "{pending}"
    );
    // The one before goes on working while the next is applied, and can't start anew.
    let insert = "INSERT INTO one (id, what) VALUES (?, ?) IF NOT EXISTS";
    let insert = cql.conditional("insert", insert);
    let applied = migrate(url, &[BOTH]).await;
    assert_eq!(applied, Ok(vec!["a-svc/0002_two.cql".to_owned()]));
    let inserted = cql.apply(&insert, (1_i64, "what")).await;
    assert_eq!(inserted, Ok(Applied::Yes));
    let older = refusal(url, FIRST).await;
    assert!(
        older.contains("0002_two.cql of a-svc, which this program does not know"),
        "{older}"
    );

    let changed = Migration {
        text: "CREATE TABLE IF NOT EXISTS one (id bigint PRIMARY KEY);",
        ..ONE
    };
    let changed = refusal(url, service(Box::leak(Box::new([changed, TWO])))).await;
    assert!(changed.contains("0001_one.cql") && changed.contains("must not be changed"));
    let missing = refusal(url, service(&[TWO])).await;
    assert!(
        missing.contains("0001_one.cql of a-svc, and the program has another one"),
        "{missing}"
    );

    let forget = "DELETE FROM schema_migrations WHERE service = 'a-svc' AND number = 1 IF EXISTS";
    let forget = cql.conditional("forget", forget);
    assert_eq!(cql.apply(&forget, ()).await, Ok(Applied::Yes));
    let hole = refusal(url, BOTH).await;
    assert!(hole.contains("lacks the migration 1 of a-svc"), "{hole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_named_and_begun_anew() {
    let (_cql, keyspace) = testing::fresh_keyspace(&[FIRST]).await;
    let broken = Migration {
        text: "CREATE TABLE IF NOT EXISTS two (id bigint PRIMARY KEY);
               CREATE TABLE IF NOT EXISTS three (id nothing PRIMARY KEY);",
        ..TWO
    };
    let broken = service(Box::leak(Box::new([ONE, broken])));
    let why = migrate(&keyspace.url, &[broken]).await.unwrap_err();
    let why = why.to_string();
    assert!(why.contains("0002_two.cql of a-svc failed"), "{why}");
    let applied = migrate(&keyspace.url, &[BOTH]).await;
    assert_eq!(applied, Ok(vec!["a-svc/0002_two.cql".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_dead_one_ends_by_itself() {
    let (cql, keyspace) = testing::fresh_keyspace(&[FIRST]).await;
    let dead =
        "INSERT INTO schema_locks (name, holder) VALUES (?, 'dead') IF NOT EXISTS USING TTL 3";
    let dead = cql.conditional("dead", dead);
    assert_eq!(cql.apply(&dead, (LOCK,)).await, Ok(Applied::Yes));
    let applied = migrate(&keyspace.url, &[BOTH]).await;
    assert_eq!(applied, Ok(vec!["a-svc/0002_two.cql".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_lock_stops() {
    let (cql, _keyspace) = testing::fresh_keyspace(&[FIRST]).await;
    let lock = Lock::take(&cql).await.unwrap();
    lock.renew(&cql).await.unwrap();
    let end = "DELETE FROM schema_locks WHERE name = ? IF EXISTS";
    let end = cql.conditional("end", end);
    assert_eq!(cql.apply(&end, (LOCK,)).await, Ok(Applied::Yes));
    let other = Lock::take(&cql).await.unwrap();
    let lost = lock.renew(&cql).await.unwrap_err().to_string();
    assert!(lost.contains("was lost"), "{lost}");
    lock.release(&cql).await;
    other.renew(&cql).await.unwrap();

    // An answer that is lost is not a lock that is lost.
    for name in ["schema_renew", "schema_unlock", "schema_lock"] {
        let lose = std::sync::atomic::AtomicBool::new(true);
        cql.fail(move |statement| {
            let is_first =
                statement == name && lose.swap(false, std::sync::atomic::Ordering::Relaxed);
            if is_first {
                Fault::AnswerLost
            } else {
                Fault::None
            }
        });
        match name {
            "schema_renew" => other.renew(&cql).await.unwrap(),
            "schema_unlock" => other.release(&cql).await,
            _ => Lock::take(&cql).await.unwrap().release(&cql).await,
        }
    }
}
