//! What makes a lost event heal: heads as message-svc announces them, and, in
//! the background, the heads of all feeds, the versions of all users'
//! memberships and the tokens of all sockets here.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chassis::{
    bus::{Received, Subject},
    call::Call,
    id::{Seq, TopicId, UserId},
};
use futures::future;
use prost::Message as _;
use proto::{
    event::v1::HeadsAnnounced,
    message::v1::BatchGetMembershipVersionsRequest,
    user::v1::{BatchCheckTokensRequest, BatchCheckTokensResponse},
};
use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use crate::{heads, hub::House, members::end_revoked, rules::SessionHandle};

/// How long a round over all of a kind takes, at least.
const ROUND: Duration = Duration::from_secs(2);
/// Topics, users or tokens that are asked after in a second, at most: 20,000 of a kind in a
/// round, and more in longer ones.
const RATE: f64 = 10_000.0;
/// Things of one call; what the services take at most.
const BATCH: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(2);
/// After a call that failed.
const PAUSE: Duration = Duration::from_millis(250);

/// Parts in which the topics are asked after. All gateways ask the same replica after the same
/// part, and it reads a topic's head once for those who take one as old as this.
const PARTS: u64 = 16;
const MAX_AGE: Duration = Duration::from_secs(1);

/// Before the announcements are listened to again.
const ANNOUNCED_PAUSE: Duration = Duration::from_secs(1);

/// Tells the feeds of the heads that message-svc announces, until the gateway stops.
pub(crate) async fn announced(house: Arc<House>) {
    loop {
        match house.bus.subscribe(Subject::Heads).await {
            Ok(mut events) => loop {
                let event = tokio::select! {
                    () = house.stopped.cancelled() => return,
                    event = events.recv() => event,
                };
                match event {
                    Some(Received::Event(bytes)) => tell_heads(&house, bytes),
                    Some(Received::Lost) => {}
                    None => break,
                }
            },
            Err(error) => tracing::debug!(%error, "announced heads can't be followed yet"),
        }
        tokio::select! {
            () = house.stopped.cancelled() => return,
            () = sleep(ANNOUNCED_PAUSE) => {}
        }
    }
}

fn tell_heads(house: &House, bytes: Bytes) {
    match HeadsAnnounced::decode(bytes) {
        Ok(announced) => {
            for head in announced.heads {
                if let Some(topic) = TopicId::new(head.topic_id) {
                    house.feeds.tell_head(topic, Seq::new(head.seq));
                }
            }
        }
        Err(error) => tracing::warn!(%error, "an event can't be read"),
    }
}

/// Sweeps until the gateway stops.
pub(crate) async fn sweep(house: Arc<House>) {
    let house = &*house;
    let heads = rounds(house, parts, |topics| check_heads(house, topics));
    let users = |house: &House| batches(house.members.users());
    let versions = rounds(house, users, |users| check_versions(house, users));
    let sessions = |house: &House| batches(house.members.sessions());
    let tokens = rounds(house, sessions, |sessions| check_tokens(house, sessions));
    tokio::select! {
        () = house.stopped.cancelled() => {}
        never = future::join3(heads, versions, tokens) => match never.0 {},
    }
}

/// Checks all of a kind, batch by batch, again and again; from the beginning when the bus has
/// come back, for anything may have been lost. A batch that can't be checked has another turn, as
/// long as the others need not wait for it.
async fn rounds<T: Clone, F: Future<Output = bool>>(
    house: &House,
    all: impl Fn(&House) -> VecDeque<Vec<T>>,
    check: impl Fn(Vec<T>) -> F,
) -> Infallible {
    let mut reconnects = house.bus.reconnects();
    loop {
        let round = async {
            let end = Instant::now() + ROUND;
            let mut left = all(house);
            while let Some(batch) = left.pop_front() {
                let next = Instant::now() + Duration::from_secs_f64(batch.len() as f64 / RATE);
                if !check(batch.clone()).await && Instant::now() < end + ROUND {
                    left.push_back(batch);
                    sleep(PAUSE).await;
                }
                sleep_until(next).await;
            }
            sleep_until(end).await;
        };
        tokio::select! {
            () = round => {}
            Ok(()) = reconnects.changed() => {}
        }
    }
}

fn batches<T: Clone>(mut all: Vec<T>) -> VecDeque<Vec<T>> {
    // A round that is begun anew must not leave out the same ones each time.
    all.shuffle(&mut rand::rng());
    all.chunks(BATCH).map(<[T]>::to_vec).collect()
}

/// The followed topics, those of a part together.
fn parts(house: &House) -> VecDeque<Vec<TopicId>> {
    let mut parts: HashMap<u64, Vec<TopicId>> = HashMap::new();
    for topic in house.feeds.followed() {
        parts.entry(part_of(topic)).or_default().push(topic);
    }
    let mut parts: Vec<_> = parts.into_values().collect();
    parts.shuffle(&mut rand::rng());
    parts.into_iter().flat_map(batches).collect()
}

fn part_of(topic: TopicId) -> u64 {
    topic.get().cast_unsigned() % PARTS
}

async fn check_heads(house: &House, topics: Vec<TopicId>) -> bool {
    // The part's number stands for it where a replica is chosen.
    let part = topics
        .first()
        .and_then(|topic| TopicId::new(part_of(*topic).cast_signed() + 1));
    let call = Call::within(LIMIT);
    let call = match part {
        Some(part) => call.about(part),
        None => return true,
    };
    match heads::read(house, call, topics, MAX_AGE).await {
        Ok(found) => {
            for (topic, head) in found.read {
                house.feeds.tell_head(topic, head);
            }
            found.unread.is_empty()
        }
        Err(status) => failed("heads", &status),
    }
}

async fn check_versions(house: &House, users: Vec<UserId>) -> bool {
    let request = Call::within(LIMIT).request(BatchGetMembershipVersionsRequest {
        user_ids: users.iter().map(|user| user.get()).collect(),
        partial: true,
    });
    let mut client = house.services.message.clone();
    match client.batch_get_membership_versions(request).await {
        Ok(answer) => {
            let versions = answer.into_inner().versions;
            for (user, version) in users.iter().zip(&versions) {
                // Of others it is not known now.
                if *version >= 0 {
                    house.members.tell_version(*user, *version);
                }
            }
            versions.iter().all(|version| *version >= 0)
        }
        Err(status) => failed("memberships", &status),
    }
}

async fn check_tokens(house: &House, sessions: Vec<Arc<SessionHandle>>) -> bool {
    let request = Call::within(LIMIT).request(BatchCheckTokensRequest {
        token_sha256s: sessions
            .iter()
            .map(|session| Bytes::copy_from_slice(&session.token_sha256))
            .collect(),
        partial: true,
    });
    let mut client = house.services.user.clone();
    match client.batch_check_tokens(request).await {
        Ok(answer) => {
            let BatchCheckTokensResponse { live, unknown } = answer.into_inner();
            for (place, (session, live)) in sessions.iter().zip(live).enumerate() {
                let is_known = !unknown.get(place).copied().unwrap_or(false);
                if is_known && !live {
                    end_revoked(session);
                }
            }
            !unknown.contains(&true)
        }
        Err(status) => failed("tokens", &status),
    }
}

fn failed(what: &'static str, status: &Status) -> bool {
    tracing::debug!(what, code = ?status.code(), "a sweep has to ask again");
    false
}
