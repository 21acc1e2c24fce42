//! What a caller over gRPC notices.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use chassis::{
    call::{ActingUser, Call},
    id::UserId,
};
use proto::message::v1::{
    self as pb, ErrorReason, entry, message_service_client::MessageServiceClient,
    message_service_server::MessageServiceServer, outgoing_message::Stamp, send_result::Outcome,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    App, announce::tests::Tape, build, config::Config, directory::double::Double,
    log::trials::Memory,
};

type Client = MessageServiceClient<MessageServiceServer<Api>>;

struct House {
    client: Client,
    directory: Arc<Double>,
    app: App,
}

/// A service in which all that a new deployment holds is there: open topic 1.
async fn house() -> House {
    let directory = Arc::new(Double::default());
    let app = build(
        Config {
            segment_capacity: 128,
            ..Config::default()
        },
        Memory::new(),
        Arc::clone(&directory) as _,
        Arc::new(Tape::default()),
    )
    .await
    .unwrap();
    House {
        client: MessageServiceClient::new(app.service()),
        directory,
        app,
    }
}

impl House {
    async fn topic(&mut self, visibility: pb::Visibility) -> i64 {
        let request = pb::CreateTopicRequest {
            room_id: 1,
            title: "a topic".into(),
            visibility: visibility.into(),
            is_default: false,
        };
        let created = self.client.create_topic(request).await.unwrap();
        created.into_inner().topic.unwrap().id
    }

    async fn send(
        &mut self,
        topic_id: i64,
        messages: Vec<pb::OutgoingMessage>,
    ) -> Vec<Result<pb::Sent, pb::SendFailure>> {
        let request = pb::SendMessagesRequest { topic_id, messages };
        let answer = self.client.send_messages(for_people(request)).await;
        let results = answer.unwrap().into_inner().results.into_iter();
        results
            .map(|result| match result.outcome.unwrap() {
                Outcome::Sent(sent) => Ok(sent),
                Outcome::Failure(failure) => Err(failure),
            })
            .collect()
    }

    async fn fill(&mut self, topic: i64, messages: usize) {
        for chunk in (0..messages).collect::<Vec<_>>().chunks(256) {
            let messages = chunk.iter().map(|number| message(&format!("n {number}")));
            for result in self.send(topic, messages.collect()).await {
                result.unwrap();
            }
        }
    }
}

fn person(number: i64) -> ActingUser {
    ActingUser {
        id: UserId::new(number).unwrap(),
        username: format!("user {number}"),
    }
}

fn call() -> Call {
    Call::within(Duration::from_secs(30))
}

fn by_person<T>(number: i64, message: T) -> Request<T> {
    call().acting_for(person(number)).request(message)
}

/// For users 15 and 16.
fn for_people<T>(message: T) -> Request<T> {
    let call = call().acting_for(person(15)).acting_for(person(16));
    call.request(message)
}

fn message(body: &str) -> pb::OutgoingMessage {
    pb::OutgoingMessage {
        body: body.into(),
        ..pb::OutgoingMessage::default()
    }
}

fn stamped(body: &str, stamp: &str) -> pb::OutgoingMessage {
    pb::OutgoingMessage {
        stamp: Some(Stamp::StampId(stamp.into())),
        ..message(body)
    }
}

#[derive(Debug, PartialEq)]
struct Refused {
    code: Code,
    reason: String,
    fields: Vec<String>,
    retries: bool,
}

fn refused(code: Code, reason: &str, fields: &[&str]) -> Refused {
    Refused {
        code,
        reason: reason.into(),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        retries: matches!(code, Code::Unavailable | Code::ResourceExhausted),
    }
}

fn field_invalid(field: &str) -> Refused {
    refused(Code::InvalidArgument, "FIELD_INVALID", &[field])
}

