#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proto::user::v1::user_service_client::UserServiceClient;
use proto::user::v1::user_service_server::UserServiceServer;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::service::tests::{World, world};
use crate::store::failing::Fault;

fn client(world: &World) -> UserServiceClient<UserServiceServer<Api>> {
    UserServiceClient::new(world.app.service())
}

fn sardor() -> SignUpRequest {
    SignUpRequest {
        phone_number: "+998 90 123-45-67".into(),
        username: " Sardor ".into(),
        gcm_token: "gcm".into(),
        device_type: "android".into(),
        request_id: Bytes::new(),
    }
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "user.drivers.uz");
    info.reason
}

fn wrong_fields(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(reason(status), "FIELD_INVALID");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations
        .into_iter()
        .map(|v| (v.field, v.description))
        .collect()
}

#[tokio::test]
async fn a_sign_up_answers_the_stored_forms_and_a_token_that_signs_in() {
    let world = world().await;
    let mut client = client(&world);
    let answer = client.sign_up(sardor()).await.unwrap().into_inner();
    let user = answer.user.unwrap();
    assert_eq!(user.phone_number, "998901234567");
    assert_eq!(user.username, "Sardor");
    assert_eq!(user.device_type, "android");
    assert_eq!(user.gcm_token, "gcm");
    assert!(user.id > 0 && user.create_time_ms > 1_455_667_133_264);
    assert_eq!(answer.token.len(), 32);

    let token = answer.token;
    let whose = client.authenticate(AuthenticateRequest { token }).await;
    let whose = whose.unwrap().into_inner();
    assert_eq!((whose.user_id, whose.username), (user.id, "Sardor".into()));

    let read = client.get_user(GetUserRequest { user_id: user.id }).await;
    assert_eq!(read.unwrap().into_inner().user, Some(user));
}

