//! One who asks, again and again, whether messages are sent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::account;
use tests::api::Api;
use tests::client::{Client, Kind, Transport};
use tests::engine::Eio;
use tests::patience;
use tests::server::Server;

/// The longest until a send is answered, in one way or the other.
const ANSWER: Duration = Duration::from_secs(12);

/// Somebody alone in a topic.
pub(crate) struct Probe {
    client: Client,
    topic: i64,
    number: u32,
}

impl Probe {
    pub(crate) async fn new(server: &Server) -> Self {
        let user = account::sign_up_patiently(server.at.public).await;
        let topic = Api::of(server)
            .topic(proto::message::v1::Visibility::Private, &[user.id])
            .await;
        let mut client = Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, server).await;
        client.sign_in(&user).await;
        Self {
            client,
            topic,
            number: 0,
        }
    }

    /// Emits a new message; its answer.
    async fn send(&mut self) -> Value {
        self.number += 1;
        let stamp = self.number.to_string();
        self.client.emit(
            "message_events",
            &json!({"topic_id": self.topic, "body": stamp, "stamp_id": stamp}),
        );
        let deadline = Instant::now() + patience(ANSWER);
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let Some(event) = self.client.next_within(rest).await else {
                panic!("a message has no answer after {ANSWER:?}");
            };
            let payload = event.payload();
            if payload["stamp_id"] == *stamp {
                assert_eq!(payload["event_type"], "fail", "{payload}");
                assert_eq!(payload["code"], "unavailable", "{payload}");
                return payload;
            }
            // What failed before may have been stored and come now.
            if payload["data"]["stamp_id"] == *stamp {
                return payload;
            }
        }
    }

    /// Sends until one is sent; says how long that took.
    pub(crate) async fn goes_on_within(&mut self, limit: Duration) -> Duration {
        let (limit, began) = (patience(limit), Instant::now());
        while self.send().await["event_type"] != "sent" {
            assert!(
                began.elapsed() < limit,
                "no message is sent within {limit:?}"
            );
        }
        assert!(
            began.elapsed() < limit,
            "a message was sent only after {:?}",
            began.elapsed()
        );
        began.elapsed()
    }

    /// Sends until one is refused, as the first few may still have found a way.
    pub(crate) async fn is_refused_within(&mut self, limit: Duration) {
        let (limit, began) = (patience(limit), Instant::now());
        while self.send().await["event_type"] == "sent" {
            assert!(began.elapsed() < limit, "messages are sent after {limit:?}");
        }
    }
}