#[track_caller]
fn details<T: std::fmt::Debug>(answer: Result<T, Status>) -> Refused {
    let status = answer.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "message.drivers.uz");
    let violations = status.get_details_bad_request();
    let violations = violations.map_or_else(Vec::new, |bad| bad.field_violations);
    assert!(violations.iter().all(|v| !v.description.is_empty()));
    let after = status.get_details_retry_info().and_then(|r| r.retry_delay);
    Refused {
        code: status.code(),
        reason: info.reason,
        fields: violations.into_iter().map(|v| v.field).collect(),
        retries: after.is_some_and(|after| after > Duration::ZERO),
    }
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent() {
    let mut house = house().await;
    let first = &house.send(1, vec![stamped("foobar", "123ABC")]).await[0];
    let first = first.as_ref().unwrap().entry.as_ref().unwrap().id;
    let sent = house
        .send(
            1,
            vec![pb::OutgoingMessage {
                acting_user_index: 1,
                stamp: Some(Stamp::StampId("6D0F4Z15".into())),
                body: " Салом \n".into(),
                reply_to: first,
                attrs_json: r#"{"x":1.10}"#.into(),
                has_media: true,
            }],
        )
        .await;
    let sent = sent[0].clone().unwrap();
    assert!(!sent.duplicate);
    let entry = sent.entry.unwrap();
    assert!(entry.id > first);
    assert_eq!((entry.topic_id, entry.seq), (1, 2));
    assert!(entry.sent_at_ms > 1_455_667_133_264);
    let owner = entry.owner.clone().unwrap();
    assert_eq!((owner.id, owner.username.as_str()), (16, "user 16"));
    let expected = pb::Message {
        stamp_id: "6D0F4Z15".into(),
        body: " Салом \n".into(),
        reply_to: first,
        attrs_json: r#"{"x":1.10}"#.into(),
        has_media: true,
    };
    assert_eq!(entry.kind, Some(entry::Kind::Message(expected)));

    let request = pb::ListEntriesRequest {
        topic_id: 1,
        start_seq: 2,
        ..pb::ListEntriesRequest::default()
    };
    let listed = house.client.list_entries(request).await.unwrap();
    assert_eq!(listed.into_inner().entries, [entry]);
}

#[tokio::test]
async fn a_stamp_of_the_edge_is_never_shown_but_counts() {
    let mut house = house().await;
    let message = pb::OutgoingMessage {
        stamp: Some(Stamp::EdgeStamp("made-up".into())),
        ..message("foobar")
    };
    let first = house.send(1, vec![message.clone()]).await[0]
        .clone()
        .unwrap();
    let Some(entry::Kind::Message(kept)) = first.entry.clone().unwrap().kind else {
        panic!("no message")
    };
    assert_eq!(kept.stamp_id, "");
    let again = house.send(1, vec![message]).await[0].clone().unwrap();
    assert!(again.duplicate);
    assert_eq!(again.entry, first.entry);
}

