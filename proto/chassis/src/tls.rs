//! TLS by PEM files: what phones connect to, what programs show each other, and what a
//! database is trusted by.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

mod mutual;
mod reloaded;

pub use mutual::{Mutual, MutualTls, PeerName};
pub use reloaded::Reloaded;

/// Why a certificate can't be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} can't be read: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is damaged.
    #[error("{} is no PEM file: {error}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// A file holds nothing of the kind.
    #[error("{} holds no {kind}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        kind: &'static str,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} does not belong to the certificate in {}", .key.display(), .chain.display())]
    OtherKey {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate is no authority that others can be checked against.
    #[error("the authorities in {} can't be used: {error}", .ca.display())]
    Authority {
        /// The file of authorities.
        ca: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// The certificate or the key is of no use.
    #[error("the certificate in {} and the key in {} can't be used: {error}", .chain.display(), .key.display())]
    Unusable {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// The configuration of a server that shows this certificate chain (its own
/// certificate first) and speaks HTTP/1.1: websockets need no more.
///
/// # Errors
/// See [`TlsError`].
pub fn load(chain: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let certificates = certificates(chain)?;
    let private_key = private_key(key)?;
    let unusable = |error| unusable(chain, key, error);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, private_key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The same, read again when the files change. Has to be called within a runtime.
///
/// # Errors
/// See [`TlsError`].
pub fn load_again(chain: PathBuf, key: PathBuf) -> Result<Reloaded<ServerConfig>, TlsError> {
    let files = vec![chain.clone(), key.clone()];
    Reloaded::new(files, move || load(&chain, &key))
}

fn unusable(chain: &Path, key: &Path, error: rustls::Error) -> TlsError {
    let (chain, key) = (chain.to_path_buf(), key.to_path_buf());
    match error {
        rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
            TlsError::OtherKey { chain, key }
        }
        error => TlsError::Unusable { chain, key, error },
    }
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(path, error))?;
    if certificates.is_empty() {
        return Err(missing(path, "certificate"));
    }
    Ok(certificates)
}

/// The first private key of a PEM file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    match PrivateKeyDer::from_pem_slice(&read(path)?) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(missing(path, "private key")),
        Err(error) => Err(malformed(path, error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable {
        path: path.to_path_buf(),
        error,
    })
}

fn malformed(path: &Path, error: pem::Error) -> TlsError {
    TlsError::Malformed {
        path: path.to_path_buf(),
        error,
    }
}

fn missing(path: &Path, kind: &'static str) -> TlsError {
    TlsError::Missing {
        path: path.to_path_buf(),
        kind,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            for name in ["ours", "other"] {
                let issued = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
                files.write(&format!("{name}.pem"), &issued.cert.pem());
                files.write(&format!("{name}.key"), &issued.signing_key.serialize_pem());
            }
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        fn error(&self, chain: &str, key: &str) -> String {
            load(&self.path(chain), &self.path(key))
                .unwrap_err()
                .to_string()
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_loaded() {
        let files = Files::new();
        let config = load(&files.path("ours.pem"), &files.path("ours.key")).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong() {
        let files = Files::new();
        files.write("empty", "");
        files.write("cut", "-----BEGIN CERTIFICATE-----\nMIIB\n");
        files.write(
            "junk.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        for (chain, key, named, wrong) in [
            ("nowhere", "ours.key", "nowhere", "can't be read"),
            ("ours.pem", "nowhere", "nowhere", "can't be read"),
            ("empty", "ours.key", "empty", "holds no certificate"),
            ("ours.key", "ours.key", "ours.key", "holds no certificate"),
            ("ours.pem", "ours.pem", "ours.pem", "holds no private key"),
            ("cut", "ours.key", "cut", "is no PEM file"),
            ("junk.pem", "ours.key", "junk.pem", "can't be used"),
            ("ours.pem", "other.key", "other.key", "does not belong"),
        ] {
            let error = files.error(chain, key);
            assert!(error.contains(named), "{error}");
            assert!(error.contains(wrong), "{error}");
        }
    }
}
