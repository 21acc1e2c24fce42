//! A service as a program of its own.

use std::{
    convert::Infallible, fmt, future::Future, mem::ManuallyDrop, net::SocketAddr,
    process::ExitCode, sync::Arc, time::Duration,
};

use http::{Request, Response};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService};

use super::{Error, Part, Process, keys, ports};
use crate::{
    admin::Admin,
    bus::{self, Bus},
    config::{environment, load},
    cql::migrations::{Migrations, migrate},
    database::{Database, DatabaseError, StoreUrl, open_folder, reach},
    embedded::DataFolder,
    health::{Latch, Readiness},
    identity::{Gate, Secret},
    server::{Later, Services},
    shutdown::Shutdown,
    telemetry::{LogFormat, Metrics},
};

mod flags;
mod settings;

pub use settings::Settings;

use flags::{Command, Flags};

/// Shares of the drain window, each from its beginning: by when which part has ended.
const GRPC_SHARE: f32 = 0.7;
const SERVICE_SHARE: f32 = 0.95;

/// How long the broker may take for the last events.
const LAST_EVENTS: Duration = Duration::from_millis(100);

/// How long a migration waits for its database.
const MIGRATION_WAIT: Duration = Duration::from_mins(2);

/// A service that is built above a database and a bus, and served over gRPC.
pub trait Service: Sized + Send + 'static {
    /// Name of its program, for example `drivers-user`.
    const NAME: &'static str;
    /// What it is, for `--help`.
    const ABOUT: &'static str;
    /// Its tables in a keyspace.
    const MIGRATIONS: Migrations;
    /// What can be set of it.
    type Config: Clone + Default + Serialize + DeserializeOwned + Send + Sync;
    /// The service as tonic serves it.
    type Server: tower::Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static;

    /// Opens its stores and puts it together.
    fn build(
        config: &Self::Config,
        database: &Database,
        bus: Arc<dyn Bus>,
    ) -> impl Future<Output = Result<Self, DatabaseError>> + Send;

    /// The service as tonic serves it.
    fn server(&self) -> Self::Server;

    /// Does what the service does on its own, until `shutdown`. That comes behind the
    /// end of the last call.
    fn run(self, shutdown: CancellationToken) -> impl Future<Output = ()> + Send;
}

/// The whole program: reads its command line, and serves or migrates.
pub fn main<S: Service>() -> ExitCode {
    let flags = Flags::of_process(S::NAME, S::ABOUT);
    let settings = load(flags.config.as_deref(), environment(), &flags.settings());
    let settings: Settings<S::Config> = match settings {
        Ok(settings) => settings,
        Err(error) => return super::refuse(S::NAME, &error.into()),
    };
    let (log, filter) = (settings.log, settings.log_filter.clone());
    super::run(S::NAME, log, &filter, async |process| match flags.command {
        Some(Command::Migrate) => Box::pin(migrate_store::<S>(&settings, process)).await,
        None => Box::pin(serve::<S>(settings, process)).await,
    })
}

async fn migrate_store<S: Service>(
    settings: &Settings<S::Config>,
    mut process: Process,
) -> Result<(), Error> {
    let store = &settings.store;
    let done = match store {
        StoreUrl::File(_) => {
            "nothing to migrate: a store in a folder makes its tables when it is opened".to_owned()
        }
        StoreUrl::Scylla(url) => {
            let deadline = Instant::now() + MIGRATION_WAIT;
            let migrating = reach(Some(deadline), async || {
                Ok(migrate(url, &[S::MIGRATIONS]).await?)
            });
            match process.started(migrating).await {
                None => return Ok(()),
                Some(applied) => match applied?.as_slice() {
                    [] => "nothing to migrate: all migrations were applied before".to_owned(),
                    applied => format!("applied {}", applied.join(", ")),
                },
            }
        }
    };
    let text = format!("{}: {store}: {done}\n", S::NAME);
    super::say(settings.log, text, || tracing::info!(%store, "{done}"));
    Ok(())
}

async fn serve<S: Service>(
    settings: Settings<S::Config>,
    mut process: Process,
) -> Result<(), Error> {
    keys::check_grpc(
        settings.grpc_listen,
        settings.mtls.as_ref(),
        &settings.callers,
        settings.plaintext,
    )?;
    let grpc = ports::bind(settings.grpc_listen, "grpc_listen")?;
    let admin = ports::bind(settings.admin_listen, "admin_listen")?;
    let banner = Banner {
        name: S::NAME,
        grpc: ports::address(&grpc)?,
        admin: ports::address(&admin)?,
        tls: settings.mtls.is_some(),
        store: settings.store.clone(),
        log: settings.log,
    };
    tracing::info!(grpc_listen = %banner.grpc, admin_listen = %banner.admin, store = %banner.store, "starting");
    let metrics = process.metrics.clone();
    let starting = Box::pin(start::<S>(settings, grpc, admin, metrics));
    let Some(serving) = process.started(starting).await else {
        return Ok(());
    };
    let serving = serving?;
    banner.show();
    process
        .ended(|end| Box::pin(serving.until(end.cancelled_owned())))
        .await
}

