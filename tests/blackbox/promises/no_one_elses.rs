//! Promise 6: No one reads or writes a topic that he may not; delivery ends within 5
//! seconds of leaving, removal and revocation.

use std::time::{Duration, Instant};

use proto::message::v1::{LeaveTopicRequest, ListEntriesRequest, Visibility};
use proto::user::v1::RevokeTokensRequest;
use serde_json::json;
use tests::account::{self, User};
use tests::api::{Api, acting_for};
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Options, Server, key};
use tests::trial::World;
use tonic::Code;

cases! {
    EachClient:
        a_stranger_hears_nothing_of_a_private_topic,
        after_revocation_the_socket_ends_and_the_token_is_dead;
    Once:
        after_leaving_delivery_ends_within_5_seconds,
        after_removal_delivery_ends_within_5_seconds,
        after_removal_delivery_ends_also_when_the_bus_loses_everything,
        after_revocation_the_socket_ends_also_when_the_bus_loses_everything,
        of_one_revoked_token_only_its_sockets_end,
        a_stranger_reads_no_history;
}

const EVENT: &str = "message_events";
const LIMIT: Duration = Duration::from_secs(5);

async fn phone(server: &Server, user: &User) -> Client {
    let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, server).await;
    client.sign_in(user).await;
    client
}

async fn a_stranger_hears_nothing_of_a_private_topic(world: World) {
    let (stranger, member) = (world.user().await, world.user().await);
    let private = world.topic(&[&member]).await;
    let shared = world.topic(&[&member, &stranger]).await;
    let mut client = world.signed_in(&stranger).await;
    let mut other = world.other(&member).await;
    for _ in 0..5 {
        other.emit(EVENT, &json!({"topic_id": private, "body": "secret"}));
        other.emit(
            "typing_event",
            &json!({"user_id": member.id, "topic_id": private}),
        );
        assert_eq!(other.expect(EVENT).await["event_type"], "sent");
    }
    other.emit(EVENT, &json!({"topic_id": shared, "body": "for you too"}));
    assert_eq!(client.expect(EVENT).await["data"]["body"], "for you too");
    client.expect_nothing_more();
}

async fn after_revocation_the_socket_ends_and_the_token_is_dead(world: World) {
    let user = world.user().await;
    let mut client = world.signed_in(&user).await;
    let request = RevokeTokensRequest {
        user_id: user.id,
        token_sha256s: Vec::new(),
    };
    let answer = world
        .api()
        .users
        .revoke_tokens(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.revoked_count, 1);
    client.expect_end_within(LIMIT).await;
    let mut again = world.connect().await;
    again.emit("signin_request", &json!({"token": user.token}));
    assert_eq!(
        again.expect("signin_response").await["code"],
        "invalid_token"
    );
}

/// A member is no longer one, somehow: what is sent 5 seconds later does not reach him.
async fn delivery_ends<F: Future<Output = ()>>(
    server: &Server,
    end: impl FnOnce(Api, i64, i64) -> F,
) {
    let api = Api::of(server);
    let (leaver, stayer) = (
        account::sign_up(server).await,
        account::sign_up(server).await,
    );
    let topic = api
        .topic(Visibility::Private, &[leaver.id, stayer.id])
        .await;
    let mut client = phone(server, &leaver).await;
    let mut other = phone(server, &stayer).await;
    other.emit(EVENT, &json!({"topic_id": topic, "body": "together"}));
    other.expect(EVENT).await;
    client.expect(EVENT).await;
    end(api, topic, leaver.id).await;
    let ended = Instant::now();
    while ended.elapsed() < LIMIT + Duration::from_secs(2) {
        other.emit(EVENT, &json!({"topic_id": topic, "body": "tick"}));
        other.emit(
            "typing_event",
            &json!({"user_id": stayer.id, "topic_id": topic}),
        );
        other.expect(EVENT).await;
        let heard = client.next_within(Duration::from_millis(100)).await;
        assert!(
            heard.is_none() || ended.elapsed() < LIMIT,
            "{:?} after: {heard:?}",
            ended.elapsed()
        );
    }
    client.emit(EVENT, &json!({"topic_id": topic, "body": "and I?"}));
    assert_eq!(client.expect(EVENT).await["code"], "not_a_member");
    client.expect_nothing_more();
}

async fn after_leaving_delivery_ends_within_5_seconds(world: World) {
    delivery_ends(world.server(), async |api: Api, topic_id, user_id| {
        let request = LeaveTopicRequest { topic_id, user_id };
        api.messages.clone().leave_topic(request).await.unwrap();
    })
    .await;
}

async fn after_removal_delivery_ends_within_5_seconds(world: World) {
    delivery_ends(world.server(), async |api: Api, topic, user| {
        api.remove(topic, user).await
    })
    .await;
}

async fn deaf() -> Server {
    Server::start(Options::default().with(key::BUS, "\"memory:?drop=1.0&seed=5\"")).await
}

async fn after_removal_delivery_ends_also_when_the_bus_loses_everything(_: World) {
    delivery_ends(&deaf().await, async |api: Api, topic, user| {
        api.remove(topic, user).await
    })
    .await;
}

async fn after_revocation_the_socket_ends_also_when_the_bus_loses_everything(_: World) {
    let server = deaf().await;
    let user = account::sign_up(&server).await;
    let mut client = phone(&server, &user).await;
    let request = RevokeTokensRequest {
        user_id: user.id,
        token_sha256s: Vec::new(),
    };
    Api::of(&server).users.revoke_tokens(request).await.unwrap();
    client
        .expect_end_within(LIMIT + Duration::from_secs(1))
        .await;
}

async fn of_one_revoked_token_only_its_sockets_end(world: World) {
    use sha2::Digest;
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let issue = proto::user::v1::IssueTokenRequest { user_id: user.id };
    let token = world
        .api()
        .users
        .issue_token(issue)
        .await
        .unwrap()
        .into_inner()
        .token;
    let mut lost = phone(world.server(), &user).await;
    let mut kept = phone(
        world.server(),
        &User {
            token,
            ..user.clone()
        },
    )
    .await;
    let digest = sha2::Sha256::digest(user.token.as_bytes()).to_vec();
    let request = RevokeTokensRequest {
        user_id: user.id,
        token_sha256s: vec![digest.into()],
    };
    world.api().users.revoke_tokens(request).await.unwrap();
    lost.expect_end_within(LIMIT).await;
    kept.emit(EVENT, &json!({"topic_id": topic, "body": "still here"}));
    assert_eq!(kept.expect(EVENT).await["event_type"], "sent");
}

async fn a_stranger_reads_no_history(world: World) {
    let (stranger, member) = (world.user().await, world.user().await);
    let topic_id = world.topic(&[&member]).await;
    let request = || ListEntriesRequest {
        topic_id,
        ..Default::default()
    };
    let mut messages = world.api().messages;
    let as_stranger = acting_for(stranger.id, &stranger.username, request());
    let status = messages.list_entries(as_stranger).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let as_member = acting_for(member.id, &member.username, request());
    messages.list_entries(as_member).await.unwrap();
}
