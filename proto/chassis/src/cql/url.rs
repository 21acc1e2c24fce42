//! `scylla://user:password@host1:9042,host2/keyspace?dc=…`: where a cluster is,
//! and how it is to be used.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use scylla::statement::{Consistency, SerialConsistency};

use crate::cluster_url::{self, InvalidParts, Password, file};

const SCHEME: &str = "scylla://";
const PORT: u16 = 9042;
const KEYS: &str = "dc, consistency, serial_consistency, replication, single_replica, tls, ca, certificate, \
                    key, password_file, timeout_ms or in_flight";

/// A cluster, a keyspace in it, and how both are used.
#[derive(Clone, PartialEq, Eq)]
pub struct CqlUrl {
    /// Nodes to begin with, `host:port`; the others are told by these.
    pub hosts: Vec<String>,
    /// The keyspace that holds the tables.
    pub keyspace: String,
    /// The data centre whose nodes are asked. Has to be said where there are several.
    pub dc: Option<String>,
    /// Of reads, plain writes, and of what a conditional write decided. `LOCAL_QUORUM`
    /// unless said.
    pub consistency: Consistency,
    /// Of what conditional writes decide by. `LOCAL_SERIAL` unless said.
    pub serial_consistency: SerialConsistency,
    /// How many replicas a keyspace gets that is made by a migration.
    pub replication: Replication,
    /// Whether a keyspace with one replica may be used, of which a lost disk leaves nothing.
    pub accepts_single_replica: bool,
    /// How connections are protected; `None` for not at all.
    pub tls: Option<CqlTls>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Most requests under way at a time.
    pub in_flight: usize,
    user: Option<String>,
    password: Option<Password>,
}

/// How many replicas there are of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replication {
    /// As many in the local data centre.
    Local(u8),
    /// As many in each of these data centres.
    Each(BTreeMap<String, u8>),
}

/// How connections are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CqlTls {
    /// PEM file of the authorities that servers' certificates are checked against.
    pub ca: PathBuf,
    /// PEM files of our own certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why a text is no URL of a cluster. Never tells the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCqlUrl {
    /// Another scheme.
    #[error("`scylla://host/keyspace` is expected")]
    Scheme,
    /// No host, or one that is none.
    #[error("`{0}` is no host: a name or an address is expected, with or without a port")]
    Host(String),
    /// No keyspace, or one that is none.
    #[error(
        "`{0}` is no keyspace: 1 to 48 lower-case letters, digits and underscores are expected, the first a letter"
    )]
    Keyspace(String),
    /// An unknown key.
    #[error("`{0}` is no key: {KEYS} is expected")]
    Key(String),
    /// A value that does not fit.
    #[error("`{key}={value}`: {expected} is expected")]
    Value {
        /// Its key.
        key: String,
        /// The value.
        value: String,
        /// What the key takes.
        expected: &'static str,
    },
    /// Two keys that need or exclude each other.
    #[error("{0}")]
    Together(&'static str),
}

impl CqlUrl {
    /// The name and the password to sign in with.
    ///
    /// # Errors
    /// A sentence when the file of the password can't be read.
    pub(super) fn credentials(&self) -> Result<Option<(&str, String)>, String> {
        let Some(user) = &self.user else {
            return Ok(None);
        };
        let password = self
            .password
            .as_ref()
            .map_or(Ok(String::new()), Password::read)?;
        Ok(Some((user, password)))
    }

