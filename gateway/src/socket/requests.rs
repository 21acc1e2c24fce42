//! The HTTP requests of Socket.IO, before and after Engine.IO sees them.

use std::{future::poll_fn, pin::pin, sync::Arc, task, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use engineioxide::{TransportType, config::EngineIoConfig, service::EngineIoService, socket::Sid};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_KEY, UPGRADE},
    request,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::{Service, util::ServiceExt};

use crate::{
    connection::Control,
    frame::Generation,
    outbox::EndReason,
    socket::{
        MAX_FRAME, Peer, Sockets, affinity,
        inbound::Room,
        payload::{Packets, messages},
        wire,
    },
};

/// Where Socket.IO is served.
pub(crate) const PATH: &str = "/socket.io";
/// The most that one polling body may have once signed in; before, one packet's worth.
const MAX_BODY: usize = 2 << 20;
/// What a websocket reads at once. Each keeps that much, and most wait for a heartbeat.
const READ_BUFFER: usize = 512;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// Engine.IO with our rules around it.
#[derive(Clone)]
pub(crate) struct Requests {
    sockets: Arc<Sockets>,
    engine: EngineIoService<Sockets>,
}

impl Requests {
    pub(crate) fn new(sockets: Arc<Sockets>) -> Self {
        let config = EngineIoConfig::builder()
            .req_path(PATH)
            .ping_interval(sockets.config.ping_interval)
            .ping_timeout(sockets.config.ping_timeout)
            .max_buffer_size(wire::QUEUE)
            .max_payload(MAX_BODY as u64)
            .ws_max_message_size(MAX_FRAME)
            .ws_max_frame_size(MAX_FRAME)
            .ws_read_buffer_size(READ_BUFFER)
            .build();
        Self {
            engine: EngineIoService::with_config(sockets.clone(), config),
            sockets,
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let query = Query::of(request.uri().query().unwrap_or_default());
        match self.serve(request, query).await {
            Ok(response) => response,
            Err(refusal) => refusal.into(),
        }
    }

    async fn serve(
        &self,
        request: Request<Incoming>,
        query: Query,
    ) -> Result<Response<Body>, Refusal> {
        let generation = query.generation.ok_or(Refusal::UnsupportedVersion)?;
        let transport = query.transport.ok_or(Refusal::UnknownTransport)?;
        if transport == TransportType::Websocket && !is_upgrade(request.headers()) {
            return Err(Refusal::BadRequest);
        }
        let Some(sid) = query.sid else {
            if request.method() != Method::GET {
                return Err(Refusal::BadHandshakeMethod);
            }
            if !self.sockets.has_room() {
                return Err(Refusal::Full);
            }
            let response = self.engine(request, Packets::whole(Bytes::new())).await;
            return Ok(match transport {
                TransportType::Polling => affinity::with_cookie(response).await,
                TransportType::Websocket => response,
            });
        };
        let peer = sid
            .parse()
            .ok()
            .and_then(|sid: Sid| self.sockets.peer(sid))
            .ok_or(Refusal::UnknownSession)?;
        if peer.outbox.generation() != generation {
            return Err(Refusal::BadRequest);
        }
        match (transport, request.method()) {
            (TransportType::Websocket, &Method::GET) => self.upgrade(request, &peer).await,
            (TransportType::Polling, &Method::GET) => Ok(self.poll(request, &peer).await),
            (TransportType::Polling, &Method::POST) => self.post(request, &peer).await,
            _ => Err(Refusal::BadRequest),
        }
    }

    async fn upgrade(
        &self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body>, Refusal> {
        if peer.outbox.is_ended() {
            return Err(Refusal::UnknownSession);
        }
        let control = request.extensions().get::<Arc<Control>>().cloned();
        if !control.is_some_and(|control| peer.attach(control)) {
            return Err(Refusal::BadRequest);
        }
        Ok(self.engine(request, Packets::whole(Bytes::new())).await)
    }

    async fn poll(&self, request: Request<Incoming>, peer: &Arc<Peer>) -> Response<Body> {
        let mut poll = Poll {
            peer,
            answered: false,
        };
        let mut answer = pin!(self.engine(request, Packets::whole(Bytes::new())));
        // Engine.IO ends a session whose poll comes in just when an upgrade begins:
        // it takes it for a second poll. So it comes in before, or not at all.
        let entered = poll_fn(|cx| {
            let entered = peer.unless_upgrading(|| answer.as_mut().poll(cx));
            task::Poll::Ready(entered)
        });
        let response = match entered.await {
            Some(task::Poll::Ready(response)) => response,
            Some(task::Poll::Pending) => answer.await,
            None => no_op(peer.outbox.generation()),
        };
        poll.answered = true;
        if response.status() != StatusCode::OK {
            return response;
        }
        let (parts, body) = response.into_parts();
        // It is in memory already.
        let body = body.collect().await.unwrap_or_default().to_bytes();
        let count = messages(peer.outbox.generation(), &body);
        peer.wire.polled(count, body.len());
        peer.outbox.pump();
        Response::from_parts(parts, Body::from(body))
    }

    async fn post(
        &self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> Result<Response<Body>, Refusal> {
        if peer.outbox.is_ended() {
            return Err(Refusal::UnknownSession);
        }
        let limit = if peer.is_signed_in() {
            MAX_BODY
        } else {
            MAX_FRAME
        };
        let announced = request.headers().get(CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > limit) {
            peer.outbox.end(EndReason::Protocol);
            return Err(Refusal::TooLarge);
        }
        let (parts, body) = request.into_parts();
        let body = match timeout(BODY_LIMIT, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                peer.outbox.end(EndReason::Protocol);
                return Err(Refusal::TooLarge);
            }
            Ok(Err(_)) | Err(_) => return Err(Refusal::BadRequest),
        };
        let is_binary = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind == "application/octet-stream");
        let packets = match peer.outbox.generation() {
            Generation::Eio3 if is_binary => Packets::whole(body),
            generation => Packets::split(generation, body).ok_or_else(|| {
                peer.outbox.end(EndReason::Protocol);
                Refusal::BadRequest
            })?,
        };
        let packets = packets.each_after(Room::new(peer.inbound.clone()));
        Ok(self.engine(Request::from_parts(parts, ()), packets).await)
    }

    async fn engine<B>(&self, request: Request<B>, body: Packets) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let parts = kept(parts);
        let mut engine = self.engine.clone();
        let Ok(engine) = ServiceExt::<Request<Packets>>::ready(&mut engine).await;
        let Ok(response) = Service::call(engine, Request::from_parts(parts, body)).await;
        response.map(Body::new)
    }
}

