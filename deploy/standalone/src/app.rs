//! The wiring: which part stands on which, and in which order they end.

use std::{
    convert::Infallible,
    future::{Future, pending},
    mem::ManuallyDrop,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chassis::{
    admin::Admin,
    bus,
    client::Channel,
    health::{Latch, Readiness},
    server::{self, Services},
    shutdown::Shutdown,
    telemetry::Metrics,
    tls,
};
use gateway::hub::{self, Hub};
use presence_svc::clock::SystemClock;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, InternalGrpc},
    error::Error,
    part::Part,
    stores::Stores,
};

/// Shares of the drain window, each from its beginning: by when which part has ended.
const GATEWAY_SHARE: f32 = 0.7;
const HUB_SHARE: f32 = 0.75;
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
    /// Binds all three.
    ///
    /// # Errors
    /// [`Error::Listen`] with the first that can't be bound.
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            phones: bind(config.listen, "listen").await?,
            grpc: bind(config.grpc_listen, "grpc_listen").await?,
            admin: bind(config.admin_listen, "admin_listen").await?,
        })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn addresses(&self) -> Result<Addresses, Error> {
        let at = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| Error::System {
                what: "asking for the address of a port",
                source,
            })
        };
        Ok(Addresses {
            phones: at(&self.phones)?,
            grpc: at(&self.grpc)?,
            admin: at(&self.admin)?,
        })
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address,
            key,
            source,
        })
}

/// The whole system, built; only the admin port is served yet.
pub struct App {
    window: Duration,
    phones: TcpListener,
    grpc: TcpListener,
    edge: gateway::App,
    hub: Hub,
    services: Services,
    users: user_svc::App,
    messages: message_svc::App,
    presences: presence_svc::App,
    stores: Stores,
    readiness: Readiness,
    /// Let go by `serve` alone: a start that fails must not look, on its way out, like
    /// one that is done.
    starting: ManuallyDrop<Latch>,
    /// Ends the gRPC port, and with it what is said of the services' health.
    grpc_end: Shutdown,
    any_ended: CancellationToken,
    admin: Part,
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
        let tls = match &config.tls {
            Some(tls) => Some(tls::load(&tls.certificate, &tls.key)?),
            None => None,
        };
        let readiness = Readiness::new();
        let starting = ManuallyDrop::new(readiness.latch("the start of the program"));
        let any_ended = CancellationToken::new();
        let grpc_end = Shutdown::new(window.mul_f32(GRPC_SHARE - HUB_SHARE));
        let admin = {
            let admin = Admin {
                readiness: readiness.clone(),
                shutdown: grpc_end.clone(),
                metrics,
            };
            Part::start("the admin port", &any_ended, |stop| async move {
                admin
                    .serve(listeners.admin, stop.cancelled_owned())
                    .await
                    .map_err(|source| Error::System {
                        what: "serving the admin port",
                        source,
                    })
            })
        };

        let bus = bus::connect(&config.bus).await?;
        let stores = Stores::open(&config.data).await?;
        let users = user_svc::build(
            &config.user,
            Arc::new(stores.accounts.clone()),
            Arc::clone(&bus),
        );
        let log = Arc::new(stores.messages.clone());
        let directory = Arc::clone(&log);
        let messages = message_svc::build(config.message, log, directory, Arc::clone(&bus)).await?;
        let presences = presence_svc::build(
            &config.presence,
            Arc::new(stores.presences.clone()),
            Arc::clone(&bus),
            Arc::new(SystemClock),
        );
        let all = |secret| {
            Services::new(config.grpc.clone(), secret)
                .with(users.service())
                .with(messages.service())
                .with(presences.service())
        };
        let services = all(Some(stores.secret.clone()));
        let channel = match config.internal_grpc {
            InternalGrpc::InProcess => Channel::local(all(None)),
            InternalGrpc::Sockets => Channel::connect(
                &format!("http://{}", reachable(at.grpc)),
                stores.secret.clone(),
            )?,
        };
        // A retry budget for each service: one that fails can't use up another's.
        let channel = || channel.clone().with_limits(&config.client);
        let called = hub::Services::new(channel(), channel(), channel());
        let hub = Hub::new(called, bus, config.hub);
        let mut edge = config.gateway;
        edge.drain_window = edge.drain_window.min(window / 2);
        Ok(Self {
            window,
            phones: listeners.phones,
            grpc: listeners.grpc,
            edge: gateway::App::new(edge, hub.rules(), tls),
            hub,
            services,
            users,
            messages,
            presences,
            stores,
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
        let (users, messages, presences) = (self.users, self.messages, self.presences);
        let services = [
            Part::start("user-svc", &any_ended, |stop| done(users.run(stop))),
            Part::start("message-svc", &any_ended, |stop| done(messages.run(stop))),
            Part::start("presence-svc", &any_ended, |stop| done(presences.run(stop))),
        ];
        let (listener, routes) = (self.grpc, self.services);
        let (readiness, grpc_end) = (self.readiness.clone(), self.grpc_end);
        let grpc = Part::start("the gRPC port", &any_ended, |stop| async move {
            let end = async {
                stop.cancelled().await;
                grpc_end.begin();
                pending::<Infallible>().await
            };
            tokio::select! {
                served = server::serve(listener, routes, &readiness, &grpc_end) => served,
                never = end => match never {},
            }
        });
        let (hub, edge, phones) = (self.hub, self.edge, self.phones);
        let hub = Part::start("the hub", &any_ended, |stop| done(hub.run(stop)));
        let edge = Part::start("the gateway", &any_ended, |stop| {
            done(edge.run(phones, stop))
        });
        drop(ManuallyDrop::into_inner(self.starting));
        Serving {
            window: self.window,
            edge,
            hub,
            grpc,
            services,
            admin: self.admin,
            stores: self.stores,
            readiness: self.readiness,
            any_ended,
        }
    }
}

/// The whole system, serving.
pub struct Serving {
    window: Duration,
    edge: Part,
    hub: Part,
    grpc: Part,
    services: [Part; 3],
    admin: Part,
    stores: Stores,
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

        let mut outcome = match self.edge.end(by(GATEWAY_SHARE)).await {
            Err(Error::Late(_)) => {
                tracing::warn!("phones that did not let go are cut off");
                Ok(())
            }
            ended => ended,
        };
        outcome = outcome.and(self.hub.end(by(HUB_SHARE)).await);
        outcome = outcome.and(self.grpc.end(by(GRPC_SHARE)).await);
        for service in self.services {
            outcome = outcome.and(service.end(by(SERVICES_SHARE)).await);
        }
        let closed = timeout_at(by(1.0), self.stores.close()).await;
        outcome = outcome.and(closed.map_err(|_| Error::Late("the stores")));
        outcome.and(self.admin.end(by(1.0)).await)
    }
}

async fn done(part: impl Future<Output = ()>) -> Result<(), Error> {
    part.await;
    Ok(())
}

/// The address by which this machine reaches what listens at `at`.
pub(crate) fn reachable(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, at.port())
}
