//! A disk for tests whose power can be cut: what was not synced is gone, or
//! torn, or kept, as a disk and its caches do it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use redb::StorageBackend;

/// What a disk keeps or loses as a whole.
const SECTOR: usize = 512;

/// What goes wrong with each access of a kind from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every access fails.
    Io,
    /// Only what writes fails: there is no space.
    NoSpace,
    /// Only syncs fail.
    Sync,
}

/// A disk in memory with the files of one store. A clone is the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// The files of a store.
#[derive(Clone, Copy, Debug)]
pub(super) enum StoreFile {
    /// The database.
    Database,
    /// What was committed since it was last written to.
    Journal,
}

#[derive(Debug, Default)]
struct Content {
    /// What survives a power cut for certain.
    durable: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// What was asked for since the last sync, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
struct State {
    database: Content,
    journal: Content,
    /// Counts power cuts; who opened the disk before one is dead.
    cuts: u64,
    /// The power is cut at so many accesses that change something from now on.
    cut_after: Option<u64>,
    fault: Option<Fault>,
    syncs_work: bool,
    syncs: u64,
    random: SmallRng,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl State {
    fn cut_power(&mut self) {
        self.cuts += 1;
        self.cut_after = None;
        self.fault = None;
        // At times all is lost or kept: the extremes are worth more than their share.
        let kept = match self.random.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => self.random.random_range(0.0..1.0),
        };
        self.database
            .lose_what_is_not_synced(&mut self.random, kept);
        self.journal.lose_what_is_not_synced(&mut self.random, kept);
    }

    fn content(&mut self, file: StoreFile) -> &mut Content {
        match file {
            StoreFile::Database => &mut self.database,
            StoreFile::Journal => &mut self.journal,
        }
    }
}

impl Content {
    /// Of what is not synced this share survives.
    fn lose_what_is_not_synced(&mut self, random: &mut SmallRng, kept: f64) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::SetLen(len) => {
                    if random.random_bool(kept) {
                        self.durable.resize(len, 0);
                    }
                }
                Change::Write { offset, data } => {
                    for (place, sector) in sectors(offset, &data) {
                        // What lies beyond the length that survived is lost with it.
                        if let Some(target) = self.durable.get_mut(place..place + sector.len())
                            && random.random_bool(kept)
                        {
                            target.copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        self.cached.clone_from(&self.durable);
    }
}

impl SimulatedDisk {
    /// An empty disk; what a power cut takes is drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                database: Content::default(),
                journal: Content::default(),
                cuts: 0,
                cut_after: None,
                fault: None,
                syncs_work: true,
                syncs: 0,
                random: SmallRng::seed_from_u64(seed),
            })),
        }
    }

    /// Cuts the power and turns it on again. Of what was not synced any part
    /// survives, by sectors. Whoever had it open gets errors from now on.
    pub fn cut_power(&self) {
        self.state().cut_power();
    }

    /// Cuts the power in the middle of what happens, at so many writes and syncs
    /// from now on.
    pub fn cut_power_after(&self, accesses: u64) {
        self.state().cut_after = Some(accesses);
    }

    /// How often the power was cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.state().cuts
    }

    /// Makes accesses fail, or work again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Takes the effect out of syncs, as a disk does that lies: to prove that a
    /// test of durability would notice.
    pub fn set_syncs_work(&self, work: bool) {
        self.state().syncs_work = work;
    }

    /// How many syncs there have been.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state().database.cached.is_empty()
    }

    /// A file of the disk as a process that opened it after so many cuts sees it.
    pub(super) fn plug_in(&self, file: StoreFile, cuts: u64) -> PluggedIn {
        PluggedIn {
            disk: self.clone(),
            file,
            cuts,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a write, each within one sector, with their places.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut place = offset;
    let mut rest = data;
    std::iter::from_fn(move || {
        let len = rest.len().min(SECTOR - place % SECTOR);
        let (sector, behind) = rest
            .split_at_checked(len)
            .filter(|(sector, _)| !sector.is_empty())?;
        let at = place;
        rest = behind;
        place += len;
        Some((at, sector))
    })
}

/// A file of the disk as one process sees it, until the power is cut.
#[derive(Debug)]
pub(super) struct PluggedIn {
    disk: SimulatedDisk,
    file: StoreFile,
    cuts: u64,
}

impl PluggedIn {
    fn access(&self, failing: &[Fault]) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.cuts != self.cuts {
            return Err(io::Error::other("the power was cut"));
        }
        match state.fault {
            Some(fault) if failing.contains(&fault) => Err(match fault {
                Fault::NoSpace => io::ErrorKind::StorageFull.into(),
                Fault::Io | Fault::Sync => io::Error::other("the disk failed"),
            }),
            _ => Ok(state),
        }
    }

    /// An access that changes something, and that the power may be cut at.
    fn change(&self, failing: &[Fault]) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.access(failing)?;
        match &mut state.cut_after {
            None => return Ok(state),
            Some(accesses @ 1..) => {
                *accesses -= 1;
                return Ok(state);
            }
            Some(0) => {}
        }
        state.cut_power();
        Err(io::Error::other("the power was cut"))
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

impl StorageBackend for PluggedIn {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.access(&[Fault::Io])?;
        Ok(state.content(self.file).cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.access(&[Fault::Io])?;
        let offset = place(offset)?;
        let content = state
            .content(self.file)
            .cached
            .get(offset..offset + out.len());
        out.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.change(&[Fault::Io, Fault::NoSpace])?;
        let content = state.content(self.file);
        let len = place(len)?;
        content.cached.resize(len, 0);
        content.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change(&[Fault::Io, Fault::Sync])?;
        state.syncs += 1;
        if state.syncs_work {
            let content = state.content(self.file);
            for change in content.unsynced.drain(..) {
                match change {
                    Change::SetLen(len) => content.durable.resize(len, 0),
                    Change::Write { offset, data } => {
                        if let Some(target) = content.durable.get_mut(offset..offset + data.len()) {
                            target.copy_from_slice(&data);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.change(&[Fault::Io, Fault::NoSpace])?;
        let content = state.content(self.file);
        let offset = place(offset)?;
        let target = content.cached.get_mut(offset..offset + data.len());
        target
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        content.unsynced.push(Change::Write {
            offset,
            data: data.to_owned(),
        });
        Ok(())
    }
}
