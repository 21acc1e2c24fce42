//! What is said over a websocket: Socket.IO with our contract, or Centrifuge's JSON.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;

/// Centrifuge's calls have numbers: those of sends are this and that of the message.
const FIRST_SEND: u64 = 1_000_000;

/// Which protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Engine.IO 4, and the events of the contract.
    SocketIo,
    /// The client protocol of Centrifuge, as JSON.
    Centrifuge,
}

/// What a packet says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The connection stands, and has to be answered by what [`Dialect::sign_in`] says.
    Open,
    /// Signed in, a listener of all its topics.
    SignedIn,
    /// To be answered by this at once.
    Heartbeat(&'static str),
    /// A message, delivered.
    Message(Message),
    /// The message of this number was not sent, or something else was refused.
    Failed(Option<u64>, String),
    /// Somebody types.
    Typing,
    /// What means nothing here.
    Other,
}

/// A message as it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: i64,
    pub(crate) seq: u64,
    /// The number of the message, which its stamp says; none if it is not of this load.
    pub(crate) number: Option<u64>,
}

#[derive(Deserialize)]
struct Data<'a> {
    topic_id: i64,
    seq: u64,
    #[serde(borrow)]
    stamp_id: Option<Cow<'a, str>>,
}

impl From<Data<'_>> for Message {
    fn from(data: Data<'_>) -> Self {
        Self {
            topic: data.topic_id,
            seq: data.seq,
            number: data.stamp_id.as_deref().and_then(number),
        }
    }
}

fn number(stamp: &str) -> Option<u64> {
    stamp.parse().ok()
}

#[derive(Deserialize)]
struct Event<'a> {
    event_type: &'a str,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(default)]
    code: String,
    #[serde(borrow)]
    stamp_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Status<'a> {
    status: &'a str,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u64,
    error: Option<Refusal>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

impl Dialect {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
            Self::Centrifuge => "/connection/websocket",
        }
    }

    /// The packets in a frame, which may be several of Centrifuge's.
    pub(crate) fn packets(self, frame: &[u8]) -> impl Iterator<Item = &[u8]> {
        let separator = match self {
            Self::SocketIo => None,
            Self::Centrifuge => Some(b'\n'),
        };
        frame.split(move |byte| Some(*byte) == separator)
    }

    /// What is sent before anything came.
    pub(crate) fn greeting(self) -> Option<&'static str> {
        match self {
            Self::SocketIo => None,
            Self::Centrifuge => Some(r#"{"id":1,"connect":{}}"#),
        }
    }

    /// What answers [`Said::Open`]. A peer without accounts is told the topics by the token.
    pub(crate) fn sign_in(self, token: &str) -> Vec<String> {
        match self {
            Self::SocketIo => vec![format!("42{}", json!(["signin_request", {"token": token}]))],
            Self::Centrifuge => {
                let topics = token.split(',').enumerate();
                let subscribe = |(number, topic)| {
                    json!({"id": number + 2, "subscribe": {"channel": topic}}).to_string()
                };
                topics.map(subscribe).collect()
            }
        }
    }

    /// The packet that sends a message.
    pub(crate) fn message(self, topic: i64, number: u64, body: &str) -> String {
        let stamp = number.to_string();
        match self {
            Self::SocketIo => {
                let message = json!({"topic_id": topic, "stamp_id": stamp, "body": body});
                format!("42{}", json!(["message_events", message]))
            }
            Self::Centrifuge => {
                let data = json!({"topic_id": topic, "stamp_id": stamp, "body": body});
                json!({"id": FIRST_SEND + number, "publish": {"channel": topic.to_string(), "data": data}})
                    .to_string()
            }
        }
    }

    /// The packet that says that a user types; Centrifuge has a message for it.
    pub(crate) fn typing(self, topic: i64, user: i64) -> String {
        match self {
            Self::SocketIo => {
                let typing = json!({"topic_id": topic, "user_id": user});
                format!("42{}", json!(["typing_event", typing]))
            }
            Self::Centrifuge => self.message(topic, 0, ""),
        }
    }

    /// Understands a packet. `topics` is how many its connection listens to.
    pub(crate) fn understand(self, packet: &[u8], topics: usize) -> Result<Said, String> {
        let said = match self {
            Self::SocketIo => socket_io(packet),
            Self::Centrifuge => centrifuge(packet, topics),
        };
        said.ok_or_else(|| format!("not understood: {}", String::from_utf8_lossy(packet)))
    }
}

