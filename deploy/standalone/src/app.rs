//! The wiring: which part stands on which, and in which order they end.

use std::{future::Future, mem::ManuallyDrop, net::SocketAddr, sync::Arc, time::Duration};

use chassis::{
    admin::Admin,
    bus::{self, Bus},
    client::{Channel, Credentials},
    cql::migrations::migrate,
    database::{Database, DatabaseError, StoreUrl, open_folder, reach},
    embedded::DataFolder,
    health::{Latch, Readiness},
    identity::Gate,
    program::{Error, Part, ports, secret, service::Service as _},
    server::Services,
    shutdown::Shutdown,
    telemetry::Metrics,
    tls::MutualTls,
};
use gateway::{
    config::Tls,
    edge::{self, Edge},
    hub,
};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, InternalGrpc};

/// Shares of the drain window, each from its beginning: by when which part has ended.
/// The edge comes first.
const GRPC_SHARE: f32 = 0.85;
const SERVICES_SHARE: f32 = 0.95;

/// The three ports, bound and not yet served.
#[derive(Debug)]
pub struct Listeners {
    phones: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
}

/// Where the program listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP API and Socket.IO.
    pub phones: SocketAddr,
    /// The services, for internal callers.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

impl Listeners {
    /// Binds all three. Has to be called within a runtime.
    ///
    /// # Errors
    /// [`Error::Listen`] with the first that can't be bound.
    pub fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            phones: ports::bind(config.listen, "listen")?,
            grpc: ports::bind(config.grpc_listen, "grpc_listen")?,
            admin: ports::bind(config.admin_listen, "admin_listen")?,
        })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn addresses(&self) -> Result<Addresses, Error> {
        Ok(Addresses {
            phones: ports::address(&self.phones)?,
            grpc: ports::address(&self.grpc)?,
            admin: ports::address(&self.admin)?,
        })
    }
}

/// The whole system, built; only the admin port is served yet.
pub struct App {
    window: Duration,
    phones: TcpListener,
    grpc: TcpListener,
    edge: Edge,
    services: Services,
    parts: Parts,
    data: Data,
    readiness: Readiness,
    /// Let go by `serve` alone: a start that fails must not look, on its way out, like
    /// one that is done.
    starting: ManuallyDrop<Latch>,
    /// Ends the gRPC port, and with it what is said of the services' health.
    grpc_end: Shutdown,
    any_ended: CancellationToken,
    admin: Part,
}

/// The services above one database.
struct Parts {
    users: user_svc::App,
    messages: message_svc::App,
    presences: presence_svc::App,
}

/// Nobody else can use the folder until this is dropped.
struct Data {
    database: Database,
    _folder: Arc<DataFolder>,
}

impl App {
    /// Opens the stores, makes what is missing of the seed, and puts the parts together.
    /// `/livez` answers meanwhile: verifying a large store takes its time.
    ///
    /// # Errors
    /// One sentence about what is in the way.
    pub async fn build(
        config: Config,
        listeners: Listeners,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let at = listeners.addresses()?;
        let window = config.drain_window();
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let readiness = Readiness::new();
        let starting = ManuallyDrop::new(readiness.latch("the start of the program"));
        let any_ended = CancellationToken::new();
        let grpc_end = Shutdown::new(window.mul_f32(GRPC_SHARE - edge::SHARE));
        let shown = Admin {
            readiness: readiness.clone(),
            shutdown: grpc_end.clone(),
            metrics,
        };
        let admin = ports::serve_admin(listeners.admin, shown, &any_ended);

        let bus = bus::connect(&config.bus).await?;
        let folder = open_folder(config.folder()).await?;
        let secret = secret(folder.secret_file()).await?;
        let mtls = config.mtls.as_ref().map(MutualTls::load).transpose()?;
        let (database, parts) = reach(None, async || {
            let database = open(&config.store(), &folder).await?;
            let parts = Parts::build(&config, &database, &bus).await?;
            Ok((database, parts))
        })
        .await?;
        // At the start alone: that the broker is lost later makes nobody less ready.
        bus::reached(bus.as_ref()).await;
        let data = Data {
            database,
            _folder: folder,
        };
        let all = |gate| {
            Services::new(config.grpc.clone(), gate)
                .with(parts.users.service())
                .with(parts.messages.service())
                .with(parts.presences.service())
        };
        let grpc = ports::reachable(at.grpc);
        let (gate, url, shown) = match mtls {
            Some(own) => (
                Gate::Certificate(own.clone(), Arc::new(config.callers.clone())),
                format!("https://{grpc}"),
                Credentials::Certificate { own, service: None },
            ),
            None => (
                Gate::Secret(secret.clone()),
                format!("http://{grpc}"),
                Credentials::Secret(secret),
            ),
        };
        let services = all(gate);
        let (channel, direct) = match config.internal_grpc {
            InternalGrpc::InProcess => {
                let here = all(Gate::Shut);
                let direct = parts.messages.send_messages(&here);
                (Channel::local(here), Some(direct))
            }
            InternalGrpc::Sockets => (Channel::to("services", &url.parse()?, shown)?, None),
        };
        // A retry budget for each service: one that fails can't use up another's.
        let channel = || channel.clone().with_limits(&config.client);
        let called = hub::Services::new(channel(), channel(), channel()).sending_by(direct);
        let edge = Edge::new(config.gateway, config.hub, called, bus, tls, window);
        Ok(Self {
            window,
            phones: listeners.phones,
            grpc: listeners.grpc,
            edge,
            services,
            parts,
            data,
            readiness,
            starting,
            grpc_end,
            any_ended,
            admin,
        })
    }

