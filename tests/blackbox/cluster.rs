//! Clusters of Cassandra that are killed and frozen under traffic.

mod guarded;
mod one_node;
mod three_nodes;

use std::time::Duration;

use tests::trial::Case;

/// The longest until sends go on when a fault has ended. Five seconds are promised; Cassandra's
/// own nodes take some more to find each other again, and the machine is busy.
const GOES_ON: Duration = Duration::from_secs(15);

/// Longer than every time limit there is: of a request to a node (1 s), of a node (5 s),
/// of a send in the gateway (8 s).
const FREEZE: Duration = Duration::from_secs(12);

pub(crate) fn cases() -> Vec<Case> {
    [guarded::cases(), one_node::cases(), three_nodes::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Ends what the cases share.
pub(crate) fn end() {
    three_nodes::end();
}
