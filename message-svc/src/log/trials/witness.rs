//! What clients and listeners are told in a trial, to be held against the log in the end.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use chassis::{
    call::ActingUser,
    id::{TopicId, UserId},
};
use tokio::time::Instant;

use crate::{
    entry::{Content, Kind, Placed, Stamp},
    error::Error,
    log::{Admission, Announcer, Outgoing, Sent},
};

/// Lets everybody post but those it was told not to.
#[derive(Default)]
pub(crate) struct Doorman {
    pub(crate) refuses: Mutex<HashSet<UserId>>,
}

#[async_trait]
impl Admission for Doorman {
    async fn admit(&self, _: TopicId, owner: UserId) -> Result<(), Error> {
        if self.refuses.lock().unwrap().contains(&owner) {
            return Err(Error::NotAMember);
        }
        Ok(())
    }
}

/// Hears what was appended.
#[derive(Default)]
pub(crate) struct Ears {
    pub(crate) heard: Mutex<Vec<Placed>>,
}

impl Announcer for Ears {
    fn appended(&self, entries: &[Placed]) {
        self.heard.lock().unwrap().extend_from_slice(entries);
    }
}

pub(crate) fn message(owner: i64, stamp: &str, body: &str) -> Outgoing {
    Outgoing {
        owner: ActingUser {
            id: UserId::new(owner).unwrap(),
            username: format!("user {owner}"),
        },
        stamp: Some(Stamp::Given(stamp.into())),
        content: Content {
            body: body.into(),
            reply_to: None,
            attrs: None,
            has_media: false,
        },
    }
}

/// Long enough for every trial.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// The promises that a log keeps whatever happened: seqs without a hole, ids that
/// ascend, times that never go back, no stamp twice.
pub(crate) fn assert_whole(log: &[Placed]) {
    let mut stamps = HashSet::new();
    for (n, placed) in (1..).zip(log) {
        assert_eq!(placed.seq.get(), n);
        assert!(stamps.insert((placed.entry.owner, placed.entry.stamp.clone())));
    }
    for pair in log.windows(2) {
        assert!(pair[0].id < pair[1].id);
        assert!(pair[0].entry.sent_at_ms <= pair[1].entry.sent_at_ms);
    }
}

/// Everything that clients were told of one topic.
#[derive(Default)]
pub(crate) struct Witness {
    told: Mutex<HashMap<(UserId, Stamp), Placed>>,
    reused: Mutex<Vec<Outgoing>>,
}

impl Witness {
    /// Takes note of the answers to a call. Returns what has to be sent again.
    pub(crate) fn hear(
        &self,
        call: Vec<Outgoing>,
        answers: Vec<Result<Sent, Error>>,
    ) -> Vec<Outgoing> {
        assert_eq!(call.len(), answers.len());
        let mut again = Vec::new();
        for (message, answer) in call.into_iter().zip(answers) {
            match answer {
                Ok(sent) => {
                    let Kind::Message(content) = &sent.placed.entry.kind;
                    assert_eq!(content, &message.content);
                    let name = (message.owner.id, message.stamp.unwrap());
                    let mut told = self.told.lock().unwrap();
                    let first = told.entry(name).or_insert_with(|| sent.placed.clone());
                    assert_eq!(*first, sent.placed, "a stamp was told two places");
                }
                Err(Error::StampReused) => self.reused.lock().unwrap().push(message),
                Err(Error::OutcomeUnknown | Error::NotStored(_) | Error::Store(_)) => {
                    again.push(message)
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        again
    }

    /// How many messages were told to be in the log.
    pub(crate) fn told(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    /// Holds all that was told and announced against the log.
    pub(crate) fn check(&self, log: &[Placed], ears: &Ears) {
        assert_whole(log);
        for placed in self.told.lock().unwrap().values() {
            assert_eq!(&log[placed.seq.get() as usize - 1], placed);
        }
        for heard in ears.heard.lock().unwrap().iter() {
            assert_eq!(&log[heard.seq.get() as usize - 1], heard);
        }
        for refused in self.reused.lock().unwrap().iter() {
            let differs = |placed: &&Placed| {
                let Kind::Message(content) = &placed.entry.kind;
                placed.entry.owner == refused.owner.id
                    && Some(&placed.entry.stamp) == refused.stamp.as_ref()
                    && *content != refused.content
            };
            assert!(log.iter().any(|placed| differs(&placed)), "{refused:?}");
        }
    }
}