    /// Serves on all ports and says that it is ready.
    #[must_use]
    pub fn serve(self) -> Serving {
        let any_ended = self.any_ended;
        let Parts {
            users,
            messages,
            presences,
        } = self.parts;
        let services = [
            Part::start("user-svc", &any_ended, |stop| done(users.run(stop))),
            Part::start("message-svc", &any_ended, |stop| done(messages.run(stop))),
            Part::start("presence-svc", &any_ended, |stop| done(presences.run(stop))),
        ];
        let readiness = self.readiness.clone();
        let grpc = ports::serve_grpc(
            self.grpc,
            self.services,
            readiness,
            self.grpc_end,
            &any_ended,
        );
        let edge = self.edge.serve(self.phones, &any_ended);
        drop(ManuallyDrop::into_inner(self.starting));
        Serving {
            window: self.window,
            edge,
            grpc,
            services,
            admin: self.admin,
            data: self.data,
            readiness: self.readiness,
            any_ended,
        }
    }
}

/// The whole system, serving.
pub struct Serving {
    window: Duration,
    edge: edge::Serving,
    grpc: Part,
    services: [Part; 3],
    admin: Part,
    data: Data,
    readiness: Readiness,
    any_ended: CancellationToken,
}

impl Serving {
    /// Serves until `end`, or until a part ends by itself. Then it is no longer ready;
    /// who stands in front ends before what he stands on: the sockets, answered
    /// and closed; calls under way; the services; the stores.
    ///
    /// # Errors
    /// The first part that failed, ended by itself, or did not end in its share of the
    /// drain window. Phones that hold on to their connections are cut off, which is no error.
    pub async fn until(self, end: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = end => {}
            () = self.any_ended.cancelled() => {}
        }
        let _ending = self.readiness.latch("the end of the program");
        let begun = Instant::now();
        let by = |share| begun + self.window.mul_f32(share);

        let mut outcome = self.edge.end(begun).await;
        outcome = outcome.and(self.grpc.end(by(GRPC_SHARE)).await);
        for service in self.services {
            outcome = outcome.and(service.end(by(SERVICES_SHARE)).await);
        }
        let closed = timeout_at(by(1.0), self.data.database.close()).await;
        outcome = outcome.and(closed.map_err(|_| Error::Late("the stores")));
        outcome.and(self.admin.end(by(1.0)).await)
    }
}

async fn done(part: impl Future<Output = ()>) -> Result<(), Error> {
    part.await;
    Ok(())
}

/// Opens the database; a keyspace is brought up to this version before.
async fn open(url: &StoreUrl, folder: &Arc<DataFolder>) -> Result<Database, DatabaseError> {
    let migrations = [
        user_svc::App::MIGRATIONS,
        message_svc::App::MIGRATIONS,
        presence_svc::App::MIGRATIONS,
    ];
    if let StoreUrl::Scylla(url) = url {
        for name in migrate(url, &migrations).await? {
            tracing::info!(name, "applied a migration");
        }
    }
    Database::open(url, Some(folder), &migrations).await
}

impl Parts {
    async fn build(
        config: &Config,
        database: &Database,
        bus: &Arc<dyn Bus>,
    ) -> Result<Self, DatabaseError> {
        Ok(Self {
            users: user_svc::App::build(&config.user, database, Arc::clone(bus)).await?,
            messages: message_svc::App::build(&config.message, database, Arc::clone(bus)).await?,
            presences: presence_svc::App::build(&config.presence, database, Arc::clone(bus))
                .await?,
        })
    }
}
