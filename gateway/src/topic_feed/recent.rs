//! Whose messages a feed heard of last.

use std::collections::VecDeque;

use chassis::id::{Seq, UserId};
use proto::message::v1::{Entry, entry::Kind};

/// More than one call holds several times over: a call that fails is about messages
/// that are new.
const KEPT: usize = 1_024;

/// The owners and stamps of the newest entries, and where these stand.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(UserId, String, Seq)>);

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
        self.0
            .push_back((owner, message.stamp_id.clone(), Seq::new(entry.seq)));
    }

    /// Where this message stands, if it is among them.
    pub(super) fn seq_of(&self, owner: UserId, stamp: &str) -> Option<Seq> {
        let mut entries = self.0.iter();
        entries
            .find(|(other, known, _)| *other == owner && known == stamp)
            .map(|(_, _, seq)| *seq)
    }
}
