//! Making, opening and verifying the file of a store.

use std::{
    fmt,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError,
    TableDefinition, TableError, backends::FileBackend,
};

#[cfg(any(test, feature = "testing"))]
use super::StoreFile;
use super::{Options, journal::Journal, writer::panic_message};

/// What the file says of itself. Its rows are the same in every version, so that
/// any version can say of a file that it is too new.
const ABOUT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("about");
const NAME: &str = "name";
const SCHEMA: &str = "schema";
const STORE_ID: &str = "store id";

/// Why a store or its folder can't be opened: a sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{path} is in use by {by}; stop that first, or use another data folder")]
    Locked {
        /// The file or folder.
        path: PathBuf,
        /// Who uses it, as far as it is known.
        by: String,
    },
    /// It does not hold what was written into it.
    #[error("{path} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It should be there and is not.
    #[error("{path} is missing, although {evidence}; restore it from a backup")]
    Missing {
        /// The file.
        path: PathBuf,
        /// How that is known.
        evidence: String,
    },
    /// It belongs to other data.
    #[error("{path} does not belong here: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that is known.
        what: String,
    },
    /// It was written by another version of this program.
    #[error("{path} was written by {} version of this program: it has {what} {found}, this version reads {known}", if found > known { "a newer" } else { "an older" })]
    Version {
        /// The file.
        path: PathBuf,
        /// What has the version.
        what: &'static str,
        /// The version in the file.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// The disk is full.
    #[error("{path} can't be written: no space is left on its disk")]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read it.
    #[error("{path} can be read by others; make it private: chmod 600 {path}")]
    NotPrivate {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path} can't be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::Io { path, source },
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl fmt::Display) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }

    pub(super) fn redb(path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Locked {
                path: path.to_owned(),
                by: "another process".to_owned(),
            },
            redb::Error::Io(error) => match error.kind() {
                // Redb says this of what is no file of its own.
                io::ErrorKind::InvalidData => Self::damaged(path, error),
                io::ErrorKind::UnexpectedEof => Self::damaged(path, "it has been cut short"),
                _ => Self::io(path, error),
            },
            redb::Error::UpgradeRequired(found) => Self::damaged(
                path,
                format_args!("its header says file format {found}, which this version never wrote"),
            ),
            error => Self::damaged(path, error),
        }
    }
}

/// Random number of a data folder, repeated in each of its files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(u128);

impl StoreId {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Half of it, for checksums.
    pub(super) const fn seed(self) -> u64 {
        self.0 as u64
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok()?;
        (text.len() == 32).then_some(Self(number))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

type Opener = dyn Fn(&Builder) -> Result<Database, DatabaseError> + Send;
/// Makes the journal's file where it is told to, and else expects it to be there.
type JournalOpener = dyn Fn(bool) -> Result<Box<dyn StorageBackend>, OpenError> + Send;

/// Where the database and its journal are, and how to open them: each time after a fault.
pub(super) struct Source {
    path: PathBuf,
    open: Box<Opener>,
    open_journal: Box<JournalOpener>,
}

impl Source {
    pub(super) fn new(
        path: PathBuf,
        open: impl Fn(&Builder) -> Result<Database, DatabaseError> + Send + 'static,
        open_journal: impl Fn(bool) -> Result<Box<dyn StorageBackend>, OpenError> + Send + 'static,
    ) -> Self {
        Self {
            path,
            open: Box::new(open),
            open_journal: Box::new(open_journal),
        }
    }

    pub(super) fn file(path: &Path) -> Self {
        let (file, journal) = (path.to_owned(), journal_path(path));
        Self::new(
            path.to_owned(),
            move |builder| builder.open(&file),
            move |make| open_journal(&journal, make),
        )
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        journal_path(&self.path)
    }

    pub(super) fn open_journal(&self, make: bool) -> Result<Box<dyn StorageBackend>, OpenError> {
        (self.open_journal)(make)
    }
}

fn journal_path(database: &Path) -> PathBuf {
    database.with_extension("journal")
}

fn open_journal(path: &Path, make: bool) -> Result<Box<dyn StorageBackend>, OpenError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(make)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing {
                path: path.to_owned(),
                evidence: "the database beside it has one".to_owned(),
            },
            _ => OpenError::io(path, error),
        })?;
    if make {
        sync_folder_of(path)?;
    }
    let file = FileBackend::new(file).map_err(|error| OpenError::redb(path, error.into()))?;
    Ok(Box::new(file))
}

