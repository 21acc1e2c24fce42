//! Which store a URL means.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    cluster_url::may_quote_password,
    cql::{CqlUrl, InvalidCqlUrl},
};

/// Where a program's data is. Shown without passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:./data`: embedded stores in this folder, which one program uses.
    File(PathBuf),
    /// `scylla://host1,host2/keyspace?…`: tables in a keyspace, which many replicas share.
    Scylla(Box<CqlUrl>),
}

/// A text that means no store. Never tells a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoreUrl {
    /// No known scheme. What there is instead is not repeated, as it may hold a password.
    #[error("that is no store: `file:./data` or `scylla://host1,host2/keyspace` is expected")]
    Scheme,
    /// `file:` without a folder.
    #[error("`file:` names no folder: `file:./data` is expected")]
    Folder,
    /// What stands where hosts are expected may be the beginning of a password, so
    /// nothing of it is repeated.
    #[error(
        "it can't be told where the password ends: `/` and `?` in it are written `%2F` and `%3F`, and an `@` behind the hosts `%40`"
    )]
    Password,
    /// A cluster that is none.
    #[error(transparent)]
    Scylla(#[from] InvalidCqlUrl),
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        if text.starts_with("scylla:") {
            let url = text.parse().map_err(|error: InvalidCqlUrl| {
                if may_quote_password(text.trim_start_matches("scylla://")) {
                    InvalidStoreUrl::Password
                } else {
                    error.into()
                }
            })?;
            return Ok(Self::Scylla(Box::new(url)));
        }
        match text.strip_prefix("file:") {
            Some("") => Err(InvalidStoreUrl::Folder),
            Some(folder) => Ok(Self::File(folder.into())),
            None => Err(InvalidStoreUrl::Scheme),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file:{}", folder.display()),
            Self::Scylla(url) => url.fmt(f),
        }
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_scheme_says_which_store_it_is() {
        let file: StoreUrl = "file:./data".parse().unwrap();
        assert_eq!(file, StoreUrl::File("./data".into()));
        assert_eq!(file.to_string(), "file:./data");
        let scylla: StoreUrl = "scylla://u:hunter2@db/drivers".parse().unwrap();
        assert_eq!(scylla.to_string(), "scylla://db:9042/drivers");
        assert!(!format!("{scylla:?}").contains("hunter2"));
    }

    #[test]
    fn a_wrong_one_is_refused_with_what_was_expected_and_without_the_password() {
        for (text, expected) in [
            ("./data", "`file:./data` or `scylla://"),
            ("cassandra://u:hunter2@db/k", "`file:./data` or `scylla://"),
            ("file:", "names no folder"),
            ("scylla:db/k", "scylla://host/keyspace"),
            ("scylla://u:hunter2@db", "is no keyspace"),
            ("scylla://u:hunter2/x@db/k", "`%2F`"),
            ("scylla://u:hunter2?x@db/k", "`%3F`"),
            ("scylla:///hunter2@db/k", "`%2F`"),
            ("scylla://db/k?colour=red", "`colour` is no key"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
