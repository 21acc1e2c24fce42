//! What a trial runs against, and what of it can be broken.

pub(crate) mod mesh;
pub(crate) mod standalone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tests::api::Api;
use tests::cassandra::Cluster;
use tests::nats::Nats;
use tests::part::Part;
use tests::proxy::Proxy;

/// A running system.
pub(crate) struct Stack {
    /// Where phones reach each gateway: at a proxy.
    pub(crate) doors: Vec<SocketAddr>,
    /// Ways to call the services; each answers for all.
    pub(crate) apis: Vec<Api>,
    /// What can be broken.
    pub(crate) weak: Vec<Weak>,
    /// What the programs log into.
    folder: tempfile::TempDir,
}

impl Stack {
    /// Its programs, each with the number of the gateway that it is, in the order in which
    /// an operator restarts them: services first.
    pub(crate) fn programs(&self) -> Vec<(Arc<Part>, Option<usize>)> {
        let programs = self.weak.iter().filter_map(|weak| match &weak.thing {
            Thing::Program(part) => Some((Arc::clone(part), weak.cuts.first().copied())),
            _ => None,
        });
        programs.collect()
    }

    /// Ends it, and keeps its folder for whoever looks for a reason.
    pub(crate) fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}

/// Something that can be broken.
#[derive(Clone)]
pub(crate) struct Weak {
    /// What sort of thing it is: figures are by it.
    pub(crate) sort: &'static str,
    /// Which one.
    pub(crate) name: String,
    pub(crate) thing: Thing,
    /// The gateways whose listeners need not hear in time while it is broken.
    pub(crate) deafens: Vec<usize>,
    /// The gateways whose sockets end with it.
    pub(crate) cuts: Vec<usize>,
}

#[derive(Clone)]
pub(crate) enum Thing {
    Program(Arc<Part>),
    Link(Arc<Proxy>),
    Broker(Arc<Nats>),
    Node(Arc<Cluster>, u32),
}
