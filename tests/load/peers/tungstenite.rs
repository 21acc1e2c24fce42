//! tokio-tungstenite and nothing else: a channel for each connection, one flush for all
//! that waits in it, everything on one thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, protocol::WebSocketConfig};

use super::{Event, Incoming, OK, SignIn};

#[derive(Default)]
struct Topic {
    seq: u64,
    listeners: Vec<UnboundedSender<Utf8Bytes>>,
}

type Topics = Rc<RefCell<HashMap<i64, Topic>>>;

pub(super) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let topics = Topics::default();
    let accepts = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let topics = Rc::clone(&topics);
            spawn_local(async move { drop(connection(stream, topics).await) });
        }
    };
    LocalSet::new().run_until(accepts).await
}

async fn connection(stream: TcpStream, topics: Topics) -> Result<(), Error> {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 4 << 10;
    let ws = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    let (mut write, mut read) = ws.split();
    let (out, mut waiting) = unbounded_channel::<Utf8Bytes>();
    write.send(Message::text("0{}")).await?;
    spawn_local(async move {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, 64).await > 0 {
            for text in batch.drain(..) {
                write.feed(Message::Text(text)).await?;
            }
            write.flush().await?;
        }
        Ok::<_, Error>(())
    });
    while let Some(Message::Text(text)) = read.next().await.transpose()? {
        if let Some(answer) = take(&text, &topics, &out) {
            let _ended = out.send(answer.into());
        }
    }
    Ok(())
}

/// What a packet is answered by.
fn take(text: &str, topics: &Topics, out: &UnboundedSender<Utf8Bytes>) -> Option<String> {
    if text == "40" {
        return Some(r#"40{"sid":"a"}"#.to_owned());
    }
    let event = text.strip_prefix("42")?;
    if let Ok(("signin_request", sign_in)) = serde_json::from_str::<(&str, SignIn)>(event) {
        for topic in sign_in.topics() {
            let mut topics = topics.borrow_mut();
            topics.entry(topic).or_default().listeners.push(out.clone());
        }
        return Some(format!(
            "42{}",
            serde_json::to_string(&("signin_response", OK)).ok()?
        ));
    }
    let (_, incoming): (&str, Incoming) = serde_json::from_str(event).ok()?;
    let mut topics = topics.borrow_mut();
    let topic = topics.get_mut(&incoming.topic_id)?;
    topic.seq += 1;
    let event = ("message_events", Event::new(incoming, topic.seq));
    let packet = Utf8Bytes::from(format!("42{}", serde_json::to_string(&event).ok()?));
    topic
        .listeners
        .retain(|listener| listener.send(packet.clone()).is_ok());
    None
}
