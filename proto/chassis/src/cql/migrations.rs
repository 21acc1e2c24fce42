//! The tables of a service, as numbered `.cql` files that are part of its program.
//!
//! What was applied is written down with its checksum, so that a file which was changed
//! or taken away later, and a database that is ahead of the program, are noticed. One
//! migration runs at a time; each statement may be run again, for a migration that was
//! cut off is begun anew.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use scylla::statement::{Consistency, unprepared::Statement};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{
    Applied, Conditional, Cql, CqlError, CqlUrl, Read,
    server::{self, Kind},
    url::Replication,
};
use crate::clock::now_ms;

/// One `.cql` file.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its name, `0001_what.cql`.
    pub name: &'static str,
    /// Its statements, each ended by a semicolon.
    pub text: &'static str,
}

/// The migrations of a service, by ascending number, from 1 and without a gap.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// The service.
    pub service: &'static str,
    /// Its files.
    pub files: &'static [Migration],
}

/// The migrations of a service, from the folder `migrations` of its crate:
/// `migrations!("user-svc", "0001_accounts.cql")`.
#[macro_export]
macro_rules! migrations {
    ($service:literal, $($name:literal),+ $(,)?) => {
        $crate::cql::migrations::Migrations {
            service: $service,
            files: &[$(
                $crate::cql::migrations::Migration {
                    name: $name,
                    text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $name)),
                },
            )+],
        }
    };
}
pub use crate::migrations;

impl Migration {
    /// SHA-256 of its text, in hexadecimal digits.
    fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.text))
    }

    /// Its statements, without comments.
    fn statements(&self) -> Vec<String> {
        let code: String = self
            .text
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default().trim_end())
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        code.split(';')
            .map(str::trim)
            .filter(|statement| !statement.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// A row of `schema_migrations`.
type Recorded = (i32, String, String);

impl Migrations {
    /// Checks that exactly these migrations were applied.
    ///
    /// # Errors
    /// [`CqlError::Refused`] with what differs; [`CqlError::Unavailable`], also as long as
    /// some were not applied.
    pub async fn check(&self, cql: &Cql) -> Result<(), CqlError> {
        let recorded = Ledger::open(cql).recorded(cql, self.service).await?;
        match self.pending(&recorded)?.first() {
            None => Ok(()),
            Some((_, migration)) => Err(CqlError::Unavailable(format!(
                "the migration {} of {} was not applied yet: apply the migrations first",
                migration.name, self.service
            ))),
        }
    }

    /// What was not applied yet, when what was applied is what is known.
    fn pending(&self, recorded: &[Recorded]) -> Result<Vec<(i32, &Migration)>, CqlError> {
        let service = self.service;
        for (number, name, checksum) in recorded {
            let known = usize::try_from(*number - 1)
                .ok()
                .and_then(|at| self.files.get(at));
            let Some(known) = known else {
                return Err(CqlError::Refused(format!(
                    "the database has the migration {name} of {service}, which this program does not know: the program is older than the database"
                )));
            };
            if known.name != name || known.checksum() != *checksum {
                return Err(CqlError::Refused(format!(
                    "the database has the migration {name} of {service}, and the program has another one of that number, {}: \
                     what was applied must not be changed",
                    known.name
                )));
            }
        }
        for (at, (number, ..)) in recorded.iter().enumerate() {
            if usize::try_from(*number) != Ok(at + 1) {
                return Err(CqlError::Refused(format!(
                    "the database lacks the migration {} of {service}, and has a later one",
                    at + 1
                )));
            }
        }
        let rest = self.files.iter().enumerate().skip(recorded.len());
        rest.map(|(at, migration)| {
            let number = i32::try_from(at + 1)
                .map_err(|_| CqlError::Refused("too many migrations".to_owned()))?;
            Ok((number, migration))
        })
        .collect()
    }
}

/// Brings a keyspace up to these migrations; makes it if there is none. Returns the names
/// of those that were applied now. Two that migrate at once wait for each other.
///
/// # Errors
/// [`CqlError::Refused`] with what is in the way; [`CqlError::Unavailable`].
pub async fn migrate(url: &CqlUrl, services: &[Migrations]) -> Result<Vec<String>, CqlError> {
    let cql = Cql::connect_unchecked(url).await?;
    let kind = server::kind(&cql.session()).await?;
    make_keyspace(&cql, kind).await?;
    use_keyspace(&cql).await?;
    make_ledger(&cql, kind).await?;
    let ledger = Ledger::open(&cql);
    let lock = Lock::take(&cql).await?;
    let outcome = apply(&cql, &ledger, &lock, services).await;
    lock.release(&cql).await;
    outcome
}

async fn apply(
    cql: &Cql,
    ledger: &Ledger,
    lock: &Lock,
    services: &[Migrations],
) -> Result<Vec<String>, CqlError> {
    let mut applied = Vec::new();
    for migrations in services {
        let recorded = ledger.recorded(cql, migrations.service).await?;
        for (number, migration) in migrations.pending(&recorded)? {
            for statement in migration.statements() {
                lock.renew(cql).await?;
                change(cql, &statement).await.map_err(|error| {
                    CqlError::Refused(format!(
                        "the migration {} of {} failed: {error}",
                        migration.name, migrations.service
                    ))
                })?;
            }
            ledger
                .record(cql, migrations.service, number, migration)
                .await?;
            applied.push(format!("{}/{}", migrations.service, migration.name));
        }
    }
    ledger.record_scope(cql).await?;
    Ok(applied)
}

/// Enters the keyspace. Where another program has made it just now, a node may be told of
/// it before it lets anybody in.
async fn use_keyspace(cql: &Cql) -> Result<(), CqlError> {
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(8)
        .build();
    let session = cql.session();
    loop {
        let entered = session.use_keyspace(&cql.url().keyspace, false).await;
        match (entered, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(_), Some(pause)) => sleep(pause).await,
            (Err(error), None) => return Err(CqlError::Unavailable(error.to_string())),
        }
    }
}

