//! The data folder: one process uses it, and it knows which files must be in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::{
    Embedded, Options,
    file::{self, OpenError, StoreId},
};

const LOCK: &str = "lock";
const MANIFEST: &str = "manifest.json";
const SECRET: &str = "secret";
/// How the names of stores' files end.
const STORE: &str = "redb";
/// The layout of the folder.
const FORMAT: u32 = 1;

/// The folder that holds all stores of a process. Nobody else can use it until
/// this is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    manifest: Mutex<Manifest>,
    id: StoreId,
    /// Locked as long as it is open.
    _lock: File,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    store_id: String,
    files: Vec<String>,
}

impl DataFolder {
    /// Opens the folder; makes it, for its owner alone, if there is none.
    ///
    /// # Errors
    /// When another process uses it, it can't be read or written, or a file is
    /// missing that must be there.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| OpenError::io(path, error))?;
        let lock = lock(path)?;
        let manifest_path = path.join(MANIFEST);
        let manifest = match read(&manifest_path)? {
            Some(text) => parse(&manifest_path, &text)?,
            None => {
                if let Some(store) = any_store(path)? {
                    return Err(OpenError::Missing {
                        path: manifest_path,
                        evidence: format!("{} is there", store.display()),
                    });
                }
                let manifest = Manifest {
                    format: FORMAT,
                    store_id: StoreId::random().to_string(),
                    files: Vec::new(),
                };
                manifest.write(path)?;
                manifest
            }
        };
        let id = StoreId::parse(&manifest.store_id)
            .ok_or_else(|| OpenError::damaged(&manifest_path, "its store id is no store id"))?;
        for name in &manifest.files {
            let file = path.join(name);
            if !file
                .try_exists()
                .map_err(|error| OpenError::io(&file, error))?
            {
                return Err(OpenError::Missing {
                    path: file,
                    evidence: format!("{MANIFEST} lists it"),
                });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            manifest: Mutex::new(manifest),
            id,
            _lock: lock,
        })
    }

    /// Opens the store `options.name`; makes it the first time. Reads the whole
    /// file where it is verified: call it where blocking is fine.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn embedded(&self, options: &Options) -> Result<Embedded, OpenError> {
        let name = format!("{}.{STORE}", options.name);
        let path = self.path.join(&name);
        let mut manifest = self
            .manifest
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if manifest.files.contains(&name) {
            return Embedded::open_existing(&path, self.id, options);
        }
        // The file is there already when a first start was cut off in front of the manifest.
        if !path
            .try_exists()
            .map_err(|error| OpenError::io(&path, error))?
        {
            file::create(&path, self.id, options)?;
        }
        let embedded = Embedded::open_existing(&path, self.id, options)?;
        let mut longer = manifest.clone();
        longer.files.push(name);
        longer.write(&self.path)?;
        *manifest = longer;
        Ok(embedded)
    }

    /// Where the bearer secret of this folder is; see [`crate::secret_file`].
    #[must_use]
    pub fn secret_file(&self) -> PathBuf {
        self.path.join(SECRET)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Manifest {
    fn write(&self, folder: &Path) -> Result<(), OpenError> {
        let path = folder.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| OpenError::io(&path, error.into()))?;
        text.push('\n');
        write(&path, text.as_bytes())
    }
}

fn parse(path: &Path, text: &str) -> Result<Manifest, OpenError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| OpenError::damaged(path, error);
    // The format comes first: what else is in a newer manifest is not known here.
    let Format { format } = serde_json::from_str(text).map_err(damaged)?;
    if format != FORMAT {
        return Err(OpenError::Version {
            path: path.to_owned(),
            what: "format",
            found: format,
            known: FORMAT,
        });
    }
    serde_json::from_str(text).map_err(damaged)
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let io = |error| OpenError::io(&path, error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Who it is only makes the sentence better.
            let _ = file.read_to_string(&mut pid);
            let by = match pid.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(OpenError::Locked {
                path: folder.to_owned(),
                by,
            });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn any_store(folder: &Path) -> Result<Option<PathBuf>, OpenError> {
    let io = |error| OpenError::io(folder, error);
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == STORE) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<String>, OpenError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(OpenError::damaged(path, "it is not text"))
        }
        Err(error) => Err(OpenError::io(path, error)),
    }
}

/// Replaces a small file as a whole, durably, readable by its owner alone.
fn write(path: &Path, content: &[u8]) -> Result<(), OpenError> {
    let unfinished = path.with_extension("new");
    let io = |error| OpenError::io(&unfinished, error);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(content))
        .map_err(io)?;
    file::publish(&unfinished, path)
}
