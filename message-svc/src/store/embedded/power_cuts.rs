//! The log on a disk whose power is cut while people talk.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chassis::{
    call::ActingUser,
    embedded::{Embedded, SimulatedDisk},
    id::{MessageId, Seq, TopicId, UserId},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::EmbeddedStore;
use crate::{
    entry::{Content, Placed, Stamp},
    error::Error,
    log::{Admission, Announcer, Log, LogConfig, Outgoing},
    store::{LogStore, StoreError},
};

const TOPICS: i64 = 3;
const SENDERS: i64 = 4;

struct Everybody;

#[async_trait]
impl Admission for Everybody {
    async fn admit(&self, _: TopicId, _: UserId) -> Result<(), Error> {
        Ok(())
    }
}

struct Nobody;

impl Announcer for Nobody {
    fn appended(&self, _: &[Placed]) {}
}

/// Names a message in the whole house.
type Name = (TopicId, UserId, Stamp);

/// What the senders know: it survives, as phones do.
#[derive(Default)]
struct Phones {
    /// How many messages each sender knows to be sent.
    sent: HashMap<(TopicId, UserId), u64>,
    acknowledged: BTreeMap<MessageId, Name>,
}

impl Phones {
    /// How many acknowledged messages are not there, or are another one.
    fn lost(&self, found: &HashMap<MessageId, Name>) -> usize {
        let kept = |(id, name): &(&MessageId, &Name)| found.get(id) == Some(name);
        self.acknowledged.iter().filter(|sent| !kept(sent)).count()
    }
}

/// What was found after power cuts.
#[derive(Debug, Default)]
struct Damage {
    acknowledged: usize,
    lost: usize,
    doubled: usize,
    holes: usize,
    unreadable: usize,
}

fn outgoing(owner: UserId, n: u64) -> Outgoing {
    Outgoing {
        owner: ActingUser {
            id: owner,
            username: format!("user {owner}"),
        },
        stamp: Some(Stamp::Given(n.to_string())),
        content: Content {
            body: format!("message {n} of {owner}"),
            reply_to: None,
            attrs: None,
            has_media: false,
        },
    }
}

/// One sender, until the power is cut: what he has no answer for he sends again.
async fn talk(log: Log, phones: Arc<Mutex<Phones>>, topic: TopicId, owner: UserId) {
    let next = || {
        phones
            .lock()
            .unwrap()
            .sent
            .get(&(topic, owner))
            .copied()
            .unwrap_or(0)
    };
    loop {
        let first = next();
        let count = 1 + first % 3;
        let messages = (first..first + count).map(|n| outgoing(owner, n)).collect();
        let deadline = (Instant::now() + Duration::from_secs(60)).into();
        let results = log.send(topic, messages, deadline).await;
        let mut phones = phones.lock().unwrap();
        for (n, result) in (first..).zip(results) {
            let Ok(sent) = result else { break };
            assert_eq!(sent.placed.entry.stamp.text(), n.to_string());
            let name = (topic, owner, sent.placed.entry.stamp);
            phones.acknowledged.insert(sent.placed.id, name);
            phones.sent.insert((topic, owner), n + 1);
        }
    }
}

/// All entries of a topic, as they lie in the store; counts what is wrong with them.
async fn whole_log(
    store: &EmbeddedStore,
    topic: TopicId,
    damage: &mut Damage,
) -> Result<HashMap<MessageId, Name>, StoreError> {
    let mut ids = HashMap::new();
    let mut names = HashMap::new();
    let mut seq = Seq::new(1);
    while let Some(segment) = store.segment_at(topic, seq).await?
        && segment.first_seq == seq
    {
        let entries = store.read(&segment, 0..segment.capacity).await?;
        let full = entries.len() == segment.capacity as usize;
        for (slot, entry) in (0..).zip(entries) {
            let name = (topic, entry.owner, entry.stamp);
            damage.doubled += usize::from(names.insert(name.clone(), slot).is_some());
            ids.insert(segment.message_id(slot).unwrap(), name);
            seq = seq.next();
        }
        if !full {
            break;
        }
    }
    let head = store.heads(&[topic]).await?[0];
    damage.holes += usize::from(head.next() != seq);
    Ok(ids)
}

/// Everybody talks through so many power cuts on one disk.
async fn talk_through_power_cuts(seed: u64, cuts: u64, syncs_work: bool) -> Damage {
    let mut random = SmallRng::seed_from_u64(seed);
    let disk = SimulatedDisk::new(seed);
    let phones = Arc::new(Mutex::new(Phones::default()));
    let mut damage = Damage::default();
    for cut in 0..=cuts {
        let store = async {
            let db = Embedded::open_simulated(&disk, &EmbeddedStore::options()).ok()?;
            EmbeddedStore::new(db).await.ok()
        };
        let Some(store) = store.await else {
            damage.unreadable += 1;
            return damage;
        };
        let mut found = HashMap::new();
        for topic in (1..=TOPICS).filter_map(TopicId::new) {
            match whole_log(&store, topic, &mut damage).await {
                Ok(log) => found.extend(log),
                Err(_) => damage.unreadable += 1,
            }
        }
        {
            let phones = phones.lock().unwrap();
            damage.acknowledged = phones.acknowledged.len();
            damage.lost += phones.lost(&found);
        }
        if cut == cuts {
            break;
        }

        disk.set_syncs_work(syncs_work);
        disk.cut_power_after(random.random_range(10..400));
        let config = LogConfig {
            segment_capacity: 16,
            ..LogConfig::default()
        };
        let log = Log::new(
            Arc::new(store),
            Arc::new(Everybody),
            Arc::new(Nobody),
            config,
        );
        let mut senders = JoinSet::new();
        for topic in (1..=TOPICS).filter_map(TopicId::new) {
            for owner in (1..=SENDERS).filter_map(UserId::new) {
                senders.spawn(talk(log.clone(), phones.clone(), topic, owner));
            }
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while disk.cuts() == cut {
            assert!(Instant::now() < deadline, "the power was not cut");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        senders.shutdown().await;
    }
    damage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_power_cuts_lose_nothing_and_double_nothing() {
    for seed in 0..20 {
        let damage = talk_through_power_cuts(seed, 10, true).await;
        let wrong = [damage.lost, damage.doubled, damage.holes, damage.unreadable];
        assert_eq!(wrong, [0; 4], "seed {seed}: {damage:?}");
        assert!(damage.acknowledged > 200, "seed {seed}: {damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_syncs_power_cuts_are_seen_to_lose_messages() {
    let (mut lost, mut unreadable) = (0, 0);
    for seed in 0..10 {
        let damage = talk_through_power_cuts(seed, 1, false).await;
        lost += damage.lost;
        unreadable += damage.unreadable;
    }
    assert!(lost > 0, "nothing lost, {unreadable} unreadable");
}
