//! Against a real server: see [`super::testing::VARIABLE`].

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;

use super::{
    Applied, Cql, CqlError, CqlUrl,
    blocks::Blocks,
    faults::Fault,
    migrations::{Migration, Migrations, migrate},
    testing::{Keyspace, fresh_keyspace, fresh_url},
};

const TABLES: Migrations = Migrations {
    service: "test",
    files: &[Migration {
        name: "0001_things.cql",
        text: "CREATE TABLE IF NOT EXISTS things (id bigint PRIMARY KEY, what text);
               CREATE TABLE IF NOT EXISTS numbers (name text PRIMARY KEY, next bigint);",
    }],
};

async fn keyspace() -> (Cql, Keyspace) {
    fresh_keyspace(&[TABLES]).await
}

fn changed(url: &CqlUrl, from: &str, to: &str) -> CqlUrl {
    let query = "replication=1&single_replica=accept&timeout_ms=5000";
    format!("{url}?{}", query.replace(from, to))
        .parse()
        .unwrap()
}

async fn refusal(url: &CqlUrl) -> String {
    match Cql::connect(url).await {
        Err(CqlError::Refused(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyspace_that_is_not_there_or_can_lose_everything_is_refused() {
    // It may be made at any time.
    let missing = Cql::connect(&fresh_url()).await.err();
    let Some(CqlError::Unavailable(why)) = missing else {
        panic!("{missing:?}");
    };
    assert!(why.contains("apply the migrations first"), "{why}");

    let (_cql, keyspace) = keyspace().await;
    let risky = changed(&keyspace.url, "&single_replica=accept", "");
    let why = refusal(&risky).await;
    assert!(
        why.contains("a single replica") && why.contains("single_replica=accept"),
        "{why}"
    );
    let why = refusal(&changed(&keyspace.url, "timeout_ms=5000", "dc=nowhere")).await;
    assert!(why.contains("no data centre `nowhere`"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_can_not_be_prepared_is_told_once_and_whenever_it_is_used() {
    let (cql, _keyspace) = keyspace().await;
    let read = cql.read("things", "SELECT what FROM things WHERE id = ?");
    let missing = cql.read("missing", "SELECT what FROM missing WHERE id = ?");
    let refused = cql.prepared().await;
    assert!(matches!(refused, Err(CqlError::Refused(_))), "{refused:?}");
    assert_eq!(cql.prepared().await, Ok(()));
    let refused = cql.row::<(String,)>(&missing, (1_i64,)).await;
    assert!(matches!(refused, Err(CqlError::Refused(_))), "{refused:?}");
    assert_eq!(cql.row::<(String,)>(&read, (1_i64,)).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_would_decide_conditions_elsewhere_are_refused() {
    let (_cql, keyspace) = keyspace().await;
    let global = "consistency=quorum&serial_consistency=serial";
    let everywhere = changed(&keyspace.url, "timeout_ms=5000", global);
    let why = refusal(&everywhere).await;
    assert!(why.contains("both win"), "{why}");

    migrate(&everywhere, &[TABLES]).await.unwrap();
    Cql::connect(&everywhere).await.unwrap();
    let why = refusal(&keyspace.url).await;
    assert!(why.contains("decided everywhere"), "{why}");
    migrate(&keyspace.url, &[TABLES]).await.unwrap();
    refusal(&keyspace.url).await;
}

#[tokio::test]
async fn a_cluster_that_is_away_is_an_error_at_once() {
    let url: CqlUrl = "scylla://127.0.0.1:1/k".parse().unwrap();
    let begun = Instant::now();
    let error = Cql::connect(&url).await.err().unwrap();
    assert!(matches!(error, CqlError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_settled_by_the_same_write() {
    let (cql, _keyspace) = keyspace().await;
    let insert = "INSERT INTO things (id, what) VALUES (?, ?) IF NOT EXISTS";
    let insert = cql.conditional("insert", insert);
    let requests = Arc::new(AtomicUsize::new(0));
    let first_answer_lost = |fault| {
        let requests = Arc::clone(&requests);
        requests.store(0, Ordering::Relaxed);
        cql.fail(move |_| match requests.fetch_add(1, Ordering::Relaxed) {
            0 => fault,
            _ => Fault::None,
        });
    };

    first_answer_lost(Fault::AnswerLost);
    let answer = cql.apply(&insert, (1_i64, "mine")).await.unwrap();
    let Applied::No { old, unsure: true } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(old.text("what"), Some("mine"));
    assert_eq!(requests.load(Ordering::Relaxed), 2);

    first_answer_lost(Fault::Lost);
    assert_eq!(cql.apply(&insert, (2_i64, "mine")).await, Ok(Applied::Yes));
    first_answer_lost(Fault::AnswerLost);
    let once = cql.apply_once(&insert, (3_i64, "mine")).await;
    assert!(matches!(once, Err(CqlError::Unknown(_))), "{once:?}");
    cql.heal();
    let again = cql.apply(&insert, (3_i64, "other")).await.unwrap();
    assert!(
        matches!(again, Applied::No { unsure: false, .. }),
        "{again:?}"
    );

    cql.fail(|_| Fault::Lost);
    let never = cql.apply(&insert, (4_i64, "mine")).await;
    assert!(matches!(never, Err(CqlError::Unknown(_))), "{never:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_tell_what_became_of_an_earlier_sending() {
    let (cql, _keyspace) = keyspace().await;
    let insert = "INSERT INTO things (id, what) VALUES (?, ?) IF NOT EXISTS";
    let insert = cql.conditional("insert", insert);
    let requests = Arc::new(AtomicUsize::new(0));
    for (first, id) in [(Fault::AnswerLost, 1_i64), (Fault::Lost, 2)] {
        requests.store(0, Ordering::Relaxed);
        let counted = Arc::clone(&requests);
        cql.fail(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => first,
            _ => Fault::Refused,
        });
        let answer = cql.apply(&insert, (id, "mine")).await;
        assert!(matches!(answer, Err(CqlError::Unknown(_))), "{answer:?}");
    }
    requests.store(0, Ordering::Relaxed);
    let counted = Arc::clone(&requests);
    cql.fail(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fault::Refused
    });
    let refused = cql.apply(&insert, (3_i64, "mine")).await;
    assert!(matches!(refused, Err(CqlError::Refused(_))), "{refused:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_requests_are_under_way_and_the_next_is_refused_soon() {
    let (_cql, keyspace) = keyspace().await;
    let cql = Cql::connect(&changed(&keyspace.url, "timeout_ms=5000", "in_flight=4"))
        .await
        .unwrap();
    let read = cql.read("read", "SELECT what FROM things WHERE id = ?");
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    cql.fail(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Fault::CrashBefore
    });
    let stuck: Vec<_> = (0..4)
        .map(|_| {
            let (cql, read) = (cql.clone(), read.clone());
            tokio::spawn(async move { cql.row::<(String,)>(&read, (1_i64,)).await })
        })
        .collect();
    while begun.load(Ordering::Relaxed) < 4 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    let refused = cql.row::<(String,)>(&read, (1_i64,)).await;
    assert!(
        matches!(refused, Err(CqlError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(1));
    for task in stuck {
        task.abort();
        let _aborted = task.await;
    }
    cql.heal();
    assert_eq!(cql.row::<(String,)>(&read, (1_i64,)).await, Ok(None));
}

async fn blocks(cql: &Cql, size: u16) -> Blocks {
    Blocks::new(cql, "numbers", "thing", 1_000, size)
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_given_once_and_ascend_for_each_taker() {
    let (cql, keyspace) = keyspace().await;
    let takers = join_all((0..4).map(|_| Cql::connect(&keyspace.url))).await;
    let taken = join_all(takers.into_iter().map(|taker| async move {
        let blocks = blocks(&taker.unwrap(), 8).await;
        let mut own = Vec::new();
        for _ in 0..50 {
            own.push(blocks.next().await.unwrap());
        }
        assert!(own.is_sorted());
        own
    }))
    .await
    .concat();
    let unique: HashSet<i64> = taken.iter().copied().collect();
    assert_eq!(unique.len(), 200);
    assert!(unique.iter().all(|number| *number >= 1_000));
    let end = blocks(&cql, 8).await.end().await.unwrap();
    assert!(unique.iter().all(|number| *number < end));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_taking_had_no_answer_is_never_used() {
    let (cql, _keyspace) = keyspace().await;
    let blocks = blocks(&cql, 4).await;
    assert_eq!(blocks.next_above(1_001).await, Ok(1_002));
    let takings = AtomicUsize::new(0);
    cql.fail(move |statement| match statement {
        "block_take" if takings.fetch_add(1, Ordering::Relaxed) < 2 => Fault::AnswerLost,
        _ => Fault::None,
    });
    assert_eq!(blocks.next().await, Ok(1_003));
    // Of the next three blocks two were taken without an answer.
    assert_eq!(blocks.next().await, Ok(1_012));
    cql.fail(|_| Fault::Lost);
    assert_eq!(blocks.next().await, Ok(1_013));
    let refused = blocks.next_above(1_015).await;
    assert!(
        matches!(refused, Err(CqlError::Unavailable(_))),
        "{refused:?}"
    );
}
