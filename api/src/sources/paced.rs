//! A source that is slowed down.

use crate::Timestamp;
use crate::connector::{
    BoxError, Collector, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader,
    SourceStatus,
};
use millstream_runtime::source::Pace;

/// A source that emits at most so many records per second, over all its subtasks.
///
/// Each subtask emits an equal share; one that has come to its end leaves its share unused. A subtask
/// that was held up catches up with a tenth of a second at the most. To be stopped at the very
/// record, a reader heeds [`SourceOutput::room`], as all of this project do; what another emits beyond
/// it is made good by a longer wait.
///
/// ```
/// use millstream::{Collection, Config, Environment, Paced};
/// let env = Environment::new(Config::default());
/// let numbers = Paced::new(Collection::new(0..10), Some(1_000.0));
/// let numbers = env.from_source("numbers", numbers).collect();
/// env.execute("ten in a hundredth of a second")?;
/// assert_eq!(numbers.take(), (0..10).collect::<Vec<_>>());
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Paced<S> {
    source: S,
    rate: Option<f64>,
}

impl<S: Source> Paced<S> {
    /// Limits `source` to so many records per second; to none for `None`.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn new(source: S, records_per_second: Option<f64>) -> Self {
        if let Some(rate) = records_per_second {
            assert!(rate > 0.0, "a rate must be above zero, not {rate}");
        }
        Self { source, rate: records_per_second }
    }
}

impl<S: Source> Source for Paced<S> {
    type Out = S::Out;
    type Reader = PacedReader<S::Reader>;

    fn validate(&self) -> Result<(), BoxError> {
        self.source.validate()
    }

    fn parallelism(&self) -> Option<u32> {
        self.source.parallelism()
    }

    fn is_replayable(&self) -> bool {
        self.source.is_replayable()
    }

    fn restores_alone(&self) -> bool {
        self.source.restores_alone()
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        let pace = self.rate.map(|rate| Pace::new(rate / f64::from(context.parallelism)));
        Ok(PacedReader { reader: self.source.open(context)?, pace, clock: context.clock })
    }
}

/// Reads a [`Paced`] source.
pub struct PacedReader<R> {
    reader: R,
    pace: Option<Pace>,
    clock: ProcessingClock,
}

impl<R: SourceReader> SourceReader for PacedReader<R> {
    type Out = R::Out;

    fn poll(&mut self, out: &mut impl SourceOutput<R::Out>) -> Result<SourceStatus, BoxError> {
        let Some(pace) = &mut self.pace else { return self.reader.poll(out) };
        let now = self.clock.now();
        let room = pace.room(now);
        if room == 0 {
            return Ok(SourceStatus::Pending { until: pace.next(now) });
        }
        let mut limited = Limited { out, room, emitted: 0 };
        let status = self.reader.poll(&mut limited)?;
        pace.emitted(limited.emitted, now);
        Ok(status)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        self.reader.snapshot()
    }
}

/// An output with room for a few records.
struct Limited<'a, O> {
    out: &'a mut O,
    room: u64,
    emitted: u64,
}

impl<T, O: SourceOutput<T>> Collector<T> for Limited<'_, O> {
    #[inline]
    fn collect(&mut self, value: T) {
        self.emitted += 1;
        self.out.collect(value);
    }

    #[inline]
    fn collect_at(&mut self, value: T, timestamp: Timestamp) {
        self.emitted += 1;
        self.out.collect_at(value, timestamp);
    }
}

impl<T, O: SourceOutput<T>> SourceOutput<T> for Limited<'_, O> {
    fn is_blocked(&mut self) -> bool {
        self.emitted >= self.room || self.out.is_blocked()
    }

    fn room(&mut self) -> u64 {
        self.room.saturating_sub(self.emitted).min(self.out.room())
    }

    #[inline]
    fn collect_all(&mut self, records: &mut impl Iterator<Item = T>, most: u64) -> u64 {
        let count = self.out.collect_all(records, most);
        self.emitted += count;
        count
    }
}
