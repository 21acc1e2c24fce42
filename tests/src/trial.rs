//! Cases, and how they become trials of libtest-mimic: once for each client and
//! transport, or once.

use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::FutureExt;
use libtest_mimic::{Failed, Trial};
use proto::message::v1::Visibility;

use crate::account::{self, User};
use crate::api::Api;
use crate::client::{Client, Kind, Transport};
use crate::engine::Eio;
use crate::server::{Folder, Options, Server, Store, key};

/// A case as a function.
pub type Run = fn(World) -> Pin<Box<dyn Future<Output = ()>>>;

/// Where and how often a case runs.
#[derive(Clone, Copy)]
pub enum Scope {
    /// For each client and each transport it has.
    EachClient,
    /// Once, beside others.
    Once,
    /// Once, with nothing else on the machine: it measures.
    Alone,
    /// Once, beside others, where data is in a folder: it is about that folder, or about
    /// nothing that a store could change.
    Embedded,
    /// As [`Scope::Alone`], where data is in Cassandra: it starts clusters of its own and
    /// breaks them.
    Cluster,
}

impl Scope {
    fn is_of(self, store: Store) -> bool {
        match self {
            Self::EachClient | Self::Once | Self::Alone => true,
            Self::Embedded => store == Store::Embedded,
            Self::Cluster => store == Store::Cql,
        }
    }
}

/// A case.
pub struct Case {
    /// Path of its function.
    pub name: &'static str,
    /// Where it runs.
    pub scope: Scope,
    /// What it does.
    pub run: Run,
}

/// Lists the cases of a module: `cases! { EachClient: a, b; Once: c; Alone: d; }`.
#[macro_export]
macro_rules! cases {
    ($($scope:ident: $($name:ident),* $(,)?;)*) => {
        pub(crate) fn cases() -> Vec<$crate::trial::Case> {
            vec![$($($crate::trial::Case {
                name: concat!(module_path!(), "::", stringify!($name)),
                scope: $crate::trial::Scope::$scope,
                run: |world| Box::pin($name(world)),
            }),*),*]
        }
    };
}

/// The longest that a case may take.
const LIMIT: Duration = Duration::from_secs(240);
/// And a `thorough_` one.
const THOROUGH_LIMIT: Duration = Duration::from_secs(3_600);

/// Measuring cases wait until they are alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// One server for all cases that need nothing special.
static SHARED: Slot = Mutex::new(None);
/// One more, whose sockets must sign in within [`IMPATIENCE`].
static IMPATIENT: Slot = Mutex::new(None);
/// The auth timeout of [`World::impatient`].
pub const IMPATIENCE: Duration = Duration::from_secs(2);

type Slot = Mutex<Option<Arc<Server>>>;

fn shared(slot: &Slot, options: &Options) -> Arc<Server> {
    let mut slot = slot
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = slot.get_or_insert_with(|| {
        let started = Server::start_blocking(&Folder::new(), options);
        Arc::new(started.unwrap_or_else(|ended| {
            panic!("drivers did not start, {}:\n{}", ended.status, ended.log)
        }))
    });
    Arc::clone(server)
}

thread_local! {
    /// Where and why the thread's case panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a case is given.
pub struct World {
    /// The client it runs with.
    pub kind: Kind,
    /// And its transport.
    pub transport: Transport,
    server: Arc<Server>,
}

impl World {
    fn new(kind: Kind, transport: Transport) -> Self {
        let server = shared(&SHARED, &Options::default());
        Self {
            kind,
            transport,
            server,
        }
    }

    /// The same world on a server that ends sockets soon which do not sign in.
    #[must_use]
    pub fn impatient(&self) -> Self {
        let options = Options::default().with(key::AUTH_TIMEOUT_MS, IMPATIENCE.as_millis());
        Self {
            server: shared(&IMPATIENT, &options),
            ..*self
        }
    }

    /// The server that cases share. Its topic 1 is left alone: everybody listens to it.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its gRPC clients.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::of(&self.server)
    }

    /// A new account.
    pub async fn user(&self) -> User {
        account::sign_up(&self.server).await
    }

    /// A new private topic with these members.
    pub async fn topic(&self, members: &[&User]) -> i64 {
        let members: Vec<i64> = members.iter().map(|user| user.id).collect();
        self.api().topic(Visibility::Private, &members).await
    }

    /// The case's client, connected.
    pub async fn connect(&self) -> Client {
        Client::connect(self.kind, self.transport, &self.server).await
    }

    /// The case's client, signed in.
    pub async fn signed_in(&self, user: &User) -> Client {
        let mut client = self.connect().await;
        client.sign_in(user).await;
        client
    }

    /// A client made by hand, signed in: the other side of the case's client.
    pub async fn other(&self, user: &User) -> Client {
        let mut client =
            Client::connect(Kind::Raw(Eio::V4), Transport::Websocket, &self.server).await;
        client.sign_in(user).await;
        client
    }
}

