//! Whose messages a feed heard of last.

use std::collections::VecDeque;

use chassis::id::UserId;
use proto::message::v1::{Entry, entry::Kind};

/// More than one call holds several times over: a call that fails is about messages
/// that are new.
const KEPT: usize = 1_024;

/// The owners and stamps of the newest entries.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(UserId, String)>);

impl Recent {
    /// Takes an entry in. Those without a stamp of the client are not looked for.
    pub(super) fn note(&mut self, entry: &Entry) {
        let owner = entry.owner.as_ref().and_then(|owner| UserId::new(owner.id));
        let (Some(owner), Some(Kind::Message(message))) = (owner, &entry.kind) else {
            return;
        };
        if message.stamp_id.is_empty() {
            return;
        }
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((owner, message.stamp_id.clone()));
    }

    /// Whether this message is among them.
    pub(super) fn holds(&self, owner: UserId, stamp: &str) -> bool {
        (self.0.iter()).any(|(other, known)| *other == owner && known == stamp)
    }
}
