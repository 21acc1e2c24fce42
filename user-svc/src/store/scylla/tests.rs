#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use chassis::cql::testing::{Keyspace, check_folder, fresh_keyspace};

use super::*;
use crate::store::conformance;

async fn fresh() -> (Arc<dyn Store>, Keyspace) {
    let (cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

conformance::suite!(fresh);

#[test]
fn every_file_of_the_folder_is_applied() {
    check_folder(&MIGRATIONS, env!("CARGO_MANIFEST_DIR"));
}