#[tokio::test]
async fn another_way_of_writing_a_known_number_is_taken() {
    let world = world().await;
    let mut client = client(&world);
    client.sign_up(sardor()).await.unwrap();
    let other = SignUpRequest {
        phone_number: "998901234567".into(),
        username: "Aziz".into(),
        ..sardor()
    };
    let status = client.sign_up(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(reason(&status), "PHONE_NUMBER_TAKEN");

    let other = SignUpRequest {
        phone_number: "998907654321".into(),
        username: "SARDOR".into(),
        ..sardor()
    };
    let status = client.sign_up(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(reason(&status), "USERNAME_TAKEN");
}

#[tokio::test]
async fn every_wrong_field_of_a_sign_up_is_named() {
    let world = world().await;
    let mut client = client(&world);
    let status = client.sign_up(SignUpRequest::default()).await.unwrap_err();
    assert_eq!(
        wrong_fields(&status),
        ["phone_number", "username", "gcm_token", "device_type"]
            .map(|field| (field.to_owned(), format!("{field} not given")))
    );

    let wrong = SignUpRequest {
        phone_number: "12345".into(),
        username: "12345678901234567".into(),
        gcm_token: "g".repeat(4_097),
        device_type: "blackberry".into(),
        request_id: Bytes::from_static(b"short"),
    };
    let status = client.sign_up(wrong).await.unwrap_err();
    let fields: Vec<_> = wrong_fields(&status).into_iter().map(|(f, _)| f).collect();
    assert_eq!(
        fields,
        [
            "phone_number",
            "username",
            "gcm_token",
            "device_type",
            "request_id"
        ]
    );
    assert!(client.sign_up(sardor()).await.is_ok());
}

#[tokio::test]
async fn a_sign_up_with_a_request_id_may_be_repeated() {
    let world = world().await;
    let mut client = client(&world);
    let request = SignUpRequest {
        request_id: Bytes::from_static(&[7; 16]),
        ..sardor()
    };
    world.store.fail_next([Fault::After]);
    let status = client.sign_up(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
    assert!(status.get_details_retry_info().is_some());
    let first = client.sign_up(request.clone()).await.unwrap().into_inner();
    let second = client.sign_up(request).await.unwrap().into_inner();
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let world = world().await;
    let token = "446f8da7c5904653bec11557c3416f6f".to_owned();
    let mut client = client(&world);
    let refused = client.authenticate(AuthenticateRequest { token }).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason(&status), "TOKEN_INVALID");
}

#[tokio::test]
async fn accounts_are_read_in_the_order_asked_without_unknown_ones() {
    let world = world().await;
    let mut client = client(&world);
    let mut ids = Vec::new();
    for n in 0..3 {
        let request = SignUpRequest {
            phone_number: format!("99890123456{n}"),
            username: format!("user {n}"),
            ..sardor()
        };
        let answer = client.sign_up(request).await.unwrap().into_inner();
        ids.push(answer.user.unwrap().id);
    }
    ids.reverse();
    let mut asked = vec![0, -1, i64::MAX, 1 << 40];
    asked.extend(&ids);
    let request = BatchGetUsersRequest { user_ids: asked };
    let users = client.batch_get_users(request).await.unwrap().into_inner();
    let found: Vec<i64> = users.users.iter().map(|user| user.id).collect();
    assert_eq!(found, ids);

    let user_ids = vec![1; 1_001];
    let status = client
        .batch_get_users(BatchGetUsersRequest { user_ids })
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "user_ids");

    let user_id = 1 << 40;
    let unknown = client.get_user(GetUserRequest { user_id }).await;
    let status = unknown.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(reason(&status), "USER_NOT_FOUND");
    for user_id in [0, -1, i64::MAX] {
        let wrong = client.get_user(GetUserRequest { user_id }).await;
        assert_eq!(wrong_fields(&wrong.unwrap_err())[0].0, "user_id");
    }
}

#[tokio::test]
async fn tokens_are_checked_issued_and_revoked() {
    let world = world().await;
    let mut client = client(&world);
    let answer = client.sign_up(sardor()).await.unwrap().into_inner();
    let user_id = answer.user.unwrap().id;
    let issued = client.issue_token(IssueTokenRequest { user_id }).await;
    let issued = issued.unwrap().into_inner().token;
    let hash = |token: &str| {
        let token = crate::token::Token::parse(token).unwrap();
        Bytes::copy_from_slice(token.hash().as_bytes())
    };
    let check = BatchCheckTokensRequest {
        token_sha256s: vec![
            hash(&issued),
            Bytes::from_static(&[9; 32]),
            hash(&answer.token),
        ],
        partial: false,
    };
    let live = client.batch_check_tokens(check.clone()).await.unwrap();
    assert_eq!(live.into_inner().live, [true, false, true]);

    let one = RevokeTokensRequest {
        user_id,
        token_sha256s: vec![hash(&issued)],
    };
    let revoked = client.revoke_tokens(one).await.unwrap().into_inner();
    assert_eq!(revoked.revoked_count, 1);
    let live = client.batch_check_tokens(check).await.unwrap();
    assert_eq!(live.into_inner().live, [false, false, true]);

    for wrong in [
        vec![Bytes::from_static(&[1; 31])],
        vec![Bytes::new(); 1_001],
    ] {
        let token_sha256s = wrong.clone();
        let check = client
            .batch_check_tokens(BatchCheckTokensRequest {
                token_sha256s,
                partial: false,
            })
            .await;
        assert_eq!(wrong_fields(&check.unwrap_err())[0].0, "token_sha256s");
        let token_sha256s = wrong;
        let revoke = client
            .revoke_tokens(RevokeTokensRequest {
                user_id,
                token_sha256s,
            })
            .await;
        assert_eq!(wrong_fields(&revoke.unwrap_err())[0].0, "token_sha256s");
    }

    let all = RevokeTokensRequest {
        user_id,
        token_sha256s: Vec::new(),
    };
    let revoked = client.revoke_tokens(all).await.unwrap().into_inner();
    assert_eq!(revoked.revoked_count, 1);
}
