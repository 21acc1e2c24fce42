//! `drivers-user` as its operator and its callers see it.
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation of a test is a panic"
)]

use std::time::Duration;

use chassis::{call::Call, client::Channel, program::testing::Program};
use proto::user::v1::{GetUserRequest, user_service_client::UserServiceClient};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(5);

const PROGRAM: Program = Program {
    name: "drivers-user",
    binary: env!("CARGO_BIN_EXE_drivers-user"),
};

async fn call(channel: Channel) -> Result<(), Status> {
    let nobody = Call::within(LIMIT).request(GetUserRequest { user_id: 1 });
    match UserServiceClient::new(channel).get_user(nobody).await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        answer => answer.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_from_a_folder_whoever_shows_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.serves(folder.path(), "file:data", call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_has_its_own_secret_and_serves_one_program() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.has_its_folder_for_itself(folder.path(), call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_database_is_away_it_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.waits_for_its_database(folder.path(), call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_start_it_waits_for_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.waits_for_its_broker(folder.path(), call).await;
}

#[test]
fn a_wrong_configuration_is_one_sentence_that_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.refuses_a_wrong_configuration(folder.path());
}

#[test]
fn in_a_folder_there_is_nothing_to_migrate() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.migrates(folder.path(), "file:data", "nothing to migrate");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_scylla_it_serves_once_its_tables_are_made() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.serves_from_a_keyspace(folder.path(), call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_stopped_is_left_within_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    PROGRAM.is_left_while_it_hangs(folder.path(), call).await;
}
