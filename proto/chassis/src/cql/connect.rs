//! How a cluster is connected to.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileBuilder, ExecutionProfileHandle},
        session::{Session, TlsContext},
        session_builder::SessionBuilder,
    },
    policies::{
        load_balancing::{DefaultPolicy, DefaultPolicyBuilder},
        retry::{DefaultRetryPolicy, FallthroughRetryPolicy},
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::{
    Cql, CqlError, CqlUrl, Inner, server,
    silence::{SilentLast, Unanswered},
    url::CqlTls,
};
use crate::tls::{self, TlsError};

const CONNECTING: Duration = Duration::from_secs(3);

/// The longest that it may take to connect to a whole cluster: the driver itself has no
/// limit for what it asks a node that then hangs. Whoever is too late tries again.
const CONNECTING_ALL: Duration = Duration::from_secs(10);

/// A node that answers nothing for this long is no longer asked.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(2);

/// After this, a second node is asked the same.
const SPECULATION: Duration = Duration::from_millis(100);

impl Cql {
    /// Connects, and asks the cluster what it is and how it is set: a keyspace of one
    /// replica and a writer away from the log's home are refused, unless the URL says
    /// otherwise; a commit log that is not synced before an answer is warned of.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`] while the cluster is away or was not migrated;
    /// [`CqlError::Refused`] with a sentence for who configured it.
    pub async fn connect(url: &CqlUrl) -> Result<Self, CqlError> {
        let cql = Self::connect_unchecked(url).await?;
        let session = cql.session();
        server::check(&session, url, &cql.0.dc).await?;
        session
            .use_keyspace(&url.keyspace, false)
            .await
            .map_err(|error| CqlError::Unavailable(error.to_string()))?;
        Ok(cql)
    }

    /// Connects to a cluster that may not have the keyspace yet.
    pub(super) async fn connect_unchecked(url: &CqlUrl) -> Result<Self, CqlError> {
        let profiles = Profiles {
            url,
            unanswered: Arc::default(),
        };
        let conditionals = profiles.conditionals(None).into_handle();
        let reads = profiles.reads(None).into_handle();
        let writes = profiles.writes(None).into_handle();
        let connecting = timeout(CONNECTING_ALL, session(url, &writes));
        let session = connecting.await.map_err(|_| {
            CqlError::Unavailable("connecting to the cluster took too long".to_owned())
        })??;
        let dc = local_dc(&session, url)?;
        // Known only now, for the cluster tells which data centres it has.
        for (mut handle, made) in [
            (conditionals.clone(), profiles.conditionals(Some(&dc))),
            (writes.clone(), profiles.writes(Some(&dc))),
            (reads.clone(), profiles.reads(Some(&dc))),
        ] {
            handle.map_to_another_profile(made);
        }
        Ok(Self(Arc::new(Inner {
            session: RwLock::new(Arc::new(session)),
            revival: Mutex::default(),
            url: url.clone(),
            dc,
            in_flight: Semaphore::new(url.in_flight),
            reads,
            writes,
            conditionals,
            preparing: Mutex::default(),
            #[cfg(any(test, feature = "testing"))]
            faults: super::faults::Plan::default(),
        })))
    }
}

/// Connects; what a statement does not say is as `defaults` say.
pub(super) async fn session(
    url: &CqlUrl,
    defaults: &ExecutionProfileHandle,
) -> Result<Session, CqlError> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&url.hosts)
        .default_execution_profile_handle(defaults.clone())
        .keyspaces_to_fetch([&url.keyspace])
        .fetch_full_schema_metadata(false)
        .connection_timeout(CONNECTING)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE_LIMIT)
        .tcp_nodelay(true)
        .tls_context(tls_context(url.tls.as_ref())?);
    if let Some((user, password)) = url.credentials().map_err(CqlError::Refused)? {
        builder = builder.user(user, password);
    }
    Ok(Box::pin(builder.build()).await?)
}

/// How the statements of each kind are executed.
struct Profiles<'a> {
    url: &'a CqlUrl,
    unanswered: Arc<Unanswered>,
}

impl Profiles<'_> {
    fn conditionals(&self, dc: Option<&str>) -> ExecutionProfile {
        // Consensus is quicker where all writers of a partition ask the same replica.
        let nodes = nodes(dc).enable_shuffling_replicas(false);
        self.builder(nodes, true)
            .retry_policy(Arc::new(FallthroughRetryPolicy))
            .build()
    }

    fn writes(&self, dc: Option<&str>) -> ExecutionProfile {
        self.builder(nodes(dc), true)
            .retry_policy(Arc::new(DefaultRetryPolicy))
            .build()
    }

    fn reads(&self, dc: Option<&str>) -> ExecutionProfile {
        self.builder(nodes(dc), false)
            .retry_policy(Arc::new(DefaultRetryPolicy))
            .speculative_execution_policy(Some(Arc::new(SimpleSpeculativeExecutionPolicy {
                max_retry_count: 1,
                retry_interval: SPECULATION,
            })))
            .build()
    }

    fn builder(&self, nodes: DefaultPolicyBuilder, silent_last: bool) -> ExecutionProfileBuilder {
        ExecutionProfile::builder()
            .consistency(self.url.consistency)
            .serial_consistency(Some(self.url.serial_consistency))
            .request_timeout(Some(self.url.timeout))
            .load_balancing_policy(Arc::new(SilentLast {
                policy: nodes.build(),
                unanswered: Arc::clone(&self.unanswered),
                reorders: silent_last,
            }))
    }
}

fn nodes(dc: Option<&str>) -> DefaultPolicyBuilder {
    let nodes = DefaultPolicy::builder().token_aware(true);
    match dc {
        Some(dc) => nodes.prefer_datacenter(dc.to_owned()),
        None => nodes,
    }
}

/// The data centre of the URL, or the only one there is.
fn local_dc(session: &Session, url: &CqlUrl) -> Result<String, CqlError> {
    let state = session.get_cluster_state();
    let known: BTreeSet<&str> = state
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    let all = || known.iter().copied().collect::<Vec<_>>().join(", ");
    match (&url.dc, known.first()) {
        (Some(dc), _) if known.contains(dc.as_str()) => Ok(dc.clone()),
        (Some(dc), _) => Err(CqlError::Refused(format!(
            "the cluster has no data centre `{dc}`: its data centres are {}",
            all()
        ))),
        (None, Some(dc)) if known.len() == 1 => Ok((*dc).to_owned()),
        (None, _) => Err(CqlError::Refused(format!(
            "the cluster has several data centres ({}): `dc=…` has to say which one is near",
            all()
        ))),
    }
}

fn tls_context(tls: Option<&CqlTls>) -> Result<Option<TlsContext>, CqlError> {
    let Some(tls) = tls else {
        return Ok(None);
    };
    let config = client_config(tls).map_err(|error| CqlError::Refused(error.to_string()))?;
    Ok(Some(TlsContext::Rustls023(Arc::new(config))))
}

fn client_config(tls: &CqlTls) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let (certificates, ca): (_, &Path) = (tls::certificates(&tls.ca)?, &tls.ca);
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authority {
                ca: ca.to_owned(),
                error,
            })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Authority {
            ca: ca.to_owned(),
            error,
        })?
        .with_root_certificates(roots);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder
            .with_client_auth_cert(tls::certificates(chain)?, tls::private_key(key)?)
            .map_err(|error| TlsError::Unusable {
                chain: chain.clone(),
                key: key.clone(),
                error,
            }),
    }
}
