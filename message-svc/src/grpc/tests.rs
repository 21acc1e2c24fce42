//! What a caller over gRPC notices.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod directory;
mod reading;
mod sending;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use chassis::{
    bus::Subject,
    call::{ActingUser, Call},
    embedded::Embedded,
    id::UserId,
};
use proto::message::v1::{
    self as pb, ErrorReason, entry, message_service_client::MessageServiceClient,
    message_service_server::MessageServiceServer, outgoing_message::Stamp, send_result::Outcome,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    App,
    announce::tests::Tape,
    build,
    config::Config,
    directory::double::Double,
    store::{DirectoryStore, LogStore, embedded::EmbeddedStore},
};

type Client = MessageServiceClient<MessageServiceServer<Api>>;

struct House {
    client: Client,
    app: App,
    _folder: TempDir,
}

/// A service that holds what a new deployment holds: open topic 1.
async fn house() -> House {
    let (store, folder) = store().await;
    let app = app(Arc::clone(&store) as _, store).await;
    House {
        client: MessageServiceClient::new(app.service()),
        app,
        _folder: folder,
    }
}

async fn store() -> (Arc<EmbeddedStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("messages.redb");
    let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
    (Arc::new(EmbeddedStore::new(db).await.unwrap()), folder)
}

async fn app(log: Arc<dyn LogStore>, directory: Arc<dyn DirectoryStore>) -> App {
    let config = Config {
        segment_capacity: 128,
        ..Config::default()
    };
    let bus = Arc::new(Tape::default());
    build(config, log, directory, bus).await.unwrap()
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
