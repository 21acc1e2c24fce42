//! The feeds of all topics that somebody here listens to or sends to.

use std::sync::Arc;

use chassis::id::{Seq, TopicId};
use dashmap::{DashMap, Entry};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    hub::House,
    topic_feed::{Command, Progress, TopicFeed},
};

/// Commands that may wait for one feed.
const MAX_COMMANDS: usize = 8_192;

/// Every feed's mailbox. A mailbox is written to and removed under the same lock,
/// so that no command goes to a feed that has just ended.
#[derive(Default)]
pub(crate) struct Feeds {
    mailboxes: DashMap<TopicId, Mailbox>,
}

struct Mailbox {
    commands: mpsc::Sender<Command>,
    progress: Arc<Progress>,
}

impl Feeds {
    /// Tells the feed of a topic, which is made if there is none. Gives the
    /// command back when the feed, or the gateway, has too much to do.
    pub(crate) fn tell(
        &self,
        house: &Arc<House>,
        topic: TopicId,
        command: Command,
    ) -> Result<(), Command> {
        let full = self.mailboxes.len() >= house.config.max_topics;
        let mailbox = match self.mailboxes.entry(topic) {
            Entry::Occupied(mailbox) => mailbox.into_ref(),
            Entry::Vacant(_) if full => return Err(command),
            Entry::Vacant(vacant) => {
                let (commands, mail) = mpsc::channel(MAX_COMMANDS);
                let progress = Arc::new(Progress::new());
                let feed = TopicFeed::new(topic, Arc::clone(house), mail, Arc::clone(&progress));
                house.tasks.spawn(feed.run());
                vacant.insert(Mailbox { commands, progress })
            }
        };
        mailbox
            .commands
            .try_send(command)
            .map_err(|error| match error {
                TrySendError::Full(command) | TrySendError::Closed(command) => command,
            })
    }

    /// Tells the feed of a topic if there is one; false when it has too much to do.
    pub(crate) fn tell_if_there(&self, topic: TopicId, command: Command) -> bool {
        let told = (self.mailboxes.get(&topic))
            .map_or(Ok(()), |mailbox| mailbox.commands.try_send(command));
        let missed = matches!(told, Err(TrySendError::Full(_)));
        if missed {
            tracing::warn!(%topic, "a feed has too much to do and missed a command");
        }
        !missed
    }

    /// Tells a feed that an entry exists, if it does not know yet.
    pub(crate) fn tell_head(&self, topic: TopicId, head: Seq) {
        let behind =
            (self.mailboxes.get(&topic)).is_some_and(|mailbox| mailbox.progress.is_behind(head));
        if behind {
            self.tell_if_there(topic, Command::Head(head));
        }
    }

    /// The topics that are followed now.
    pub(crate) fn followed(&self) -> Vec<TopicId> {
        let mailboxes = self.mailboxes.iter();
        mailboxes
            .filter(|mailbox| mailbox.progress.is_followed())
            .map(|mailbox| *mailbox.key())
            .collect()
    }

    /// Removes a feed that wants to end, unless something has come for it.
    pub(crate) fn forget(&self, topic: TopicId, mail: &mpsc::Receiver<Command>) -> bool {
        (self.mailboxes)
            .remove_if(&topic, |_, _| mail.is_empty())
            .is_some()
    }
}
