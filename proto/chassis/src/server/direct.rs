//! One method of a service in this process, called with its message and not with the bytes
//! of it. What stands around it is what stands around a call over a socket, but for what a
//! caller does who has another replica to try: there is none here.
//!
//! It is for what is called for each message that somebody sends: encoding, an HTTP request
//! and its way through the router take longer than all that the method itself does.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use tonic::{Code, Request, Response, Status};

use super::{Measure, Services};
use crate::{
    call::Call,
    methods::{self, Method},
};

type Handler<Q, A> =
    dyn Fn(Request<Q>) -> BoxFuture<'static, Result<Response<A>, Status>> + Send + Sync;

/// A method that takes a `Q` and answers with an `A`. Clones share the limit of its services.
pub struct Direct<Q, A> {
    services: Services,
    path: &'static str,
    method: Option<&'static Method>,
    handler: Arc<Handler<Q, A>>,
}

impl Services {
    /// The method of this path, which does what `handler` does.
    pub fn direct<Q, A>(
        &self,
        path: &'static str,
        handler: impl Fn(Request<Q>) -> BoxFuture<'static, Result<Response<A>, Status>>
        + Send
        + Sync
        + 'static,
    ) -> Direct<Q, A> {
        Direct {
            services: self.clone(),
            path,
            method: methods::find(path),
            handler: Arc::new(handler),
        }
    }
}

impl<Q, A> Direct<Q, A> {
    /// Calls it, with a request as [`Call::request`] makes it.
    ///
    /// # Errors
    /// Those of the method and of the layers, as over a socket.
    pub async fn call(&self, request: Request<Q>) -> Result<A, Status> {
        let mut measure = Measure::begin(self.method);
        let answer = self.answer(request).await;
        measure.code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        answer
    }

    async fn answer(&self, mut request: Request<Q>) -> Result<A, Status> {
        let call = Services::arrived(Call::take_from(&mut request))?;
        let (deadline, trace) = (call.deadline, call.trace);
        request.extensions_mut().insert(call);
        let work = (self.handler)(request);
        let in_flight = &self.services.in_flight;
        let answered = Services::work(in_flight, self.path, deadline, trace, work).await?;
        answered.map(Response::into_inner)
    }
}

impl<Q, A> Clone for Direct<Q, A> {
    fn clone(&self) -> Self {
        Self {
            services: self.services.clone(),
            path: self.path,
            method: self.method,
            handler: Arc::clone(&self.handler),
        }
    }
}

impl<Q, A> fmt::Debug for Direct<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Direct").field(&self.path).finish()
    }
}
