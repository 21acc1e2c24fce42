#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use chassis::cql::testing::{Keyspace, fresh_keyspace};

use crate::store::scylla::{MIGRATIONS, ScyllaStore};

async fn fresh() -> (Arc<ScyllaStore>, Keyspace) {
    let (cql, keyspace) = fresh_keyspace(&[MIGRATIONS]).await;
    (Arc::new(ScyllaStore::open(&cql).await.unwrap()), keyspace)
}

crate::store::conformance::directory_suite!(fresh);
