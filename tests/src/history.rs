//! What happened in a trial: what each client emitted and saw, what else was done and
//! broken, and what the log holds afterwards. Times are milliseconds since the Unix epoch.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::message::v1::{Entry, entry::Kind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A time; milliseconds since the Unix epoch.
pub type Moment = i64;

/// Now, by a clock that does not go back.
#[must_use]
pub fn now() -> Moment {
    static BEGAN: LazyLock<(Instant, Moment)> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.expect("a clock past 1970").as_millis();
        (Instant::now(), Moment::try_from(since).expect("a date"))
    });
    let (began, at) = &*BEGAN;
    at + Moment::try_from(began.elapsed().as_millis()).expect("a short trial")
}

/// A message as somebody was shown it, or as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: i64,
    /// Its topic.
    pub topic: i64,
    /// Its place in the topic.
    pub seq: i64,
    /// Who sent it.
    pub owner: i64,
    /// The stamp that its sender gave it; empty when he gave none.
    pub stamp: String,
    /// Its text.
    pub body: String,
    /// Its attributes as JSON; empty for none.
    pub attrs: String,
    /// Id of the message that it answers; 0 for none.
    pub reply_to: i64,
    /// When it was appended.
    pub sent_at: Moment,
}

impl Message {
    /// The `data` of a `sent`; `None` when that is not of this form.
    #[must_use]
    pub fn shown(data: &Value) -> Option<Self> {
        Some(Self {
            id: data["id"].as_i64()?,
            topic: data["topic_id"].as_i64()?,
            seq: data["seq"].as_i64()?,
            owner: data["owner"]["id"].as_i64()?,
            stamp: data["stamp_id"].as_str().unwrap_or_default().to_owned(),
            body: data["body"].as_str()?.to_owned(),
            attrs: match &data["attrs"] {
                Value::Null => String::new(),
                attrs => attrs.to_string(),
            },
            reply_to: data["reply_to"].as_i64().unwrap_or(0),
            sent_at: data["sent_at"].as_i64()?,
        })
    }

    /// An entry of the log.
    ///
    /// # Panics
    /// It is no message.
    #[must_use]
    pub fn stored(entry: &Entry) -> Self {
        let Some(Kind::Message(message)) = &entry.kind else {
            panic!("an entry without a message: {entry:?}");
        };
        Self {
            id: entry.id,
            topic: entry.topic_id,
            seq: entry.seq,
            owner: entry.owner.as_ref().map_or(0, |owner| owner.id),
            stamp: message.stamp_id.clone(),
            body: message.body.clone(),
            attrs: message.attrs_json.clone(),
            reply_to: message.reply_to,
            sent_at: entry.sent_at_ms,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The client ended it.
    ByClient,
    /// The server did, or something between; with the reason that the client was given.
    ByServer(String),
}

/// One connection of a client that signed in, or tried to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Whose it is.
    pub user: i64,
    /// Which client on which transport, for people.
    pub label: String,
    /// The number of the gateway that it went to.
    pub gateway: usize,
    /// Which of the user's tokens it showed.
    pub token: usize,
    /// When it began.
    pub opened: Moment,
    /// When it was told that it is signed in.
    pub signed_in: Option<Moment>,
    /// When it ended, and why; `None` for one that was open to the end.
    pub ended: Option<(Moment, End)>,
    /// What it emitted and saw, in this order.
    pub events: Vec<Event>,
}

/// One thing that a client did or saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Moment,
    /// What.
    pub what: What,
}

/// What a client did or saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum What {
    /// It emitted a message.
    Emitted {
        /// To this topic.
        topic: i64,
        /// With this stamp; its body is [`body_of`] that.
        stamp: String,
    },
    /// It was shown a message by `sent`.
    Shown(#[serde(serialize_with = "shared", deserialize_with = "sole")] Arc<Message>),
    /// It was told that somebody types.
    Typed {
        /// In this topic.
        topic: i64,
        /// Who.
        user: i64,
    },
    /// It was told of a failure.
    Failed {
        /// Of the message with this stamp.
        stamp: String,
        /// For this reason.
        code: String,
    },
    /// It was not let in.
    Refused {
        /// For this reason.
        code: String,
    },
}

