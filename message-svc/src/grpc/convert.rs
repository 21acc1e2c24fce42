//! From what the rules speak of to what the schema says.

use chassis::id::Seq;
use proto::message::v1 as pb;

use crate::{
    entry::{Kind, Placed, Stamp},
    log::Sent,
    store::{Membership, Room, Topic, Visibility},
};

pub(crate) fn entry(placed: &Placed) -> pb::Entry {
    let entry = &placed.entry;
    let Kind::Message(content) = &entry.kind;
    let stamp_id = match &entry.stamp {
        Stamp::Given(text) => text.clone(),
        Stamp::MadeUp(_) => String::new(),
    };
    pb::Entry {
        id: placed.id.get(),
        topic_id: placed.topic.get(),
        seq: placed.seq.get(),
        sent_at_ms: entry.sent_at_ms,
        owner: Some(pb::Author {
            id: entry.owner.get(),
            username: entry.owner_name.clone(),
        }),
        kind: Some(pb::entry::Kind::Message(pb::Message {
            stamp_id,
            body: content.body.clone(),
            reply_to: content.reply_to.map_or(0, |id| id.get()),
            attrs_json: content.attrs.clone().unwrap_or_default(),
            has_media: content.has_media,
        })),
    }
}

pub(super) fn sent(sent: &Sent) -> pb::Sent {
    pb::Sent {
        entry: Some(entry(&sent.placed)),
        duplicate: sent.duplicate,
    }
}

pub(crate) fn head(topic: chassis::id::TopicId, seq: Seq) -> pb::Head {
    pb::Head {
        topic_id: topic.get(),
        seq: seq.get(),
    }
}

pub(super) fn room(room: Room) -> pb::Room {
    pb::Room {
        id: room.id.get(),
        title: room.title,
        create_time_ms: room.create_time_ms,
    }
}

pub(super) fn topic(topic: Topic) -> pb::Topic {
    pb::Topic {
        id: topic.id.get(),
        room_id: topic.room.get(),
        title: topic.title,
        visibility: match topic.visibility {
            Visibility::Open => pb::Visibility::Open,
            Visibility::Private => pb::Visibility::Private,
        }
        .into(),
        closed: topic.closed,
        is_default: topic.is_default,
        create_time_ms: topic.create_time_ms,
    }
}

pub(super) fn membership(membership: Membership) -> pb::Membership {
    pb::Membership {
        topic_id: membership.topic.get(),
        user_id: membership.user.get(),
        joined_at_seq: membership.joined_at.get(),
        join_time_ms: membership.join_time_ms,
    }
}
