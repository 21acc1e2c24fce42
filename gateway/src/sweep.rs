//! What makes a lost event heal: heads as message-svc announces them, and, in
//! the background, the heads of all feeds, the versions of all users'
//! memberships and the tokens of all sockets here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chassis::{
    bus::{Received, Subject},
    call::Call,
    id::{Seq, TopicId, UserId},
};
use prost::Message as _;
use proto::{
    event::v1::HeadsAnnounced, message::v1::BatchGetMembershipVersionsRequest,
    user::v1::BatchCheckTokensRequest,
};

use crate::{heads, hub::House, members::end_revoked};

/// How long after the end of a sweep the next one begins.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two calls of a sweep: at most 50 calls a second, so 50,000 topics,
/// users or tokens. A sweep of 20,000 of each takes 1.2 seconds and the answers' time.
const BETWEEN_CALLS: Duration = Duration::from_millis(20);
/// Things of one call; what the services take at most.
const BATCH: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(2);

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
            () = tokio::time::sleep(PAUSE) => {}
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

/// Sweeps until the gateway stops; at once when the bus has come back.
pub(crate) async fn sweep(house: Arc<House>) {
    let mut reconnects = house.bus.reconnects();
    loop {
        tokio::select! {
            () = house.stopped.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
            Ok(()) = reconnects.changed() => {}
        }
        tokio::select! {
            () = house.stopped.cancelled() => return,
            () = sweep_once(&house) => {}
        }
    }
}

async fn sweep_once(house: &House) {
    for topics in house.feeds.followed().chunks(BATCH) {
        match heads::read(house, topics.to_vec()).await {
            Ok(heads) => {
                for (topic, head) in heads {
                    house.feeds.tell_head(topic, head);
                }
            }
            Err(status) => tracing::debug!(code = ?status.code(), "heads can't be swept"),
        }
        tokio::time::sleep(BETWEEN_CALLS).await;
    }
    for users in house.members.users().chunks(BATCH) {
        sweep_versions(house, users).await;
        tokio::time::sleep(BETWEEN_CALLS).await;
    }
    for sessions in house.members.sessions().chunks(BATCH) {
        let request = Call::within(LIMIT).request(BatchCheckTokensRequest {
            token_sha256s: sessions
                .iter()
                .map(|session| Bytes::copy_from_slice(&session.token_sha256))
                .collect(),
        });
        let mut client = house.services.user.clone();
        match client.batch_check_tokens(request).await {
            Ok(answer) => {
                for (session, live) in sessions.iter().zip(answer.into_inner().live) {
                    if !live {
                        end_revoked(session);
                    }
                }
            }
            Err(status) => tracing::debug!(code = ?status.code(), "tokens can't be swept"),
        }
        tokio::time::sleep(BETWEEN_CALLS).await;
    }
}

async fn sweep_versions(house: &House, users: &[UserId]) {
    let request = Call::within(LIMIT).request(BatchGetMembershipVersionsRequest {
        user_ids: users.iter().map(|user| user.get()).collect(),
    });
    let mut client = house.services.message.clone();
    match client.batch_get_membership_versions(request).await {
        Ok(answer) => {
            for (user, version) in users.iter().zip(answer.into_inner().versions) {
                house.members.tell_version(*user, version);
            }
        }
        Err(status) => tracing::debug!(code = ?status.code(), "memberships can't be swept"),
    }
}
