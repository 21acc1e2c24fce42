//! Our four programs, one of each, over NATS and Cassandra.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use tests::api::Api;
use tests::cassandra::{Cluster, new_keyspace};
use tests::nats::Nats;
use tests::part::{Part, free_address, program};

use crate::usage::Hop;

const START: Duration = Duration::from_secs(60);
const SERVICES: [&str; 3] = ["user", "message", "presence"];

/// A mesh that runs, and ends with this.
pub(crate) struct Mesh {
    /// Where phones connect.
    pub(crate) address: SocketAddr,
    gateway: Part,
    services: Vec<(Part, SocketAddr)>,
    nats: Nats,
    cluster: Cluster,
    /// Which the first service has made.
    secret: String,
    _folder: TempDir,
}

impl Mesh {
    pub(crate) async fn start() -> Result<Self, String> {
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let secret = folder.path().join("secret");
        let (cluster, nats) = futures::future::join(Cluster::start(1), Nats::start()).await;
        let store = cluster.url(&new_keyspace());
        let part = |name: &str| {
            let admin = free_address();
            Part::new(
                name,
                program(&format!("drivers-{name}")),
                folder.path(),
                admin,
            )
            .flag("--admin-listen", admin)
            .flag("--bus", format!("nats://{}", nats.address))
            .env("DRIVERS_SECRET_FILE", secret.display())
        };
        let mut services = Vec::new();
        for name in SERVICES {
            let grpc = free_address();
            let service = part(name)
                .flag("--grpc-listen", grpc)
                .flag("--store", &store);
            service.run("migrate").await;
            service.start();
            service.ready_within(START).await;
            services.push((service, grpc));
        }
        let address = free_address();
        let gateway = part("gateway")
            .flag("--listen", address)
            .flag("--rate-limits", "off");
        let gateway =
            (SERVICES.iter().zip(&services)).fold(gateway, |gateway, (name, (_, grpc))| {
                gateway.flag(&format!("--{name}-svc"), format!("http://{grpc}"))
            });
        gateway.start();
        gateway.ready_within(START).await;
        let secret = fs::read_to_string(&secret).map_err(|error| error.to_string())?;
        Ok(Self {
            address,
            gateway,
            services,
            nats,
            cluster,
            secret: secret.trim().to_owned(),
            _folder: folder,
        })
    }

    /// The process of the gateway.
    pub(crate) fn gateway(&self) -> u32 {
        self.gateway.pid()
    }

    /// Every process.
    pub(crate) fn hops(&self) -> Vec<Hop> {
        let services = self
            .services
            .iter()
            .map(|(part, _)| (part.name.as_str(), part.pid()));
        let others = [
            ("gateway", self.gateway.pid()),
            ("bus", self.nats.pid()),
            ("database", self.cluster.pid(1)),
        ];
        let all = services.chain(others);
        all.map(|(name, process)| Hop::of(name, process)).collect()
    }

    /// The services, as an internal service calls them.
    pub(crate) fn api(&self) -> Api {
        let place = |number: usize| {
            self.services
                .get(number)
                .map_or(self.address, |(_, at)| *at)
        };
        Api::at([0, 1, 2].map(place), &self.secret)
    }
}