/// Opens the database with its journal, if it is to have one, and checks that it is what it
/// should be: of the store `id`, where that is known.
pub(super) fn open(
    source: &Source,
    id: Option<StoreId>,
    options: &Options,
) -> Result<(Database, Option<Journal>), OpenError> {
    let path = source.path();
    let mut builder = Database::builder();
    builder
        .set_cache_size(options.cache_bytes)
        .set_check_integrity_on_open(options.verify);
    // On a damaged file redb may panic where it was not asked to verify.
    catch_unwind(AssertUnwindSafe(|| {
        let database = (source.open)(&builder).map_err(|err| OpenError::redb(path, err.into()))?;
        let id = check_about(&database, path, id, options)?;
        let journal = match options.replay {
            Some(replay) => Some(Journal::open(source, &database, id, replay)?),
            None => None,
        };
        Ok((database, journal))
    }))
    .unwrap_or_else(|panic| Err(OpenError::damaged(path, panic_message(&*panic))))
}

fn check_about(
    database: &Database,
    path: &Path,
    id: Option<StoreId>,
    options: &Options,
) -> Result<StoreId, OpenError> {
    let about = About::read(database)
        .map_err(|error| OpenError::redb(path, error))?
        .ok_or_else(|| OpenError::damaged(path, "it does not say what it holds"))?;
    if about.name != options.name {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
            what: format!("it holds {}, not {}", about.name, options.name),
        });
    }
    if about.schema != options.schema {
        return Err(OpenError::Version {
            path: path.to_owned(),
            what: "schema",
            found: about.schema,
            known: options.schema,
        });
    }
    if let Some(id) = id
        && about.id != id
    {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
            what: format!("it is of the store {}, this is the store {id}", about.id),
        });
    }
    Ok(about.id)
}

struct About {
    name: String,
    schema: u32,
    id: StoreId,
}

impl About {
    /// None where a row is missing or does not parse.
    fn read(database: &Database) -> Result<Option<Self>, redb::Error> {
        let table = match database.begin_read()?.open_table(ABOUT) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let row = |key| -> Result<Option<Vec<u8>>, StorageError> {
            Ok(table.get(key)?.map(|row| row.value().to_owned()))
        };
        let (Some(name), Some(schema), Some(id)) = (row(NAME)?, row(SCHEMA)?, row(STORE_ID)?)
        else {
            return Ok(None);
        };
        let (Ok(name), Ok(schema), Ok(id)) = (
            String::from_utf8(name),
            <[u8; 4]>::try_from(schema),
            <[u8; 16]>::try_from(id),
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            name,
            schema: u32::from_be_bytes(schema),
            id: StoreId(u128::from_be_bytes(id)),
        }))
    }

    fn write(&self, database: &Database) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        {
            let mut table = transaction.open_table(ABOUT)?;
            table.insert(NAME, self.name.as_bytes())?;
            table.insert(SCHEMA, self.schema.to_be_bytes().as_slice())?;
            table.insert(STORE_ID, self.id.0.to_be_bytes().as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Writes what a new and empty database holds, and closes it.
fn initialize(database: Database, id: StoreId, options: &Options) -> Result<(), redb::Error> {
    let about = About {
        name: options.name.to_owned(),
        schema: options.schema,
        id,
    };
    about.write(&database)?;
    database.close()?;
    Ok(())
}

/// Makes a new store on an empty disk.
#[cfg(any(test, feature = "testing"))]
pub(super) fn make_simulated(
    disk: &super::SimulatedDisk,
    options: &Options,
) -> Result<(), redb::Error> {
    let file = disk.plug_in(StoreFile::Database, disk.cuts());
    let database = Database::builder().create_with_backend(file)?;
    initialize(database, StoreId::random(), options)
}

/// Makes the file of a new store. It appears under its name only when it is whole.
pub(super) fn create(path: &Path, id: StoreId, options: &Options) -> Result<(), OpenError> {
    let unfinished = path.with_extension("new");
    // What a start that was cut off left behind was never used.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(OpenError::io(&unfinished, error));
        }
        _ => {}
    }
    let make = || -> Result<(), redb::Error> {
        initialize(Database::builder().create(&unfinished)?, id, options)
    };
    make().map_err(|error| OpenError::redb(&unfinished, error))?;
    publish(&unfinished, path)
}

/// Gives a finished file its name, durably.
pub(super) fn publish(unfinished: &Path, path: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::io(path, error);
    File::open(unfinished)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    fs::rename(unfinished, path).map_err(io)?;
    sync_folder_of(path)
}

fn sync_folder_of(path: &Path) -> Result<(), OpenError> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| OpenError::io(folder, error))
}