/// How long a change of the schema may take.
const CHANGE: Duration = Duration::from_secs(30);

/// Changes the schema; the driver waits until all nodes agree on it.
async fn change(cql: &Cql, text: &str) -> Result<(), CqlError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(CHANGE));
    statement.set_consistency(Consistency::LocalQuorum);
    statement.set_is_idempotent(true);
    cql.session().query_unpaged(statement, ()).await?;
    Ok(())
}

async fn make_keyspace(cql: &Cql, kind: Kind) -> Result<(), CqlError> {
    let url = cql.url();
    if cql
        .session()
        .get_cluster_state()
        .get_keyspace(&url.keyspace)
        .is_some()
    {
        return Ok(());
    }
    let replicas = match &url.replication {
        Replication::Local(factor) => format!("'{}': {factor}", cql.dc()),
        Replication::Each(factors) => factors
            .iter()
            .map(|(dc, factor)| format!("'{dc}': {factor}"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    // ScyllaDB's tablets do not take conditional writes in every version.
    let tablets = match kind {
        Kind::Cassandra => "",
        Kind::Scylla => " AND tablets = {'enabled': false}",
    };
    let text = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', {replicas}}}{tablets}",
        url.keyspace
    );
    change(cql, &text).await
}

/// The tables that migrations are kept in, with their columns.
const LEDGER: [(&str, &str); 3] = [
    (
        "schema_migrations",
        "service text, number int, name text, checksum text, applied_at_ms bigint, PRIMARY KEY ((service), number)",
    ),
    ("schema_locks", "name text PRIMARY KEY, holder text"),
    ("schema_settings", "name text PRIMARY KEY, value text"),
];

/// Made before there can be a lock. Two that make a table of Cassandra at once may give it
/// two ids, and then neither works: so the id is said.
async fn make_ledger(cql: &Cql, kind: Kind) -> Result<(), CqlError> {
    let keyspace = &cql.url().keyspace;
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let known = cql.session().query_unpaged(text, (keyspace,)).await?;
    let known: Vec<(String,)> = known
        .into_rows_result()?
        .rows()?
        .collect::<Result<_, _>>()?;
    for (table, columns) in LEDGER {
        if known.iter().any(|(name,)| name == table) {
            continue;
        }
        let id = match kind {
            Kind::Cassandra => format!(" WITH id = {}", table_id(keyspace, table)),
            Kind::Scylla => String::new(),
        };
        change(
            cql,
            &format!("CREATE TABLE IF NOT EXISTS {table} ({columns}){id}"),
        )
        .await?;
    }
    Ok(())
}

/// The same for everybody, and another one in each keyspace, as the text of a UUID.
fn table_id(keyspace: &str, table: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(format!("{keyspace}.{table}")));
    digits.truncate(32);
    for at in [20, 16, 12, 8] {
        digits.insert(at, '-');
    }
    digits
}

/// What was applied, and how conditional writes are decided.
struct Ledger {
    recorded: Read,
    record: Conditional,
    begin_scope: Conditional,
    widen_scope: Conditional,
}

impl Ledger {
    fn open(cql: &Cql) -> Self {
        Self {
            recorded: cql
                .serial_read(
                    "schema_recorded",
                    "SELECT number, name, checksum FROM schema_migrations WHERE service = ?",
                ),
            record: cql
                .conditional(
                    "schema_record",
                    "INSERT INTO schema_migrations (service, number, name, checksum, applied_at_ms) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
                ),
            begin_scope: cql
                .conditional(
                    "schema_begin_scope",
                    "INSERT INTO schema_settings (name, value) VALUES (?, ?) IF NOT EXISTS",
                ),
            widen_scope: cql
                .conditional(
                    "schema_widen_scope",
                    "UPDATE schema_settings SET value = ? WHERE name = ? IF value = ?",
                ),
        }
    }

    async fn recorded(&self, cql: &Cql, service: &str) -> Result<Vec<Recorded>, CqlError> {
        cql.rows(&self.recorded, (service,)).await
    }

    async fn record(
        &self,
        cql: &Cql,
        service: &str,
        number: i32,
        migration: &Migration,
    ) -> Result<(), CqlError> {
        let values = (
            service,
            number,
            migration.name,
            migration.checksum(),
            now_ms(),
        );
        match cql.apply(&self.record, values).await? {
            Applied::Yes | Applied::No { unsure: true, .. } => Ok(()),
            Applied::No { .. } => Err(CqlError::Refused(format!(
                "another program applied the migration {} of {service} at the same time",
                migration.name
            ))),
        }
    }

    /// Writes down where conditional writes are decided: once, or anew when it is to be
    /// everywhere from now on. The way back would need every writer to have ended.
    async fn record_scope(&self, cql: &Cql) -> Result<(), CqlError> {
        let mine = server::scope(cql.url(), cql.dc());
        let first = (server::SCOPE, mine.as_str());
        if let Applied::No { old, .. } = cql.apply(&self.begin_scope, first).await?
            && let Some(home) = old.text("value")
            && home != mine
            && cql.url().is_global()
        {
            tracing::warn!(
                home,
                now = mine,
                "conditional writes are decided elsewhere from now on; writers that decide them in one data centre have to end"
            );
            let wider = (mine.as_str(), server::SCOPE, home);
            cql.apply(&self.widen_scope, wider).await?;
        }
        Ok(())
    }
}

/// Keeps others from migrating the same keyspace. It ends by itself when its holder died.
struct Lock {
    holder: String,
    renew: Conditional,
    release: Conditional,
}

const LOCK: &str = "migrations";
const LOCK_SECONDS: u32 = 60;
/// Long enough for another's migrations to end, or his lock, if he died.
const LOCK_WAIT: Duration = Duration::from_secs(300);
const LOCK_LOOK: Duration = Duration::from_millis(200);

impl Lock {
    async fn take(cql: &Cql) -> Result<Self, CqlError> {
        let take = format!(
            "INSERT INTO schema_locks (name, holder) VALUES (?, ?) IF NOT EXISTS USING TTL {LOCK_SECONDS}"
        );
        let take = cql.conditional("schema_lock", &take);
        let renew = format!(
            "UPDATE schema_locks USING TTL {LOCK_SECONDS} SET holder = ? WHERE name = ? IF holder = ?"
        );
        let lock = Self {
            holder: format!("{:032x}", rand::random::<u128>()),
            renew: cql.conditional("schema_renew", &renew),
            release: cql.conditional(
                "schema_unlock",
                "DELETE FROM schema_locks WHERE name = ? IF holder = ?",
            ),
        };
        let begun = Instant::now();
        let mut told = false;
        loop {
            match cql.apply(&take, (LOCK, lock.holder.as_str())).await? {
                Applied::Yes => return Ok(lock),
                Applied::No { old, .. } if old.text("holder") == Some(&lock.holder) => {
                    return Ok(lock);
                }
                Applied::No { .. } if begun.elapsed() > LOCK_WAIT => {
                    return Err(CqlError::Unavailable(
                        "another program has been migrating this keyspace for five minutes"
                            .to_owned(),
                    ));
                }
                Applied::No { .. } => {}
            }
            if !told {
                tracing::info!("waiting for another program that migrates this keyspace");
                told = true;
            }
            sleep(LOCK_LOOK).await;
        }
    }

    async fn renew(&self, cql: &Cql) -> Result<(), CqlError> {
        let values = (self.holder.as_str(), LOCK, self.holder.as_str());
        match cql.apply(&self.renew, values).await? {
            Applied::Yes => Ok(()),
            Applied::No { .. } => Err(CqlError::Unavailable(
                "the lock of the migrations was lost: they took too long".to_owned(),
            )),
        }
    }

    async fn release(&self, cql: &Cql) {
        if let Err(error) = cql.apply(&self.release, (LOCK, self.holder.as_str())).await {
            tracing::warn!(%error, "the lock of the migrations was not released; it ends by itself in a minute");
        }
    }
}
