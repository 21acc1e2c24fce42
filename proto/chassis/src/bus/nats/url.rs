//! `nats://user@host1:4222,host2?password_file=…`: where a broker is, and how to sign in.

use std::{fmt, path::PathBuf};

use super::{super::InvalidBusUrl, login::Login};
use crate::cluster_url::{self, InvalidParts, Password, file};

const PORT: u16 = 4222;
pub(in crate::bus) const KEYS: &str = "user, password_file, token_file, credentials, nkey_file, ca, certificate, key, prefix, drop, double, \
     reorder, delay_ms or seed";

/// A broker, and how it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// `host:port` of each server; one that is lost is left for the next.
    pub hosts: Vec<String>,
    /// How connections are protected; `None` for not at all, unless the server insists.
    pub tls: Option<NatsTls>,
    /// First word of all subjects. `drivers` unless said.
    pub prefix: String,
    pub(super) login: Option<Login>,
}

/// How connections are protected. The files are read again for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTls {
    /// PEM file of the authorities that servers' certificates are checked against.
    pub ca: PathBuf,
    /// PEM files of our own certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The keys, before they are checked together.
#[derive(Default)]
struct Keys {
    user: Option<String>,
    password: Option<Password>,
    token: Option<PathBuf>,
    credentials: Option<PathBuf>,
    nkey: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    prefix: Option<String>,
}

impl NatsUrl {
    /// Reads a URL that begins with `nats:` or `tls:`. `other` takes the keys that
    /// say nothing of the broker, and says whether it knew them.
    pub(in crate::bus) fn parse(
        text: &str,
        other: impl FnMut(&str, &str) -> Result<bool, InvalidBusUrl>,
    ) -> Result<Self, InvalidBusUrl> {
        let scheme = ["nats://", "tls://"];
        let rest = scheme.iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or(InvalidBusUrl::Scheme)?;
        Self::parse_rest(rest, text.starts_with("tls:"), other).map_err(|error| {
            if cluster_url::may_quote_password(rest) {
                InvalidBusUrl::Together(cluster_url::ESCAPES)
            } else {
                error
            }
        })
    }

    fn parse_rest(
        rest: &str,
        needs_tls: bool,
        mut other: impl FnMut(&str, &str) -> Result<bool, InvalidBusUrl>,
    ) -> Result<Self, InvalidBusUrl> {
        let parts = cluster_url::split(rest, PORT)?;
        if !parts.path.is_empty() {
            return Err(InvalidBusUrl::Path(parts.path.to_owned()));
        }
        let mut keys = Keys {
            user: parts.user,
            password: parts.password,
            ..Keys::default()
        };
        for (key, value) in parts.pairs {
            if !keys.set(key, &value)? && !other(key, &value)? {
                return Err(InvalidBusUrl::Key {
                    key: key.to_owned(),
                    expected: KEYS,
                });
            }
        }
        Ok(Self {
            hosts: parts.hosts,
            tls: keys.tls(needs_tls)?,
            prefix: keys.prefix.take().unwrap_or_else(|| "drivers".to_owned()),
            login: keys.login()?,
        })
    }
}