fn socket_io(packet: &[u8]) -> Option<Said> {
    if let Some(event) = packet.strip_prefix(br#"42["message_events","#) {
        let event: Event<'_> = serde_json::from_slice(event.strip_suffix(b"]")?).ok()?;
        return Some(match (event.event_type, event.data) {
            ("sent", Some(data)) => Said::Message(data.into()),
            _ => Said::Failed(event.stamp_id.as_deref().and_then(number), event.code),
        });
    }
    if let Some(event) = packet.strip_prefix(br#"42["signin_response","#) {
        let status: Status<'_> = serde_json::from_slice(event.strip_suffix(b"]")?).ok()?;
        return Some(match status.status {
            "ok" => Said::SignedIn,
            _ => Said::Failed(None, "the sign-in was refused".to_owned()),
        });
    }
    match packet {
        [b'0', ..] => Some(Said::Heartbeat("40")),
        b"2" => Some(Said::Heartbeat("3")),
        [b'4', b'0', ..] => Some(Said::Open),
        typing if typing.starts_with(br#"42["typing_event","#) => Some(Said::Typing),
        [b'4', b'2', ..] => Some(Said::Other),
        _ => None,
    }
}

fn centrifuge(packet: &[u8], topics: usize) -> Option<Said> {
    if packet == b"{}" {
        return Some(Said::Heartbeat("{}"));
    }
    let reply: Reply<'_> = serde_json::from_slice(packet).ok()?;
    if let Some(error) = reply.error {
        return Some(Said::Failed(
            reply.id.checked_sub(FIRST_SEND),
            error.message,
        ));
    }
    if let Some(publication) = reply.push.and_then(|push| push.publication) {
        return Some(Said::Message(publication.data.into()));
    }
    Some(match reply.id {
        1 => Said::Open,
        id if id == topics as u64 + 1 => Said::SignedIn,
        _ => Said::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = r#"{"event_type":"sent","data":{"id":5,"stamp_id":"77","topic_id":49,"owner":{"id":15,"username":"S"},"reply_to":null,"body":"x","attrs":null,"sent_at":1,"has_media":false,"seq":12}}"#;

    #[test]
    fn a_delivered_message_is_understood_in_both_dialects() {
        let message = Said::Message(Message {
            topic: 49,
            seq: 12,
            number: Some(77),
        });
        let packet = format!(r#"42["message_events",{SENT}]"#);
        let understood = Dialect::SocketIo.understand(packet.as_bytes(), 1);
        assert_eq!(understood.as_ref(), Ok(&message));
        let packet = r#"{"push":{"channel":"49","pub":{"data":{"topic_id":49,"stamp_id":"77","body":"x","seq":12}}}}"#;
        assert_eq!(
            Dialect::Centrifuge.understand(packet.as_bytes(), 1),
            Ok(message)
        );
    }

    #[test]
    fn a_failure_and_the_end_are_no_messages() {
        let failed = r#"42["message_events",{"event_type":"fail","data":null,"code":"unavailable","stamp_id":"7"}]"#;
        assert_eq!(
            Dialect::SocketIo.understand(failed.as_bytes(), 1),
            Ok(Said::Failed(Some(7), "unavailable".to_owned()))
        );
        assert!(Dialect::SocketIo.understand(b"41", 1).is_err());
        assert!(Dialect::SocketIo.understand(b"1", 1).is_err());
    }

    #[test]
    fn frames_of_centrifuge_hold_several_packets() {
        let packets: Vec<&[u8]> = Dialect::Centrifuge.packets(b"{}\n{\"id\":3}").collect();
        assert_eq!(packets, [&b"{}"[..], b"{\"id\":3}"]);
        assert_eq!(Dialect::SocketIo.packets(b"4\n2").count(), 1);
    }
}
