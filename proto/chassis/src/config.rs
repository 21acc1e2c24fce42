//! Configuration: defaults in the code, then a TOML file, then environment
//! variables `DRIVERS_…`, then flags; the later one wins.
//!
//! A key that no program knows and a value that does not fit are errors that
//! name the key, where it was set, and what was expected. `figment` merges and
//! tells the key; `config` was tried too and forgets where an unknown key came
//! from. What it can't do is done here: lines of the file, and that a variable
//! like `12345` may be meant as text.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    error::Kind,
    providers::Serialized,
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};
use toml::de::{DeTable, DeValue};

/// Names the configuration file, unless a flag does.
pub const FILE_VARIABLE: &str = "DRIVERS_CONFIG";

const PREFIX: &str = "DRIVERS_";

/// A flag that was given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As it was typed, for example `--grpc-listen`.
    pub name: &'static str,
    /// The key it sets, for example `grpc.listen`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

/// Where a key was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the code.
    Default,
    /// In a file, in this line, from 1.
    File(PathBuf, usize),
    /// By a variable of the environment.
    Variable(String),
    /// By a flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Flag(name) => write!(f, "the flag {name}"),
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {} can't be read: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is no TOML in line {line}: {problem}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A key is unknown, or its value does not fit.
    #[error("the configuration key `{key}`, set by {origin}, is wrong: {problem}")]
    Key {
        /// The key, with dots.
        key: String,
        /// Where it was set.
        origin: Source,
        /// What was found and what was expected.
        problem: String,
    },
}

/// Loads a configuration. The file is that of `file`, else the one that
/// [`FILE_VARIABLE`] names, else none.
///
/// # Errors
/// See [`ConfigError`].
pub fn load<T>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut settings = Vec::new();
    let mut file = file.map(Path::to_path_buf);
    for (name, value) in environment {
        if name == FILE_VARIABLE {
            file.get_or_insert_with(|| value.into());
        } else if let Some(key) = name.strip_prefix(PREFIX) {
            let key = key.to_lowercase().replace("__", ".");
            settings.push(Setting::new(key, value, Source::Variable(name)));
        }
    }
    // By name, so that the outcome does not depend on the order of the environment.
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    settings.extend(flags.iter().map(|flag| {
        Setting::new(
            flag.key.to_owned(),
            flag.value.clone(),
            Source::Flag(flag.name),
        )
    }));
    let file = file.map(File::read).transpose()?;
    extract(file.as_ref(), &mut settings)
}

/// The environment of this process; what is not Unicode is cut out of it.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os();
    #[cfg(feature = "sabotage")]
    let variables = variables.filter(|(name, _)| name != crate::sabotage::VARIABLE);
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A key that was set outside of the file, and the text it was set to.
struct Setting {
    key: String,
    text: String,
    source: Source,
    /// Whether the text is a string whatever else it might be.
    is_string: bool,
}

impl Setting {
    fn new(key: String, text: String, source: Source) -> Self {
        Self {
            key,
            text,
            source,
            is_string: false,
        }
    }

    fn value(&self) -> Value {
        let written: Option<toml::Table> = toml::from_str(&format!("value = {}", self.text)).ok();
        let value = written
            .filter(|table| table.len() == 1 && !self.is_string)
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(self.text.clone()));
        Value::serialize(value).unwrap_or_else(|_| Value::from(self.text.clone()))
    }

    /// The setting as a dictionary of its own, however deep.
    fn nested(&self) -> Value {
        self.key.rsplit('.').fold(self.value(), |inner, part| {
            Value::from(Dict::from([(part.to_owned(), inner)]))
        })
    }
}

fn extract<T>(file: Option<&File>, settings: &mut [Setting]) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut first_error = None;
    loop {
        let mut merged = Figment::from(Serialized::defaults(T::default()));
        if let Some(file) = file {
            merged = merged.merge(Serialized::defaults(&file.table));
        }
        for setting in &*settings {
            merged = merged.merge(Serialized::defaults(setting.nested()));
        }
        let error = match merged.extract() {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        // `12345` was read as a number where a text is wanted: read it as a text.
        let misread = matches!(error.kind, Kind::InvalidType(..))
            .then(|| error.path.join("."))
            .and_then(|key| settings.iter_mut().rfind(|s| s.key == key && !s.is_string));
        match misread {
            Some(setting) => {
                setting.is_string = true;
                first_error.get_or_insert(error);
            }
            None => {
                let error = match first_error {
                    Some(first) if first.path == error.path => first,
                    _ => error,
                };
                return Err(name_source(&error, file, settings));
            }
        }
    }
}

/// The first error, said with the place where its key was set.
fn name_source(error: &figment::Error, file: Option<&File>, settings: &[Setting]) -> ConfigError {
    let key = error.path.join(".");
    let within = |inner: &str, outer: &str| {
        inner == outer
            || inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.starts_with('.'))
    };
    let line = file.and_then(|file| Some((file, file.line_of(&error.path)?)));
    let origin = settings
        .iter()
        .rfind(|setting| within(&key, &setting.key) || within(&setting.key, &key))
        .map(|setting| setting.source.clone())
        .or_else(|| line.map(|(file, line)| Source::File(file.path.clone(), line)))
        .unwrap_or(Source::Default);
    ConfigError::Key {
        key,
        origin,
        problem: problem(&error.kind),
    }
}

fn problem(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(_, known) => {
            format!(
                "there is no such key; one of {} is expected",
                known.join(", ")
            )
        }
        Kind::UnknownVariant(found, known) => {
            format!("found `{found}`, expected one of {}", known.join(", "))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("found {found}, expected {}", for_people(expected))
        }
        kind => kind.to_string(),
    }
}

/// What serde calls an expected type, for who does not know Rust.
fn for_people(expected: &str) -> String {
    match expected {
        "u8" => "an integer from 0 to 255".to_owned(),
        "u16" => "an integer from 0 to 65535".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "an integer of at least 0".to_owned(),
        "i64" | "isize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        _ if expected.starts_with("struct ") => "a table of keys".to_owned(),
        _ => expected.to_owned(),
    }
}

/// A configuration file.
struct File {
    path: PathBuf,
    text: String,
    table: toml::Table,
}

impl File {
    fn read(path: PathBuf) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return Err(ConfigError::File { path, error }),
        };
        match toml::from_str(&text) {
            Ok(table) => Ok(Self { path, text, table }),
            Err(error) => Err(ConfigError::Syntax {
                line: line_at(&text, error.span().map_or(0, |span| span.start)),
                problem: error.message().to_owned(),
                path,
            }),
        }
    }

    /// The line of a key, or of the deepest of its tables that the file has.
    fn line_of(&self, path: &[String]) -> Option<usize> {
        let parsed = DeTable::parse(&self.text).ok()?;
        let mut table = parsed.get_ref();
        let mut line = None;
        for part in path {
            let Some((key, value)) = table.get_key_value(part.as_str()) else {
                break;
            };
            line = Some(line_at(&self.text, key.span().start));
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        line
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

#[cfg(test)]
mod tests;
