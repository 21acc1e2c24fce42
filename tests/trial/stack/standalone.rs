//! One `drivers` that is all of it, with its data in a folder: the cheapest that there is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tests::api::Api;
use tests::part::{Part, free_address};
use tests::proxy::Proxy;

use super::{Stack, Thing, Weak};

/// How it is started.
pub(crate) struct Options {
    pub(crate) program: PathBuf,
    /// URL of its bus.
    pub(crate) bus: String,
    /// What is wrong with it on purpose.
    pub(crate) sabotage: String,
}

impl Stack {
    /// Starts it and waits until it is ready.
    pub(crate) async fn standalone(options: Options) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("drivers-trial-")
            .tempdir()
            .unwrap();
        let [public, grpc, admin] = [(); 3].map(|()| free_address());
        let mut part = Part::new("drivers", options.program, folder.path(), admin)
            .flag("--listen", public)
            .flag("--grpc-listen", grpc)
            .flag("--admin-listen", admin)
            .flag("--data", "data")
            .flag("--rate-limits", "off")
            .flag("--log", "text")
            .env("DRIVERS_BUS", options.bus)
            .env("DRIVERS_MESSAGE__SEGMENT_CAPACITY", 32);
        if !options.sabotage.is_empty() {
            part = part.env("DRIVERS_SABOTAGE", options.sabotage);
        }
        part.start();
        part.ready_within(Duration::from_secs(60)).await;
        let secret = std::fs::read_to_string(part.folder().join("data/secret")).unwrap();
        let door = Arc::new(Proxy::start(public).await);
        let weak = |sort, thing| Weak {
            sort,
            name: "drivers".into(),
            thing,
            deafens: vec![0],
            cuts: vec![0],
        };
        Self {
            doors: vec![door.address],
            apis: vec![Api::at([grpc; 3], secret.trim())],
            weak: vec![
                weak("drivers", Thing::Program(Arc::new(part))),
                weak("phones", Thing::Link(door)),
            ],
            folder,
        }
    }
}
