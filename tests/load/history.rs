//! A topic with a long history beside one with hardly any: appends and reads, as an
//! internal service calls for them.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::message::v1::outgoing_message::Stamp;
use proto::message::v1::send_result::Outcome as Result_;
use proto::message::v1::{
    Direction, ListEntriesRequest, OutgoingMessage, SendMessagesRequest, Visibility,
};
use tests::account::{User, try_sign_up_as};
use tests::api::{Api, acting_for};

use crate::outcome::{Measured, Outcome};
use crate::target::Target;

/// Messages of one call while the long topic is made, and such calls at a time.
const BATCH: u64 = 256;
const AT_A_TIME: usize = 4;
/// Messages of the short topic: enough to read a page of.
const SHORT: u64 = 100;
/// Entries of a page.
const PAGE: i32 = 50;
/// Calls of a kind in each round.
const CALLS: usize = 100;

/// Makes a topic of so many messages and a short one, and measures both in turn.
pub(crate) async fn measure(
    target: &Target,
    messages: u64,
    rounds: usize,
) -> Result<Outcome, String> {
    target.build()?;
    let running = target.start().await?;
    let api = running.api()?;
    let number: u64 = rand::random_range(0..1_000_000_000_000);
    let user = try_sign_up_as(
        running.address(),
        format!("98{number:013}"),
        format!("log{number}"),
    )
    .await?;
    let [mut long, mut short] = [messages, SHORT].map(|length| Topic {
        api: &api,
        user: &user,
        id: 0,
        length,
        next: 0,
    });
    for topic in [&mut long, &mut short] {
        topic.make().await?;
    }
    println!("{}: {messages} messages are appended", target.name());
    let mut all = Vec::new();
    for round in 0..rounds {
        // Who is first takes turns.
        let (of_long, of_short) = if round.is_multiple_of(2) {
            let of_long = long.measure().await?;
            (of_long, short.measure().await?)
        } else {
            let of_short = short.measure().await?;
            (long.measure().await?, of_short)
        };
        all.push((of_long, of_short));
    }
    let figures = [
        ("append, ms", 0),
        ("page of 50 backward, ms", 1),
        ("page of 50 forward, ms", 2),
    ];
    let figures = figures.map(|(what, kind)| {
        Measured::beside(
            what,
            all.iter().map(|(long, short)| (long[kind], short[kind])),
        )
    });
    let what = format!("a topic with {messages} messages, against one with {SHORT}");
    let sides = ["long", "short"].map(|which| format!("{}, {which}", target.name()));
    Ok(Outcome::new(what, sides, rounds, figures))
}

struct Topic<'a> {
    api: &'a Api,
    user: &'a User,
    id: i64,
    length: u64,
    /// Number of the next message.
    next: u64,
}

impl Topic<'_> {
    async fn make(&mut self) -> Result<(), String> {
        self.id = (self.api).topic(Visibility::Private, &[self.user.id]).await;
        let starts = (0..self.length).step_by(BATCH as usize);
        let calls = starts.map(|start| self.append(start, BATCH.min(self.length - start)));
        let calls = stream::iter(calls).buffered(AT_A_TIME);
        calls.try_for_each(|()| async { Ok(()) }).await?;
        self.next = self.length;
        Ok(())
    }

    /// Milliseconds of an append, of a page backward and of one forward.
    async fn measure(&mut self) -> Result<[f64; 3], String> {
        let mut took = [Duration::ZERO; 3];
        for _ in 0..CALLS {
            let began = Instant::now();
            self.append(self.next, 1).await?;
            took[0] += began.elapsed();
            self.next += 1;
            for (kind, direction) in [(1, Direction::Backward), (2, Direction::Forward)] {
                let began = Instant::now();
                self.read(direction).await?;
                took[kind] += began.elapsed();
            }
        }
        Ok(took.map(|sum| sum.as_secs_f64() * 1e3 / CALLS as f64))
    }

    /// Appends messages from this number on.
    async fn append(&self, first: u64, count: u64) -> Result<(), String> {
        let messages = (first..)
            .take(count as usize)
            .map(|number| OutgoingMessage {
                stamp: Some(Stamp::StampId(number.to_string())),
                body: format!("message {number} of a long conversation among drivers"),
                ..OutgoingMessage::default()
            });
        let request = SendMessagesRequest {
            topic_id: self.id,
            messages: messages.collect(),
        };
        let request = acting_for(self.user.id, &self.user.username, request);
        let sent = self.api.messages.clone().send_messages(request).await;
        let results = sent
            .map_err(|status| status.to_string())?
            .into_inner()
            .results;
        let is_sent = |outcome: &Option<Result_>| matches!(outcome, Some(Result_::Sent(_)));
        match results.iter().find(|result| !is_sent(&result.outcome)) {
            Some(result) => Err(format!("a message was not appended: {result:?}")),
            None => Ok(()),
        }
    }

    /// Reads a page from anywhere.
    async fn read(&self, direction: Direction) -> Result<(), String> {
        let page = i64::from(PAGE);
        let last = i64::try_from(self.length).unwrap_or(i64::MAX) - page;
        let start = rand::random_range(1..=last.max(1));
        let request = ListEntriesRequest {
            topic_id: self.id,
            direction: direction.into(),
            start_seq: match direction {
                Direction::Backward => start + page - 1,
                _ => start,
            },
            page_size: PAGE,
            page_token: String::new(),
        };
        let read = self.api.messages.clone().list_entries(request).await;
        let entries = read
            .map_err(|status| status.to_string())?
            .into_inner()
            .entries;
        match entries.len() as i64 == page {
            true => Ok(()),
            false => Err(format!("{} entries are no page", entries.len())),
        }
    }
}
