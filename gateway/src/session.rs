//! One socket from its connecting to its end: who it is, and what it may do.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use socketioxide_core::{
    Value,
    packet::{ConnectPacket, Packet, PacketData},
    parser::{Parse, ParseConfig, ParseError, ParserState},
};
use socketioxide_parser_common::CommonParser;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::FailCode,
    frame::{Frame, Generation},
    message::{
        self, Event, MESSAGE_EVENTS, SIGNIN_REQUEST, SignInFailure, TYPING_EVENT, message_failure,
        sign_in_failure, sign_in_success, typing_failure,
    },
    outbox::{EndReason, Outbox, Reply},
    rate_limit::Limiter,
    rules::{AuthError, Rules, SessionHandle, SignedIn},
    socket::{Inbound, MAX_FRAME, Peer, Receiver, Sockets},
    turnstile::Turnstile,
};

/// The socket is ended at this failure to sign in.
const MAX_FAILURES: u32 = 5;
/// Typing that is being told at a time; what comes behind waits.
const MAX_TYPING: usize = 8;
/// Pauses between the tries to check a token that can't be checked.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The worker behind one socket.
pub(crate) struct Session {
    rules: Arc<dyn Rules>,
    limiter: Arc<Limiter>,
    auth_timeout: Duration,
    turnstile: Turnstile,
    opened: Instant,
    peer: Arc<Peer>,
    outbox: Outbox,
    received: Receiver,
    parser: ParserState,
    /// The client is in the namespace `/`.
    connected: bool,
    failures: u32,
    member: Option<Member>,
    typing: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// A session that was given to the rules, and has to be taken back.
struct Member {
    rules: Arc<dyn Rules>,
    handle: Arc<SessionHandle>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.rules.leave(&self.handle);
    }
}

/// An event on its way.
struct Request {
    event: Event,
    ack: Option<i64>,
}

impl Session {
    pub(crate) fn new(sockets: &Sockets, peer: Arc<Peer>, received: Receiver) -> Self {
        Self {
            rules: sockets.rules.clone(),
            limiter: sockets.limiter.clone(),
            auth_timeout: sockets.config.auth_timeout,
            turnstile: sockets.turnstile.clone(),
            opened: Instant::now(),
            outbox: peer.outbox.clone(),
            connected: peer.outbox.generation() == Generation::Eio3,
            peer,
            received,
            parser: ParserState::default(),
            failures: 0,
            member: None,
            typing: FuturesUnordered::new(),
        }
    }

    /// Serves the socket until it has ended, for whatever reason.
    pub(crate) async fn run(mut self) {
        let outbox = self.outbox.clone();
        tokio::select! {
            biased;
            () = outbox.ended() => {}
            reason = self.serve() => outbox.end(reason),
        }
    }

    async fn serve(&mut self) -> EndReason {
        let deadline = self.opened + self.auth_timeout;
        match timeout_at(deadline, self.sign_in_first(deadline)).await {
            Err(_) => return EndReason::AuthTimeout,
            Ok(Err(reason)) => return reason,
            Ok(Ok(())) => {}
        }
        loop {
            match self.next().await {
                Ok(request) => {
                    if let Err(reason) = self.handle(request).await {
                        return reason;
                    }
                }
                Err(reason) => return reason,
            }
        }
    }

    async fn sign_in_first(&mut self, deadline: Instant) -> Result<(), EndReason> {
        while self.member.is_none() {
            let request = self.next().await?;
            if request.event.name == SIGNIN_REQUEST {
                self.turnstile.pass().await;
                self.sign_in(request, deadline).await?;
            } else {
                let refusal = FailCode::NotAuthenticated;
                self.refuse(&request, refusal, refusal.sentence());
                return Err(EndReason::NotAuthenticated);
            }
        }
        Ok(())
    }

    /// The next event for us.
    async fn next(&mut self) -> Result<Request, EndReason> {
        loop {
            let inbound = tokio::select! {
                biased;
                Some(()) = self.typing.next() => continue,
                inbound = self.received.recv(), if self.typing.len() < MAX_TYPING => inbound,
            };
            let inbound = inbound.ok_or(EndReason::Left)?;
            if let Some(request) = self.read(inbound)? {
                return Ok(request);
            }
        }
    }

