//! The stores of all services, in one data folder.

use std::path::Path;

use chassis::{
    embedded::{DataFolder, Embedded, OpenError},
    identity::Secret,
};
use message_svc::store::embedded::EmbeddedStore as Messages;
use presence_svc::store::embedded::EmbeddedStore as Presences;
use tokio::task::spawn_blocking;
use user_svc::store::embedded::EmbeddedStore as Accounts;

use crate::error::Error;

/// Open stores. Nobody else can use the folder until this is dropped.
pub(crate) struct Stores {
    pub(crate) accounts: Accounts,
    pub(crate) messages: Messages,
    pub(crate) presences: Presences,
    pub(crate) secret: Secret,
    files: [Embedded; 3],
    _folder: DataFolder,
}

impl Stores {
    /// Opens the stores in this folder and verifies them; makes what is not there the first time.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let (folder, secret, files) = spawn_blocking(move || {
            let folder = DataFolder::open(&path)?;
            let secret = folder.secret()?;
            let files = [
                folder.embedded(&Accounts::options())?,
                folder.embedded(&Messages::options())?,
                folder.embedded(&Presences::options())?,
            ];
            Ok::<_, OpenError>((folder, secret, files))
        })
        .await
        .map_err(|_| Error::Ended("the opening of the stores"))??;

        let [accounts, messages, presences] = files.clone();
        let unwritable = |store, error: String| Error::Store { store, why: error };
        Ok(Self {
            accounts: Accounts::new(accounts)
                .await
                .map_err(|error| unwritable("accounts", error.to_string()))?,
            messages: Messages::new(messages)
                .await
                .map_err(|error| unwritable("messages", error.to_string()))?,
            presences: Presences::new(presences)
                .await
                .map_err(|error| unwritable("presence", error.to_string()))?,
            secret: Secret::new(secret.expose())?,
            files,
            _folder: folder,
        })
    }

    /// Closes the files and lets go of the folder.
    pub(crate) async fn close(self) {
        for file in &self.files {
            file.close().await;
        }
    }
}
