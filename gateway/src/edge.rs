//! The edge and the rules behind it as parts of a program, and in which order they end.

use std::{future::Future, sync::Arc, time::Duration};

use chassis::tls::Reloaded;
use chassis::{
    bus::Bus,
    program::{Error, Part},
};
use tokio::{net::TcpListener, time::Instant};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::{
    App,
    config::Config,
    hub::{Hub, HubConfig, Services},
};

/// Shares of the drain window, each from its beginning: by when which part has ended.
const GATEWAY_SHARE: f32 = 0.7;
const HUB_SHARE: f32 = 0.75;

/// The share of the drain window that the whole edge takes.
pub const SHARE: f32 = HUB_SHARE;

/// The edge, built and not served yet.
pub struct Edge {
    app: App,
    hub: Hub,
    window: Duration,
}

impl Edge {
    /// An edge in front of these services and this bus; with `tls`, for `https` and `wss`
    /// only. Its sockets are closed over its own drain window, at most half of the
    /// program's, which is `window`.
    #[must_use]
    pub fn new(
        mut config: Config,
        hub: HubConfig,
        services: Services,
        bus: Arc<dyn Bus>,
        tls: Option<Reloaded<ServerConfig>>,
        window: Duration,
    ) -> Self {
        config.drain_window = config.drain_window.min(window / 2);
        let hub = Hub::new(services, bus, hub);
        Self {
            app: App::new(config, hub.rules(), tls),
            hub,
            window,
        }
    }

    /// Serves phones over a bound listener.
    #[must_use]
    pub fn serve(self, phones: TcpListener, any_ended: &CancellationToken) -> Serving {
        let (app, hub) = (self.app, self.hub);
        Serving {
            hub: Part::start("the hub", any_ended, |stop| done(hub.run(stop))),
            edge: Part::start("the gateway", any_ended, |stop| app.run(phones, stop)),
            window: self.window,
        }
    }
}

/// The edge, serving.
pub struct Serving {
    edge: Part,
    hub: Part,
    window: Duration,
}

impl Serving {
    /// Answers the sockets and closes them, then gives the lease back, within
    /// [`SHARE`] of the drain window that began at `begun`.
    ///
    /// # Errors
    /// The first part that failed, ended by itself, or did not end in its share. Phones
    /// that hold on to their connections are cut off, which is no error.
    pub async fn end(self, begun: Instant) -> Result<(), Error> {
        let by = |share| begun + self.window.mul_f32(share);
        let outcome = match self.edge.end(by(GATEWAY_SHARE)).await {
            Err(Error::Late(_)) => {
                tracing::warn!("phones that did not let go are cut off");
                Ok(())
            }
            ended => ended,
        };
        outcome.and(self.hub.end(by(HUB_SHARE)).await)
    }
}

async fn done(part: impl Future<Output = ()>) -> Result<(), Error> {
    part.await;
    Ok(())
}
