//! What the gateways are told over the bus, which may lose it: of entries and of
//! memberships at once, and for ten seconds again, every second, so that a loss
//! heals soon. What is not announced for want of room heals by their sweeps.

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chassis::{
    bus::{Bus, Subject},
    id::{Seq, TopicId, UserId},
};
use prost::Message as _;
use proto::event::v1::{
    EntriesAppended, HeadsAnnounced, Joined, Left, MembershipChanged, TopicEvent, UserEvent,
    membership_changed::Change, topic_event, user_event,
};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    directory::{MembershipAnnouncer, MembershipChange},
    entry::Placed,
    grpc::convert,
    log::Announcer,
};

/// An event of entries ends with the one that fills this; brokers take 1 MiB by default.
const EVENT_BYTES: usize = 256 * 1024;

/// How often what changed lately is announced again.
const INTERVAL: Duration = Duration::from_secs(1);

/// For how long.
const LATELY: Duration = Duration::from_secs(10);

/// Most heads in one event.
const HEADS_AT_ONCE: usize = 1_000;

/// Most topics whose heads are announced again: about 5 MB.
const MAX_HEADS: usize = 100_000;

/// Most changes of memberships that are announced again: about 2 MB.
const MAX_CHANGES: usize = 10_000;

/// How many of them without a pause: each wakes its user's task, and who has something to say
/// must not wait behind all of them.
const CHANGES_AT_ONCE: usize = 64;

/// Behind these, and behind an event of heads, each of which every gateway looks up. The most
/// that may be announced again takes about as long as the interval.
const PAUSE: Duration = Duration::from_millis(3);

/// Publishes events, and again for a while.
pub(crate) struct Announcements {
    bus: Arc<dyn Bus>,
    heads: Mutex<HashMap<TopicId, (Seq, Instant)>>,
    changes: Mutex<VecDeque<(UserId, Bytes, Instant)>>,
}

impl Announcements {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            heads: Mutex::default(),
            changes: Mutex::default(),
        }
    }

    /// Announces again what changed lately, every second until `stop`.
    pub(crate) async fn repeat(&self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = async || {
            ticks.tick().await;
            self.repeat_heads().await;
            self.repeat_changes().await;
        };
        while stop.run_until_cancelled(round()).await.is_some() {}
    }

    async fn repeat_heads(&self) {
        let now = Instant::now();
        let heads: Vec<_> = {
            let mut heads = locked(&self.heads);
            heads.retain(|_, (_, since)| now.duration_since(*since) < LATELY);
            heads
                .iter()
                .map(|(topic, (seq, _))| convert::head(*topic, *seq))
                .collect()
        };
        for heads in heads.chunks(HEADS_AT_ONCE) {
            let event = HeadsAnnounced {
                heads: heads.to_vec(),
            };
            self.bus
                .publish(Subject::Heads, event.encode_to_vec().into());
            sleep(PAUSE).await;
        }
    }

    async fn repeat_changes(&self) {
        let changes: Vec<_> = {
            let mut changes = locked(&self.changes);
            while changes
                .front()
                .is_some_and(|(_, _, since)| since.elapsed() >= LATELY)
            {
                changes.pop_front();
            }
            let again = changes.iter();
            again
                .map(|(user, event, _)| (*user, event.clone()))
                .collect()
        };
        for changes in changes.chunks(CHANGES_AT_ONCE) {
            for (user, event) in changes {
                self.bus.publish(Subject::User(*user), event.clone());
            }
            sleep(PAUSE).await;
        }
    }

    fn publish_entries(&self, topic: TopicId, entries: Vec<proto::message::v1::Entry>) {
        let event = TopicEvent {
            event: Some(topic_event::Event::EntriesAppended(EntriesAppended {
                entries,
            })),
        };
        self.bus
            .publish(Subject::Topic(topic), event.encode_to_vec().into());
    }
}

impl Announcer for Announcements {
    fn appended(&self, entries: &[Placed]) {
        let Some(last) = entries.last() else { return };
        let mut event = Vec::new();
        let mut bytes = 0;
        for placed in entries {
            let entry = convert::entry(placed);
            let size = entry.encoded_len();
            if bytes + size > EVENT_BYTES && !event.is_empty() {
                self.publish_entries(last.topic, std::mem::take(&mut event));
                bytes = 0;
            }
            bytes += size;
            event.push(entry);
        }
        self.publish_entries(last.topic, event);

        let mut heads = locked(&self.heads);
        let is_full = heads.len() >= MAX_HEADS;
        match heads.entry(last.topic) {
            hash_map::Entry::Occupied(mut head) => {
                head.insert((last.seq.max(head.get().0), Instant::now()));
            }
            hash_map::Entry::Vacant(_) if is_full => not_repeated("head"),
            hash_map::Entry::Vacant(head) => {
                head.insert((last.seq, Instant::now()));
            }
        }
    }
}

impl MembershipAnnouncer for Announcements {
    fn changed(&self, user: UserId, version: i64, change: MembershipChange) {
        let (topic_id, change) = match change {
            MembershipChange::Enrolled => (0, None),
            MembershipChange::Joined(topic, head) => {
                let joined_at_seq = head.get();
                (topic.get(), Some(Change::Joined(Joined { joined_at_seq })))
            }
            MembershipChange::Left(topic) => {
                (topic.get(), Some(Change::Left(Left { removed: false })))
            }
            MembershipChange::Removed(topic) => {
                (topic.get(), Some(Change::Left(Left { removed: true })))
            }
        };
        let event = UserEvent {
            event: Some(user_event::Event::MembershipChanged(MembershipChanged {
                user_id: user.get(),
                version,
                topic_id,
                change,
            })),
        };
        let event = Bytes::from(event.encode_to_vec());
        self.bus.publish(Subject::User(user), event.clone());

        let mut changes = locked(&self.changes);
        if changes.len() < MAX_CHANGES {
            changes.push_back((user, event, Instant::now()));
        } else {
            not_repeated("membership");
        }
    }
}

fn not_repeated(kind: &'static str) {
    metrics::counter!("drivers_message_announcements_not_repeated_total", "kind" => kind)
        .increment(1);
}

/// No code panics while it holds one of these locks, and either map is whole at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
