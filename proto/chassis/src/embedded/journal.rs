//! The journal of a store: what was committed since the database was last written to its
//! file. A commit of what can be done again from its own words is one write and one sync
//! of a few blocks here, where the database would write a dozen scattered pages and sync
//! twice; the database has it in memory, and in its file with its next commit there.
//!
//! The journal is a file of fixed size, made at once, so that a sync has no metadata to
//! write. It holds frames of whole blocks, each twice in a row: neither a damaged block
//! nor a torn write hides a frame that was synced. Frames are numbered without a gap; a
//! generation of them begins whenever the store is opened, with frame 0. The database
//! says in [`MARK`] which generation it is in, and up to which frame it holds them; what
//! lies behind is done again before anybody reads.

use std::{collections::BTreeMap, io};

use redb::{
    Database, ReadableDatabase, StorageBackend, TableDefinition, TableError, WriteTransaction,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Replay, StoreId,
    file::{OpenError, Source},
};

/// What a damaged sector takes along, at most.
const BLOCK: usize = 4_096;
/// Blocks of the file: 4 MiB.
const BLOCKS: usize = 1_024;
/// The block behind the two copies of the first frame.
const FIRST_PLACE: usize = 2;
/// Records between two commits to the file: more would be done again after a crash, and
/// make the next commit to the file, which writes about a page for each, too long.
const MOST_RECORDS: usize = 2_048;
/// Checksum, generation, number, length of the content.
const HEADER: usize = 8 + 8 + 8 + 4;

/// The generation of the journal's frames, and the number of the last one that is in the
/// file of the database.
const MARK: TableDefinition<'_, (), (u64, u64)> = TableDefinition::new("journal");

/// The journal of an open store.
pub(super) struct Journal {
    disk: Box<dyn StorageBackend>,
    id: StoreId,
    generation: u64,
    /// The last frame's.
    number: u64,
    /// The block of the next frame.
    place: usize,
    /// Since the database was written to its file.
    records: usize,
}

