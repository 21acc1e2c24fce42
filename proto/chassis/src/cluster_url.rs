//! What the URLs of clusters have in common:
//! `scheme://user:password@host1:port,host2/path?key=value&…`. No error tells a password.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

/// Such a URL behind its scheme, taken apart and decoded.
pub(crate) struct Parts<'a> {
    /// `host:port` of each; at least one.
    pub(crate) hosts: Vec<String>,
    /// What stands between the hosts and the keys, as it is.
    pub(crate) path: &'a str,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Password>,
    /// Keys and their decoded values.
    pub(crate) pairs: Vec<(&'a str, String)>,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Password {
    Given(String),
    File(PathBuf),
}

/// Why a text can't be taken apart.
#[derive(Debug)]
pub(crate) enum InvalidParts {
    Host(String),
    /// It can't be told where a password or a value ends.
    Escapes,
    NotUtf8 {
        key: String,
        value: String,
    },
}

/// What [`InvalidParts::Escapes`] asks for.
pub(crate) const ESCAPES: &str =
    "a `/`, `?` or `@` within a user, a password or a value is written as %2F, %3F or %40";

/// Takes apart what stands behind the scheme.
pub(crate) fn split(rest: &str, default_port: u16) -> Result<Parts<'_>, InvalidParts> {
    let authority_ends = rest.find(['/', '?']).unwrap_or(rest.len());
    if rest.rfind('@').is_some_and(|at| at > authority_ends) {
        return Err(InvalidParts::Escapes);
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, "")) => (decode(user), None),
        Some((user, password)) => (decode(user), decode(password).map(Password::Given)),
        None => (None, None),
    };
    let hosts = hosts
        .split(',')
        .map(|text| host(text, default_port).ok_or_else(|| InvalidParts::Host(text.to_owned())));
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(value).ok_or_else(|| InvalidParts::NotUtf8 {
                key: key.to_owned(),
                value: value.to_owned(),
            })?;
            Ok((key, decoded))
        });
    Ok(Parts {
        hosts: hosts.collect::<Result<_, _>>()?,
        path,
        user,
        password,
        pairs: pairs.collect::<Result<_, _>>()?,
    })
}

/// Whether the `@` behind a password may have been cut off by a `/` or `?` within it: then
/// what stands where hosts are expected may be its beginning, and is not to be repeated.
pub(crate) fn may_quote_password(rest: &str) -> bool {
    let hosts = rest.split(['/', '?']).next().unwrap_or(rest);
    !hosts.contains('@') && rest.contains('@')
}

/// The path of a file, unless it is empty.
pub(crate) fn file(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| Path::new(value).to_owned())
}

/// A certificate chain and its key, or neither.
pub(crate) fn identity(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, &'static str> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => Err("`certificate` and `key` go together"),
    }
}

impl Password {
    /// The password.
    ///
    /// # Errors
    /// A sentence when its file can't be read.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::File(path) => read_secret(path, "password"),
        }
    }
}

/// What a file holds, without the end of its last line.
///
/// # Errors
/// A sentence that names the file, and what it should have held.
pub(crate) fn read_secret(path: &Path, kind: &str) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!(
            "the {kind} file {} can't be read: {error}",
            path.display()
        )),
    }
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

fn host(text: &str, default_port: u16) -> Option<String> {
    // An IPv6 address has brackets around it.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()?),
        _ => (text, default_port),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let known = !name.is_empty() && port != 0 && name.chars().all(valid);
    known.then(|| format!("{name}:{port}"))
}
