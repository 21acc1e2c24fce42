//! The edge: HTTPS sign-up and Socket.IO for the phones.
//!
//! [`App`] is everything between TCP and the [`rules`]: it holds sockets and no
//! data.

mod attrs;
mod concurrency;
pub mod config;
mod connection;
mod double_utf8;
mod drain;
pub mod edge;
pub mod error;
mod feeds;
pub mod frame;
mod heads;
mod http;
pub mod hub;
mod listener;
mod members;
pub mod message;
pub mod outbox;
mod presence;
pub mod program;
mod rate_limit;
mod reception;
pub mod rules;
mod session;
mod socket;
mod sweep;
#[cfg(test)]
mod tests;
mod topic_feed;
mod turns;
mod turnstile;

use std::{io, sync::Arc, time::Duration};

use chassis::{program::Error, tls::Reloaded};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    listener::Server,
    rate_limit::Limiter,
    reception::{Inside, Reception},
    rules::Rules,
    socket::{Sockets, requests::Requests},
    turnstile::{Turnstile, Turnstiles},
};

/// How often it is looked for sockets that take nothing.
const SWEEP: Duration = Duration::from_secs(1);
/// What the last sockets and connections may take beyond the drain window.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// The edge, ready to serve.
pub struct App {
    config: Config,
    sockets: Arc<Sockets>,
    limiter: Arc<Limiter>,
    server: Server,
}

impl App {
    /// An edge in front of `rules`; with `tls`, for `https` and `wss` only.
    ///
    /// # Panics
    /// Outside a runtime, which is the one that sockets are served in.
    #[must_use]
    pub fn new(config: Config, rules: Arc<dyn Rules>, tls: Option<Reloaded<ServerConfig>>) -> Self {
        let limiter = Arc::new(Limiter::new(&config.rate_limits));
        let sockets = Arc::new(Sockets::new(config.clone(), rules.clone(), limiter.clone()));
        let server = Server {
            requests: Requests::new(sockets.clone()),
            router: http::router(rules, limiter.clone()),
            tls,
            stall_timeout: config.stall_timeout,
            turnstiles: Turnstiles {
                reception: Turnstile::new(),
                inside: sockets.turnstile.clone(),
            },
            inside: Inside::here(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self {
            config,
            sockets,
            limiter,
            server,
        }
    }

    /// Serves until `shutdown`, then ends all sockets over the drain window.
    ///
    /// # Errors
    /// Connections can't be received: their threads can't be started, or the listener fails.
    /// Those that were are drained before it is told.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let failed = |source| Error::System {
            what: "receiving connections",
            source,
        };
        let reception = Reception::open().map_err(failed)?;
        let listener = listener.into_std().map_err(failed)?;
        let Server { stop, tasks, .. } = self.server.clone();
        let _turns = self.sockets.turns.start();
        let accepting = listener::accept(listener, self.server, self.config.max_connections);
        let receiving = reception.run(accepting);
        let ended = tokio::select! {
            ended = receiving => ended.map_err(io::Error::from).flatten().map_err(failed),
            () = sweep(&self.sockets, &self.limiter) => Ok(()),
            () = shutdown.cancelled() => Ok(()),
        };
        tasks.close();
        let drained = async {
            drain::drain(&self.sockets, self.config.drain_window).await;
            stop.cancel();
            tasks.wait().await;
        };
        let limit = self.config.drain_window + DRAIN_GRACE;
        if timeout(limit, drained).await.is_err() {
            stop.cancel();
            tracing::warn!("some connections did not end within the drain window");
        }
        ended
    }
}

async fn sweep(sockets: &Sockets, limiter: &Limiter) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seconds = 0_u64;
    loop {
        ticks.tick().await;
        sockets.end_stalled();
        seconds += 1;
        if seconds.is_multiple_of(60) {
            limiter.sweep();
        }
    }
}
