//! Two of each program over NATS and Cassandra; to be broken, with a proxy between any two
//! that call each other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tests::api::Api;
use tests::authority::{Authority, id};
use tests::cassandra::{Cluster, new_keyspace, shared_url};
use tests::nats::{Nats, shared_nats};
use tests::part::{Part, free_address, program};
use tests::proxy::Proxy;

use super::{Stack, Thing, Weak};

/// How many of each program there are.
const REPLICAS: usize = 2;
const START: Duration = Duration::from_secs(60);

/// The services, as the gateway's flags call them.
const SERVICES: [&str; 3] = ["user", "message", "presence"];

/// What a mesh is started for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be broken: at proxies, with short segments and short drain windows.
    Faults,
    /// To be loaded: as an operator runs it.
    Load,
}

impl Stack {
    /// Starts it over a cluster of so many nodes, and waits until all of it is ready.
    pub(crate) async fn mesh(nodes: u32) -> Self {
        Self::start(nodes, Purpose::Faults).await
    }

    /// The same without proxies, and with the settings that programs have by themselves;
    /// over the servers that tests share, for one that has just started is slow for minutes.
    pub(crate) async fn bare_mesh() -> Self {
        Self::start(1, Purpose::Load).await
    }

    async fn start(nodes: u32, purpose: Purpose) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("drivers-mesh-")
            .tempdir()
            .unwrap();
        let servers = match purpose {
            Purpose::Faults => {
                let started = futures::future::join(Cluster::start(nodes), Nats::start()).await;
                Some((Arc::new(started.0), Arc::new(started.1)))
            }
            Purpose::Load => None,
        };
        let authority = Authority::new(folder.path());
        let own = authority.issue("tests");
        let mut mesh = Mesh {
            purpose,
            folder: folder.path(),
            authority,
            store: match &servers {
                Some((cluster, _)) => cluster.url(&new_keyspace()),
                None => shared_url(&new_keyspace()),
            },
            nats: match &servers {
                Some((_, nats)) => nats.address,
                None => shared_nats(),
            },
            weak: Vec::new(),
        };
        let mut services = Vec::new();
        for service in SERVICES {
            let mut replicas = Vec::new();
            for number in 0..REPLICAS {
                replicas.push(mesh.service(service, number).await);
            }
            services.push(replicas);
        }
        let mut doors = Vec::new();
        for number in 0..REPLICAS {
            doors.push(mesh.gateway(number, &services).await);
        }
        let mut weak = mesh.weak;
        let all = || (0..REPLICAS).collect::<Vec<_>>();
        if let Some((cluster, nats)) = servers {
            weak.push(Weak {
                sort: "nats",
                name: "nats".into(),
                thing: Thing::Broker(nats),
                deafens: all(),
                cuts: Vec::new(),
            });
            weak.extend((1..=nodes).map(|node| Weak {
                sort: "database",
                name: format!("database node {node}"),
                thing: Thing::Node(Arc::clone(&cluster), node),
                deafens: all(),
                cuts: Vec::new(),
            }));
        }
        let apis = (0..REPLICAS).map(|number| {
            let [users, messages, presence] = [0, 1, 2].map(|service| services[service][number]);
            Api::by_certificate([users, messages, presence], &own)
        });
        Self {
            doors,
            apis: apis.collect(),
            weak,
            folder,
        }
    }
}

/// Who may call the services: gateways what they need, and the tests all.
fn callers() -> String {
    let (gateway, tests) = (id("gateway"), id("tests"));
    format!(r#"{{ "{gateway}" = ["gateway"], "{tests}" = ["*"] }}"#)
}

/// A mesh that is being started.
struct Mesh<'a> {
    purpose: Purpose,
    folder: &'a Path,
    authority: Authority,
    store: String,
    nats: SocketAddr,
    weak: Vec<Weak>,
}