impl Case {
    /// Its trials: none with a store that it is not for.
    #[must_use]
    pub fn trials(self) -> Vec<Trial> {
        if !self.scope.is_of(Store::of_this_run()) {
            return Vec::new();
        }
        // `blackbox::contract::signin::x` → `contract::signin::x`
        let name = self
            .name
            .split_once("::")
            .map_or(self.name, |(_, rest)| rest);
        let limit = if name.contains("::thorough_") {
            THOROUGH_LIMIT
        } else {
            LIMIT
        };
        let Self { scope, run, .. } = self;
        match scope {
            Scope::EachClient => Kind::ALL
                .into_iter()
                .flat_map(|kind| Transport::ALL.map(|transport| (kind, transport)))
                .map(|(kind, transport)| {
                    Trial::test(format!("{name}::{kind}::{transport}"), move || {
                        let _shared = MACHINE.read();
                        try_run(run, kind, transport, LIMIT)
                    })
                })
                .collect(),
            Scope::Once | Scope::Embedded => vec![Trial::test(name, move || {
                let _shared = MACHINE.read();
                try_run(run, Kind::Raw(Eio::V4), Transport::Websocket, limit)
            })],
            Scope::Alone | Scope::Cluster => vec![Trial::test(name, move || {
                let _alone = MACHINE.write();
                try_run(run, Kind::Raw(Eio::V4), Transport::Websocket, limit)
            })],
        }
    }
}

fn try_run(run: Run, kind: Kind, transport: Transport, limit: Duration) -> Result<(), Failed> {
    let attempt = AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let world = World::new(kind, transport);
        runtime.block_on(async {
            let case = AssertUnwindSafe(run(world)).catch_unwind();
            match tokio::time::timeout(limit, case).await {
                Err(_) => panic!("not done after {limit:?}"),
                Ok(Err(_)) => Err(()),
                Ok(Ok(())) => Ok(()),
            }
        })
    });
    match std::panic::catch_unwind(attempt) {
        Ok(Ok(())) => Ok(()),
        _ => Err(PANIC
            .take()
            .unwrap_or_else(|| "it panicked".to_owned())
            .into()),
    }
}

/// Remembers the place of a panic for the report of its case.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let told = info.to_string();
        let first = PANIC.with_borrow_mut(|panic| match panic {
            Some(_) => false,
            none => {
                *none = Some(told.clone());
                true
            }
        });
        if !first
            || !std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("test"))
        {
            eprintln!("{told}");
        }
    }));
}

/// Ends the shared servers as an operator would, and says what is wrong with that.
///
/// # Errors
/// One ended in another way than with exit code 0, or a part of it panicked.
pub fn end_shared() -> Result<(), String> {
    [&SHARED, &IMPATIENT].into_iter().try_for_each(end)
}

fn end(slot: &Slot) -> Result<(), String> {
    let Some(server) = slot
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take()
    else {
        return Ok(());
    };
    let checks = AssertUnwindSafe(|| {
        assert!(
            server.is_running(),
            "a shared server died:\n{}",
            server.log_tail()
        );
        server.terminate();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let status = runtime.block_on(server.ended_within(Duration::from_secs(60)));
        assert!(
            status.success(),
            "a shared server ended with {status}:\n{}",
            server.log_tail()
        );
        crate::server::assert_no_panic(&server.log());
    });
    std::panic::catch_unwind(checks).map_err(|_| {
        PANIC
            .take()
            .unwrap_or_else(|| "a shared server did not end well".to_owned())
    })
}