/// Serves both ports at once, and the service as soon as its database and the broker
/// are there: until then it is not ready, and tells callers so.
async fn start<S: Service>(
    settings: Settings<S::Config>,
    grpc: TcpListener,
    admin: TcpListener,
    metrics: Metrics,
) -> Result<Serving, Error> {
    let window = settings.drain_window();
    let readiness = Readiness::new();
    // Let go at the end alone: a start that fails must not look, on its way out, like
    // one that is done.
    let starting: ManuallyDrop<Latch> = ManuallyDrop::new(readiness.latch("the database"));
    let any_ended = CancellationToken::new();
    let grpc_end = Shutdown::new(window.mul_f32(GRPC_SHARE));
    let shown = Admin {
        readiness: readiness.clone(),
        shutdown: grpc_end.clone(),
        metrics,
    };
    let admin = ports::serve_admin(admin, shown, &any_ended);

    let broker = readiness.latch("the broker");
    let bus = bus::connect(&settings.bus).await?;
    if settings.bus.starts_with("memory:") {
        tracing::warn!(
            "events stay in this process, for `memory:` is its bus: gateways hear of changes when they ask"
        );
    }
    let folder = match &settings.store {
        StoreUrl::File(path) => Some(open_folder(path).await?),
        StoreUrl::Scylla(_) => None,
    };
    let gate = match &settings.mtls {
        Some(mtls) => Gate::Certificate(mtls.load()?, Arc::new(settings.callers.clone())),
        None => Gate::Secret(secret(&settings, folder.as_deref()).await?),
    };
    let later = Later::new();
    let services = Services::new(settings.grpc.clone(), gate).with(later.clone());
    let grpc = ports::serve_grpc(grpc, services, readiness.clone(), grpc_end, &any_ended);

    let reaching_database = reach(None, async || {
        let database = Database::open(&settings.store, folder.as_ref(), &[S::MIGRATIONS]).await?;
        let service = S::build(&settings.service, &database, Arc::clone(&bus)).await?;
        Ok((database, service))
    });
    // At the start alone: that the broker is lost later makes nobody less ready. It is asked
    // first, for the bus within a process is there at once and is not to be seen waited for.
    let reaching_broker = async {
        bus::reached(bus.as_ref()).await;
        drop(broker);
        Ok(())
    };
    let ((), (database, service)) = tokio::try_join!(reaching_broker, reaching_database)?;
    later.is(service.server());
    let service = Part::start("the service", &any_ended, |stop| async move {
        service.run(stop).await;
        Ok::<_, Error>(())
    });
    drop(ManuallyDrop::into_inner(starting));
    Ok(Serving {
        window,
        grpc,
        service,
        admin,
        database,
        bus,
        readiness,
        any_ended,
    })
}

/// The secret that callers show.
async fn secret<C>(settings: &Settings<C>, folder: Option<&DataFolder>) -> Result<Secret, Error> {
    let not_set = Error::NotSet {
        key: "secret_file",
        expected: "the file of the bearer secret that callers show, made if there is none,",
    };
    let in_folder = || folder.map(DataFolder::secret_file);
    let file = settings.secret_file.clone().or_else(in_folder);
    super::secret(file.ok_or(not_set)?).await
}

/// A service, serving.
struct Serving {
    window: Duration,
    grpc: Part,
    service: Part,
    admin: Part,
    database: Database,
    bus: Arc<dyn Bus>,
    readiness: Readiness,
    any_ended: CancellationToken,
}

impl Serving {
    /// Serves until `end`, or until a part ends by itself. Then it is no longer ready,
    /// takes no more calls, answers those under way, hands its last events over, and
    /// closes its stores.
    async fn until(self, end: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = end => {}
            () = self.any_ended.cancelled() => {}
        }
        let _ending = self.readiness.latch("the end of the program");
        let begun = Instant::now();
        let by = |share| begun + self.window.mul_f32(share);
        let outcome = self.grpc.end(by(GRPC_SHARE)).await;
        let outcome = outcome.and(self.service.end(by(SERVICE_SHARE)).await);
        // Who missed them while the broker is away finds out as ever.
        let _ = self.bus.flush(LAST_EVENTS).await;
        let closed = timeout_at(by(1.0), self.database.close()).await;
        let outcome = outcome.and(closed.map_err(|_| Error::Late("the store")));
        outcome.and(self.admin.end(by(1.0)).await)
    }
}

/// What the program says once it serves.
struct Banner {
    name: &'static str,
    grpc: SocketAddr,
    admin: SocketAddr,
    tls: bool,
    store: StoreUrl,
    log: LogFormat,
}

impl Banner {
    fn show(&self) {
        super::say(self.log, self, || {
            tracing::info!(
                grpc_listen = %self.grpc,
                admin_listen = %self.admin,
                mtls = self.tls,
                store = %self.store,
                version = env!("CARGO_PKG_VERSION"),
                "serving",
            );
        });
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, grpc, admin, ..
        } = self;
        writeln!(f, "{name} {} serves", env!("CARGO_PKG_VERSION"))?;
        let scheme = if self.tls { "https" } else { "http" };
        writeln!(f, "  service  {scheme}://{grpc}  gRPC, with reflection")?;
        writeln!(f, "  health   http://{admin}  /readyz, /livez and /metrics")?;
        writeln!(f, "  store    {}", self.store)
    }
}