    /// Makes a packet out of what came, and an event out of it. What can't be
    /// read is dropped from those who are signed in, and ends the others.
    fn read(&mut self, inbound: Inbound) -> Result<Option<Request>, EndReason> {
        let limits = ParseConfig {
            max_incoming_binary_buf_size: MAX_FRAME,
            max_incoming_binaries: 16,
            ..ParseConfig::default()
        };
        let packet = match inbound {
            Inbound::Text(text) => {
                match CommonParser.decode_str(&limits, &self.parser, text.clone()) {
                    // The attachments of the event before never came: that event is
                    // dropped, not this one.
                    Err(ParseError::UnexpectedStringPacket) => {
                        self.parser = ParserState::default();
                        self.unreadable()?;
                        CommonParser.decode_str(&limits, &self.parser, text)
                    }
                    packet => packet,
                }
            }
            Inbound::Binary(bytes) => CommonParser.decode_bin(&limits, &self.parser, bytes),
        };
        let packet = match packet {
            Ok(packet) => packet,
            Err(ParseError::NeedsMoreBinaryData) => return Ok(None),
            Err(_) => {
                self.parser = ParserState::default();
                return self.unreadable();
            }
        };
        let namespace = packet.ns.split('?').next().unwrap_or_default();
        if namespace != "/" {
            if let PacketData::Connect(_) = packet.inner {
                self.send(Packet::connect_error(
                    namespace.to_owned(),
                    "Invalid namespace",
                ));
            }
            return Ok(None);
        }
        match packet.inner {
            PacketData::Connect(_) => {
                self.connect();
                Ok(None)
            }
            PacketData::Disconnect => Err(EndReason::Left),
            _ if !self.connected => Err(EndReason::Protocol),
            PacketData::Event(Value::Str(arguments, _), ack) => match Event::parse(&arguments) {
                Some(event) => Ok(Some(Request { event, ack })),
                None => self.unreadable(),
            },
            PacketData::BinaryEvent(Value::Str(arguments, _), ack) => {
                match Event::parse(&arguments) {
                    Some(event) => Ok(Some(Request {
                        event: Event {
                            payload: Err(message::NotJson),
                            ..event
                        },
                        ack,
                    })),
                    None => self.unreadable(),
                }
            }
            _ => Ok(None),
        }
    }

    fn unreadable(&self) -> Result<Option<Request>, EndReason> {
        metrics::counter!("drivers_gateway_unreadable_packets_total").increment(1);
        if self.member.is_some() {
            Ok(None)
        } else {
            Err(EndReason::Protocol)
        }
    }

    fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        let sid = engineioxide::socket::Sid::new();
        let payload = CommonParser.encode_default(&ConnectPacket { sid }).ok();
        self.send(Packet::connect("/", payload));
    }

    fn send(&self, packet: Packet) {
        self.outbox.push(&Frame::packet(packet));
    }

    fn reply(&self, ack: Option<i64>) -> Reply {
        Reply::new(self.outbox.clone(), ack)
    }

    /// Answers an event, and its acknowledgement with the same payload.
    fn answer(&self, ack: Option<i64>, frame: &Frame) {
        self.reply(ack).answer(frame);
    }

    /// Answers an event with its own kind of failure; an unknown one has none.
    fn refuse(&self, request: &Request, code: FailCode, sentence: &str) {
        match request.event.name.as_str() {
            MESSAGE_EVENTS => {
                let payload = request.event.payload.as_ref().ok();
                let stamp = message::stamp_of(payload.and_then(Option::as_deref));
                let failure = message_failure(code, sentence, stamp.as_deref());
                self.answer(request.ack, &failure);
            }
            TYPING_EVENT => self.answer(request.ack, &typing_failure(code, sentence)),
            _ => {}
        }
    }

    async fn handle(&mut self, request: Request) -> Result<(), EndReason> {
        let Some(handle) = self.member.as_ref().map(|member| member.handle.clone()) else {
            return Err(EndReason::NotAuthenticated);
        };
        match request.event.name.as_str() {
            SIGNIN_REQUEST => {
                let deadline = Instant::now() + self.auth_timeout;
                self.sign_in(request, deadline).await?;
            }
            MESSAGE_EVENTS => self.message(&handle, &request),
            TYPING_EVENT => self.type_in(handle, request),
            _ => {}
        }
        Ok(())
    }

    fn message(&self, handle: &Arc<SessionHandle>, request: &Request) {
        let Ok(payload) = &request.event.payload else {
            return self.refuse(request, FailCode::InvalidMessage, NOT_JSON);
        };
        match message::new_message(payload.as_deref()) {
            Err(invalid) => self.refuse(request, FailCode::InvalidMessage, invalid.rule),
            Ok(_) if !self.limiter.message(handle.user.user_id) => {
                let code = FailCode::RateLimited;
                self.refuse(request, code, code.sentence());
            }
            Ok(message) => {
                self.rules.send(handle, message, self.reply(request.ack));
            }
        }
    }

    fn type_in(&self, handle: Arc<SessionHandle>, request: Request) {
        let Ok(payload) = &request.event.payload else {
            return self.refuse(&request, FailCode::InvalidMessage, NOT_JSON);
        };
        let topic = match message::typing(payload.as_deref()) {
            Ok((user, topic)) if user == handle.user.user_id => topic,
            Ok(_) => {
                let rule = "user_id must be your own";
                return self.refuse(&request, FailCode::InvalidMessage, rule);
            }
            Err(rule) => return self.refuse(&request, FailCode::InvalidMessage, rule),
        };
        if !self.limiter.typing(handle.user.user_id) {
            let code = FailCode::RateLimited;
            return self.refuse(&request, code, code.sentence());
        }
        let (rules, reply) = (self.rules.clone(), self.reply(request.ack));
        self.typing.push(Box::pin(async move {
            if let Err(error) = rules.typing(&handle, topic).await {
                let code = FailCode::from(error);
                reply.answer(&typing_failure(code, code.sentence()));
            }
        }));
    }

    async fn sign_in(&mut self, request: Request, deadline: Instant) -> Result<(), EndReason> {
        let payload = request.event.payload.ok().flatten();
        let outcome = self.check(payload.as_deref(), deadline).await?;
        let (user, token_sha256) = match outcome {
            Ok(known) => known,
            Err(failure) => return self.failed(request.ack, failure),
        };
        if let Some(member) = &self.member {
            if member.handle.user.user_id != user.user_id {
                return self.failed(request.ack, SignInFailure::OtherUser);
            }
            self.answer(request.ack, &sign_in_success(&member.handle.user));
            return Ok(());
        }
        let handle = Arc::new(SessionHandle {
            session_id: rand::random(),
            user,
            token_sha256,
            outbox: self.outbox.clone(),
        });
        self.join(handle.clone(), deadline).await?;
        self.peer.set_signed_in();
        self.answer(request.ack, &sign_in_success(&handle.user));
        Ok(())
    }

    fn failed(&mut self, ack: Option<i64>, failure: SignInFailure) -> Result<(), EndReason> {
        self.answer(ack, &sign_in_failure(failure));
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Err(EndReason::TooManyFailures);
        }
        Ok(())
    }

    /// Whose token it is. While that can't be told it waits, until the deadline.
    async fn check(
        &mut self,
        payload: Option<&RawValue>,
        deadline: Instant,
    ) -> Result<Result<(SignedIn, [u8; 32]), SignInFailure>, EndReason> {
        let token = match message::token(payload) {
            Ok(token) => token,
            Err(failure) => return Ok(Err(failure)),
        };
        if !is_token(&token) {
            return Ok(Err(SignInFailure::InvalidToken));
        }
        let token_sha256 = Sha256::digest(token.as_bytes()).into();
        if let Some(member) = &self.member
            && member.handle.token_sha256 == token_sha256
        {
            // Were it not live any more, the session would be ended.
            return Ok(Ok((member.handle.user.clone(), token_sha256)));
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let asked = self.rules.authenticate(&token, deadline);
            match timeout_at(deadline, asked).await {
                Ok(Ok(user)) => return Ok(Ok((user, token_sha256))),
                Ok(Err(AuthError::Invalid)) => return Ok(Err(SignInFailure::InvalidToken)),
                Ok(Err(AuthError::Unavailable)) => wait(&mut pause, deadline).await?,
                Err(_) => return Err(EndReason::AuthTimeout),
            }
        }
    }

    async fn join(
        &mut self,
        handle: Arc<SessionHandle>,
        deadline: Instant,
    ) -> Result<(), EndReason> {
        let member = Member {
            rules: self.rules.clone(),
            handle: handle.clone(),
        };
        let mut pause = FIRST_PAUSE;
        while self.rules.join(handle.clone()).await.is_err() {
            wait(&mut pause, deadline).await?;
        }
        self.member = Some(member);
        Ok(())
    }
}

const NOT_JSON: &str = "the payload must be a JSON object";

/// Waits a little longer each time.
async fn wait(pause: &mut Duration, deadline: Instant) -> Result<(), EndReason> {
    let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
    timeout_at(deadline, sleep(jittered))
        .await
        .map_err(|_| EndReason::AuthTimeout)?;
    *pause = (*pause * 2).min(LAST_PAUSE);
    Ok(())
}

/// Whether a text has the form of our tokens. No other can be a live one.
fn is_token(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
