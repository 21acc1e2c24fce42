//! A keyspace of its own for each test, on a real server.

use std::sync::atomic::{AtomicU32, Ordering};

use scylla::statement::unprepared::Statement;
use tokio::runtime::Handle;

use super::{
    Cql, CqlUrl,
    migrations::{Migrations, migrate},
};

/// Names the server, `host:port`.
pub const VARIABLE: &str = "DRIVERS_TEST_CQL";

/// A keyspace that is dropped with this. Only for tests on a multi-threaded runtime.
pub struct Keyspace {
    /// Its URL.
    pub url: CqlUrl,
    cql: Cql,
}

/// The URL of a keyspace that nobody uses.
///
/// # Panics
/// When [`VARIABLE`] is not set: a test without its server has failed.
#[must_use]
#[allow(clippy::panic, clippy::expect_used, reason = "only tests call it")]
pub fn fresh_url() -> CqlUrl {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Ok(server) = std::env::var(VARIABLE) else {
        panic!(
            "{VARIABLE} is not set: start a server by `tests/cassandra/start FOLDER` and set it to the address that it prints, or run `tests/run`"
        );
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(
        "t{:x}_{number}_{:x}",
        std::process::id(),
        rand::random::<u32>()
    );
    format!("scylla://{server}/{name}?replication=1&single_replica=accept&timeout_ms=5000")
        .parse()
        .expect("the variable holds an address")
}

/// A new keyspace with the tables of these services.
///
/// # Panics
/// When it can't be made.
#[allow(clippy::expect_used, reason = "only tests call it")]
pub async fn fresh_keyspace(services: &[Migrations]) -> (Cql, Keyspace) {
    let url = fresh_url();
    migrate(&url, services).await.expect("migrates");
    let cql = Cql::connect(&url).await.expect("connects");
    let keyspace = Keyspace::of(&cql);
    (cql, keyspace)
}

impl Keyspace {
    /// The keyspace of this connection.
    #[must_use]
    pub fn of(cql: &Cql) -> Self {
        Self {
            url: cql.url().clone(),
            cql: cql.clone(),
        }
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        let text = format!("DROP KEYSPACE IF EXISTS {}", self.url.keyspace);
        let mut statement = Statement::new(text);
        statement.set_request_timeout(Some(std::time::Duration::from_secs(20)));
        tokio::task::block_in_place(|| {
            // A keyspace that stays costs the next tests a little time, nothing else.
            let _ = Handle::current().block_on(self.cql.session().query_unpaged(statement, ()));
        });
    }
}

/// Checks that a service's list names every file of its folder `migrations`.
///
/// # Panics
/// When it does not.
#[allow(clippy::expect_used, reason = "only tests call it")]
pub fn check_folder(migrations: &Migrations, crate_folder: &str) {
    let folder = std::path::Path::new(crate_folder).join("migrations");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("there is a folder of migrations")
        .map(|entry| {
            entry
                .expect("is readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let listed: Vec<&str> = migrations.files.iter().map(|file| file.name).collect();
    assert_eq!(names, listed);
    for (at, name) in listed.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", at + 1)), "{name}");
    }
}
