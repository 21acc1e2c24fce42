//! How a broker is signed in to. Files are read again for each connection, so that
//! what was renewed counts from the next one on.

use std::path::{Path, PathBuf};

use async_nats::Auth;
use nkeys::KeyPair;

use crate::cluster_url::{Password, read_secret};

/// What signs in.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// A name and a password.
    User {
        name: String,
        password: Option<Password>,
    },
    /// The file of a token.
    Token(PathBuf),
    /// The file of a user's JWT and seed, as `nsc` writes it.
    Credentials(PathBuf),
    /// The file of a user's seed.
    Nkey(PathBuf),
}

impl Login {
    /// What signs in to a server that asks for this nonce to be signed.
    ///
    /// # Errors
    /// A sentence that names the file which can't be used.
    pub(super) fn auth(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Self::User { name, password } => {
                auth.username = Some(name.clone());
                auth.password = Some(
                    password
                        .as_ref()
                        .map_or(Ok(String::new()), Password::read)?,
                );
            }
            Self::Token(path) => auth.token = Some(read_secret(path, "token")?),
            Self::Credentials(path) => {
                let text = read_secret(path, "credentials")?;
                let mut blocks = blocks(&text);
                let (Some(jwt), Some(seed)) = (blocks.next(), blocks.next()) else {
                    return Err(unusable(
                        "credentials",
                        path,
                        "it holds no JWT and seed of a user",
                    ));
                };
                auth.jwt = Some(jwt.to_owned());
                let pair = key_pair(seed, "credentials", path)?;
                auth.signature = Some(sign(&pair, nonce, "credentials", path)?);
            }
            Self::Nkey(path) => {
                let text = read_secret(path, "nkey")?;
                let pair = key_pair(text.trim(), "nkey", path)?;
                auth.nkey = Some(pair.public_key());
                auth.signature = Some(sign(&pair, nonce, "nkey", path)?);
            }
        }
        Ok(auth)
    }
}

fn key_pair(seed: &str, kind: &str, path: &Path) -> Result<KeyPair, String> {
    // Its own errors may repeat the seed.
    KeyPair::from_seed(seed).map_err(|_| unusable(kind, path, "it holds no seed of a user"))
}

fn sign(pair: &KeyPair, nonce: &[u8], kind: &str, path: &Path) -> Result<Vec<u8>, String> {
    pair.sign(nonce)
        .map_err(|_| unusable(kind, path, "its seed can't sign"))
}

fn unusable(kind: &str, path: &Path, why: &str) -> String {
    format!("the {kind} file {} can't be used: {why}", path.display())
}

/// What stands between the lines `-----BEGIN …-----` and `------END …------`.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().map(str::trim).filter(move |line| {
        if line.starts_with("---") {
            inside = line.contains("BEGIN");
            return false;
        }
        inside && !line.is_empty()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn credentials_sign_the_nonce_and_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drivers.creds");
        let login = Login::Credentials(path.clone());
        assert!(login.auth(b"n").err().unwrap().contains("can't be read"));
        for jwt in ["first.jwt", "second.jwt"] {
            let pair = KeyPair::new_user();
            let seed = pair.seed().unwrap();
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            );
            std::fs::write(&path, text).unwrap();
            let auth = login.auth(b"nonce").unwrap();
            assert_eq!(auth.jwt.as_deref(), Some(jwt));
            pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        }
        std::fs::write(&path, "-----BEGIN X-----\nsecret\n").unwrap();
        let error = login.auth(b"n").err().unwrap();
        assert!(error.contains("holds no JWT") && !error.contains("secret"));
    }

    #[test]
    fn a_seed_says_who_we_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let login = Login::Nkey(file.path().to_owned());
        std::fs::write(file.path(), "SUsecret\n").unwrap();
        let error = login.auth(b"n").err().unwrap();
        assert!(error.contains("no seed") && !error.contains("SUsecret"));
        let pair = KeyPair::new_user();
        std::fs::write(file.path(), format!("{}\n", pair.seed().unwrap())).unwrap();
        let auth = login.auth(b"nonce").unwrap();
        assert_eq!(auth.nkey, Some(pair.public_key()));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    }
}