    /// Whether writers in every data centre see each other's conditional writes.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.serial_consistency == SerialConsistency::Serial
            && matches!(self.consistency, Consistency::Quorum | Consistency::All)
    }

    fn set(&mut self, tls: &mut TlsKeys, key: &str, value: &str) -> Result<(), InvalidCqlUrl> {
        let invalid = |expected| InvalidCqlUrl::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        match key {
            "dc" if value.is_empty() => return Err(invalid("the name of a data centre")),
            "dc" => self.dc = Some(value.to_owned()),
            "consistency" => {
                self.consistency =
                    consistency(value).ok_or_else(|| invalid("local_quorum, quorum or all"))?;
            }
            "serial_consistency" => {
                self.serial_consistency = match value {
                    "local_serial" => SerialConsistency::LocalSerial,
                    "serial" => SerialConsistency::Serial,
                    _ => return Err(invalid("local_serial or serial")),
                };
            }
            "replication" => {
                self.replication = replication(value).ok_or_else(|| {
                    invalid(
                        "a number from 1 to 9, or one for each data centre as in `dc1:3,dc2:3`,",
                    )
                })?;
            }
            "single_replica" if value == "accept" => self.accepts_single_replica = true,
            "single_replica" => return Err(invalid("accept")),
            "tls" => {
                tls.wanted = Some(match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(invalid("true or false")),
                });
            }
            "ca" => tls.ca = Some(file(value).ok_or_else(|| invalid("a file"))?),
            "certificate" => tls.certificate = Some(file(value).ok_or_else(|| invalid("a file"))?),
            "key" => tls.key = Some(file(value).ok_or_else(|| invalid("a file"))?),
            "password_file" => {
                self.password = Some(Password::File(
                    file(value).ok_or_else(|| invalid("a file"))?,
                ));
            }
            "timeout_ms" => {
                let ms = number(value, 50, 60_000)
                    .ok_or_else(|| invalid("an integer from 50 to 60,000"))?;
                self.timeout = Duration::from_millis(ms);
            }
            "in_flight" => {
                let most = number(value, 1, 32_768)
                    .ok_or_else(|| invalid("an integer from 1 to 32,768"))?;
                self.in_flight = usize::try_from(most).unwrap_or(usize::MAX);
            }
            _ => return Err(InvalidCqlUrl::Key(key.to_owned())),
        }
        Ok(())
    }
}

/// The keys about TLS, before they are checked together.
#[derive(Default)]
struct TlsKeys {
    wanted: Option<bool>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TlsKeys {
    fn together(self) -> Result<Option<CqlTls>, InvalidCqlUrl> {
        let identity =
            cluster_url::identity(self.certificate, self.key).map_err(InvalidCqlUrl::Together)?;
        match (self.wanted, self.ca) {
            (None | Some(true), Some(ca)) => Ok(Some(CqlTls { ca, identity })),
            (Some(true), None) => Err(InvalidCqlUrl::Together(
                "`tls=true` needs `ca`, the file of the authorities to trust",
            )),
            (Some(false), Some(_)) => Err(InvalidCqlUrl::Together(
                "`tls=false` and `ca` exclude each other",
            )),
            (None | Some(false), None) if identity.is_some() => Err(InvalidCqlUrl::Together(
                "`certificate` needs `ca`, the file of the authorities to trust",
            )),
            (None | Some(false), None) => Ok(None),
        }
    }
}

impl FromStr for CqlUrl {
    type Err = InvalidCqlUrl;

    fn from_str(text: &str) -> Result<Self, InvalidCqlUrl> {
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidCqlUrl::Scheme)?;
        let parts = cluster_url::split(rest, PORT)?;
        let mut url = Self {
            hosts: parts.hosts,
            keyspace: check_keyspace(parts.path)?,
            dc: None,
            consistency: Consistency::LocalQuorum,
            serial_consistency: SerialConsistency::LocalSerial,
            replication: Replication::Local(3),
            accepts_single_replica: false,
            tls: None,
            timeout: Duration::from_secs(1),
            in_flight: 1_024,
            user: parts.user,
            password: parts.password,
        };
        let mut tls = TlsKeys::default();
        for (key, value) in parts.pairs {
            if key == "password_file" && url.password.is_some() {
                return Err(InvalidCqlUrl::Together("the password is given twice"));
            }
            url.set(&mut tls, key, &value)?;
        }
        if url.password.is_some() && url.user.is_none() {
            return Err(InvalidCqlUrl::Together(
                "a password needs a user: `scylla://user@host/…`",
            ));
        }
        url.tls = tls.together()?;
        Ok(url)
    }
}

impl From<InvalidParts> for InvalidCqlUrl {
    fn from(invalid: InvalidParts) -> Self {
        match invalid {
            InvalidParts::Host(host) => Self::Host(host),
            InvalidParts::Escapes => Self::Together(cluster_url::ESCAPES),
            InvalidParts::NotUtf8 { key, value } => Self::Value {
                key,
                value,
                expected: "UTF-8",
            },
        }
    }
}

/// A keyspace's name is written into statements as it is, so it has to be a plain word.
fn check_keyspace(name: &str) -> Result<String, InvalidCqlUrl> {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 48 {
        Ok(name.to_owned())
    } else {
        Err(InvalidCqlUrl::Keyspace(name.to_owned()))
    }
}

fn consistency(name: &str) -> Option<Consistency> {
    match name {
        "local_quorum" => Some(Consistency::LocalQuorum),
        "quorum" => Some(Consistency::Quorum),
        "all" => Some(Consistency::All),
        _ => None,
    }
}

