//! Many people in small topics, and what each says and hears over a bare websocket: a
//! process has room for thousands of them.

use std::net::SocketAddr;

use futures::{StreamExt, stream};
use proto::message::v1::Visibility;
use serde_json::{Value, json};
use tests::account::sign_up_patiently;
use tests::engine::{Eio, Ws};
use tests::history::{Membership, Message, body_of, now};

use crate::stack::Stack;

/// Members of each topic.
pub(crate) const MEMBERS: usize = 4;
/// Calls that make them at a time.
const AT_A_TIME: usize = 8;

/// Somebody, a member of one topic.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) id: i64,
    pub(crate) token: String,
    pub(crate) topic: i64,
    /// His place among the topic's members.
    pub(crate) place: usize,
}

/// Signs people up, as many as make whole topics, and makes these.
pub(crate) async fn gather(stack: &Stack, people: usize) -> (Vec<Person>, Vec<Membership>) {
    let topics = people.div_ceil(MEMBERS);
    let users = stream::iter(0..topics * MEMBERS)
        .map(|number| sign_up_patiently(stack.doors[number % stack.doors.len()]))
        .buffered(AT_A_TIME);
    let groups = users
        .chunks(MEMBERS)
        .enumerate()
        .map(|(number, users)| async move {
            let began = now();
            let ids: Vec<i64> = users.iter().map(|user| user.id).collect();
            let api = &stack.apis[number % stack.apis.len()];
            let topic = api.topic(Visibility::Private, &ids).await;
            let done = now();
            let members = users.into_iter().enumerate().map(|(place, user)| {
                let membership = Membership {
                    user: user.id,
                    topic,
                    joins: true,
                    began,
                    done,
                };
                let person = Person {
                    id: user.id,
                    token: user.token,
                    topic,
                    place,
                };
                (person, membership)
            });
            members.collect::<Vec<_>>()
        });
    let members: Vec<_> = groups.buffered(AT_A_TIME).collect().await;
    members.into_iter().flatten().unzip()
}

/// What a packet says.
pub(crate) enum Heard {
    SignedIn,
    /// A sign-in failed, for this reason.
    Refused(String),
    Sent(Box<Message>),
    Failed {
        stamp: String,
        code: String,
    },
    /// What means nothing here.
    Other,
}

/// Connects and asks to be signed in.
pub(crate) async fn connect(door: SocketAddr, person: &Person) -> Result<Ws, String> {
    let mut ws = Ws::connect(door, Eio::V4).await?;
    let request = json!(["signin_request", {"token": person.token}]);
    ws.send(&format!("42{request}")).await?;
    Ok(ws)
}

/// The packet that sends the message with this stamp.
pub(crate) fn message(topic: i64, stamp: &str) -> String {
    let request = json!({"topic_id": topic, "stamp_id": stamp, "body": body_of(stamp)});
    format!("42{}", json!(["message_events", request]))
}

/// Understands a packet; an error where it ends the connection or is none of ours.
pub(crate) fn understand(packet: &str) -> Result<Heard, String> {
    let Some(event) = packet.strip_prefix("42") else {
        return Err(format!("ended by {packet}"));
    };
    let (name, payload): (String, Value) =
        serde_json::from_str(event).map_err(|error| format!("{error}: {packet}"))?;
    let text = |key: &str| payload[key].as_str().unwrap_or_default().to_owned();
    Ok(match name.as_str() {
        "signin_response" if payload["status"] == "ok" => Heard::SignedIn,
        "signin_response" => Heard::Refused(text("code")),
        "message_events" if payload["event_type"] == "sent" => Heard::Sent(Box::new(
            Message::shown(&payload["data"]).ok_or_else(|| format!("no message: {packet}"))?,
        )),
        "message_events" => Heard::Failed {
            stamp: text("stamp_id"),
            code: text("code"),
        },
        _ => Heard::Other,
    })
}
