//! What the cluster is, and whether it can keep what is promised.

use std::collections::HashMap;

use scylla::{
    client::session::Session,
    cluster::metadata::Strategy,
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    statement::unprepared::Statement,
};

use super::{CqlError, CqlUrl};

/// Which database a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cassandra,
    Scylla,
}

/// Nodes that are asked one by one how they are set, at most.
const NODES: usize = 16;

pub(super) async fn kind(session: &Session) -> Result<Kind, CqlError> {
    // A table of ScyllaDB alone, in every version.
    let own = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' AND table_name = 'scylla_local'";
    let found = session.query_unpaged(own, ()).await?.into_rows_result()?;
    Ok(if found.rows_num() == 0 {
        Kind::Cassandra
    } else {
        Kind::Scylla
    })
}

/// Refuses a keyspace that can't keep what is promised.
pub(super) async fn check(session: &Session, url: &CqlUrl, dc: &str) -> Result<(), CqlError> {
    let name = &url.keyspace;
    let replicas = {
        let state = session.get_cluster_state();
        let keyspace = state.get_keyspace(name).ok_or_else(|| missing(name))?;
        replicas(&keyspace.strategy, dc)
    };
    match replicas {
        Some(0) => {
            return Err(CqlError::Refused(format!(
                "the keyspace `{name}` has no replica in the data centre `{dc}`"
            )));
        }
        Some(1) if !url.accepts_single_replica => {
            return Err(CqlError::Refused(format!(
                "the keyspace `{name}` keeps a single replica of each row in `{dc}`, so one lost disk loses messages for ever; \
                 give it three, or say `single_replica=accept`"
            )));
        }
        _ => {}
    }
    if kind(session).await? == Kind::Cassandra {
        warn_of_commit_log(session).await;
    }
    home(session, url, dc).await
}

pub(super) fn missing(keyspace: &str) -> CqlError {
    CqlError::Unavailable(format!(
        "there is no keyspace `{keyspace}`: apply the migrations first"
    ))
}

/// How many replicas a data centre has; `None` where the strategy does not tell.
fn replicas(strategy: &Strategy, dc: &str) -> Option<usize> {
    match strategy {
        Strategy::SimpleStrategy { replication_factor } => Some(*replication_factor),
        Strategy::NetworkTopologyStrategy {
            datacenter_repfactors,
        } => Some(datacenter_repfactors.get(dc).copied().unwrap_or(0)),
        _ => None,
    }
}

/// Cassandra's default answers before the commit log is on disk: measured, a node that is
/// killed loses what it had acknowledged. ScyllaDB syncs conditional writes in every mode.
async fn warn_of_commit_log(session: &Session) {
    let setting = "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'";
    let nodes = session.get_cluster_state().get_nodes_info().to_vec();
    let mut modes: HashMap<String, usize> = HashMap::new();
    for node in nodes.iter().take(NODES) {
        let mut statement = Statement::new(setting);
        let only = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::HostId(node.host_id), None);
        statement.set_load_balancing_policy(Some(only));
        let mode = match session.query_unpaged(statement, ()).await {
            Ok(answer) => answer
                .into_rows_result()
                .ok()
                .and_then(|rows| rows.first_row::<(String,)>().ok())
                .map_or_else(|| "unknown".to_owned(), |(mode,)| mode.to_lowercase()),
            Err(_) => continue,
        };
        *modes.entry(mode).or_default() += 1;
    }
    for (mode, nodes) in modes {
        if mode != "batch" && mode != "group" {
            tracing::warn!(
                commitlog_sync = mode,
                nodes,
                "the database acknowledges writes before they are on disk: whoever kills a node, or cuts its power, loses \
                 acknowledged messages; set `commitlog_sync: batch` or `group` in cassandra.yaml"
            );
        }
    }
}

/// Where conditional writes of the keyspace are decided, as its migrations recorded it.
pub(super) const SCOPE: &str = "conditional_writes";

/// How a URL's conditional writes are decided: among all data centres, or in one.
pub(super) fn scope(url: &CqlUrl, dc: &str) -> String {
    if url.is_global() {
        "everywhere".to_owned()
    } else {
        format!("in {dc}")
    }
}

/// Conditions decided in different places do not exclude each other: two writers would both win.
async fn home(session: &Session, url: &CqlUrl, dc: &str) -> Result<(), CqlError> {
    let text = format!(
        "SELECT value FROM {}.schema_settings WHERE name = ?",
        url.keyspace
    );
    let recorded = match session
        .query_unpaged(text, (SCOPE,))
        .await
        .map_err(CqlError::from)
    {
        Ok(answer) => answer
            .into_rows_result()?
            .maybe_first_row::<(String,)>()
            .map_err(|error| CqlError::Damaged(error.to_string()))?,
        Err(CqlError::Refused(_)) => {
            return Err(CqlError::Unavailable(format!(
                "the keyspace `{}` has no tables: apply the migrations first",
                url.keyspace
            )));
        }
        Err(error) => return Err(error),
    };
    let mine = scope(url, dc);
    match recorded {
        Some((home,)) if home != mine => Err(CqlError::Refused(format!(
            "conditional writes of the keyspace `{}` are decided {home}, and this URL would have them decided {mine}: two writers \
             could both win. Write from there, or migrate everybody to `consistency=quorum&serial_consistency=serial`",
            url.keyspace
        ))),
        _ => Ok(()),
    }
}
