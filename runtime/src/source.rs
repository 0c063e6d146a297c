//! Sources: where records enter a job.
//!
//! A [`Source`] is a description that is cloned to every subtask; there it opens a
//! [`SourceReader`], which lives on its slot's thread and is polled. A reader never blocks: what
//! must wait (files, sockets, standard input) is read by a thread of its own, which hands over
//! blocks and wakes the slot through [`SlotWaker`].

mod budget;
mod pace;

pub(crate) use budget::PollBudget;
pub use pace::Pace;

use crate::clock::ProcessingClock;
use crate::error::BoxError;
use crate::metrics::JobCounters;
use crate::operator::Collector;
use millstream_types::{SubtaskIndex, Timestamp};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a poll of a source found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// There may be more to read at once.
    More,
    /// Nothing for now. Poll again at `until` (processing time; [`Timestamp::MAX`] for never), or when
    /// the slot is woken.
    Pending {
        /// When to poll again though nobody wakes the slot.
        until: Timestamp,
    },
    /// The end of a bounded source.
    Finished,
}

/// Where a reader emits; also tells it when to stop.
pub trait SourceOutput<T>: Collector<T> {
    /// True if the outputs cannot take more for now: return [`SourceStatus::More`] soon.
    fn is_blocked(&mut self) -> bool;

    /// How many records may be emitted before the next look, as far as that is limited to a number:
    /// a poll emits no more, and returns. Not known to be limited unless implemented.
    fn room(&mut self) -> u64 {
        u64::MAX
    }

    /// Emits records without timestamps one by one, `most` at the most, and returns how many they
    /// were. They must be few, as in a whole [`poll`](SourceReader::poll): nothing asks between them
    /// whether the outputs are blocked.
    ///
    /// Where the runtime implements it, it is cheaper than as many calls of
    /// [`collect`](Collector::collect): what they are counted with stays in a register.
    #[inline]
    fn collect_all(&mut self, records: &mut impl Iterator<Item = T>, most: u64) -> u64
    where
        Self: Sized,
    {
        for_each_up_to(most, records, |record| self.collect(record))
    }
}

/// Calls `function` with at most so many items, and returns how many there were.
#[inline(always)]
pub(crate) fn for_each_up_to<T>(
    most: u64,
    items: &mut impl Iterator<Item = T>,
    mut function: impl FnMut(T),
) -> u64 {
    if most == 0 {
        return 0;
    }
    // Not `take`, which keeps its count in memory: the iterator's own loop carries this one.
    let counted = items.try_fold(0, |count, item| {
        function(item);
        let count = count + 1;
        if count == most { ControlFlow::Break(count) } else { ControlFlow::Continue(count) }
    });
    match counted {
        ControlFlow::Break(count) | ControlFlow::Continue(count) => count,
    }
}

/// A reader of a source: one subtask's part of it.
pub trait SourceReader: 'static {
    /// The type of the records.
    type Out: 'static;

    /// Emits some records, at most a few thousand and no more than there is
    /// [room](SourceOutput::room) for, then returns. A reader that does not ask for the room returns
    /// when the output [is blocked](SourceOutput::is_blocked).
    ///
    /// # Errors
    /// What is returned fails the job, with the source's name.
    fn poll(&mut self, out: &mut impl SourceOutput<Self::Out>) -> Result<SourceStatus, BoxError>;

    /// Where the reader is, between two polls and after the last: an item for each part of its input
    /// that it has not read to its end, in a form of the source's own, from which
    /// [`SourceContext::restored`] lets a reader go on. What was emitted is behind these positions,
    /// what was not is before them. Must not block.
    ///
    /// # Errors
    /// See [`SourceReader::poll`].
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError>;
}

/// A source of records.
pub trait Source: Clone + Send + 'static {
    /// The type of the records.
    type Out: 'static;
    /// The reader of one subtask.
    type Reader: SourceReader<Out = Self::Out>;

    /// Checks what can be checked before anything is started: that files exist, that an address
    /// is free. Called once per job, on the thread that starts it.
    ///
    /// # Errors
    /// Says what is wrong and what to do; the job is not started.
    fn validate(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// The number of subtasks this source needs, if it cannot be read by any number.
    fn parallelism(&self) -> Option<u32> {
        None
    }

    /// False if what was read once cannot be read again: a restored job then goes on with what comes
    /// next, and what lay between the checkpoint and the failure is lost. The job warns of it.
    fn is_replayable(&self) -> bool {
        true
    }

    /// True if one reader can be restored while others go on: if there are as many as when the checkpoint was
    /// taken, each takes what it gave itself with [`SourceReader::snapshot`], or began with if there is no
    /// checkpoint, and none of it was or will be another's. Otherwise a failure of one makes all start again.
    fn restores_alone(&self) -> bool {
        false
    }

    /// Opens the part of the source that one subtask reads. Called on the slot's thread before
    /// the job starts.
    ///
    /// # Errors
    /// Fails the job.
    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError>;
}

/// What a source knows of its subtask.
#[derive(Clone)]
pub struct SourceContext {
    /// Which of the parallel readers this is.
    pub subtask: SubtaskIndex,
    /// How many there are.
    pub parallelism: u32,
    /// Wakes this reader's slot, from any thread.
    pub waker: SlotWaker,
    /// Processing time; what `until` of [`SourceStatus::Pending`] is measured by.
    pub clock: ProcessingClock,
    /// The job's counters, for malformed records.
    pub counters: Arc<JobCounters>,
    /// If the job begins with a checkpoint: what the readers of all subtasks gave with
    /// [`SourceReader::snapshot`], in the order of the subtasks, of which there may have been more or
    /// fewer. Each reader takes its share by a rule of the source's own, so that together they take
    /// each item once (in Flink's words: union list state).
    pub restored: Option<Arc<[Vec<u8>]>>,
}

/// Wakes a slot, from any thread, so that it polls its sources again.
#[derive(Clone)]
pub struct SlotWaker(Arc<dyn Fn() + Send + Sync>);

impl SlotWaker {
    /// A waker that calls `wake`; for tests of sources and sinks, else made by the runtime.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes the slot if it is parked. Call it after what it shall find is in place.
    pub fn wake(&self) {
        (self.0)();
    }
}
