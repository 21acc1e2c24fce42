//! What listeners are sent: entries and typing, in the customer's words.

use chassis::id::{TopicId, UserId};
use proto::message::v1::{Entry, entry::Kind};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    frame::Frame,
    message::{MESSAGE_EVENTS, TYPING_EVENT},
};

#[derive(Serialize)]
struct Sent<'a> {
    event_type: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: i64,
    stamp_id: Option<&'a str>,
    topic_id: i64,
    owner: Owner<'a>,
    reply_to: Option<i64>,
    body: &'a str,
    attrs: Option<Box<RawValue>>,
    sent_at: i64,
    has_media: bool,
    seq: i64,
}

#[derive(Serialize)]
struct Owner<'a> {
    id: i64,
    username: &'a str,
}

/// The `sent` of an entry; `None` for a kind that phones are not told of.
pub(super) fn sent(entry: &Entry) -> Option<Frame> {
    let Kind::Message(message) = entry.kind.as_ref()?;
    let owner = entry.owner.as_ref()?;
    Some(Frame::event(
        MESSAGE_EVENTS,
        &Sent {
            event_type: "sent",
            data: Data {
                id: entry.id,
                stamp_id: some(&message.stamp_id),
                topic_id: entry.topic_id,
                owner: Owner {
                    id: owner.id,
                    username: &owner.username,
                },
                reply_to: (message.reply_to != 0).then_some(message.reply_to),
                body: &message.body,
                attrs: some(&message.attrs_json)
                    .and_then(|json| RawValue::from_string(json.to_owned()).ok()),
                sent_at: entry.sent_at_ms,
                has_media: message.has_media,
                seq: entry.seq,
            },
        },
    ))
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The broadcast of somebody who types: exactly these two keys.
pub(super) fn typing(topic: TopicId, user: UserId) -> Frame {
    #[derive(Serialize)]
    struct Typing {
        user_id: UserId,
        topic_id: TopicId,
    }
    Frame::event(
        TYPING_EVENT,
        &Typing {
            user_id: user,
            topic_id: topic,
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::message::v1::{Author, Message};

    use super::*;
    use crate::frame::Generation;

    #[test]
    fn a_sent_has_the_customers_keys_and_the_seq() {
        let mut entry = Entry {
            id: 5357,
            topic_id: 49,
            seq: 12,
            sent_at_ms: 1_455_667_133_264,
            owner: Some(Author {
                id: 15,
                username: "Sardor".into(),
            }),
            kind: Some(Kind::Message(Message {
                stamp_id: "6D0F4Z15".into(),
                body: "foobar".into(),
                ..Message::default()
            })),
        };
        assert_eq!(
            sent(&entry).unwrap().text(Generation::Eio4).as_str(),
            r#"2["message_events",{"event_type":"sent","data":{"id":5357,"stamp_id":"6D0F4Z15","topic_id":49,"owner":{"id":15,"username":"Sardor"},"reply_to":null,"body":"foobar","attrs":null,"sent_at":1455667133264,"has_media":false,"seq":12}}]"#
        );
        let Some(Kind::Message(message)) = &mut entry.kind else {
            return;
        };
        message.stamp_id.clear();
        message.reply_to = 5356;
        message.attrs_json = r#"{"lat":41.31100000000000000001,"n":1e400}"#.into();
        let frame = sent(&entry).unwrap();
        let packet = frame.text(Generation::Eio4);
        assert!(packet.contains(r#""stamp_id":null,"#));
        assert!(packet.contains(r#""reply_to":5356,"#));
        assert!(packet.contains(r#""attrs":{"lat":41.31100000000000000001,"n":1e400},"#));
    }
}