impl Keys {
    fn set(&mut self, key: &str, value: &str) -> Result<bool, InvalidBusUrl> {
        let invalid = |expected| InvalidBusUrl::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let path = || file(value).ok_or_else(|| invalid("a file"));
        match key {
            "user" if value.is_empty() => return Err(invalid("a name")),
            "user" if self.user.is_some() => {
                return Err(InvalidBusUrl::Together("the user is given twice"));
            }
            "user" => self.user = Some(value.to_owned()),
            "password_file" if self.password.is_some() => {
                return Err(InvalidBusUrl::Together("the password is given twice"));
            }
            "password_file" => self.password = Some(Password::File(path()?)),
            "token_file" => self.token = Some(path()?),
            "credentials" => self.credentials = Some(path()?),
            "nkey_file" => self.nkey = Some(path()?),
            "ca" => self.ca = Some(path()?),
            "certificate" => self.certificate = Some(path()?),
            "key" => self.key = Some(path()?),
            "prefix" if is_prefix(value) => self.prefix = Some(value.to_owned()),
            "prefix" => {
                return Err(invalid(
                    "1 to 100 letters, digits, `-` and `_`, with single dots between,",
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn tls(&mut self, needed: bool) -> Result<Option<NatsTls>, InvalidBusUrl> {
        let identity = cluster_url::identity(self.certificate.take(), self.key.take())
            .map_err(InvalidBusUrl::Together)?;
        match self.ca.take() {
            Some(ca) => Ok(Some(NatsTls { ca, identity })),
            None if needed => Err(InvalidBusUrl::Together(
                "`tls://` needs `ca`, the file of the authorities to trust",
            )),
            None if identity.is_some() => Err(InvalidBusUrl::Together(
                "`certificate` needs `ca`, the file of the authorities to trust",
            )),
            None => Ok(None),
        }
    }

    fn login(self) -> Result<Option<Login>, InvalidBusUrl> {
        if self.password.is_some() && self.user.is_none() {
            return Err(InvalidBusUrl::Together(
                "a password needs a user: `nats://user@host`",
            ));
        }
        let user = self.user.map(|name| Login::User {
            name,
            password: self.password,
        });
        let mut given = [
            user,
            self.token.map(Login::Token),
            self.credentials.map(Login::Credentials),
            self.nkey.map(Login::Nkey),
        ]
        .into_iter()
        .flatten();
        match (given.next(), given.next()) {
            (_, Some(_)) => Err(InvalidBusUrl::Together(
                "a user, `token_file`, `credentials` and `nkey_file` exclude each other",
            )),
            (login, None) => Ok(login),
        }
    }
}

/// Words of a subject.
fn is_prefix(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    text.len() <= 100
        && text
            .split('.')
            .all(|word| !word.is_empty() && word.chars().all(plain))
}

impl From<InvalidParts> for InvalidBusUrl {
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

/// Without what signs in.
impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "tls" } else { "nats" };
        write!(f, "{scheme}://{}", self.hosts.join(","))
    }
}

/// Without what signs in.
impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsUrl({self}, prefix {})", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<NatsUrl, InvalidBusUrl> {
        NatsUrl::parse(text, |_, _| Ok(false))
    }

    #[test]
    fn a_host_is_all_it_takes() {
        let url = parse("nats://broker").unwrap();
        assert_eq!(url.hosts, ["broker:4222"]);
        assert_eq!((url.prefix.as_str(), &url.tls), ("drivers", &None));
        assert!(url.login.is_none());
    }

    #[test]
    fn everything_can_be_said() {
        let url = parse(
            "tls://us%40er:p%3Aw@[::1]:14222,b-2?ca=/etc/ca.pem&certificate=c.pem&key=k.pem&prefix=staging.drivers",
        )
        .unwrap();
        assert_eq!(url.hosts, ["[::1]:14222", "b-2:4222"]);
        assert_eq!(url.prefix, "staging.drivers");
        let tls = url.tls.clone().unwrap();
        assert_eq!(tls.ca, Path::new("/etc/ca.pem"));
        assert_eq!(tls.identity, Some(("c.pem".into(), "k.pem".into())));
        let Some(Login::User { name, password }) = &url.login else {
            unreachable!("a user was given");
        };
        assert_eq!(name, "us@er");
        assert_eq!(password.as_ref().unwrap().read(), Ok("p:w".to_owned()));
        assert_eq!(url.to_string(), "tls://[::1]:14222,b-2:4222");
        assert!(!format!("{url:?}").contains("p:w"));
    }

    #[test]
    fn an_authority_alone_means_tls_and_files_say_who_we_are() {
        assert!(parse("nats://b?ca=ca.pem").unwrap().tls.is_some());
        for (key, expected) in [
            ("token_file", Login::Token("f".into())),
            ("credentials", Login::Credentials("f".into())),
            ("nkey_file", Login::Nkey("f".into())),
        ] {
            let url = parse(&format!("nats://b?{key}=f")).unwrap();
            assert!(url.login == Some(expected), "{key}");
        }
        let url = parse("nats://b?user=u&password_file=f").unwrap();
        let password = Some(Password::File("f".into()));
        let name = "u".to_owned();
        assert!(url.login == Some(Login::User { name, password }));
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_is_wrong_and_without_the_password() {
        for (text, named) in [
            ("nats:broker", "`nats://host`"),
            ("nats://", "`` is no host"),
            ("nats://u:hunter2@b:x", "`b:x` is no host"),
            ("nats://b/drivers", "`drivers`"),
            ("nats://b?colour=red", "`colour` is no key"),
            ("nats://b?prefix=a..b", "`prefix=a..b`"),
            ("nats://b?prefix=a.*", "`prefix=a.*`"),
            ("nats://b?ca=", "`ca=`"),
            ("nats://b?key=k.pem", "go together"),
            ("nats://b?certificate=c&key=k", "needs `ca`"),
            ("tls://b", "needs `ca`"),
            ("nats://b?password_file=p", "needs a user"),
            ("nats://u:hunter2@b?password_file=p", "given twice"),
            ("nats://u:hunter2@b?user=u", "given twice"),
            ("nats://u:hunter2@b?token_file=t", "exclude each other"),
            ("nats://u:hunter2/x@b", "%2F"),
            ("nats://u:hunter2?x@b", "%3F"),
            ("nats:///hunter2@b", "%2F"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
