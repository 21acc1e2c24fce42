//! The gateway as a program of its own.

use std::{
    convert::Infallible, future::pending, path::PathBuf, pin::pin, process::ExitCode, sync::Arc,
    time::Duration,
};

use chassis::{
    admin::Admin,
    bus::{self, Bus},
    client::{Channel, Credentials, Peers},
    config::{environment, load},
    health::{Latch, Readiness},
    program::{self, Error, Part, Process, ports},
    shutdown::Shutdown,
    telemetry::Metrics,
    tls::MutualTls,
};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Tls,
    edge::{self, Edge},
    hub,
};

mod banner;
mod flags;
mod settings;

pub use banner::TryIt;
pub use flags::Switch;
pub use settings::Settings;

use banner::Banner;
use flags::Flags;

const NAME: &str = "drivers-gateway";

/// The services that it stands in front of: what they are called, and what they serve.
const USER: (&str, &str) = ("user-svc", "drivers.user.v1.UserService");
const MESSAGE: (&str, &str) = ("message-svc", "drivers.message.v1.MessageService");
const PRESENCE: (&str, &str) = ("presence-svc", "drivers.presence.v1.PresenceService");

/// The whole program: reads its command line, and serves.
#[must_use]
pub fn main() -> ExitCode {
    let flags = Flags::of_process();
    let settings = load(flags.config.as_deref(), environment(), &flags.settings());
    let settings: Settings = match settings {
        Ok(settings) => settings,
        Err(error) => return program::refuse(NAME, &error.into()),
    };
    let (log, filter) = (settings.log, settings.log_filter.clone());
    program::run(NAME, log, &filter, async |process| {
        Box::pin(serve(settings, process)).await
    })
}

async fn serve(settings: Settings, mut process: Process) -> Result<(), Error> {
    let needs = settings.needs()?;
    let phones = ports::bind(settings.listen, "listen")?;
    let admin = ports::bind(settings.admin_listen, "admin_listen")?;
    let banner = Banner {
        phones: ports::address(&phones)?,
        admin: ports::address(&admin)?,
        tls: settings.tls.is_some(),
        services: [
            needs.user_svc.clone(),
            needs.message_svc.clone(),
            needs.presence_svc.clone(),
        ],
        log: settings.log,
    };
    tracing::info!(listen = %banner.phones, admin_listen = %banner.admin, "starting");
    let metrics = process.metrics.clone();
    let starting = Box::pin(start(settings, needs, phones, admin, metrics));
    let Some(serving) = process.started(starting).await else {
        return Ok(());
    };
    let serving = serving?;
    process
        .ended(|end| Box::pin(serving.until(banner, end)))
        .await
}

/// What has no default.
struct Needs {
    user_svc: Peers,
    message_svc: Peers,
    presence_svc: Peers,
    shown: Shown,
}

/// What the services are shown.
enum Shown {
    Secret(PathBuf),
    Certificate(MutualTls),
}

/// Serves both ports. Who comes before the services are there waits for them.
async fn start(
    settings: Settings,
    needs: Needs,
    phones: TcpListener,
    admin: TcpListener,
    metrics: Metrics,
) -> Result<Serving, Error> {
    let window = settings.drain_window();
    let tls = settings.tls.as_ref().map(Tls::load);
    let tls = tls.transpose()?;
    let readiness = Readiness::new();
    let any_ended = CancellationToken::new();
    let waits = Waits {
        broker: readiness.latch("the broker"),
        user: readiness.latch(USER.0),
        message: readiness.latch(MESSAGE.0),
        presence: readiness.latch(PRESENCE.0),
    };
    let shown = Admin {
        readiness: readiness.clone(),
        shutdown: Shutdown::new(window),
        metrics,
    };
    let admin = ports::serve_admin(admin, shown, &any_ended);

    let identities = settings.identities;
    let shown = match needs.shown {
        Shown::Secret(file) => Credentials::Secret(program::secret(file).await?),
        Shown::Certificate(mtls) => Credentials::Certificate {
            own: mtls.load()?,
            service: None,
        },
    };
    let channel = |service, peers, name| {
        let credentials = shown.clone().to_be_shown_to(name);
        // A retry budget for each service: one that fails can't use up another's.
        Channel::to(service, &peers, credentials).map(|it| it.with_limits(&settings.client))
    };
    let user = channel(USER.0, needs.user_svc, identities.user_svc)?;
    let message = channel(MESSAGE.0, needs.message_svc, identities.message_svc)?;
    let presence = channel(PRESENCE.0, needs.presence_svc, identities.presence_svc)?;
    let called = hub::Services::new(user.clone(), message.clone(), presence.clone());
    let bus = bus::connect(&settings.bus).await?;
    if settings.bus.starts_with("memory:") {
        tracing::warn!(
            "no events of the services come in over `memory:`, the bus within a process: others' messages are seen when they are asked for"
        );
    }
    let edge = Edge::new(
        settings.gateway,
        settings.hub,
        called,
        Arc::clone(&bus),
        tls,
        window,
    );
    Ok(Serving {
        window,
        bus,
        edge: edge.serve(phones, &any_ended),
        admin,
        readiness,
        waits,
        channels: [user, message, presence],
        any_ended,
    })
}

/// What keeps it from being ready.
struct Waits {
    broker: Latch,
    user: Latch,
    message: Latch,
    presence: Latch,
}

/// The gateway, serving.
struct Serving {
    window: Duration,
    bus: Arc<dyn Bus>,
    edge: edge::Serving,
    admin: Part,
    readiness: Readiness,
    waits: Waits,
    channels: [Channel; 3],
    any_ended: CancellationToken,
}

impl Serving {
    /// Is ready once the broker is there and each of the services has answered, and serves until `end`, or
    /// until a part ends by itself. Then it is no longer ready, takes no more phones, and
    /// sends those that are here to others.
    async fn until(self, banner: Banner, end: CancellationToken) -> Result<(), Error> {
        let mut ready = pin!(be_ready(self.waits, self.bus, self.channels, banner));
        tokio::select! {
            () = end.cancelled() => {}
            () = self.any_ended.cancelled() => {}
            never = &mut ready => match never {},
        }
        let _ending = self.readiness.latch("the end of the program");
        let begun = Instant::now();
        let outcome = self.edge.end(begun).await;
        outcome.and(self.admin.end(begun + self.window).await)
    }
}

/// Lets go of each latch as what it stands for is there.
async fn be_ready(
    waits: Waits,
    bus: Arc<dyn Bus>,
    channels: [Channel; 3],
    banner: Banner,
) -> Infallible {
    let [user, message, presence] = channels;
    let broker = async {
        bus::reached(bus.as_ref()).await;
        drop(waits.broker);
    };
    let there = async |channel: Channel, service, latch| {
        channel.until_serving(service).await;
        drop(latch);
    };
    tokio::join!(
        broker,
        there(user, USER.1, waits.user),
        there(message, MESSAGE.1, waits.message),
        there(presence, PRESENCE.1, waits.presence),
    );
    banner.show();
    pending().await
}
