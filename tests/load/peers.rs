//! Peers in Rust, run as this very program. Each speaks as much of the contract as a load
//! needs: a token names the topics that its connection listens to.

mod socketioxide;
mod tungstenite;

use std::net::{Ipv4Addr, SocketAddr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Which peer.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    Socketioxide,
    SocketioxideNoticing,
    Tungstenite,
}

/// Serves on the port that `PORT` says, for ever.
pub(crate) fn serve(kind: Kind) -> Result<(), String> {
    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.ok_or("PORT is no port")?));
    let mut runtime = match kind {
        Kind::Socketioxide | Kind::SocketioxideNoticing => {
            tokio::runtime::Builder::new_multi_thread()
        }
        Kind::Tungstenite => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        match kind {
            Kind::Socketioxide => socketioxide::serve(listener).await,
            Kind::SocketioxideNoticing => socketioxide::serve_noticing(listener).await,
            Kind::Tungstenite => tungstenite::serve(listener).await,
        }
    });
    served.map_err(|error| error.to_string())
}

/// What comes in.
#[derive(Deserialize)]
struct SignIn {
    token: String,
}

impl SignIn {
    fn topics(&self) -> impl Iterator<Item = i64> {
        self.token.split(',').filter_map(|topic| topic.parse().ok())
    }
}

#[derive(Deserialize)]
struct Incoming {
    topic_id: i64,
    stamp_id: String,
    body: String,
}

#[derive(Deserialize, Serialize)]
struct Typing {
    user_id: i64,
    topic_id: i64,
}

#[derive(Clone, Serialize)]
struct Status {
    status: &'static str,
}

const OK: Status = Status { status: "ok" };

/// A message as the contract has it.
#[derive(Serialize)]
struct Event {
    event_type: &'static str,
    data: Data,
}

#[derive(Serialize)]
struct Data {
    id: u64,
    stamp_id: String,
    topic_id: i64,
    owner: Owner,
    reply_to: Option<u64>,
    body: String,
    attrs: Option<u64>,
    sent_at: u64,
    has_media: bool,
    seq: u64,
}

#[derive(Serialize)]
struct Owner {
    id: u64,
    username: &'static str,
}

impl Event {
    fn new(incoming: Incoming, seq: u64) -> Self {
        Self {
            event_type: "sent",
            data: Data {
                id: 1_000_000 + seq,
                stamp_id: incoming.stamp_id,
                topic_id: incoming.topic_id,
                owner: Owner {
                    id: 15,
                    username: "user15",
                },
                reply_to: None,
                body: incoming.body,
                attrs: None,
                sent_at: 1_455_667_133_264,
                has_media: false,
                seq,
            },
        }
    }
}