fn replication(text: &str) -> Option<Replication> {
    let factor = |text: &str| text.parse().ok().filter(|factor| (1..=9).contains(factor));
    if let Some(factor) = factor(text) {
        return Some(Replication::Local(factor));
    }
    text.split(',')
        .map(|pair| {
            let (dc, text) = pair.split_once(':')?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            (!dc.is_empty() && dc.chars().all(plain)).then_some(())?;
            Some((dc.to_owned(), factor(text)?))
        })
        .collect::<Option<_>>()
        .map(Replication::Each)
}

fn number(text: &str, least: u64, most: u64) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
}

/// Without the password.
impl fmt::Display for CqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.hosts.join(","), self.keyspace)
    }
}

/// Without the password.
impl fmt::Debug for CqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CqlUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    #[test]
    fn a_short_url_means_safe_defaults() {
        let url: CqlUrl = "scylla://db/drivers".parse().unwrap();
        assert_eq!(url.hosts, ["db:9042"]);
        assert_eq!(url.keyspace, "drivers");
        assert_eq!(url.consistency, Consistency::LocalQuorum);
        assert_eq!(url.serial_consistency, SerialConsistency::LocalSerial);
        assert_eq!(url.replication, Replication::Local(3));
        assert!(!url.accepts_single_replica);
        assert_eq!((url.tls, url.timeout), (None, Duration::from_secs(1)));
    }

    #[test]
    fn everything_can_be_said() {
        let text = "scylla://us%40er:p%3Aw@[::1]:19042,db-2/chat?dc=dc1&consistency=quorum&serial_consistency=serial\
                    &replication=dc1:3,dc2:2&single_replica=accept&tls=true&ca=/etc/ca.pem&certificate=c.pem&key=k.pem\
                    &timeout_ms=250&in_flight=64";
        let url: CqlUrl = text.parse().unwrap();
        assert_eq!(url.hosts, ["[::1]:19042", "db-2:9042"]);
        assert_eq!(url.credentials(), Ok(Some(("us@er", "p:w".to_owned()))));
        assert_eq!(url.dc.as_deref(), Some("dc1"));
        assert!(url.is_global() && url.accepts_single_replica);
        let each = [("dc1".to_owned(), 3), ("dc2".to_owned(), 2)];
        assert_eq!(url.replication, Replication::Each(each.into()));
        let tls = url.tls.clone().unwrap();
        assert_eq!(tls.ca, Path::new("/etc/ca.pem"));
        assert_eq!(tls.identity, Some(("c.pem".into(), "k.pem".into())));
        assert_eq!(
            (url.timeout, url.in_flight),
            (Duration::from_millis(250), 64)
        );
        assert_eq!(url.to_string(), "scylla://[::1]:19042,db-2:9042/chat");
        assert!(!format!("{url:?}").contains("p:w"));
    }

    #[test]
    fn a_password_may_lie_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let text = format!("scylla://u@db/k?password_file={}", file.path().display());
        let url: CqlUrl = text.parse().unwrap();
        assert_eq!(url.credentials(), Ok(Some(("u", "secret".to_owned()))));
        let missing: CqlUrl = "scylla://u@db/k?password_file=/nowhere/p".parse().unwrap();
        assert!(missing.credentials().unwrap_err().contains("/nowhere/p"));
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_wrong_and_without_the_password() {
        for (text, named) in [
            ("cassandra://db/k", "scylla://host/keyspace"),
            ("scylla:///k", "`` is no host"),
            ("scylla://u:hunter2@db:x/k", "`db:x` is no host"),
            ("scylla://db", "`` is no keyspace"),
            ("scylla://db/Chat", "`Chat` is no keyspace"),
            (
                "scylla://db/k?consistancy=quorum",
                "`consistancy` is no key",
            ),
            ("scylla://db/k?consistency=one", "local_quorum, quorum"),
            ("scylla://db/k?replication=0", "from 1 to 9"),
            ("scylla://db/k?single_replica=yes", "accept"),
            ("scylla://db/k?tls=true", "needs `ca`"),
            ("scylla://db/k?key=k.pem", "go together"),
            ("scylla://db/k?timeout_ms=1", "from 50 to 60,000"),
            ("scylla://db/k?password_file=p", "needs a user"),
            ("scylla://u:hunter2@db/k?password_file=p", "given twice"),
            ("scylla://u:hunter2/more@db/k", "%2F"),
            ("scylla://u:hunter2?more@db/k", "%3F"),
        ] {
            let error = text.parse::<CqlUrl>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
