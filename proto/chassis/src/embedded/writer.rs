//! The one thread that writes: it takes what waits, commits it together, and
//! opens the file again when the disk failed.

use std::{
    any::Any,
    ops::ControlFlow::{self, Break, Continue},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use redb::{CommitError, Database, Durability, WriteTransaction};
use tokio::sync::oneshot;

use super::{EmbeddedError, Options, Shared, StoreId, file, file::Source, journal::Journal};

/// A commit holds at most this many writes …
const COMMIT_WRITES: usize = 512;
/// … and takes no further one after this time, so that large writes don't pile up in it.
const COMMIT_TIME: Duration = Duration::from_millis(20);
/// The longest pause between two attempts to go on after a fault.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause before a damaged file is read through once more.
const DAMAGED_PAUSE: Duration = Duration::from_secs(30);

pub(super) enum Command {
    Write(Box<dyn Job>),
    /// A read met a fault.
    Inspect,
    Close,
}

/// In which words the writes of a group can be done again.
#[derive(Default)]
pub(super) struct Words {
    pub(super) records: Vec<Vec<u8>>,
    /// One of them has none.
    pub(super) are_missing: bool,
}

/// A write and the one who waits for it.
pub(super) trait Job: Send {
    /// Nobody waits for it any more.
    fn abandoned(&self) -> bool;
    fn run(&mut self, transaction: &WriteTransaction, words: &mut Words)
    -> Result<(), redb::Error>;
    fn answer(self: Box<Self>, outcome: Result<(), EmbeddedError>);
}

pub(super) struct Pending<F, T> {
    change: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, EmbeddedError>>,
}

impl<F, T> Pending<F, T> {
    pub(super) fn new(change: F, reply: oneshot::Sender<Result<T, EmbeddedError>>) -> Self {
        Self {
            change: Some(change),
            value: None,
            reply,
        }
    }
}

impl<F, T> Job for Pending<F, T>
where
    F: FnOnce(&WriteTransaction, &mut Words) -> Result<T, redb::Error> + Send,
    T: Send,
{
    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(
        &mut self,
        transaction: &WriteTransaction,
        words: &mut Words,
    ) -> Result<(), redb::Error> {
        if let Some(change) = self.change.take() {
            self.value = Some(change(transaction, words)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), EmbeddedError>) {
        let Self { value, reply, .. } = *self;
        let answer = outcome.and_then(|()| {
            value.ok_or_else(|| EmbeddedError::Misused(Arc::from("the write never ran")))
        });
        // Whoever no longer waits does not want to know.
        let _ = reply.send(answer);
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    /// None where the store has none, or while the database is away.
    journal: Option<Journal>,
    source: Source,
    id: Option<StoreId>,
    options: Options,
    /// Faults since the last commit that succeeded.
    faults: u32,
    /// Writes are refused, and a file that is away is not opened, before this time.
    resume_at: Instant,
}

/// What became of a group of writes.
enum Settled {
    Stored,
    /// The transaction was rolled back. `fault`: the database has to be opened again.
    NotStored {
        error: EmbeddedError,
        fault: bool,
    },
    Unknown(Arc<str>),
}

impl Settled {
    fn failed(error: &redb::Error) -> Self {
        Self::NotStored {
            error: refusal(error),
            fault: is_fault(error),
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Command>,
        journal: Option<Journal>,
        source: Source,
        id: Option<StoreId>,
        options: Options,
    ) -> Self {
        Self {
            shared,
            queue,
            journal,
            source,
            id,
            options,
            faults: 0,
            resume_at: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let command = if self.is_away() {
                let pause = self.resume_at.saturating_duration_since(Instant::now());
                if pause.is_zero() {
                    self.reopen();
                    continue;
                }
                match self.queue.recv_timeout(pause) {
                    Ok(command) => command,
                    Err(mpsc::RecvTimeoutError::Timeout) => continue,
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match self.queue.recv() {
                    Ok(command) => command,
                    Err(mpsc::RecvError) => break,
                }
            };
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Write(job) => next = self.write(job),
                    Command::Inspect => self.inspect(),
                    Command::Close => return self.close(),
                }
            }
        }
        self.close();
    }

    fn is_away(&self) -> bool {
        self.shared.database().is_none()
    }

    /// Commits this write with those that wait behind it; gives back a command
    /// that it met and that is no write.
    fn write(&mut self, first: Box<dyn Job>) -> Option<Command> {
        if self.is_away() || Instant::now() < self.resume_at {
            first.answer(Err(self.shared.away()));
            return None;
        }
        // Where the processor is full, others go first, and what they bring goes along.
        std::thread::yield_now();
        let mut jobs = vec![first];
        let mut other = None;
        let started = Instant::now();
        let group = match &*self.shared.database() {
            Some(database) => guarded(|| {
                let journal = self.journal.as_mut();
                write_group(database, journal, &self.queue, &mut jobs, &mut other)
            })
            .unwrap_or_else(|panic| Break(Settled::Unknown(panic))),
            None => Break(Settled::NotStored {
                error: self.shared.away(),
                fault: false,
            }),
        };
        let name = self.options.name;
        // Until it is durable. What follows gives others a turn, which is not the commit's time.
        metrics::histogram!("drivers_embedded_commit_seconds", "store" => name)
            .record(started.elapsed().as_secs_f64());
        metrics::histogram!("drivers_embedded_commit_writes", "store" => name)
            .record(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        let settled = match group {
            Continue(durable) => self.commit_answered(durable, std::mem::take(&mut jobs)),
            Break(settled) => settled,
        };
        let (outcome, fault) = match settled {
            Settled::Stored => {
                self.faults = 0;
                (Ok(()), false)
            }
            Settled::NotStored { error, fault } => (Err(error), fault),
            Settled::Unknown(why) => (Err(EmbeddedError::Unknown(why)), true),
        };
        // The file comes back before the callers hear of it, so that whoever tries
        // again at once is not refused for that alone.
        if let (true, Err(error)) = (fault, &outcome) {
            self.recover(&error.to_string());
        }
        for job in jobs {
            job.answer(outcome.clone());
        }
        other
    }

    /// Answers what is durable in the journal, then commits it in memory. Who reads meanwhile
    /// waits for that: he may have been answered. If it fails, it is done again from the journal.
    fn commit_answered(&mut self, durable: WriteTransaction, jobs: Vec<Box<dyn Job>>) -> Settled {
        let shared = Arc::clone(&self.shared);
        let _gate = shared.gate.close();
        for job in jobs {
            job.answer(Ok(()));
        }
        // Where the processor is full, those who were answered go first.
        std::thread::yield_now();
        let why = match guarded(|| commit(durable)) {
            Ok(Settled::NotStored { error, .. }) => Arc::from(error.to_string()),
            Ok(Settled::Unknown(why)) | Err(why) => why,
            Ok(settled) => return settled,
        };
        // Before the gate opens: nobody is to read a database without what was answered.
        self.put_away(&why);
        Settled::Unknown(why)
    }

    fn inspect(&mut self) {
        if self.shared.suspect.load(Ordering::Acquire) && !self.is_away() {
            self.recover("a read failed");
        }
    }

    /// Drops the database after a fault, which redb refuses to go on with, and opens it again.
    fn recover(&mut self, fault: &str) {
        tracing::error!(
            store = self.options.name,
            fault,
            "the store failed; opening it again"
        );
        self.put_away(fault);
        self.faults = self.faults.saturating_add(1);
        // Once is bad luck; the second time in a row the disk is left alone for a while.
        self.resume_at = Instant::now();
        if self.faults > 1 {
            self.resume_at += Duration::from_millis(25 << self.faults.min(6)).min(LONGEST_PAUSE);
        }
        self.reopen();
    }

    /// Whoever reads or writes from now on is told why that can't be.
    fn put_away(&mut self, fault: &str) {
        self.set_fault(fault);
        let database = self.shared.replace(None);
        self.journal = None;
        // Redb writes nothing after a fault, and a panic here has nothing left to break.
        let _ = guarded(|| drop(database));
    }

    fn reopen(&mut self) {
        metrics::counter!("drivers_embedded_reopens_total", "store" => self.options.name)
            .increment(1);
        match file::open(&self.source, self.id, &self.options) {
            Ok((database, journal)) => {
                tracing::info!(store = self.options.name, "the store is open again");
                self.journal = journal;
                self.shared.suspect.store(false, Ordering::Release);
                self.shared.replace(Some(database));
            }
            Err(error) => {
                self.faults = self.faults.saturating_add(1);
                let pause = match error {
                    file::OpenError::Damaged { .. } => DAMAGED_PAUSE,
                    _ => Duration::from_millis(25 << self.faults.min(6)).min(LONGEST_PAUSE),
                };
                self.resume_at = Instant::now() + pause;
                self.set_fault(&error.to_string());
                tracing::error!(store = self.options.name, %error, "the store stays away");
            }
        }
    }

    fn set_fault(&self, fault: &str) {
        *self
            .shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::from(fault);
    }

    /// Ends what waits, then closes the file.
    fn close(mut self) {
        while let Ok(command) = self.queue.try_recv() {
            if let Command::Write(job) = command {
                // Other commands ask for less than what is being done.
                self.write(job);
            }
        }
        if let Some(database) = self.shared.replace(None) {
            let journal = self.journal.take();
            match guarded(|| close(database, journal)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(store = self.options.name, %error, "the store did not close cleanly");
                }
                Err(fault) => {
                    tracing::warn!(store = self.options.name, %fault, "the store did not close cleanly");
                }
            }
        }
    }
}

/// What became of a group, or its transaction, which is durable in the journal and is still to
/// be committed in memory.
type Group = ControlFlow<Settled, WriteTransaction>;

/// Runs the job in `jobs` and those that wait behind it in one transaction, and makes it durable.
fn write_group(
    database: &Database,
    journal: Option<&mut Journal>,
    queue: &mpsc::Receiver<Command>,
    jobs: &mut Vec<Box<dyn Job>>,
    other: &mut Option<Command>,
) -> Group {
    let started = Instant::now();
    let mut transaction = match database.begin_write() {
        Ok(transaction) => transaction,
        Err(error) => return Break(Settled::failed(&error.into())),
    };
    transaction.set_two_phase_commit(true);
    let mut words = Words::default();
    while let Some(job) = jobs.last_mut() {
        if !job.abandoned() {
            match guarded(|| job.run(&transaction, &mut words)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Break(abort(transaction, &error, jobs)),
                Err(panic) => {
                    // Whether the program or a damaged page made it panic, opening the file tells.
                    return Break(Settled::NotStored {
                        error: EmbeddedError::Unavailable(panic),
                        fault: true,
                    });
                }
            }
        }
        if jobs.len() == COMMIT_WRITES || started.elapsed() >= COMMIT_TIME {
            break;
        }
        match queue.try_recv() {
            Ok(Command::Write(job)) => jobs.push(job),
            Ok(command) => {
                *other = Some(command);
                break;
            }
            Err(_) => break,
        }
    }
    match journal {
        None => Break(commit(transaction)),
        Some(journal) if words.are_missing || !journal.has_room_for(&words.records) => {
            Break(commit_to_the_file(transaction, journal))
        }
        Some(journal) => write_to_the_journal(transaction, journal, &words.records),
    }
}

/// Commits to the file of the database, with all that only the journal holds so far.
fn commit_to_the_file(transaction: WriteTransaction, journal: &mut Journal) -> Settled {
    if let Err(error) = journal.write_mark(&transaction) {
        return Settled::failed(&error);
    }
    let settled = commit(transaction);
    if let Settled::Stored = settled {
        journal.is_in_the_file();
    }
    settled
}

/// Makes it durable in the journal. It is committed in memory behind that, so that nobody
/// reads what may be gone again.
fn write_to_the_journal(
    mut transaction: WriteTransaction,
    journal: &mut Journal,
    records: &[Vec<u8>],
) -> Group {
    if records.is_empty() {
        return Break(match transaction.abort() {
            Ok(()) => Settled::Stored,
            Err(error) => Settled::failed(&error.into()),
        });
    }
    if let Err(error) = transaction.set_durability(Durability::None) {
        return Break(Settled::NotStored {
            error: EmbeddedError::Unavailable(Arc::from(error.to_string())),
            fault: true,
        });
    }
    match journal.append(records) {
        Ok(()) => Continue(transaction),
        Err(error) => Break(Settled::Unknown(Arc::from(error.to_string()))),
    }
}

fn commit(transaction: WriteTransaction) -> Settled {
    match transaction.commit() {
        Ok(()) => Settled::Stored,
        // Redb has rolled it back.
        Err(CommitError::TransactionPoisoned) => Settled::NotStored {
            error: EmbeddedError::Unavailable(Arc::from("the transaction failed half-way")),
            fault: false,
        },
        Err(error) => Settled::Unknown(Arc::from(error.to_string())),
    }
}

/// Closes the database with everything in its file.
fn close(database: Database, journal: Option<Journal>) -> Result<(), redb::Error> {
    if let Some(journal) = journal.filter(Journal::is_ahead) {
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        journal.write_mark(&transaction)?;
        transaction.commit()?;
    }
    Ok(database.close()?)
}

/// Rolls back because the last job failed. A mistake of its own is told to it alone.
fn abort(
    transaction: WriteTransaction,
    error: &redb::Error,
    jobs: &mut Vec<Box<dyn Job>>,
) -> Settled {
    if let Err(error) = transaction.abort() {
        return Settled::failed(&error.into());
    }
    if is_fault(error) {
        return Settled::failed(error);
    }
    if let Some(job) = jobs.pop() {
        tracing::error!(%error, "a write was refused by the store");
        job.answer(Err(refusal(error)));
    }
    Settled::NotStored {
        error: EmbeddedError::Unavailable(Arc::from("another write of the group failed")),
        fault: false,
    }
}

/// Runs what calls redb, which panics on some damaged files and on mistakes.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Arc<str>> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_message(&*panic))
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    let message = match panic.downcast_ref::<&str>() {
        Some(message) => Some(*message),
        None => panic.downcast_ref::<String>().map(String::as_str),
    };
    Arc::from(message.unwrap_or("a panic without a message"))
}

/// What a caller is told when its transaction ended with this error before the commit.
pub(super) fn refusal(error: &redb::Error) -> EmbeddedError {
    let why = Arc::from(error.to_string());
    match error {
        redb::Error::Corrupted(_) => EmbeddedError::Damaged(why),
        _ if is_fault(error) => EmbeddedError::Unavailable(why),
        _ => EmbeddedError::Misused(why),
    }
}

/// Whether the database has to be opened again after this error.
pub(super) const fn is_fault(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::Corrupted(_)
            | redb::Error::Io(_)
            | redb::Error::Backend(_)
            | redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_)
    )
}
