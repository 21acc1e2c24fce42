#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use chassis::cql::testing::{self, Keyspace};

use super::*;
use crate::store::conformance;

async fn fresh() -> (Arc<dyn Store>, Keyspace) {
    let (cql, keyspace) = testing::fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

conformance::suite!(fresh);

#[test]
fn every_migration_is_known() {
    testing::check_folder(&MIGRATIONS, env!("CARGO_MANIFEST_DIR"));
}
