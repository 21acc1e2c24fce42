//! The gRPC port as an internal service sees it.

use proto::message::v1::message_service_client::MessageServiceClient;
use proto::message::v1::{
    CreateTopicRequest, GetTopicRequest, ListEntriesRequest, OutgoingMessage, SendMessageRequest,
};
use proto::presence::v1::presence_service_client::PresenceServiceClient;
use proto::presence::v1::{BatchGetPresenceRequest, RenewLeaseRequest};
use proto::user::v1::user_service_client::UserServiceClient;
use proto::user::v1::{GetUserRequest, SignUpRequest};
use tests::api::{acting_for, channel};
use tests::cases;
use tests::trial::World;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

cases! {
    Once:
        reflection_lists_the_three_services,
        health_serves_every_service,
        no_call_without_the_bearer_secret,
        a_wrong_call_gets_an_error_that_names_the_field,
        what_is_not_there_is_not_found_with_a_reason,
        a_person_is_named_only_by_who_has_the_secret;
}

const SERVICES: [&str; 3] = [
    "drivers.message.v1.MessageService",
    "drivers.presence.v1.PresenceService",
    "drivers.user.v1.UserService",
];

async fn reflection_lists_the_three_services(world: World) {
    let mut client = ServerReflectionClient::new(channel(world.server()));
    let ask = |request| {
        futures::stream::iter([ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        }])
    };
    let mut answers = client
        .server_reflection_info(ask(MessageRequest::ListServices(String::new())))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in SERVICES {
        assert!(names.contains(&service), "{service} is not in {names:?}");
        let symbol = MessageRequest::FileContainingSymbol(service.to_owned());
        let mut answers = client
            .server_reflection_info(ask(symbol))
            .await
            .unwrap()
            .into_inner();
        let answer = answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .message_response
            .unwrap();
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(_)),
            "{answer:?}"
        );
    }
}

async fn health_serves_every_service(world: World) {
    let mut client = HealthClient::new(channel(world.server()));
    for service in SERVICES.into_iter().chain([""]) {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service}");
    }
}

async fn no_call_without_the_bearer_secret(world: World) {
    let channel = channel(world.server());
    let secret = world.server().secret();
    let values = [
        "",
        "Bearer ",
        "Bearer 0000",
        "bearer",
        "Basic eDp5",
        &format!("Bearer {}x", secret),
        &secret,
    ];
    for value in values {
        let asked = |message| {
            let mut request = Request::new(message);
            if !value.is_empty() {
                request
                    .metadata_mut()
                    .insert("authorization", value.parse().unwrap());
            }
            request
        };
        let refused = |status: Status| {
            assert_eq!(status.code(), Code::Unauthenticated, "{value:?}: {status}");
            assert!(status.get_details_error_info().is_some(), "{status:?}");
            assert!(!format!("{status:?}").contains(&secret));
        };
        refused(
            UserServiceClient::new(channel.clone())
                .get_user(asked_user(asked(())))
                .await
                .unwrap_err(),
        );
        refused(
            MessageServiceClient::new(channel.clone())
                .get_topic(asked_topic(asked(())))
                .await
                .unwrap_err(),
        );
        refused(
            PresenceServiceClient::new(channel.clone())
                .batch_get_presence(asked_presence(asked(())))
                .await
                .unwrap_err(),
        );
    }
}

fn asked_user(request: Request<()>) -> Request<GetUserRequest> {
    request.map(|()| GetUserRequest { user_id: 1 })
}

fn asked_topic(request: Request<()>) -> Request<GetTopicRequest> {
    request.map(|()| GetTopicRequest { topic_id: 1 })
}

fn asked_presence(request: Request<()>) -> Request<BatchGetPresenceRequest> {
    request.map(|()| BatchGetPresenceRequest { user_ids: vec![1] })
}

/// `INVALID_ARGUMENT` with an `ErrorInfo` of this domain and a `BadRequest` that names the field.
fn names(status: &Status, domain: &str, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, domain);
    assert!(!info.reason.is_empty());
    let fields: Vec<String> = status
        .get_details_bad_request()
        .expect("a BadRequest")
        .field_violations
        .into_iter()
        .map(|violation| {
            assert!(!violation.description.is_empty());
            violation.field
        })
        .collect();
    assert!(
        fields.iter().any(|named| named == field),
        "{field} is not in {fields:?}"
    );
}

async fn a_wrong_call_gets_an_error_that_names_the_field(world: World) {
    let user = world.user().await;
    let mut api = world.api();
    let wrong = SignUpRequest {
        phone_number: "998901234567".into(),
        username: "a name that is far too long".into(),
        gcm_token: "g".into(),
        device_type: "web".into(),
        ..Default::default()
    };
    names(
        &api.users.sign_up(wrong).await.unwrap_err(),
        "user.drivers.uz",
        "username",
    );
    let wrong = CreateTopicRequest {
        room_id: 1,
        title: String::new(),
        visibility: 1,
        is_default: false,
    };
    names(
        &api.messages.create_topic(wrong).await.unwrap_err(),
        "message.drivers.uz",
        "title",
    );
    let wrong = ListEntriesRequest {
        topic_id: 1,
        page_size: -1,
        ..Default::default()
    };
    names(
        &api.messages.list_entries(wrong).await.unwrap_err(),
        "message.drivers.uz",
        "page_size",
    );
    let wrong = ListEntriesRequest {
        topic_id: 1,
        page_token: "rubbish".into(),
        ..Default::default()
    };
    names(
        &api.messages.list_entries(wrong).await.unwrap_err(),
        "message.drivers.uz",
        "page_token",
    );
    let message = OutgoingMessage {
        body: " ".into(),
        ..Default::default()
    };
    let wrong = SendMessageRequest {
        topic_id: 1,
        message: Some(message),
    };
    let status = api
        .messages
        .send_message(acting_for(user.id, &user.username, wrong))
        .await
        .unwrap_err();
    names(&status, "message.drivers.uz", "message.body");
    let wrong = RenewLeaseRequest {
        lease_id: vec![1, 2, 3].into(),
        ttl_ms: 10_000,
        take: true,
    };
    names(
        &api.presence.renew_lease(wrong).await.unwrap_err(),
        "presence.drivers.uz",
        "lease_id",
    );
}

async fn what_is_not_there_is_not_found_with_a_reason(world: World) {
    let mut api = world.api();
    let absent = 9_007_199_254_740_991;
    let status = api
        .users
        .get_user(GetUserRequest { user_id: absent })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "USER_NOT_FOUND"
    );
    let status = api
        .messages
        .get_topic(GetTopicRequest { topic_id: absent })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "TOPIC_NOT_FOUND"
    );
}

async fn a_person_is_named_only_by_who_has_the_secret(world: World) {
    let user = world.user().await;
    let topic = world.topic(&[&user]).await;
    let message = OutgoingMessage {
        body: "forged".into(),
        ..Default::default()
    };
    let request = SendMessageRequest {
        topic_id: topic,
        message: Some(message),
    };
    let mut open = MessageServiceClient::new(channel(world.server()));
    let status = open
        .send_message(acting_for(user.id, &user.username, request))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(world.api().history(topic).await, []);
}
