#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chassis::{
    bus::{Bus, BusError, Subject, Subscription},
    embedded::Embedded,
};
use futures::FutureExt;
use prost::Message;
use proto::event::v1::{UserEvent, user_event::Event};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    App, Config, build,
    store::{
        conformance::profile,
        embedded::EmbeddedStore,
        failing::{FailingStore, Fault},
    },
};

/// A bus that keeps what is published.
#[derive(Default)]
pub(crate) struct Recorder {
    published: Mutex<Vec<(Subject, Bytes)>>,
}

impl Recorder {
    pub(crate) fn revoked(&self) -> Vec<(Subject, i64, Vec<Bytes>)> {
        let published = self.published.lock().unwrap();
        published
            .iter()
            .map(|(subject, bytes)| {
                let event = UserEvent::decode(bytes.clone()).unwrap();
                match event.event {
                    Some(Event::TokensRevoked(event)) => {
                        (*subject, event.user_id, event.token_sha256s)
                    }
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }
}

#[async_trait]
impl Bus for Recorder {
    fn publish(&self, subject: Subject, event: Bytes) {
        self.published.lock().unwrap().push((subject, event));
    }

    async fn subscribe(&self, _subject: Subject) -> Result<Subscription, BusError> {
        Err(BusError::Unavailable("only records".to_owned()))
    }

    async fn flush(&self, _limit: Duration) -> Result<(), BusError> {
        Ok(())
    }

    fn connected(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    fn reconnects(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

pub(crate) struct World {
    pub(crate) app: App,
    pub(crate) store: Arc<FailingStore>,
    pub(crate) bus: Arc<Recorder>,
    _folder: TempDir,
}

impl World {
    fn users(&self) -> Users {
        self.app.users.clone()
    }
}

pub(crate) async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    let db = Embedded::open(&path, &EmbeddedStore::options()).unwrap();
    let embedded = EmbeddedStore::new(db).await.unwrap();
    let store = Arc::new(FailingStore::new(Arc::new(embedded)));
    let bus = Arc::new(Recorder::default());
    World {
        app: build(&Config::default(), store.clone(), bus.clone()),
        store,
        bus,
        _folder: folder,
    }
}

fn request(n: u8) -> Option<RequestId> {
    Some(RequestId::new([n; 16]))
}

#[tokio::test]
async fn a_sign_up_whose_answer_was_lost_is_answered_alike_when_repeated() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    for fault in [Fault::Before, Fault::After] {
        world.store.fail_next([fault]);
        let lost = users.sign_up(sardor.clone(), request(1)).await;
        assert!(matches!(lost, Err(Error::Store(_))), "{lost:?}");
    }
    let (account, token) = users.sign_up(sardor.clone(), request(1)).await.unwrap();
    assert_eq!(account.profile, sardor);
    assert_eq!(
        users.authenticate(&token.reveal()).await,
        Ok(account.clone())
    );
    assert_eq!(
        users.sign_up(sardor, request(1)).await,
        Ok((account, token))
    );
}

#[tokio::test]
async fn a_sign_up_that_was_cut_off_is_answered_when_repeated() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    world.store.fail_next([Fault::Silence]);
    let silent = users.sign_up(sardor.clone(), request(1));
    let cut_off = timeout(Duration::from_millis(200), silent).await;
    assert!(cut_off.is_err());
    let (account, token) = users.sign_up(sardor, request(1)).await.unwrap();
    assert_eq!(users.authenticate(&token.reveal()).await, Ok(account));
}

#[tokio::test]
async fn nobody_gets_a_token_of_a_known_number_by_signing_up_again() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    users.sign_up(sardor.clone(), request(1)).await.unwrap();
    for (again, request) in [
        (sardor.clone(), None),
        (sardor, request(2)),
        (profile("998901234567", "Aziz"), request(1)),
        (profile("998901234567", "sardor"), request(1)),
    ] {
        assert_eq!(
            users.sign_up(again, request).await,
            Err(Error::PhoneNumberTaken)
        );
    }
}

#[tokio::test]
async fn a_revoked_token_is_not_handed_out_again() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, token) = users.sign_up(sardor.clone(), request(1)).await.unwrap();
    users.revoke_tokens(account.id, Tokens::All).await.unwrap();
    assert_eq!(
        users.sign_up(sardor, request(1)).await,
        Err(Error::PhoneNumberTaken)
    );
    assert_eq!(
        users.authenticate(&token.reveal()).await,
        Err(Error::TokenInvalid)
    );
}

#[tokio::test]
async fn a_request_id_serves_one_sign_up() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, token) = users.sign_up(sardor, request(1)).await.unwrap();
    let aziz = profile("998907654321", "Aziz");
    let Err(Error::FieldsInvalid(violations)) = users.sign_up(aziz, request(1)).await else {
        panic!("a token was given twice");
    };
    let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["request_id"]);
    assert_eq!(users.authenticate(&token.reveal()).await, Ok(account));
}