impl Mesh<'_> {
    /// A proxy between two, which can be broken, or the target itself.
    async fn link(
        &mut self,
        sort: &'static str,
        name: String,
        target: SocketAddr,
        deafens: Vec<usize>,
    ) -> SocketAddr {
        if self.purpose == Purpose::Load {
            return target;
        }
        let proxy = Arc::new(Proxy::start(target).await);
        let address = proxy.address;
        self.weak.push(Weak {
            sort,
            name,
            thing: Thing::Link(proxy),
            deafens,
            cuts: Vec::new(),
        });
        address
    }

    fn part(&self, name: &str, number: usize, admin: SocketAddr) -> Part {
        let program = program(&format!("drivers-{name}"));
        let part = Part::new(format!("{name} {number}"), program, self.folder, admin)
            .flag("--admin-listen", admin)
            .flag("--log", "text");
        let certificate = self.authority.issue(name);
        (certificate.files().into_iter()).fold(part, |part, (key, file)| {
            part.env(&format!("DRIVERS_MTLS__{key}"), file.display())
        })
    }

    /// Starts a replica of a service; where it serves.
    async fn service(&mut self, name: &'static str, number: usize) -> SocketAddr {
        let (grpc, admin) = (free_address(), free_address());
        // Of messages the listeners hear, whichever replica has written them.
        let deafens: Vec<usize> = match name {
            "message" => (0..REPLICAS).collect(),
            _ => Vec::new(),
        };
        let (sort, sort_of_link) = match name {
            "user" => ("user", "user-nats"),
            "message" => ("message", "message-nats"),
            _ => ("presence", "presence-nats"),
        };
        let between = format!("{name} {number} and nats");
        let nats = self.nats;
        let bus = self
            .link(sort_of_link, between, nats, deafens.clone())
            .await;
        let part = self
            .part(name, number, admin)
            .flag("--grpc-listen", grpc)
            .flag("--store", &self.store)
            .flag("--bus", format!("nats://{bus}"))
            .env("DRIVERS_CALLERS", callers());
        if number == 0 {
            part.run("migrate").await;
        }
        let part = match (self.purpose, name) {
            (Purpose::Load, _) => part,
            (Purpose::Faults, "message") => part
                .env("DRIVERS_MESSAGE__SEGMENT_CAPACITY", 64)
                .env("DRIVERS_DRAIN_WINDOW_MS", 3_000),
            (Purpose::Faults, _) => part.env("DRIVERS_DRAIN_WINDOW_MS", 3_000),
        };
        self.start(sort, part, deafens, Vec::new()).await;
        grpc
    }

    /// Starts a gateway; where phones reach it.
    async fn gateway(&mut self, number: usize, services: &[Vec<SocketAddr>]) -> SocketAddr {
        let (public, admin) = (free_address(), free_address());
        let between = format!("gateway {number} and nats");
        let nats = self.nats;
        let bus = self.link("gateway-nats", between, nats, vec![number]).await;
        let mut part = self
            .part("gateway", number, admin)
            .flag("--listen", public)
            .flag("--bus", format!("nats://{bus}"))
            .flag("--rate-limits", "off");
        if self.purpose == Purpose::Faults {
            part = part.env("DRIVERS_DRAIN_WINDOW_MS", 5_000);
        }
        for (name, replicas) in SERVICES.into_iter().zip(services) {
            let (sort, deafens) = match name {
                "user" => ("gateway-user", Vec::new()),
                "message" => ("gateway-message", vec![number]),
                _ => ("gateway-presence", Vec::new()),
            };
            let mut peers = Vec::new();
            for (replica, address) in replicas.iter().enumerate() {
                let between = format!("gateway {number} and {name} {replica}");
                let near = self.link(sort, between, *address, deafens.clone()).await;
                peers.push(format!("https://{near}"));
            }
            let identity = format!("DRIVERS_IDENTITIES__{}_SVC", name.to_uppercase());
            part = part
                .flag(&format!("--{name}-svc"), peers.join(","))
                .env(&identity, id(name));
        }
        self.start("gateway", part, vec![number], vec![number])
            .await;
        let door = self
            .link(
                "phones",
                format!("phones and gateway {number}"),
                public,
                vec![number],
            )
            .await;
        if let Some(weak) = self.weak.last_mut() {
            weak.cuts = vec![number];
        }
        door
    }

    async fn start(
        &mut self,
        sort: &'static str,
        part: Part,
        deafens: Vec<usize>,
        cuts: Vec<usize>,
    ) {
        part.start();
        part.ready_within(START).await;
        self.weak.push(Weak {
            sort,
            name: part.name.clone(),
            thing: Thing::Program(Arc::new(part)),
            deafens,
            cuts,
        });
    }
}
