//! The embedded store engine: one file, one writer, one fsync shared by all who wait.
//!
//! The library is redb 4.6. It was measured against fjall 3.1 (2 cores, ext4,
//! release build, 64 topics, rows of 200 bytes, an fsync for each batch). Durable
//! rows per second, redb to fjall: 0.76 in batches of 1, 0.82 in batches of 16,
//! 0.54 in batches of 256. Point reads 1.2, pages of 50 rows 3.9. Redb's file
//! holds 1.9 bytes per byte of user data and needs no upkeep; fjall's folder holds
//! 1.3 to 2.1 and compacts in threads of its own. Redb's disk can be replaced by a
//! [`redb::StorageBackend`], which is how power cuts are tested here; fjall's
//! can't. Reads and that decided it: a chat reads more than it writes, and one
//! fsync already carries many messages.
//!
//! Commits are made in two phases, at 0.75 of the rate of one (so 0.4 to 0.7 of
//! fjall's): then a damaged last commit is an error when the file is opened, where
//! redb would otherwise go back to the commit before in silence (it did for 170 of
//! 2,458 flipped bits that mattered; in two phases for none), and a failed fsync
//! leaves no page that the kernel believes to be written in the state that is gone
//! on with. One bit of the file is not covered: the header's choice between the
//! last two commits. Flipped after a crash it looks like a crash in the middle of
//! the last commit.
//!
//! What comes often goes through a journal (`journal.rs`): one sync of two blocks,
//! where a commit of two phases syncs a dozen scattered pages twice. Measured on the
//! log of messages, beside the same without it: one sender who waits for each answer
//! says 1.45 times as much, and is answered in 0.64 of the time; where 256 in 10,000
//! topics do not wait for each other, it makes no difference.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::{Semaphore, oneshot};

mod file;
mod folder;
mod gate;
mod journal;
#[cfg(any(test, feature = "testing"))]
mod simulated_disk;
mod writer;

pub(crate) use file::sync_folder;
pub use file::{OpenError, StoreId};
pub use folder::DataFolder;
#[cfg(any(test, feature = "testing"))]
pub use simulated_disk::{Fault, SimulatedDisk};

use file::Source;
use gate::Gate;
#[cfg(any(test, feature = "testing"))]
use simulated_disk::StoreFile;
use writer::{Command, Pending, Words, Writer};

/// How an embedded store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the file holds, for example `messages`; written into it and checked.
    pub name: &'static str,
    /// Version of the tables in it. A file with a newer one is refused.
    pub schema: u32,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: usize,
    /// How many writes may wait; one more is refused with [`EmbeddedError::Busy`].
    pub queue: usize,
    /// How many reads run at a time on the blocking pool; further ones wait for their turn.
    pub readers: usize,
    /// Whether every page is verified when the file is opened, which takes about
    /// 2 s per GiB from the page cache. After a crash that is done anyway.
    pub verify: bool,
    /// Does again what [`Embedded::write_journaled`] was told of a write, in a store that has a
    /// journal.
    pub replay: Option<Replay>,
}

/// Does a write again from its record: it changes what the write changed, whatever of that
/// is there already.
pub type Replay = fn(&WriteTransaction, &[u8]) -> Result<(), redb::Error>;

impl Options {
    /// The defaults: 64 MiB of cache, 4,096 waiting writes, 16 readers, verified, no journal.
    #[must_use]
    pub const fn new(name: &'static str, schema: u32) -> Self {
        Self {
            name,
            schema,
            cache_bytes: 64 << 20,
            queue: 4_096,
            readers: 16,
            verify: true,
            replay: None,
        }
    }

    /// The same with a journal, from which this does writes again after a crash.
    #[must_use]
    pub const fn with_journal(self, replay: Replay) -> Self {
        Self {
            replay: Some(replay),
            ..self
        }
    }
}

/// Why a store did not do it. All but [`Unknown`](Self::Unknown) are definite:
/// nothing was stored, nor will be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// As many writes wait as may wait.
    #[error("too many writes wait for the store")]
    Busy,
    /// The store is away after a fault and comes back by itself; try again.
    #[error("the store is away: {0}")]
    Unavailable(Arc<str>),
    /// The file holds what can't be.
    #[error("the store is damaged: {0}")]
    Damaged(Arc<str>),
    /// The closure asked for what can't be done: a mistake in the program.
    #[error("the store can't do that: {0}")]
    Misused(Arc<str>),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The commit failed: the write may have been stored or not.
    #[error("it is not known whether the store holds it: {0}")]
    Unknown(Arc<str>),
}

impl EmbeddedError {
    /// Whether it is certain that nothing was stored.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// An open embedded store. Cheap to clone; the last one that goes closes the file.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    shared: Arc<Shared>,
    commands: mpsc::SyncSender<Command>,
    readers: Arc<Semaphore>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What readers and the writer share.
struct Shared {
    /// None while the file is being opened again. Readers hold the lock while they read.
    database: RwLock<Option<Database>>,
    /// Why it is away.
    fault: Mutex<Arc<str>>,
    /// A read met a fault and the writer was told.
    suspect: AtomicBool,
    closed: AtomicBool,
    /// Closed while what was answered is not to be read yet.
    gate: Gate,
}

impl Shared {
    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the reads under way; new ones are refused meanwhile.
    fn replace(&self, database: Option<Database>) -> Option<Database> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, database)
    }

    fn away(&self) -> EmbeddedError {
        if self.closed.load(Ordering::Acquire) {
            return EmbeddedError::Closed;
        }
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        EmbeddedError::Unavailable(fault.clone())
    }
}