#[tokio::test]
async fn a_name_is_taken_case_aside() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Сардор");
    users.sign_up(sardor, None).await.unwrap();
    let other = profile("998907654321", "сАРДОР");
    assert_eq!(users.sign_up(other, None).await, Err(Error::UsernameTaken));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_sign_ups_of_one_number_one_gets_an_account() {
    let world = world().await;
    let racers: Vec<_> = (0..100)
        .map(|n| {
            let users = world.users();
            let profile = profile("998901234567", &format!("racer {n}"));
            tokio::spawn(async move { users.sign_up(profile, request(n)).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok((account, token)) => {
                won += 1;
                let found = world.users().authenticate(&token.reveal()).await;
                assert_eq!(found, Ok(account));
            }
            Err(error) => assert_eq!(error, Error::PhoneNumberTaken),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_repeated_a_hundred_times_at_once_has_one_answer() {
    let world = world().await;
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let users = world.users();
            let sardor = profile("998901234567", "Sardor");
            tokio::spawn(async move { users.sign_up(sardor, request(1)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racers {
        answers.push(racer.await.unwrap().unwrap());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_makes_no_token_invalid() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, token) = users.sign_up(sardor, None).await.unwrap();
    world.store.fail_next([Fault::Before]);
    let away = users.authenticate(&token.reveal()).await;
    assert!(matches!(away, Err(Error::Store(_))), "{away:?}");
    assert_eq!(users.authenticate(&token.reveal()).await, Ok(account));
}

#[tokio::test]
async fn every_text_but_a_live_token_is_an_invalid_one() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (_, token) = users.sign_up(sardor, None).await.unwrap();
    let token = token.reveal();
    for text in [
        String::new(),
        " ".repeat(32),
        format!(" {token}"),
        format!("{token}\n"),
        token.replace(|c: char| c.is_ascii_digit(), "A"),
        "0".repeat(32),
        "é".repeat(16),
    ] {
        assert_eq!(
            users.authenticate(&text).await,
            Err(Error::TokenInvalid),
            "{text:?}"
        );
    }
}

#[tokio::test]
async fn one_more_token_leaves_the_earlier_live() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, first) = users.sign_up(sardor, None).await.unwrap();
    let second = users.issue_token(account.id).await.unwrap();
    assert_ne!(first, second);
    for token in [first, second] {
        assert_eq!(
            users.authenticate(&token.reveal()).await,
            Ok(account.clone())
        );
    }
    let nobody = UserId::new(999).unwrap();
    assert_eq!(users.issue_token(nobody).await, Err(Error::UserNotFound));
}

#[tokio::test]
async fn a_revocation_ends_tokens_counts_them_and_tells_the_gateways() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, first) = users.sign_up(sardor, None).await.unwrap();
    let second = users.issue_token(account.id).await.unwrap();

    let one = Tokens::These(vec![first.hash(), TokenHash::new([9; 32])]);
    assert_eq!(users.revoke_tokens(account.id, one.clone()).await, Ok(1));
    assert_eq!(
        users.authenticate(&first.reveal()).await,
        Err(Error::TokenInvalid)
    );
    assert!(users.authenticate(&second.reveal()).await.is_ok());
    assert_eq!(
        world.bus.revoked(),
        [(
            Subject::User(account.id),
            account.id.get(),
            vec![Bytes::copy_from_slice(first.hash().as_bytes())]
        )]
    );

    assert_eq!(users.revoke_tokens(account.id, one).await, Ok(0));
    assert_eq!(world.bus.revoked().len(), 1);
    assert_eq!(users.revoke_tokens(account.id, Tokens::All).await, Ok(1));
    assert_eq!(world.bus.revoked().len(), 2);
    let nobody = UserId::new(999).unwrap();
    assert_eq!(
        users.revoke_tokens(nobody, Tokens::All).await,
        Err(Error::UserNotFound)
    );
}

#[tokio::test]
async fn a_revocation_is_announced_although_its_caller_left() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, _) = users.sign_up(sardor, None).await.unwrap();
    let revoking = users.revoke_tokens(account.id, Tokens::All);
    assert!(revoking.now_or_never().is_none());
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.bus.revoked().is_empty() {
        assert!(Instant::now() < deadline, "never announced");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn shutdown_waits_for_a_revocation_under_way() {
    let world = world().await;
    let users = world.users();
    let sardor = profile("998901234567", "Sardor");
    let (account, _) = users.sign_up(sardor, None).await.unwrap();
    let revoking = users.revoke_tokens(account.id, Tokens::All);
    assert!(revoking.now_or_never().is_none());
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    world.app.run(shutdown).await;
    assert_eq!(world.bus.revoked().len(), 1);
}