/// What stays in memory as long as the session: only what is needed later, and copied, for
/// these are parts of the buffer that the request was read into.
fn kept(mut parts: request::Parts) -> request::Parts {
    let mut headers = HeaderMap::new();
    for name in [CONTENT_TYPE, SEC_WEBSOCKET_KEY] {
        let value = parts.headers.get(&name).map(HeaderValue::as_bytes);
        if let Some(Ok(value)) = value.map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    parts.headers = headers;
    if let Ok(uri) = parts.uri.to_string().parse() {
        parts.uri = uri;
    }
    parts
}

/// The answer to a poll that comes during an upgrade.
fn no_op(generation: Generation) -> Response<Body> {
    let packet = match generation {
        Generation::Eio3 => "1:6",
        Generation::Eio4 => "6",
    };
    let mut response = Response::new(Body::from(packet));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    response
}

/// A poll whose client hangs up takes along what was put into its answer, so the
/// session must not go on as if nothing was lost.
struct Poll<'a> {
    peer: &'a Arc<Peer>,
    answered: bool,
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.peer.outbox.end(EndReason::Left);
        }
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_WEBSOCKET_KEY)
        && headers
            .get(UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// What a request says about itself; read as Engine.IO reads it, first come.
struct Query {
    generation: Option<Generation>,
    transport: Option<TransportType>,
    sid: Option<String>,
}

impl Query {
    fn of(query: &str) -> Self {
        let first = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key));
        Self {
            generation: match first("EIO=") {
                Some("3") => Some(Generation::Eio3),
                Some("4") => Some(Generation::Eio4),
                _ => None,
            },
            transport: first("transport=").and_then(|transport| transport.parse().ok()),
            sid: first("sid=").map(ToOwned::to_owned),
        }
    }
}

/// The errors of Engine.IO, <https://socket.io/docs/v4/server-api/#engineconnection_error>.
#[derive(Clone, Copy)]
enum Refusal {
    UnknownTransport,
    UnknownSession,
    BadHandshakeMethod,
    BadRequest,
    UnsupportedVersion,
    TooLarge,
    Full,
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let (status, body) = match refusal {
            Refusal::UnknownTransport => (400, r#"{"code":0,"message":"Transport unknown"}"#),
            Refusal::UnknownSession => (400, r#"{"code":1,"message":"Session ID unknown"}"#),
            Refusal::BadHandshakeMethod => (400, r#"{"code":2,"message":"Bad handshake method"}"#),
            Refusal::BadRequest => (400, r#"{"code":3,"message":"Bad request"}"#),
            Refusal::UnsupportedVersion => (
                400,
                r#"{"code":5,"message":"Unsupported protocol version"}"#,
            ),
            Refusal::TooLarge => (413, ""),
            Refusal::Full => (503, ""),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let headers = response.headers_mut();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if status == 503 {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
