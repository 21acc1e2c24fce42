//! Internal services that are known by their certificates.

use std::fs;
use std::time::{Duration, Instant};

use proto::message::v1::CreateRoomRequest;
use proto::user::v1::AuthenticateRequest;
use tests::api::Api;
use tests::authority::{Authority, Certificate, id};
use tests::cases;
use tests::server::{Folder, Options, Server};
use tests::trial::World;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

cases! {
    Once:
        who_calls_is_known_by_his_certificate_and_may_do_what_he_is_listed_with;
    Embedded:
        renewed_authorities_count_without_a_restart;
}

/// A server that knows callers by certificates of this authority.
async fn server(folder: &std::sync::Arc<Folder>, own: &Certificate) -> Server {
    let (gateway, admin) = (id("gateway"), id("admin"));
    let callers = format!(r#"{{ "{gateway}" = ["gateway"], "{admin}" = ["*"] }}"#);
    let [certificate, key, ca] = own.files().map(|(_, file)| format!("{file:?}"));
    let options = Options::default()
        .with("mtls.certificate", certificate)
        .with("mtls.key", key)
        .with("mtls.ca", ca)
        .with("callers", callers);
    Server::start_on(folder, options).await
}

fn api(server: &Server, own: &Certificate) -> Api {
    Api::by_certificate([server.at.grpc; 3], own)
}

/// Makes a room, which is nothing for gateways.
async fn makes_a_room(api: &Api) -> Result<(), Status> {
    let title = "Room".to_owned();
    let mut messages = api.messages.clone();
    messages
        .create_room(CreateRoomRequest { title })
        .await
        .map(drop)
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

async fn who_calls_is_known_by_his_certificate_and_may_do_what_he_is_listed_with(_: World) {
    let folder = Folder::new();
    let authority = Authority::new(&folder.file(""));
    let server = server(&folder, &authority.issue("drivers")).await;
    makes_a_room(&api(&server, &authority.issue("admin")))
        .await
        .unwrap();

    let gateway = api(&server, &authority.issue("gateway"));
    let refused = makes_a_room(&gateway).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), "METHOD_NOT_GRANTED");
    let nobodys = AuthenticateRequest {
        token: "0".repeat(32),
    };
    let refused = gateway
        .users
        .clone()
        .authenticate(nobodys)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_INVALID");

    let refused = makes_a_room(&api(&server, &authority.issue("stranger"))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), "CALLER_NOT_LISTED");
    assert!(
        makes_a_room(&Api::of(&server)).await.is_err(),
        "it was plain"
    );
    // Phones have nothing to do with it.
    let user = tests::account::sign_up(&server).await;
    assert!(user.id > 0);
}

async fn renewed_authorities_count_without_a_restart(_: World) {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let authority = Authority::new(&folder.file(""));
    let server = server(&folder, &authority.issue("drivers")).await;
    let admin = api(&server, &authority.issue("admin"));
    makes_a_room(&admin).await.unwrap();

    let next = Authority::new(&elsewhere.file(""));
    let by_next = next.issue("admin");
    let refused = makes_a_room(&api(&server, &by_next)).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok);
    fs::copy(elsewhere.file("ca.pem"), folder.file("ca.pem")).unwrap();
    let renewed = Instant::now();
    while makes_a_room(&api(&server, &by_next)).await.is_err() {
        assert!(renewed.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(200)).await;
    }
    // Who has come before stays; who comes now with the old one does not get in.
    makes_a_room(&admin).await.unwrap();
    let late = makes_a_room(&api(&server, &authority.issue("admin"))).await;
    assert!(late.is_err());
}
