#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use chassis::{bus::Subject, call::ActingUser};
use prost::Message;
use proto::{
    event::v1::{TopicEvent, Typing, topic_event::Event},
    presence::v1::{
        presence_service_client::PresenceServiceClient,
        presence_service_server::PresenceServiceServer,
    },
};
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::{
    service::tests::{World, world},
    store::failing::Fault,
};

const ID: Bytes = Bytes::from_static(&[7; 16]);

fn client(world: &World) -> PresenceServiceClient<PresenceServiceServer<Api>> {
    PresenceServiceClient::new(world.app.service())
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "presence.drivers.uz");
    info.reason
}

fn wrong_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(reason(status), "FIELD_INVALID");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|v| v.field).collect()
}

fn take() -> RenewLeaseRequest {
    RenewLeaseRequest {
        lease_id: ID,
        ttl_ms: 10_000,
        take: true,
    }
}

fn sessions(users: impl IntoIterator<Item = i64>) -> Vec<pb::Session> {
    let session = |user_id| pb::Session {
        session_id: ID,
        user_id,
    };
    users.into_iter().map(session).collect()
}

fn open(users: impl IntoIterator<Item = i64>) -> OpenSessionRequest {
    OpenSessionRequest {
        lease_id: ID,
        sessions: sessions(users),
    }
}

#[tokio::test]
async fn a_session_is_seen_from_opening_to_closing() {
    let world = world().await;
    let mut client = client(&world);
    let lease = client.renew_lease(take()).await.unwrap().into_inner();
    assert_eq!(lease.expire_time_ms, 1_010_000);
    client.open_session(open([15])).await.unwrap();
    let ask = BatchGetPresenceRequest {
        user_ids: vec![16, 15],
    };
    let answer = client.batch_get_presence(ask.clone()).await.unwrap();
    let presence = |user_id, online, last_seen_ms| pb::Presence {
        user_id,
        online,
        last_seen_ms,
    };
    assert_eq!(
        answer.into_inner().presences,
        [presence(16, false, 0), presence(15, true, 0)]
    );
    let close = CloseSessionRequest {
        lease_id: ID,
        sessions: sessions([15]),
    };
    client.close_session(close).await.unwrap();
    let answer = client.batch_get_presence(ask).await.unwrap();
    assert_eq!(
        answer.into_inner().presences[1],
        presence(15, false, 1_000_000)
    );
}

#[tokio::test]
async fn refusals_say_why() {
    let world = world().await;
    let mut client = client(&world);
    let unknown = RenewLeaseRequest {
        take: false,
        ..take()
    };
    for status in [
        client.renew_lease(unknown).await.unwrap_err(),
        client.open_session(open([15])).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason(&status), "LEASE_LOST");
    }

    client.renew_lease(take()).await.unwrap();
    let status = client.open_session(open(1..=4)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "TOO_MANY_SESSIONS");
    assert!(status.get_details_retry_info().is_some());

    world.store.fail_next([Fault::Before]);
    let status = client.open_session(open([1])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
    assert!(status.get_details_retry_info().is_some());

    let release = ReleaseLeaseRequest { lease_id: ID };
    client.release_lease(release.clone()).await.unwrap();
    client.release_lease(release).await.unwrap();
    let status = client.open_session(open([15])).await.unwrap_err();
    assert_eq!(reason(&status), "LEASE_LOST");
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let world = world().await;
    let mut client = client(&world);
    for ttl_ms in [0, 999, 300_001, -1, i64::MAX] {
        let wrong = RenewLeaseRequest {
            ttl_ms,
            lease_id: Bytes::new(),
            take: true,
        };
        let status = client.renew_lease(wrong).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["lease_id", "ttl_ms"]);
    }
    let release = client.release_lease(ReleaseLeaseRequest::default()).await;
    assert_eq!(wrong_fields(&release.unwrap_err()), ["lease_id"]);

    for (users, fields) in [
        (vec![], vec!["sessions"]),
        (vec![1; 257], vec!["sessions"]),
        (vec![1, 0, -1], vec!["sessions[1].user_id"]),
    ] {
        let status = client.open_session(open(users)).await.unwrap_err();
        assert_eq!(wrong_fields(&status), fields);
    }
    let close = CloseSessionRequest {
        lease_id: ID,
        sessions: vec![pb::Session {
            session_id: Bytes::from_static(b"short"),
            user_id: 15,
        }],
    };
    let status = client.close_session(close).await.unwrap_err();
    assert_eq!(wrong_fields(&status), ["sessions[0].session_id"]);

    for (user_ids, field) in [(vec![1; 1_001], "user_ids"), (vec![1, 0], "user_ids[1]")] {
        let ask = BatchGetPresenceRequest { user_ids };
        let status = client.batch_get_presence(ask).await.unwrap_err();
        assert_eq!(wrong_fields(&status), [field]);
    }
}

#[tokio::test]
async fn typing_is_told_to_the_topic_for_the_acting_user() {
    let world = world().await;
    let mut client = client(&world);
    let typing = ReportTypingRequest {
        topic_id: 12,
        session_id: ID,
    };
    let sardor = ActingUser {
        id: UserId::new(15).unwrap(),
        username: "Sardor".to_owned(),
    };
    let call = Call::within(Duration::from_secs(5)).acting_for(sardor.clone());
    client
        .report_typing(call.request(typing.clone()))
        .await
        .unwrap();
    let published = world.bus.published.lock().unwrap().clone();
    let [(subject, event)] = &published[..] else {
        unreachable!("one was published: {published:?}");
    };
    assert_eq!(*subject, Subject::Topic(TopicId::new(12).unwrap()));
    assert_eq!(
        TopicEvent::decode(event.clone()).unwrap().event,
        Some(Event::Typing(Typing {
            topic_id: 12,
            user_id: 15,
            session_id: ID,
        }))
    );

    let status = client.report_typing(typing.clone()).await.unwrap_err();
    assert_eq!(wrong_fields(&status), ["drivers-acting-user"]);
    let two = call.clone().acting_for(sardor);
    let status = client.report_typing(two.request(typing)).await.unwrap_err();
    assert_eq!(wrong_fields(&status), ["drivers-acting-user"]);
    let empty = ReportTypingRequest::default();
    let status = client.report_typing(call.request(empty)).await.unwrap_err();
    assert_eq!(wrong_fields(&status), ["topic_id", "session_id"]);
    assert_eq!(world.bus.published.lock().unwrap().len(), 1);
}
