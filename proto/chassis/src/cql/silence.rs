//! Nodes that are asked and say nothing: a stopped process, a network that swallows.
//!
//! The driver leaves a node when its connections break, which for one that only hangs
//! takes as long as its keepalive. Until then each write to it would cost the whole time
//! limit of a request, and all writers of a partition ask the same replica first. So a
//! node that was asked and has answered nothing for a while is asked last.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use scylla::{
    cluster::{ClusterState, NodeRef},
    errors::RequestAttemptError,
    policies::load_balancing::{FallbackPlan, LoadBalancingPolicy, RoutingInfo},
    routing::Shard,
};
use uuid::Uuid;

/// A node that answers nothing for this long, though it was asked, is silent: ten times what a
/// conditional write takes on a busy cluster.
const SILENCE: Duration = Duration::from_millis(250);

/// After this it is asked once more, as if nothing had been.
const ANOTHER_CHANCE: Duration = Duration::from_secs(5);

/// Since when each node has been asked without an answer. One entry for each node that
/// the cluster ever had.
#[derive(Debug, Default)]
pub(super) struct Unanswered(RwLock<HashMap<Uuid, Option<Instant>>>);

impl Unanswered {
    fn asked(&self, node: Uuid, now: Instant) {
        let known = self.since(node);
        if known.is_none_or(|since| now >= since + ANOTHER_CHANCE) {
            self.put(node, Some(now));
        }
    }

    fn answered(&self, node: Uuid) {
        if self.since(node).is_some() {
            self.put(node, None);
        }
    }

    fn is_silent(&self, node: Uuid, now: Instant) -> bool {
        self.since(node)
            .is_some_and(|since| (since + SILENCE..since + ANOTHER_CHANCE).contains(&now))
    }

    fn since(&self, node: Uuid) -> Option<Instant> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).copied().flatten()
    }

    fn put(&self, node: Uuid, since: Option<Instant>) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(node, since);
    }
}

/// Another policy's plan, with silent nodes at its end.
#[derive(Debug)]
pub(super) struct SilentLast {
    /// Makes the plans.
    pub(super) policy: Arc<dyn LoadBalancingPolicy>,
    /// What is known of the nodes, from every policy that shares it.
    pub(super) unanswered: Arc<Unanswered>,
    /// Whether silent nodes are put last. Where a second node is asked soon anyway they are
    /// not, and so it is found out that they answer again.
    pub(super) reorders: bool,
}

impl LoadBalancingPolicy for SilentLast {
    fn pick<'a>(
        &'a self,
        request: &'a RoutingInfo,
        cluster: &'a ClusterState,
    ) -> Option<(NodeRef<'a>, Option<Shard>)> {
        let picked = self.policy.pick(request, cluster)?;
        let (node, now) = (picked.0.host_id, Instant::now());
        if self.reorders && self.unanswered.is_silent(node, now) {
            // Then the driver takes the whole plan.
            return None;
        }
        self.unanswered.asked(node, now);
        Some(picked)
    }

    fn fallback<'a>(
        &'a self,
        request: &'a RoutingInfo,
        cluster: &'a ClusterState,
    ) -> FallbackPlan<'a> {
        let now = Instant::now();
        let mut plan: Vec<_> = self.policy.fallback(request, cluster).collect();
        if self.reorders {
            // Stable: among the others the order stays.
            plan.sort_by_cached_key(|(node, _)| self.unanswered.is_silent(node.host_id, now));
        }
        Box::new(plan.into_iter().inspect(|(node, _)| {
            self.unanswered.asked(node.host_id, Instant::now());
        }))
    }

    fn on_request_success(&self, request: &RoutingInfo, latency: Duration, node: NodeRef<'_>) {
        self.unanswered.answered(node.host_id);
        self.policy.on_request_success(request, latency, node);
    }

    /// An error is an answer; a connection that broke is the driver's to mend.
    fn on_request_failure(
        &self,
        request: &RoutingInfo,
        latency: Duration,
        node: NodeRef<'_>,
        error: &RequestAttemptError,
    ) {
        self.unanswered.answered(node.host_id);
        self.policy
            .on_request_failure(request, latency, node, error);
    }

    fn name(&self) -> String {
        format!("SilentLast({})", self.policy.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_silent_while_it_owes_an_answer_and_gets_another_chance() {
        let (unanswered, node, begun) = (Unanswered::default(), Uuid::from_u128(1), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        assert!(!unanswered.is_silent(node, begun));
        unanswered.asked(node, begun);
        unanswered.asked(node, after(200));
        assert!(!unanswered.is_silent(node, after(249)));
        assert!(unanswered.is_silent(node, after(250)));
        assert!(!unanswered.is_silent(Uuid::from_u128(2), after(250)));

        unanswered.answered(node);
        assert!(!unanswered.is_silent(node, after(300)));
        unanswered.asked(node, after(300));
        assert!(unanswered.is_silent(node, after(5_299)));
        assert!(!unanswered.is_silent(node, after(5_300)));
        unanswered.asked(node, after(5_300));
        assert!(!unanswered.is_silent(node, after(5_500)));
        assert!(unanswered.is_silent(node, after(5_600)));
    }
}
