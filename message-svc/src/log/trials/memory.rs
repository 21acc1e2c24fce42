//! A store in memory that fails as it is told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use chassis::id::{MessageId, Seq, TopicId};

use crate::{
    entry::{Entry, Placed, Segment, SegmentId},
    store::{AppendError, Appended, FullSegment, LogStore, StampFilter, Stamped, StoreError, Tail},
};

/// What the store does to one append.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    /// Answers "unknown" and has applied it.
    Applied,
    /// Answers "unknown" and never applies it.
    Lost,
    /// Answers "away", and never applies it.
    Away,
    /// Answers "refused", and never applies it.
    Refused,
    /// Answers "unknown" and applies it, if the condition holds still, so many store calls later.
    Late(usize),
}

/// A store in memory that keeps the port's promises and fails as it is told.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) state: Mutex<State>,
    pub(crate) appends: AtomicUsize,
    /// Of these are under way, and were at most.
    under_way: AtomicUsize,
    pub(crate) most_under_way: AtomicUsize,
    pub(crate) entry_reads: AtomicUsize,
    pub(crate) stamp_reads: AtomicUsize,
    pub(crate) head_reads: AtomicUsize,
    /// Milliseconds that a read takes.
    pub(crate) read_ms: AtomicUsize,
    /// Milliseconds that an append takes; 2 unless a trial says so.
    pub(crate) append_ms: AtomicUsize,
    /// An append of more entries than this is refused, as one that is too large.
    pub(crate) refused_above: AtomicUsize,
    /// An append of more entries than this never gets an answer, and is not applied.
    pub(crate) silent_above: AtomicUsize,
    /// While somebody has it, no append is answered.
    pub(crate) hold: tokio::sync::RwLock<()>,
}

#[derive(Default)]
pub(crate) struct State {
    next_segment: i64,
    segments: BTreeMap<(TopicId, Seq), Segment>,
    rows: HashMap<SegmentId, Vec<Entry>>,
    pub(crate) filters: HashMap<SegmentId, StampFilter>,
    pub(crate) faults: VecDeque<Fault>,
    late: Vec<(usize, Segment, u32, Vec<Entry>)>,
}

impl State {
    /// Whatever is still under way comes a step nearer.
    fn step(&mut self) {
        for late in &mut self.late {
            late.0 = late.0.saturating_sub(1);
        }
        let due: Vec<_> = self.late.extract_if(.., |late| late.0 == 0).collect();
        for (_, segment, head, entries) in due {
            self.apply(&segment, head, &entries);
        }
    }

    fn apply(&mut self, segment: &Segment, head: u32, entries: &[Entry]) -> Appended {
        let rows = self.rows.get_mut(&segment.id).unwrap();
        if rows.len() != head as usize {
            return Appended::Stale {
                head: rows.len() as u32,
            };
        }
        assert!(rows.len() + entries.len() <= segment.capacity as usize);
        rows.extend_from_slice(entries);
        Appended::Applied
    }

    fn newest(&self, topic: TopicId) -> Option<Segment> {
        let all = (topic, Seq::ZERO)..=(topic, Seq::new(i64::MAX));
        self.segments.range(all).next_back().map(|(_, s)| *s)
    }
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            append_ms: AtomicUsize::new(2),
            refused_above: AtomicUsize::new(usize::MAX),
            silent_above: AtomicUsize::new(usize::MAX),
            ..Self::default()
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.step();
        state
    }

    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// Every entry of a topic, as it lies in the store.
    pub(crate) fn log(&self, topic: TopicId) -> Vec<Placed> {
        let mut state = self.state.lock().unwrap();
        while !state.late.is_empty() {
            state.step();
        }
        let all = (topic, Seq::ZERO)..=(topic, Seq::new(i64::MAX));
        state
            .segments
            .range(all)
            .flat_map(|(_, segment)| {
                (0..).zip(&state.rows[&segment.id]).map(|(slot, entry)| {
                    crate::log::writer::place(segment, slot, entry.clone()).unwrap()
                })
            })
            .collect()
    }
}

/// An append that is under way.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn begin(memory: &'a Memory) -> Self {
        let count = memory.under_way.fetch_add(1, Relaxed) + 1;
        memory.most_under_way.fetch_max(count, Relaxed);
        Self(&memory.under_way)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[async_trait]
impl LogStore for Memory {
    async fn load(&self, topic: TopicId) -> Result<Option<Tail>, StoreError> {
        tokio::task::yield_now().await;
        let state = self.state();
        Ok(state.newest(topic).map(|segment| Tail {
            segment,
            head: state.rows[&segment.id].len() as u32,
        }))
    }