#[tokio::test]
async fn a_wrong_message_fails_alone_and_the_rest_is_sent_in_order() {
    let mut house = house().await;
    let with = |change: fn(&mut pb::OutgoingMessage)| {
        let mut message = message("foobar");
        change(&mut message);
        message
    };
    let long = |message: &mut pb::OutgoingMessage| message.body = "ж".repeat(4_097);
    let most = |message: &mut pb::OutgoingMessage| message.body = "ж".repeat(4_096);
    let wrong = [
        (with(|m| m.body.clear()), "body"),
        (with(|m| m.body = " \u{3000}\n".into()), "body"),
        (with(long), "body"),
        (
            with(|m| m.stamp = Some(Stamp::StampId(String::new()))),
            "stamp_id",
        ),
        (
            with(|m| m.stamp = Some(Stamp::StampId("ж".repeat(65)))),
            "stamp_id",
        ),
        (
            with(|m| m.stamp = Some(Stamp::EdgeStamp(String::new()))),
            "edge_stamp",
        ),
        (with(|m| m.attrs_json = "{".into()), "attrs_json"),
        (with(|m| m.reply_to = -1), "reply_to"),
    ];
    let mut messages = vec![message("first")];
    messages.extend(wrong.iter().map(|(message, _)| message.clone()));
    messages.push(with(most));
    messages.push(with(|m| m.stamp = Some(Stamp::StampId("ж".repeat(64)))));

    let results = house.send(1, messages).await;
    assert_eq!(results.len(), wrong.len() + 3);
    for (result, (_, field)) in results[1..].iter().zip(&wrong) {
        let failure = result.clone().unwrap_err();
        assert_eq!(failure.reason(), ErrorReason::MessageInvalid);
        assert_eq!(failure.field, *field);
        assert!(failure.message.starts_with(&format!("{field}: must ")));
    }
    let seqs = results.iter().flatten();
    let seqs: Vec<_> = seqs.map(|sent| sent.entry.as_ref().unwrap().seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[tokio::test]
async fn each_failure_of_a_message_has_its_reason_and_its_code() {
    let mut house = house().await;
    let private = house.topic(pb::Visibility::Private).await;
    let closed = house.topic(pb::Visibility::Open).await;
    let close = pb::UpdateTopicRequest {
        topic_id: closed,
        closed: Some(true),
        ..pb::UpdateTopicRequest::default()
    };
    house.client.update_topic(close).await.unwrap();
    house.send(1, vec![stamped("foobar", "used")]).await[0]
        .clone()
        .unwrap();

    let reply = |reply_to| pb::OutgoingMessage {
        reply_to,
        ..message("foobar")
    };
    let failed_precondition = Code::FailedPrecondition;
    for (topic_id, message, code, reason) in [
        (999, message("a"), Code::NotFound, "TOPIC_NOT_FOUND"),
        (
            private,
            message("a"),
            Code::PermissionDenied,
            "NOT_A_MEMBER",
        ),
        (closed, message("a"), failed_precondition, "TOPIC_CLOSED"),
        (1, reply(77), failed_precondition, "REPLY_NOT_FOUND"),
        (1, reply(i64::MAX), failed_precondition, "REPLY_NOT_FOUND"),
        (
            1,
            stamped("other", "used"),
            Code::AlreadyExists,
            "STAMP_REUSED",
        ),
    ] {
        let failure = &house.send(topic_id, vec![message.clone()]).await[0];
        let failure = failure.clone().unwrap_err();
        let name = failure.reason().as_str_name();
        assert_eq!(name, format!("ERROR_REASON_{reason}"));
        assert_eq!(failure.field, "");

        let message = Some(message);
        let request = by_person(15, pb::SendMessageRequest { topic_id, message });
        let answer = house.client.send_message(request).await;
        assert_eq!(details(answer), refused(code, reason, &[]));
    }
    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message(" ")),
    };
    let answer = house.client.send_message(by_person(15, request)).await;
    assert_eq!(
        details(answer),
        refused(Code::InvalidArgument, "MESSAGE_INVALID", &["message.body"])
    );
}

#[tokio::test]
async fn a_malformed_call_is_refused_whole_and_names_the_field() {
    let mut house = house().await;
    let request = |topic_id, messages| pb::SendMessagesRequest { topic_id, messages };
    let stranger = pb::OutgoingMessage {
        acting_user_index: 2,
        ..message("foobar")
    };
    for (request, field) in [
        (request(0, vec![message("a")]), "topic_id"),
        (request(1 << 53, vec![message("a")]), "topic_id"),
        (request(1, vec![]), "messages"),
        (request(1, vec![message("a"); 257]), "messages"),
        (
            request(1, vec![message("a"), stranger.clone()]),
            "messages[1].acting_user_index",
        ),
    ] {
        let answer = house.client.send_messages(for_people(request)).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    let nobody = call().request(request(1, vec![message("a")]));
    let answer = house.client.send_messages(nobody).await;
    assert_eq!(
        details(answer),
        field_invalid("messages[0].acting_user_index")
    );

    let request = |message| pb::SendMessageRequest {
        topic_id: 1,
        message,
    };
    let answer = house
        .client
        .send_message(by_person(15, request(None)))
        .await;
    assert_eq!(details(answer), field_invalid("message"));
    let two = for_people(request(Some(message("a"))));
    let answer = house.client.send_message(two).await;
    assert_eq!(details(answer), field_invalid("message.acting_user_index"));
    let answer = house
        .client
        .send_message(by_person(15, request(Some(stranger))))
        .await;
    assert_eq!(details(answer), field_invalid("message.acting_user_index"));

    let heads = pb::BatchGetHeadsRequest { topic_ids: vec![1] };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    assert_eq!(heads.into_inner().heads[0].seq, 0, "nothing was stored");
}

#[tokio::test]
async fn what_is_out_of_time_or_without_a_store_says_when_to_try_again() {
    let mut house = house().await;
    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message("foobar")),
    };
    let late = Call::within(Duration::ZERO).acting_for(person(15));
    let late = details(
        house
            .client
            .send_message(late.request(request.clone()))
            .await,
    );
    assert_eq!((late.code, late.retries), (Code::Unavailable, true));

    house.directory.is_away.store(true, SeqCst);
    let unavailable = refused(Code::Unavailable, "STORE_UNAVAILABLE", &[]);
    let status = house
        .client
        .send_message(by_person(15, request))
        .await
        .unwrap_err();
    assert!(!status.message().contains("10.1.2.3"), "{status}");
    assert_eq!(details(Err::<(), _>(status)), unavailable);
    let failure = &house.send(1, vec![message("foobar")]).await[0];
    let failure = failure.clone().unwrap_err();
    assert_eq!(failure.reason(), ErrorReason::StoreUnavailable);
    assert!(!failure.message.contains("10.1.2.3"), "{}", failure.message);
    let answer = house
        .client
        .get_topic(pb::GetTopicRequest { topic_id: 1 })
        .await;
    assert_eq!(details(answer), unavailable);
}

