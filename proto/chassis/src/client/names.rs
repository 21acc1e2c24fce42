//! The addresses of a name, as they come and go.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::peers::{Address, MAX_REPLICAS};

/// How often a name is looked up: by then a new replica has traffic.
const EVERY: Duration = Duration::from_secs(3);

/// Pauses after a look-up that found nothing, and least time between two.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Looks names up.
pub(super) trait Resolve: Send + Sync + 'static {
    fn resolve(&self, name: Address) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system: hosts file, search domains and all, as its
/// operators have set it.
struct System;

impl Resolve for System {
    fn resolve(&self, name: Address) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.host, name.port)).await?;
            Ok(found.collect())
        })
    }
}

/// How names are looked up.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) every: Duration,
}

impl Names {
    /// As the operating system does it.
    pub(super) fn of_the_system() -> Self {
        Self {
            resolver: Arc::new(System),
            every: EVERY,
        }
    }
}

/// Tells `changed` the addresses of a name, first and whenever they are others. It is
/// looked up sooner when `sooner` is told. What can't be looked up, or has no address,
/// changes nothing: a resolver that is away must not end what works.
pub(super) async fn follow(
    service: &'static str,
    name: &Address,
    names: &Names,
    sooner: &Notify,
    changed: impl Fn(Vec<SocketAddr>),
) {
    let mut known = Vec::new();
    let mut pause = FIRST_PAUSE;
    let mut failing = false;
    loop {
        // The system's resolver gives up by itself; a look-up that was left alone would
        // hold its thread nevertheless.
        let found = names.resolver.resolve(name.clone()).await;
        let looked_up = Instant::now();
        match found {
            Ok(mut found) if !found.is_empty() => {
                found.sort_unstable();
                found.dedup();
                found.truncate(MAX_REPLICAS);
                if failing {
                    tracing::info!(service, %name, "a name has addresses again");
                }
                (failing, pause) = (false, FIRST_PAUSE);
                if found != known {
                    tracing::info!(service, %name, replicas = found.len(), "the replicas of a service changed");
                    known.clone_from(&found);
                    changed(found);
                }
                tokio::select! {
                    () = sleep(names.every.mul_f64(rand::random_range(0.8..1.0))) => {}
                    () = sooner.notified() => sleep_until(looked_up + MAX_PAUSE.min(names.every)).await,
                }
            }
            nothing => {
                let why = nothing.map_or_else(|error| error.to_string(), |_| "it has none".into());
                if failing {
                    tracing::debug!(service, %name, why, "a name still has no address");
                } else {
                    tracing::warn!(service, %name, why, "the addresses of a name can't be had; those known before are kept");
                }
                metrics::counter!("drivers_grpc_client_lookups_failed_total", "service" => service)
                    .increment(1);
                failing = true;
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}