    async fn open_segment(
        &self,
        topic: TopicId,
        after: Option<SegmentId>,
        first_seq: Seq,
        capacity: u32,
    ) -> Result<Tail, StoreError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        if let Some(before) = state.newest(topic)
            && before.first_seq < first_seq
        {
            assert_eq!(after, Some(before.id));
            assert_eq!(state.rows[&before.id].len() as u32, before.capacity);
        }
        state.next_segment += 1;
        let fresh = Segment {
            topic,
            id: SegmentId::new(state.next_segment).unwrap(),
            first_seq,
            capacity,
        };
        let segment = *state.segments.entry((topic, first_seq)).or_insert(fresh);
        let head = state.rows.entry(segment.id).or_default().len() as u32;
        Ok(Tail { segment, head })
    }

    async fn append(
        &self,
        segment: &Segment,
        head: u32,
        entries: &[Entry],
    ) -> Result<Appended, AppendError> {
        self.appends.fetch_add(1, Relaxed);
        let _under_way = UnderWay::begin(self);
        tokio::time::sleep(Duration::from_millis(self.append_ms.load(Relaxed) as u64)).await;
        let _free = self.hold.read().await;
        if entries.len() > self.refused_above.load(Relaxed) {
            return Err(AppendError::Refused("too large".into()));
        }
        if entries.len() > self.silent_above.load(Relaxed) {
            return Err(AppendError::Unknown("timed out".into()));
        }
        let mut state = self.state();
        let unknown = AppendError::Unknown("timed out".into());
        match state.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => Ok(state.apply(segment, head, entries)),
            Fault::Applied => {
                state.apply(segment, head, entries);
                Err(unknown)
            }
            Fault::Lost => Err(unknown),
            Fault::Away => Err(AppendError::Unavailable("away".into())),
            Fault::Refused => Err(AppendError::Refused("not allowed".into())),
            Fault::Late(steps) => {
                state.late.push((steps, *segment, head, entries.to_vec()));
                Err(unknown)
            }
        }
    }

    async fn read(&self, segment: &Segment, slots: Range<u32>) -> Result<Vec<Entry>, StoreError> {
        self.entry_reads.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(self.read_ms.load(Relaxed) as u64)).await;
        tokio::task::yield_now().await;
        let state = self.state();
        let rows = &state.rows[&segment.id];
        let to = rows.len().min(slots.end as usize);
        Ok(rows[(slots.start as usize).min(to)..to].to_vec())
    }

    async fn stamps(
        &self,
        segment: &Segment,
        slots: Range<u32>,
    ) -> Result<Vec<Stamped>, StoreError> {
        self.stamp_reads.fetch_add(1, Relaxed);
        let entries = self.read(segment, slots).await?;
        Ok(entries.iter().map(Stamped::from).collect())
    }

    async fn segment_at(&self, topic: TopicId, seq: Seq) -> Result<Option<Segment>, StoreError> {
        let state = self.state();
        let upto = (topic, Seq::ZERO)..=(topic, seq);
        Ok(state.segments.range(upto).next_back().map(|(_, s)| *s))
    }

    async fn find(&self, id: MessageId) -> Result<Option<(Segment, Entry)>, StoreError> {
        let state = self.state();
        let (number, slot) = SegmentId::of(id).unwrap();
        let segment = state.segments.values().find(|s| s.id == number);
        Ok(segment.and_then(|segment| {
            let entry = state.rows[&number].get(slot as usize)?;
            Some((*segment, entry.clone()))
        }))
    }

    async fn heads(&self, topics: &[TopicId]) -> Result<Vec<Seq>, StoreError> {
        self.head_reads.fetch_add(1, Relaxed);
        let state = self.state();
        Ok(topics
            .iter()
            .map(|topic| {
                state.newest(*topic).map_or(Seq::ZERO, |segment| {
                    let written = state.rows[&segment.id].len() as i64;
                    Seq::new(segment.first_seq.get() - 1 + written)
                })
            })
            .collect())
    }

    async fn full_segments(
        &self,
        topic: TopicId,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<FullSegment>, StoreError> {
        let state = self.state();
        let before = state.segments.range((topic, Seq::ZERO)..(topic, before));
        Ok(before
            .rev()
            .take(limit as usize)
            .map(|(_, segment)| FullSegment {
                segment: *segment,
                filter: state.filters.get(&segment.id).cloned(),
            })
            .collect())
    }

    async fn put_filter(&self, segment: &Segment, filter: &StampFilter) -> Result<(), StoreError> {
        self.state().filters.insert(segment.id, filter.clone());
        Ok(())
    }
}