impl Embedded {
    /// Opens the store in a file of its own; makes the file if there is none.
    /// Services use [`DataFolder::embedded`], which knows what must be there.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        if !path.exists() {
            file::create(path, StoreId::random(), options)?;
        }
        Self::start(Source::file(path), None, options)
    }

    /// Opens a file that must be there and belong to this store.
    fn open_existing(path: &Path, id: StoreId, options: &Options) -> Result<Self, OpenError> {
        Self::start(Source::file(path), Some(id), options)
    }

    /// Opens the store on a simulated disk, as a process that dies with the next
    /// power cut.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_simulated(disk: &SimulatedDisk, options: &Options) -> Result<Self, OpenError> {
        let path = std::path::PathBuf::from("simulated disk");
        if disk.is_empty() {
            file::make_simulated(disk, options).map_err(|err| OpenError::redb(&path, err))?;
        }
        let cuts = disk.cuts();
        let (database, journal) = (disk.clone(), disk.clone());
        let source = Source::new(
            path,
            move |builder| builder.create_with_backend(database.plug_in(StoreFile::Database, cuts)),
            move |_| Ok(Box::new(journal.plug_in(StoreFile::Journal, cuts))),
        );
        Self::start(source, None, options)
    }

    fn start(source: Source, id: Option<StoreId>, options: &Options) -> Result<Self, OpenError> {
        let (database, journal) = file::open(&source, id, options)?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(database)),
            fault: Mutex::new(Arc::from("")),
            suspect: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            gate: Gate::default(),
        });
        let (commands, queue) = mpsc::sync_channel(options.queue);
        let path = source.path().to_owned();
        let writer = Writer::new(shared.clone(), queue, journal, source, id, options.clone());
        let thread = thread::Builder::new()
            .name(format!("store-{}", options.name))
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io { path, source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: options.name,
                shared,
                commands,
                readers: Arc::new(Semaphore::new(options.readers)),
                writer: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Runs `change` in a write transaction that it shares with other callers, and
    /// answers once the transaction is durable.
    ///
    /// An error that `change` returns aborts the writes of all of them. What it
    /// refuses for reasons of its own is therefore a value (`T` is a `Result`), and
    /// is found out before its first write: nothing takes that back.
    ///
    /// When the future is dropped `change` may still run; if it was not its turn
    /// yet, it does not.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn write<T, F>(&self, change: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(move |transaction: &WriteTransaction, words: &mut Words| {
            words.are_missing = true;
            change(transaction)
        })
        .await
    }

    /// The same, and `change` gives the words in which [`Options::replay`] does it again;
    /// none if it has changed nothing. Where the store has a journal they are made durable
    /// there, which is quicker by far.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn write_journaled<T, F>(&self, change: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&WriteTransaction) -> Result<(T, Option<Vec<u8>>), redb::Error> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(move |transaction: &WriteTransaction, words: &mut Words| {
            let (value, record) = change(transaction)?;
            words.records.extend(record);
            Ok(value)
        })
        .await
    }

    async fn enqueue<T, F>(&self, change: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&WriteTransaction, &mut Words) -> Result<T, redb::Error> + Send + 'static,
        T: Send + 'static,
    {
        let inner = &self.inner;
        if inner.shared.closed.load(Ordering::Acquire) {
            return Err(EmbeddedError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let pending = Box::new(Pending::new(change, reply));
        inner
            .commands
            .try_send(Command::Write(pending))
            .map_err(|err| match err {
                mpsc::TrySendError::Full(_) => {
                    metrics::counter!("drivers_embedded_busy_total", "store" => inner.name)
                        .increment(1);
                    EmbeddedError::Busy
                }
                mpsc::TrySendError::Disconnected(_) => EmbeddedError::Closed,
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(EmbeddedError::Unknown(Arc::from("the writer has stopped"))))
    }

    /// Reads a few rows, on the calling thread.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub fn read_now<T, F>(&self, look: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    {
        self.inner.read(look)
    }

    /// Reads what may take a while, such as a page of rows, on the blocking pool.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn read<T, F>(&self, look: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
        T: Send + 'static,
    {
        let inner = self.inner.clone();
        let turn = inner
            .readers
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| EmbeddedError::Closed)?;
        let read = tokio::task::spawn_blocking(move || {
            let result = inner.read(look);
            drop(turn);
            result
        });
        read.await.unwrap_or_else(|_| {
            Err(EmbeddedError::Unavailable(Arc::from(
                "the read was stopped",
            )))
        })
    }

    /// Takes no more writes, ends those that wait, and closes the file.
    pub async fn close(&self) {
        let inner = self.inner.clone();
        // A panic of the writer was answered to those who waited; there is nobody else to tell.
        let _ = tokio::task::spawn_blocking(move || inner.stop()).await;
    }
}

impl Inner {
    fn read<T, F>(&self, look: F) -> Result<T, EmbeddedError>
    where
        F: FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    {
        self.shared.gate.pass();
        let slot = match self.shared.database.try_read() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(self.shared.away()),
        };
        let Some(database) = &*slot else {
            return Err(self.shared.away());
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            let transaction = database.begin_read()?;
            look(&transaction)
        }));
        let (error, broken) = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => (writer::refusal(&error), writer::is_fault(&error)),
            Err(panic) => (
                EmbeddedError::Unavailable(writer::panic_message(&*panic)),
                true,
            ),
        };
        if broken && !self.shared.suspect.swap(true, Ordering::AcqRel) {
            // When the queue is full, the writes in it will meet the fault.
            let _ = self.commands.try_send(Command::Inspect);
        }
        Err(error)
    }

    fn stop(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = writer.take()
            && thread.thread().id() != thread::current().id()
        {
            // It fails only when the writer has gone already.
            let _ = self.commands.send(Command::Close);
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
