//! "Who is in a topic".

use proto::message::v1::{ListMembershipsRequest, Visibility};
use serde_json::json;
use tests::account;
use tests::api::Api;
use tests::cases;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::server::{Options, Server};
use tests::trial::World;

cases! {
    EachClient:
        posting_to_an_open_topic_joins_it_first,
        who_is_made_a_member_while_connected_hears_from_then_on;
    Once:
        a_new_deployment_has_topic_1_and_new_users_are_in_it,
        a_seed_file_says_which_topics_there_are,
        the_seeds_example_runs_as_printed;
}

const EVENT: &str = "message_events";

async fn phone(server: &Server) -> (account::User, Client) {
    let user = account::sign_up(server).await;
    let mut client = Client::connect(Kind::Raw(Eio::V3), Transport::Websocket, server).await;
    client.sign_in(&user).await;
    (user, client)
}

async fn memberships(server: &Server, user_id: i64) -> Vec<i64> {
    let request = ListMembershipsRequest {
        user_id,
        ..Default::default()
    };
    let page = Api::of(server)
        .messages
        .list_memberships(request)
        .await
        .unwrap()
        .into_inner();
    page.memberships
        .iter()
        .map(|membership| membership.topic_id)
        .collect()
}

async fn posting_to_an_open_topic_joins_it_first(world: World) {
    let (poster, member) = (world.user().await, world.user().await);
    let topic = world.api().topic(Visibility::Open, &[member.id]).await;
    let mut client = world.signed_in(&poster).await;
    let mut other = world.other(&member).await;
    client.emit(
        EVENT,
        &json!({"topic_id": topic, "body": "hello, I am new"}),
    );
    let payload = client.expect(EVENT).await;
    assert_eq!(payload["event_type"], "sent", "{payload}");
    assert_eq!(other.expect(EVENT).await, payload);
    assert!(
        memberships(world.server(), poster.id)
            .await
            .contains(&topic)
    );
    // He listens now.
    other.emit(EVENT, &json!({"topic_id": topic, "body": "welcome"}));
    assert_eq!(client.expect(EVENT).await["data"]["body"], "welcome");
}

async fn who_is_made_a_member_while_connected_hears_from_then_on(world: World) {
    let (late, member) = (world.user().await, world.user().await);
    let topic = world.topic(&[&member]).await;
    let mut client = world.signed_in(&late).await;
    let mut other = world.other(&member).await;
    other.emit(EVENT, &json!({"topic_id": topic, "body": "before"}));
    other.expect(EVENT).await;
    world.api().join(topic, late.id).await;
    other.emit(EVENT, &json!({"topic_id": topic, "body": "after"}));
    let payload = other.expect(EVENT).await;
    assert_eq!(client.expect(EVENT).await, payload);
    assert_eq!(payload["data"]["seq"], 2);
    client.expect_nothing_more();
}

async fn a_new_deployment_has_topic_1_and_new_users_are_in_it(_: World) {
    let server = Server::start(Options::default()).await;
    let (one, mut client) = phone(&server).await;
    let (_, mut other) = phone(&server).await;
    assert_eq!(memberships(&server, one.id).await, [1]);
    client.emit(EVENT, &json!({"topic_id": 1, "body": "foobar"}));
    let payload = client.expect(EVENT).await;
    assert_eq!(payload["data"]["seq"], 1);
    assert_eq!(other.expect(EVENT).await, payload);
}

async fn a_seed_file_says_which_topics_there_are(_: World) {
    let seed_file = r#"
        [[rooms]]
        id = 1
        title = "Room"

        [[rooms.topics]]
        id = 7
        title = "For all"
        visibility = "private"
        default = true

        [[rooms.topics]]
        id = 8
        title = "For who likes"
        visibility = "open"

        [[rooms.topics]]
        id = 9
        title = "For few"
        visibility = "private"
    "#;
    let server = Server::start(Options {
        seed_file: Some(seed_file.to_owned()),
        ..Options::default()
    })
    .await;
    let (user, mut client) = phone(&server).await;
    assert_eq!(memberships(&server, user.id).await, [7]);
    for (topic, outcome) in [
        (7, None),
        (8, None),
        (9, Some("not_a_member")),
        (1, Some("topic_not_found")),
    ] {
        client.emit(EVENT, &json!({"topic_id": topic, "body": "foobar"}));
        let payload = client.expect(EVENT).await;
        match outcome {
            None => assert_eq!(payload["event_type"], "sent", "{topic}: {payload}"),
            Some(code) => assert_eq!(payload["code"], code, "{topic}: {payload}"),
        }
    }
    assert_eq!(memberships(&server, user.id).await, [7, 8]);
}

async fn the_seeds_example_runs_as_printed(_: World) {
    let server = Server::start(Options::default()).await;
    let (user, mut client) = phone(&server).await;
    let request = r#"{
	"stamp_id": "123ABC",
	"topic_id": 1,
	"body": "foobar",
	"reply_to": null,
	"attrs": null,
	"has_media": false
}"#;
    client.emit_raw(EVENT, &[request]);
    let payload = client.expect(EVENT).await;
    let data = &payload["data"];
    assert_eq!(
        payload,
        json!({"event_type": "sent", "data": {
            "id": data["id"], "stamp_id": "123ABC", "topic_id": 1,
            "owner": {"id": user.id, "username": user.username},
            "reply_to": null, "body": "foobar", "attrs": null, "sent_at": data["sent_at"],
            "has_media": false, "seq": 1,
        }})
    );
    let (_, mut other) = phone(&server).await;
    client.emit("typing_event", &json!({"user_id": user.id, "topic_id": 1}));
    assert_eq!(
        other.expect("typing_event").await,
        json!({"user_id": user.id, "topic_id": 1})
    );
}