impl Journal {
    /// Opens the journal of this database, makes it if it never had one, and does again
    /// what is not in the file of the database.
    pub(super) fn open(
        source: &Source,
        database: &Database,
        id: StoreId,
        replay: Replay,
    ) -> Result<Self, OpenError> {
        let path = &source.journal_path();
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => OpenError::damaged(path, error),
            _ => OpenError::io(path, error),
        };
        let of_database = |error| OpenError::redb(source.path(), error);
        let mark = read_mark(database).map_err(of_database)?;
        let mut journal = Self {
            disk: source.open_journal(mark.is_none())?,
            id,
            generation: 0,
            number: 0,
            place: 0,
            records: 0,
        };
        let mut missed = Vec::new();
        if let Some((generation, number)) = mark {
            journal.generation = generation;
            missed = journal.scan(number).map_err(io)?;
        } else {
            journal.make().map_err(io)?;
        }
        if !missed.is_empty() {
            tracing::info!(frames = missed.len(), path = %path.display(), "doing again what is in the journal");
        }
        // Its first frame is there before the database is in a generation, and no other is.
        journal.generation += 1;
        journal.begin().map_err(io)?;
        (journal.catch_up(database, &missed, replay)).map_err(of_database)?;
        Ok(journal)
    }

    /// Does again what these frames hold, and brings the database into this generation.
    fn catch_up(
        &self,
        database: &Database,
        missed: &[Vec<u8>],
        replay: Replay,
    ) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        for record in missed.iter().flat_map(|frame| records(frame)) {
            replay(&transaction, record)?;
        }
        self.write_mark(&transaction)?;
        transaction.commit()?;
        Ok(())
    }

    /// Whether these records may go into the journal, too, before the database is
    /// committed to its file.
    pub(super) fn has_room_for(&self, records: &[Vec<u8>]) -> bool {
        self.records + records.len() <= MOST_RECORDS
            && self.place + 2 * blocks(content_len(records)) <= BLOCKS
    }

    /// Appends the records of one commit, durably. What became of them is not known when
    /// that fails: the journal has to be opened again.
    pub(super) fn append(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let mut content = Vec::with_capacity(content_len(records));
        for record in records {
            let len = u32::try_from(record.len()).map_err(io::Error::other)?;
            content.extend(len.to_le_bytes());
            content.extend(record);
        }
        let mut frames = self.frame(self.number + 1, &content)?;
        frames.extend_from_within(..);
        self.disk.write(offset(self.place), &frames)?;
        self.disk.sync_data()?;
        self.number += 1;
        self.place += frames.len() / BLOCK;
        self.records += records.len();
        Ok(())
    }

    /// Whether the file of the database lacks something that is in here.
    pub(super) fn is_ahead(&self) -> bool {
        self.records > 0
    }

    /// Writes into a commit to the file that all frames up to here are in it.
    pub(super) fn write_mark(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mark = (self.generation, self.number);
        transaction.open_table(MARK)?.insert((), mark)?;
        Ok(())
    }

    /// That commit has succeeded: the frames are needed no more.
    pub(super) fn is_in_the_file(&mut self) {
        self.place = FIRST_PLACE;
        self.records = 0;
    }

    /// Makes the file, in generation 0, without a frame.
    fn make(&mut self) -> io::Result<()> {
        self.disk.set_len(offset(BLOCKS))?;
        self.disk.write(0, &vec![0; BLOCKS * BLOCK])?;
        self.begin()
    }

    /// Begins a generation. Its first frame replaces that of the one before, one copy
    /// after the other: one of the two is whole at any time. The others stay.
    fn begin(&mut self) -> io::Result<()> {
        self.number = 0;
        let first = self.frame(0, &[])?;
        for copy in 0..FIRST_PLACE {
            self.disk.write(offset(copy), &first)?;
            self.disk.sync_data()?;
        }
        self.is_in_the_file();
        Ok(())
    }

    fn frame(&self, number: u64, content: &[u8]) -> io::Result<Vec<u8>> {
        let len = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut frame = vec![0; 8];
        frame.extend(self.generation.to_le_bytes());
        frame.extend(number.to_le_bytes());
        frame.extend(len.to_le_bytes());
        frame.extend(content);
        let (place, covered) = frame.split_at_mut(8);
        place.copy_from_slice(&self.checksum(covered).to_le_bytes());
        frame.resize(blocks(content.len()) * BLOCK, 0);
        Ok(frame)
    }

    /// With the store's random number in it: what somebody says can't pass for a frame,
    /// nor can another store's.
    fn checksum(&self, covered: &[u8]) -> u64 {
        xxh3_64_with_seed(covered, self.id.seed())
    }

    /// The contents of the frames of this generation behind `number`, in their order.
    fn scan(&self, number: u64) -> io::Result<Vec<Vec<u8>>> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if self.disk.len()? != offset(BLOCKS) {
            return Err(wrong("it has been cut short, or was made longer".into()));
        }
        let mut whole = vec![0; BLOCKS * BLOCK];
        self.disk.read(0, &mut whole)?;
        let mut has_begun = false;
        let mut found = BTreeMap::new();
        for place in 0..BLOCKS {
            let Some(frame) = whole.get(place * BLOCK..).and_then(|rest| self.parse(rest)) else {
                continue;
            };
            match frame.generation.checked_sub(self.generation) {
                Some(0) if frame.number > number => {
                    found.insert(frame.number, frame.content);
                }
                Some(0) => has_begun |= frame.number == 0,
                // The start that began it was cut off.
                Some(1) if frame.number == 0 => has_begun = true,
                Some(_) => return Err(wrong("it is newer than the database".into())),
                None => {}
            }
        }
        if !has_begun {
            return Err(wrong(format!(
                "it is not the one of generation {} that belongs to the database",
                self.generation
            )));
        }
        if let Some((missing, _)) = (number + 1..).zip(found.keys()).find(|(n, key)| n != *key) {
            return Err(wrong(format!("frame {missing} is not whole")));
        }
        Ok(found.into_values().map(<[u8]>::to_vec).collect())
    }

    /// The frame that starts here, if one does.
    fn parse<'a>(&self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (checksum, covered) = bytes.split_first_chunk()?;
        let (generation, rest) = covered.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let content = rest.get(..len)?;
        let covered = covered.get(..HEADER - 8 + len)?;
        (u64::from_le_bytes(*checksum) == self.checksum(covered)).then_some(Frame {
            generation: u64::from_le_bytes(*generation),
            number: u64::from_le_bytes(*number),
            content,
        })
    }
}

struct Frame<'a> {
    generation: u64,
    number: u64,
    content: &'a [u8],
}

/// The records in the content of a frame.
fn records(mut content: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = content.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (record, rest) = rest.split_at_checked(len)?;
        content = rest;
        Some(record)
    })
}

fn content_len(records: &[Vec<u8>]) -> usize {
    records.iter().map(|record| 4 + record.len()).sum()
}

/// How many blocks one copy of a frame takes.
fn blocks(content: usize) -> usize {
    (HEADER + content).div_ceil(BLOCK)
}

fn offset(block: usize) -> u64 {
    (block * BLOCK) as u64
}

/// None in a database that never had a journal.
fn read_mark(database: &Database) -> Result<Option<(u64, u64)>, redb::Error> {
    match database.begin_read()?.open_table(MARK) {
        Ok(table) => Ok(table.get(())?.map(|mark| mark.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