/// The body of the message with this stamp.
#[must_use]
pub fn body_of(stamp: &str) -> String {
    format!("the message {stamp} of a trial")
}

/// A message that an internal service sent for a user, again and again until it was answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The user.
    pub user: i64,
    /// The topic.
    pub topic: i64,
    /// The stamp.
    pub stamp: String,
    /// When it was sent first.
    pub began: Moment,
    /// The answer.
    #[serde(serialize_with = "answer", deserialize_with = "sole_answer")]
    pub sent: Option<(Moment, Arc<Message>)>,
}

fn shared<S: Serializer>(message: &Arc<Message>, serializer: S) -> Result<S::Ok, S::Error> {
    message.as_ref().serialize(serializer)
}

fn answer<S: Serializer>(
    sent: &Option<(Moment, Arc<Message>)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let sent = sent.as_ref().map(|(at, message)| (at, message.as_ref()));
    sent.serialize(serializer)
}

fn sole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Message>, D::Error> {
    Message::deserialize(deserializer).map(Arc::new)
}

fn sole_answer<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<(Moment, Arc<Message>)>, D::Error> {
    let sent = Option::<(Moment, Message)>::deserialize(deserializer)?;
    Ok(sent.map(|(at, message)| (at, Arc::new(message))))
}

/// A user became a member of a topic, or no longer was one, at some time between two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// The user.
    pub user: i64,
    /// The topic.
    pub topic: i64,
    /// Whether he joined.
    pub joins: bool,
    /// Not before this.
    pub began: Moment,
    /// Not after this.
    pub done: Moment,
}

/// A token was revoked, at some time between two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// The user.
    pub user: i64,
    /// Which of his tokens.
    pub token: usize,
    /// Not before this.
    pub began: Moment,
    /// Not after this.
    pub done: Moment,
}

/// Something that was broken, from one time to another, when it answered its clients again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What was done, for example `kill message`.
    pub kind: String,
    /// To which of them.
    pub target: String,
    /// From then on.
    pub began: Moment,
    /// To this time.
    pub ended: Moment,
    /// The gateways whose listeners need not hear in time meanwhile.
    pub deafens: Vec<usize>,
    /// The gateways whose sockets may be cut off meanwhile.
    pub cuts: Vec<usize>,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// The connections.
    pub connections: Vec<Connection>,
    /// What services sent.
    pub calls: Vec<Call>,
    /// The changes of memberships, of each user and topic in their order.
    pub memberships: Vec<Membership>,
    /// The revoked tokens.
    pub revocations: Vec<Revocation>,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// The log of each topic as it was read last, in the order in which it was read.
    pub logs: BTreeMap<i64, Vec<Message>>,
    /// When the trial was over.
    pub over: Moment,
}

/// Where those who take part in a trial write down what happens.
#[derive(Default)]
pub struct Recorder {
    history: Mutex<History>,
    /// Listeners are shown the same thing: it is kept once.
    shown: Mutex<HashMap<Arc<Message>, ()>>,
}

impl Recorder {
    /// Adds something.
    pub fn add(&self, add: impl FnOnce(&mut History)) {
        add(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The one of all equal messages that is kept.
    #[must_use]
    pub fn keep(&self, message: Message) -> Arc<Message> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, ())) = shown.get_key_value(&message) {
            return Arc::clone(kept);
        }
        let kept = Arc::new(message);
        shown.insert(Arc::clone(&kept), ());
        kept
    }

    /// All that was written down.
    #[must_use]
    pub fn take(&self) -> History {
        std::mem::take(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