#[tokio::test]
async fn at_the_end_what_was_sent_is_kept_and_nothing_more_is_taken() {
    let mut house = house().await;
    house.fill(1, 1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    house.app.run(stop).await;

    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message("foobar")),
    };
    let answer = house.client.send_message(by_person(15, request)).await;
    assert_eq!(
        details(answer),
        refused(Code::Unavailable, "NOT_STORED", &[])
    );
    let heads = pb::BatchGetHeadsRequest { topic_ids: vec![1] };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    assert_eq!(heads.into_inner().heads[0].seq, 1);
}

async fn read_all(house: &mut House, request: &pb::ListEntriesRequest) -> Vec<Vec<i64>> {
    let mut request = request.clone();
    let mut pages = Vec::new();
    loop {
        let page = house.client.list_entries(request.clone()).await.unwrap();
        let page = page.into_inner();
        pages.push(page.entries.iter().map(|entry| entry.seq).collect());
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn entries_are_read_both_ways_a_page_at_a_time() {
    let mut house = house().await;
    house.fill(1, 300).await;
    let forward = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 150,
        ..pb::ListEntriesRequest::default()
    };
    let (up, down) = (
        (1..=300).collect::<Vec<i64>>(),
        (1..=300).rev().collect::<Vec<i64>>(),
    );
    assert_eq!(
        read_all(&mut house, &forward).await,
        [&up[..150], &up[150..]]
    );
    let backward = pb::ListEntriesRequest {
        direction: pb::Direction::Backward.into(),
        page_size: 299,
        ..forward
    };
    assert_eq!(
        read_all(&mut house, &backward).await,
        [&down[..299], &down[299..]]
    );

    for (start_seq, direction, page_size, expected) in [
        (299, pb::Direction::Forward, 10, &up[298..]),
        (301, pb::Direction::Forward, 10, &[]),
        (2, pb::Direction::Backward, 10, &down[298..]),
        (9_999, pb::Direction::Backward, 500, &down[..]),
        (0, pb::Direction::Forward, 501, &up[..]),
        (251, pb::Direction::Forward, 0, &up[250..]),
    ] {
        let request = pb::ListEntriesRequest {
            topic_id: 1,
            direction: direction.into(),
            start_seq,
            page_size,
            page_token: String::new(),
        };
        assert_eq!(
            read_all(&mut house, &request).await,
            [expected],
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn a_page_of_long_entries_ends_below_what_grpc_carries() {
    let mut house = house().await;
    let long = pb::OutgoingMessage {
        body: "𝄞".repeat(4_096),
        ..message("")
    };
    for _ in 0..2 {
        for result in house.send(1, vec![long.clone(); 100]).await {
            result.unwrap();
        }
    }
    let request = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 500,
        ..pb::ListEntriesRequest::default()
    };
    let pages = read_all(&mut house, &request).await;
    let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lengths, [63, 63, 63, 11]);
    assert_eq!(pages.concat(), (1..=200).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_wrong_page_is_refused_by_name() {
    let mut house = house().await;
    house.fill(1, 2).await;
    let request = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 1,
        ..pb::ListEntriesRequest::default()
    };
    let page = house.client.list_entries(request.clone()).await.unwrap();
    let token = page.into_inner().next_page_token;
    let with = |change: &dyn Fn(&mut pb::ListEntriesRequest)| {
        let mut request = request.clone();
        request.page_token.clone_from(&token);
        change(&mut request);
        request
    };
    house
        .client
        .list_entries(with(&|r| r.page_size = 2))
        .await
        .unwrap();
    for (request, field) in [
        (with(&|r| r.page_size = -1), "page_size"),
        (with(&|r| r.direction = 3), "direction"),
        (with(&|r| r.start_seq = -1), "start_seq"),
        (with(&|r| r.start_seq = 1), "page_token"),
        (with(&|r| r.direction = 2), "page_token"),
        (with(&|r| r.topic_id = 2), "page_token"),
        (with(&|r| r.page_token.push('A')), "page_token"),
        (with(&|r| r.page_token = "тест".into()), "page_token"),
    ] {
        let answer = house.client.list_entries(request).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    let rooms = pb::ListRoomsRequest {
        page_size: 0,
        page_token: token,
    };
    let answer = house.client.list_rooms(rooms).await;
    assert_eq!(details(answer), field_invalid("page_token"));
}

#[tokio::test]
async fn a_private_topic_is_read_by_members_and_services_only() {
    let mut house = house().await;
    let topic_id = house.topic(pb::Visibility::Private).await;
    let entries = pb::ListEntriesRequest {
        topic_id,
        ..pb::ListEntriesRequest::default()
    };
    let members = pb::ListMembersRequest {
        topic_id,
        ..pb::ListMembersRequest::default()
    };
    let stranger = refused(Code::PermissionDenied, "NOT_A_MEMBER", &[]);
    let answer = house
        .client
        .list_entries(by_person(15, entries.clone()))
        .await;
    assert_eq!(details(answer), stranger);
    let answer = house
        .client
        .list_members(by_person(15, members.clone()))
        .await;
    assert_eq!(details(answer), stranger);
    let join = pb::JoinTopicRequest {
        topic_id,
        user_id: 15,
    };
    let answer = house.client.join_topic(by_person(15, join)).await;
    assert_eq!(details(answer), stranger);

    house.client.list_entries(entries.clone()).await.unwrap();
    house.client.join_topic(join).await.unwrap();
    house
        .client
        .list_entries(by_person(15, entries.clone()))
        .await
        .unwrap();
    let listed = house
        .client
        .list_members(by_person(15, members))
        .await
        .unwrap();
    assert_eq!(listed.into_inner().members[0].user_id, 15);
    let answer = house.client.list_entries(for_people(entries)).await;
    assert_eq!(details(answer), stranger);
}

#[tokio::test]
async fn people_join_and_leave_for_themselves_only() {
    let mut house = house().await;
    house.fill(1, 3).await;
    let join = pb::JoinTopicRequest {
        topic_id: 1,
        user_id: 20,
    };
    let leave = pb::LeaveTopicRequest {
        topic_id: 1,
        user_id: 20,
    };
    let remove = pb::RemoveMemberRequest {
        topic_id: 1,
        user_id: 20,
    };
    let list = pb::ListMembershipsRequest {
        user_id: 20,
        ..pb::ListMembershipsRequest::default()
    };
    let other = field_invalid("user_id");
    assert_eq!(
        details(house.client.join_topic(by_person(15, join)).await),
        other
    );
    assert_eq!(
        details(house.client.leave_topic(by_person(15, leave)).await),
        other
    );
    assert_eq!(
        details(house.client.remove_member(by_person(20, remove)).await),
        other
    );
    let answer = house
        .client
        .list_memberships(by_person(15, list.clone()))
        .await;
    assert_eq!(details(answer), other);

    let joined = house.client.join_topic(by_person(20, join)).await.unwrap();
    let joined = joined.into_inner().membership.unwrap();
    assert_eq!(
        (joined.topic_id, joined.user_id, joined.joined_at_seq),
        (1, 20, 3)
    );
    assert!(joined.join_time_ms > 1_455_667_133_264);
    let listed = house
        .client
        .list_memberships(by_person(20, list.clone()))
        .await;
    let listed = listed.unwrap().into_inner();
    assert_eq!(listed.memberships, [joined]);
    let before = listed.version;

    for _ in 0..2 {
        house
            .client
            .leave_topic(by_person(20, leave))
            .await
            .unwrap();
        house.client.remove_member(remove).await.unwrap();
        let listed = house.client.list_memberships(list.clone()).await.unwrap();
        let listed = listed.into_inner();
        assert_eq!((listed.memberships.len(), listed.version), (0, before + 1));
    }
    let versions = pb::BatchGetMembershipVersionsRequest {
        user_ids: vec![99, 20],
    };
    let versions = house.client.batch_get_membership_versions(versions).await;
    assert_eq!(versions.unwrap().into_inner().versions, [0, before + 1]);
}

#[tokio::test]
async fn a_new_deployment_enrols_users_into_its_topic() {
    let mut house = house().await;
    house.fill(1, 2).await;
    let enrol = pb::EnrolUserRequest { user_id: 20 };
    for _ in 0..2 {
        let enrolled = house.client.enrol_user(enrol).await.unwrap();
        assert_eq!(enrolled.into_inner().version, 1);
    }
    let list = pb::ListMembershipsRequest {
        user_id: 20,
        ..pb::ListMembershipsRequest::default()
    };
    let listed = house.client.list_memberships(list).await.unwrap();
    let [membership] = listed.into_inner().memberships[..] else {
        panic!("not one membership")
    };
    assert_eq!((membership.topic_id, membership.joined_at_seq), (1, 2));
}

#[tokio::test]
async fn heads_are_told_of_topics_that_exist() {
    let mut house = house().await;
    let empty = house.topic(pb::Visibility::Open).await;
    house.fill(1, 3).await;
    let topic_ids = vec![999, empty, 1, 998];
    let heads = pb::BatchGetHeadsRequest { topic_ids };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    let heads = heads.into_inner().heads.into_iter();
    let heads: Vec<_> = heads.map(|head| (head.topic_id, head.seq)).collect();
    assert_eq!(heads, [(empty, 0), (1, 3)]);

    for (topic_ids, field) in [(vec![1, 0], "topic_ids[1]"), (vec![1; 1_001], "topic_ids")] {
        let heads = pb::BatchGetHeadsRequest { topic_ids };
        let answer = house.client.batch_get_heads(heads).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    let versions = pb::BatchGetMembershipVersionsRequest {
        user_ids: vec![1, 2, -3],
    };
    let answer = house.client.batch_get_membership_versions(versions).await;
    assert_eq!(details(answer), field_invalid("user_ids[2]"));
}

#[tokio::test]
async fn rooms_and_topics_are_made_changed_and_listed() {
    let mut house = house().await;
    let title = || "Тошкент".to_owned();
    let made = house
        .client
        .create_room(pb::CreateRoomRequest { title: title() });
    let room = made.await.unwrap().into_inner().room.unwrap();
    assert!(room.id >= 1_000 && room.title == title());
    let create = pb::CreateTopicRequest {
        room_id: room.id,
        title: title(),
        visibility: pb::Visibility::Private.into(),
        is_default: true,
    };
    let mut topics = Vec::new();
    for _ in 0..3 {
        let made = house.client.create_topic(create.clone()).await.unwrap();
        topics.push(made.into_inner().topic.unwrap());
    }
    let topic_id = topics[0].id;
    assert_eq!(topics[0].visibility(), pb::Visibility::Private);
    assert!(topics[0].is_default && !topics[0].closed);

    let update = pb::UpdateTopicRequest {
        topic_id,
        title: Some("Самарқанд".into()),
        visibility: pb::Visibility::Open.into(),
        closed: Some(true),
    };
    let updated = house.client.update_topic(update.clone()).await.unwrap();
    topics[0] = updated.into_inner().topic.unwrap();
    assert_eq!(topics[0].title, "Самарқанд");
    assert_eq!(topics[0].visibility(), pb::Visibility::Open);
    assert!(topics[0].closed);
    let nothing = pb::UpdateTopicRequest {
        topic_id,
        ..pb::UpdateTopicRequest::default()
    };
    let same = house.client.update_topic(nothing.clone()).await.unwrap();
    assert_eq!(same.into_inner().topic.as_ref(), Some(&topics[0]));
    let got = house
        .client
        .get_topic(pb::GetTopicRequest { topic_id })
        .await;
    assert_eq!(got.unwrap().into_inner().topic.as_ref(), Some(&topics[0]));

    let list = pb::ListTopicsRequest {
        room_id: room.id,
        page_size: 2,
        page_token: String::new(),
    };
    let page = house
        .client
        .list_topics(list.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.topics, topics[..2]);
    let next = pb::ListTopicsRequest {
        page_token: page.next_page_token,
        ..list.clone()
    };
    let page = house.client.list_topics(next).await.unwrap().into_inner();
    assert_eq!(
        (page.topics.as_slice(), page.next_page_token.as_str()),
        (&topics[2..], "")
    );
    let rooms = pb::ListRoomsRequest::default();
    let rooms = house
        .client
        .list_rooms(rooms)
        .await
        .unwrap()
        .into_inner()
        .rooms;
    let rooms: Vec<_> = rooms.into_iter().map(|room| room.id).collect();
    assert_eq!(rooms, [1, room.id]);

    let with = |change: &dyn Fn(&mut pb::CreateTopicRequest)| {
        let mut create = create.clone();
        change(&mut create);
        create
    };
    for (create, field) in [
        (with(&|r| r.room_id = 0), "room_id"),
        (with(&|r| r.title = "\t".into()), "title"),
        (with(&|r| r.visibility = 0), "visibility"),
        (with(&|r| r.visibility = 9), "visibility"),
    ] {
        assert_eq!(
            details(house.client.create_topic(create).await),
            field_invalid(field)
        );
    }
    let no_room = refused(Code::NotFound, "ROOM_NOT_FOUND", &[]);
    let answer = house.client.create_topic(with(&|r| r.room_id = 999)).await;
    assert_eq!(details(answer), no_room);
    let answer = house
        .client
        .list_topics(pb::ListTopicsRequest {
            room_id: 999,
            ..list
        })
        .await;
    assert_eq!(details(answer), no_room);
    let answer = house
        .client
        .create_room(pb::CreateRoomRequest {
            title: String::new(),
        })
        .await;
    assert_eq!(details(answer), field_invalid("title"));
    let update = pb::UpdateTopicRequest {
        visibility: 9,
        ..nothing
    };
    assert_eq!(
        details(house.client.update_topic(update).await),
        field_invalid("visibility")
    );
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_said_so_everywhere() {
    let mut house = house().await;
    let no_topic = refused(Code::NotFound, "TOPIC_NOT_FOUND", &[]);
    let topic_id = 999;
    let user_id = 20;
    let entries = pb::ListEntriesRequest {
        topic_id,
        ..pb::ListEntriesRequest::default()
    };
    let update = pb::UpdateTopicRequest {
        topic_id,
        closed: Some(true),
        ..pb::UpdateTopicRequest::default()
    };
    let members = pb::ListMembersRequest {
        topic_id,
        ..pb::ListMembersRequest::default()
    };
    let client = &mut house.client;
    assert_eq!(details(client.list_entries(entries).await), no_topic);
    assert_eq!(details(client.update_topic(update).await), no_topic);
    assert_eq!(details(client.list_members(members).await), no_topic);
    let get = pb::GetTopicRequest { topic_id };
    assert_eq!(details(client.get_topic(get).await), no_topic);
    let join = pb::JoinTopicRequest { topic_id, user_id };
    assert_eq!(details(client.join_topic(join).await), no_topic);
    let leave = pb::LeaveTopicRequest { topic_id, user_id };
    assert_eq!(details(client.leave_topic(leave).await), no_topic);
    let remove = pb::RemoveMemberRequest { topic_id, user_id };
    assert_eq!(details(client.remove_member(remove).await), no_topic);
}
