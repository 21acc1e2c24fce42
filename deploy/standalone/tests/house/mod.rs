//! The whole in process, and how to sign up to it.

use std::{net::SocketAddr, path::Path, sync::OnceLock, time::Duration};

use chassis::{program::Error, telemetry::Metrics};
use serde_json::{Value, json};
use standalone::{
    app::{Addresses, App, Listeners},
    config::Config,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running system.
pub(crate) struct House {
    /// Where it listens.
    pub(crate) at: Addresses,
    /// Asks it to end.
    pub(crate) end: CancellationToken,
    ended: JoinHandle<Result<(), Error>>,
}

impl House {
    pub(crate) async fn open(data: &Path, change: impl FnOnce(&mut Config)) -> Result<Self, Error> {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            listen: any,
            grpc_listen: any,
            admin_listen: any,
            data: data.to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let listeners = Listeners::bind(&config)?;
        let at = listeners.addresses()?;
        let metrics = METRICS.get_or_init(|| Metrics::install().unwrap()).clone();
        let app = Box::pin(App::build(config, listeners, metrics)).await?;
        let (serving, end) = (app.serve(), CancellationToken::new());
        let asked = end.clone();
        let ended = tokio::spawn(async move { serving.until(asked.cancelled()).await });
        Ok(Self { at, end, ended })
    }

    pub(crate) async fn close(self) {
        self.end.cancel();
        let ended = timeout(LIMIT, self.ended).await.unwrap();
        ended.unwrap().unwrap();
    }
}

/// Sends an HTTP request and returns the whole answer.
pub(crate) async fn http(at: SocketAddr, line: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(LIMIT, socket.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    answer
}

pub(crate) async fn sign_up(at: SocketAddr, number: u32) -> String {
    let body = json!({
        "phone_number": format!("99890{number:07}"), "username": format!("driver {number}"),
        "gcm_token": "none", "device_type": "linux",
    });
    let answer = http(at, "POST /sign_up", &body.to_string()).await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let body: Value = serde_json::from_str(body).expect(&answer);
    body["token"].as_str().expect(&answer).to_owned()
}
