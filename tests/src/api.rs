//! The three services, called as an internal service calls them.

use std::net::SocketAddr;

use proto::message::v1::message_service_client::MessageServiceClient;
use proto::message::v1::{
    CreateRoomRequest, CreateTopicRequest, Direction, Entry, JoinTopicRequest, ListEntriesRequest,
    RemoveMemberRequest, UpdateTopicRequest, Visibility,
};
use proto::presence::v1::presence_service_client::PresenceServiceClient;
use proto::user::v1::user_service_client::UserServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::authority::Certificate;
use crate::server::Server;

/// Puts the bearer secret on every call, where there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", secret.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls are let in.
pub type Trusted = InterceptedService<Channel, Bearer>;

/// Clients of the three services.
#[derive(Clone)]
pub struct Api {
    /// Accounts and tokens.
    pub users: UserServiceClient<Trusted>,
    /// Rooms, topics, members, the log.
    pub messages: MessageServiceClient<Trusted>,
    /// Who is here.
    pub presence: PresenceServiceClient<Trusted>,
}

/// Names the person a call acts for.
#[must_use]
pub fn acting_for<T>(id: i64, username: &str, message: T) -> Request<T> {
    use std::fmt::Write as _;
    let mut value = format!("{id}:");
    for byte in username.bytes() {
        if byte.is_ascii_alphanumeric() {
            value.push(char::from(byte));
        } else {
            write!(value, "%{byte:02X}").unwrap();
        }
    }
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("drivers-acting-user", value.parse().unwrap());
    request
}

/// A channel to the server's gRPC port, with nothing on it.
#[must_use]
pub fn channel(server: &Server) -> Channel {
    channel_to(server.at.grpc)
}

fn channel_to(address: SocketAddr) -> Channel {
    endpoint(address).connect_lazy()
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .timeout(std::time::Duration::from_secs(20))
}

impl Api {
    /// Clients of this server.
    #[must_use]
    pub fn of(server: &Server) -> Self {
        Self::at([server.at.grpc; 3], &server.secret())
    }

    /// Clients of the services at these addresses: users, messages, presence.
    ///
    /// # Panics
    /// The secret can't stand in a header.
    #[must_use]
    pub fn at(addresses: [SocketAddr; 3], secret: &str) -> Self {
        let bearer = Bearer(Some(format!("Bearer {secret}").parse().unwrap()));
        Self::over(addresses.map(channel_to), &bearer)
    }

    /// The same for who shows this certificate.
    #[must_use]
    pub fn by_certificate(addresses: [SocketAddr; 3], own: &Certificate) -> Self {
        let channels = addresses.map(|address| {
            let own = own.clone();
            let connector = tower::service_fn(move |_| own.clone().connect(address));
            endpoint(address).connect_with_connector_lazy(connector)
        });
        Self::over(channels, &Bearer(None))
    }

    fn over(channels: [Channel; 3], bearer: &Bearer) -> Self {
        let [users, messages, presence] =
            channels.map(|channel| InterceptedService::new(channel, bearer.clone()));
        Self {
            users: UserServiceClient::new(users),
            messages: MessageServiceClient::new(messages),
            presence: PresenceServiceClient::new(presence),
        }
    }

    /// Makes a topic, in a room of its own, with these members.
    ///
    /// # Panics
    /// A call was refused.
    pub async fn topic(&self, visibility: Visibility, members: &[i64]) -> i64 {
        let mut messages = self.messages.clone();
        let room = messages
            .create_room(CreateRoomRequest {
                title: "Room".into(),
            })
            .await
            .unwrap()
            .into_inner()
            .room
            .unwrap();
        let topic = messages
            .create_topic(CreateTopicRequest {
                room_id: room.id,
                title: "Topic".into(),
                visibility: visibility.into(),
                is_default: false,
            })
            .await
            .unwrap()
            .into_inner()
            .topic
            .unwrap();
        for member in members {
            self.join(topic.id, *member).await;
        }
        topic.id
    }

    /// Makes a user a member.
    ///
    /// # Panics
    /// The call was refused.
    pub async fn join(&self, topic_id: i64, user_id: i64) {
        let request = JoinTopicRequest { topic_id, user_id };
        self.messages.clone().join_topic(request).await.unwrap();
    }

    /// Ends a membership.
    ///
    /// # Panics
    /// The call was refused.
    pub async fn remove(&self, topic_id: i64, user_id: i64) {
        let request = RemoveMemberRequest { topic_id, user_id };
        self.messages.clone().remove_member(request).await.unwrap();
    }

    /// Closes or opens a topic.
    ///
    /// # Panics
    /// The call was refused.
    pub async fn set_closed(&self, topic_id: i64, closed: bool) {
        let request = UpdateTopicRequest {
            topic_id,
            closed: Some(closed),
            ..UpdateTopicRequest::default()
        };
        self.messages.clone().update_topic(request).await.unwrap();
    }

    /// Reads a whole topic from its beginning.
    ///
    /// # Panics
    /// A call was refused.
    pub async fn history(&self, topic_id: i64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self
                .messages
                .clone()
                .list_entries(ListEntriesRequest {
                    topic_id,
                    direction: Direction::Forward.into(),
                    start_seq: 0,
                    page_size: 500,
                    page_token,
                })
                .await
                .unwrap()
                .into_inner();
            entries.extend(page.entries);
            if page.next_page_token.is_empty() {
                return entries;
            }
            page_token = page.next_page_token;
        }
    }
}
