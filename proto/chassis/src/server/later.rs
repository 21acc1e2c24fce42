//! A service that is served before it is there.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use tonic::{Code, body::Body, server::NamedService};
use tower::{Service, ServiceExt as _};

use crate::status::Refusal;

/// About as long as a start lasts when nothing is in its way.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A service whose start may take its time: until it is there, callers are told
/// UNAVAILABLE at once. Clones share it.
#[derive(Debug)]
pub struct Later<S>(Arc<OnceLock<S>>);

impl<S> Later<S> {
    /// Not there yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(OnceLock::new()))
    }

    /// From now on it is this one. The first one stays.
    pub fn is(&self, service: S) {
        let _ = self.0.set(service);
    }
}

impl<S> Default for Later<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Later<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: NamedService> NamedService for Later<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Later<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.0.get() {
            Some(service) => service.clone().oneshot(request).boxed(),
            None => {
                let refusal = Refusal {
                    retry_after: Some(RETRY_AFTER),
                    ..Refusal::of_layer(
                        Code::Unavailable,
                        "STARTING",
                        "the service waits for its database",
                    )
                };
                std::future::ready(Ok(refusal.into_response())).boxed()
            }
        }
    }
}
