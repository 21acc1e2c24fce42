//! Internal services in a trial: one sends for people, one makes and ends memberships,
//! one revokes tokens.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proto::message::v1::{
    JoinTopicRequest, LeaveTopicRequest, OutgoingMessage, RemoveMemberRequest, SendMessagesRequest,
    outgoing_message::Stamp, send_result::Outcome,
};
use proto::user::v1::{IssueTokenRequest, RevokeTokensRequest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use sha2::Digest;
use tests::api::{Api, acting_for};
use tests::history::{Call, Membership, Message, Moment, Revocation, body_of, now};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::cast::{Cast, Person, Phase, Role};

/// One try of a call.
const TRY: Duration = Duration::from_secs(3);
/// Before the next one.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls one replica after the other until one answers.
async fn insist<T, F>(cast: &Cast, call: impl Fn(Api) -> F) -> Option<T>
where
    F: Future<Output = Result<T, Status>>,
{
    for api in cast.apis.iter().cycle() {
        match timeout(TRY, call(api.clone())).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(_)) | Err(_) if cast.phase() == Phase::Over => return None,
            Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
        }
    }
    None
}

async fn pause(cast: &Cast, millis: u64) {
    tokio::select! {
        () = cast.until(Phase::Settle) => {}
        () = sleep(Duration::from_millis(millis)) => {}
    }
}

/// Sends for those who talk: seldom in each quiet topic, more often in the others.
pub(crate) async fn send(
    cast: Arc<Cast>,
    topics: Vec<i64>,
    every: std::ops::Range<u64>,
    seed: u64,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let talkers = (cast.people.iter()).filter(|person| person.role == Role::Talker);
    let talkers: Vec<Arc<Person>> = talkers.cloned().collect();
    let mut number = 0;
    while cast.phase() == Phase::Talk {
        pause(&cast, random.random_range(every.clone())).await;
        let (Some(person), Some(topic)) = (talkers.choose(&mut random), topics.choose(&mut random))
        else {
            return;
        };
        number += 1;
        let stamp = format!("service-{seed}-{number}");
        let began = now();
        let sent = insist(&cast, |api| {
            try_send(api, Arc::clone(person), *topic, stamp.clone())
        })
        .await;
        let sent = sent.map(|message| (now(), cast.recorder.keep(message)));
        let call = Call {
            user: person.id,
            topic: *topic,
            stamp,
            began,
            sent,
        };
        cast.recorder.add(|history| history.calls.push(call));
    }
}

async fn try_send(
    mut api: Api,
    person: Arc<Person>,
    topic_id: i64,
    stamp: String,
) -> Result<Message, Status> {
    let message = OutgoingMessage {
        body: body_of(&stamp),
        stamp: Some(Stamp::StampId(stamp)),
        ..OutgoingMessage::default()
    };
    let request = SendMessagesRequest {
        topic_id,
        messages: vec![message],
    };
    let request = acting_for(person.id, &person.username, request);
    let results = api
        .messages
        .send_messages(request)
        .await?
        .into_inner()
        .results;
    let outcome = results.into_iter().next().and_then(|result| result.outcome);
    match outcome {
        Some(Outcome::Sent(sent)) => sent
            .entry
            .map(|entry| Message::stored(&entry))
            .ok_or_else(|| Status::unavailable("no entry")),
        _ => Err(Status::unavailable("not sent")),
    }
}

/// Lets wanderers come and go, and stay away for long enough to show it.
pub(crate) async fn lead(cast: Arc<Cast>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let wanderers = (cast.people.iter()).filter(|person| person.role == Role::Wanderer);
    let topics: Vec<i64> = (cast.lively.iter().chain(cast.quiet.first()))
        .copied()
        .collect();
    // Who goes where next, when, and whether he joins.
    let mut next: Vec<(Moment, i64, i64, bool)> = wanderers
        .flat_map(|person| topics.iter().map(|topic| (person.id, *topic)))
        .map(|(user, topic)| (now() + random.random_range(0..2_000), user, topic, true))
        .collect();
    let leaver = (cast.people.iter()).find(|person| person.role == Role::Leaver);
    let away = random.random_range(500..2_000);
    next.extend(leaver.map(|person| (now() + away, person.id, cast.lively[0], false)));
    while cast.phase() == Phase::Talk {
        next.sort_unstable();
        let Some((at, user, topic, joins)) = next.first_mut() else {
            return;
        };
        if *at > now() {
            pause(&cast, 100).await;
            continue;
        }
        let (user_id, topic_id) = (*user, *topic);
        let change = change(&cast, user_id, topic_id, *joins, random.random_bool(0.5)).await;
        let pause = match (*joins, leaver.is_some_and(|person| person.id == user_id)) {
            (true, _) => 1_000..6_000,
            (false, true) => 14_000..18_000,
            (false, false) => 1_000..14_000,
        };
        *at = now() + random.random_range(pause);
        *joins = !*joins;
        cast.recorder
            .add(|history| history.memberships.push(change));
    }
}

async fn change(
    cast: &Cast,
    user_id: i64,
    topic_id: i64,
    joins: bool,
    is_removed: bool,
) -> Membership {
    let began = now();
    let done = insist(cast, |mut api| async move {
        let messages = &mut api.messages;
        if joins {
            let request = JoinTopicRequest { topic_id, user_id };
            messages.join_topic(request).await.map(|_| ())
        } else if is_removed {
            let request = RemoveMemberRequest { topic_id, user_id };
            messages.remove_member(request).await.map(|_| ())
        } else {
            let request = LeaveTopicRequest { topic_id, user_id };
            messages.leave_topic(request).await.map(|_| ())
        }
    })
    .await;
    Membership {
        user: user_id,
        topic: topic_id,
        joins,
        began,
        // Whether it came to that is not known: then it may be at any time.
        done: done.map_or(Moment::MAX / 4, |()| now()),
    }
}

/// Gives the suspect a new token from time to time, and ends the old one.
pub(crate) async fn revoke(cast: Arc<Cast>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let Some(person) = (cast.people.iter()).find(|person| person.role == Role::Suspect) else {
        return;
    };
    let user_id = person.id;
    loop {
        pause(&cast, random.random_range(3_000..9_000)).await;
        if cast.phase() != Phase::Talk {
            return;
        }
        let issued = insist(&cast, |mut api| async move {
            api.users.issue_token(IssueTokenRequest { user_id }).await
        })
        .await;
        let Some(issued) = issued else { return };
        let (old, token) = {
            let mut state = person.state();
            let token = state.tokens.len() - 1;
            let old = state.tokens[token].clone();
            state.tokens.push(issued.into_inner().token);
            (old, token)
        };
        let digest = sha2::Sha256::digest(old.as_bytes()).to_vec();
        let began = now();
        let request = RevokeTokensRequest {
            user_id,
            token_sha256s: vec![digest.into()],
        };
        let done = insist(&cast, |mut api| {
            let request = request.clone();
            async move { api.users.revoke_tokens(request).await }
        })
        .await;
        if done.is_none() {
            return;
        }
        let revocation = Revocation {
            user: user_id,
            token,
            began,
            done: now(),
        };
        cast.recorder
            .add(|history| history.revocations.push(revocation));
    }
}
