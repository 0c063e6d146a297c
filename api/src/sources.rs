//! Sources inside the program: collections, iterators, a rate-limited generator.

use crate::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
use crate::{DataStream, Environment, Timestamp};
use millstream_runtime::chain::FromSource;
use std::marker::PhantomData;
use std::sync::Arc;

/// Records that a reader emits per poll at the most: enough to fill a batch or a few, few enough
/// that what is downstream on the same slot finds them in the cache.
const RECORDS_PER_POLL: u64 = 4_096;

impl Environment {
    /// A bounded stream of these records, in their order, read by one subtask.
    pub fn from_collection<T>(
        &self,
        name: &str,
        records: impl IntoIterator<Item = T>,
    ) -> DataStream<FromSource<Collection<T>>>
    where
        T: Clone + Send + Sync + 'static,
    {
        self.from_source(name, Collection { records: records.into_iter().collect() })
    }

    /// A stream of what iterators yield: each subtask reads `make(subtask, number of subtasks)`.
    /// The iterators must not block. The stream is bounded if they end.
    pub fn from_iterator<I, F>(
        &self,
        name: &str,
        make: F,
    ) -> DataStream<FromSource<ParallelIterator<F>>>
    where
        I: Iterator<Item: 'static> + 'static,
        F: FnOnce(u32, u32) -> I + Clone + Send + 'static,
    {
        self.from_source(name, ParallelIterator { make })
    }

    /// A stream of made-up records: see [`Generator`].
    pub fn generate<T: 'static, F>(
        &self,
        name: &str,
        generator: Generator<F>,
    ) -> DataStream<FromSource<Generated<F, T>>>
    where
        F: FnMut(u64, Timestamp) -> T + Clone + Send + 'static,
    {
        self.from_source(name, Generated { generator, of: PhantomData })
    }
}

/// The source behind [`Environment::from_collection`].
pub struct Collection<T> {
    records: Arc<[T]>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { records: Arc::clone(&self.records) }
    }
}

impl<T: Clone + Send + Sync + 'static> Source for Collection<T> {
    type Out = T;
    type Reader = CollectionReader<T>;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn open(self, _: &SourceContext) -> Result<CollectionReader<T>, BoxError> {
        Ok(CollectionReader { records: self.records, next: 0 })
    }
}

/// Reads a [`Collection`].
pub struct CollectionReader<T> {
    records: Arc<[T]>,
    next: usize,
}

impl<T: Clone + 'static> SourceReader for CollectionReader<T> {
    type Out = T;

    fn poll(&mut self, out: &mut impl SourceOutput<T>) -> Result<SourceStatus, BoxError> {
        let mut rest = self.records[self.next..].iter().cloned();
        self.next += out.collect_all(&mut rest, RECORDS_PER_POLL) as usize;
        let done = self.next == self.records.len();
        Ok(if done { SourceStatus::Finished } else { SourceStatus::More })
    }
}

/// The source behind [`Environment::from_iterator`].
#[derive(Clone)]
pub struct ParallelIterator<F> {
    make: F,
}

impl<I, F> Source for ParallelIterator<F>
where
    I: Iterator<Item: 'static> + 'static,
    F: FnOnce(u32, u32) -> I + Clone + Send + 'static,
{
    type Out = I::Item;
    type Reader = IteratorReader<I>;

    fn open(self, context: &SourceContext) -> Result<IteratorReader<I>, BoxError> {
        Ok(IteratorReader { records: (self.make)(context.subtask.0, context.parallelism) })
    }
}

/// Reads an iterator.
pub struct IteratorReader<I> {
    records: I,
}

impl<I: Iterator<Item: 'static> + 'static> SourceReader for IteratorReader<I> {
    type Out = I::Item;

    #[inline]
    fn poll(&mut self, out: &mut impl SourceOutput<I::Item>) -> Result<SourceStatus, BoxError> {
        let count = out.collect_all(&mut self.records, RECORDS_PER_POLL);
        let done = count < RECORDS_PER_POLL;
        Ok(if done { SourceStatus::Finished } else { SourceStatus::More })
    }
}

/// Makes up records, at a rate and up to a number if they are set.
///
/// Records are due at a fixed rate, whatever the job does: if it falls behind, it is given all that
/// is due (an *open loop*), and what the function is told as a record's due time tells how late it
/// is. The subtasks share the numbers: subtask `i` of `n` makes records `i`, `i + n`, `i + 2n`, …
///
/// ```
/// use millstream::{Config, Environment, Generator};
/// let env = Environment::new(Config::default());
/// let numbers = env.generate("numbers", Generator::new(|n, _due| n).count(10)).collect();
/// env.execute("count to ten")?;
/// assert_eq!(numbers.take(), (0..10).collect::<Vec<_>>());
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Clone)]
pub struct Generator<F> {
    make: F,
    rate: Option<f64>,
    count: Option<u64>,
}

impl<F> Generator<F> {
    /// Calls `make(number, due time)` for each record.
    pub fn new(make: F) -> Self {
        Self { make, rate: None, count: None }
    }

    /// Records per second, over all subtasks; as fast as they can if not set.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn rate(mut self, per_second: f64) -> Self {
        assert!(per_second > 0.0, "a rate must be above zero, not {per_second}");
        self.rate = Some(per_second);
        self
    }

    /// The number of records, over all subtasks; without end if not set.
    pub fn count(mut self, records: u64) -> Self {
        self.count = Some(records);
        self
    }
}

/// The source behind [`Environment::generate`].
pub struct Generated<F, T> {
    generator: Generator<F>,
    of: PhantomData<fn() -> T>,
}

impl<F: Clone, T> Clone for Generated<F, T> {
    fn clone(&self) -> Self {
        Self { generator: self.generator.clone(), of: PhantomData }
    }
}

impl<T: 'static, F> Source for Generated<F, T>
where
    F: FnMut(u64, Timestamp) -> T + Clone + Send + 'static,
{
    type Out = T;
    type Reader = GeneratorReader<F>;

    fn open(self, context: &SourceContext) -> Result<GeneratorReader<F>, BoxError> {
        Ok(GeneratorReader {
            make: self.generator.make,
            nanos_per_record: self.generator.rate.map(|rate| 1e9 / rate),
            end: self.generator.count.unwrap_or(u64::MAX),
            next: u64::from(context.subtask.0),
            step: u64::from(context.parallelism),
            clock: context.clock,
            start: None,
        })
    }
}

/// Reads a [`Generator`].
pub struct GeneratorReader<F> {
    make: F,
    nanos_per_record: Option<f64>,
    end: u64,
    next: u64,
    step: u64,
    clock: ProcessingClock,
    /// When record 0 was due: the first poll.
    start: Option<Timestamp>,
}

impl<F> GeneratorReader<F> {
    fn due(&self, start: Timestamp, nanos_per_record: f64) -> Timestamp {
        let nanos = (self.next as f64 * nanos_per_record) as i64;
        Timestamp::from_nanos(start.as_nanos().saturating_add(nanos))
    }
}

impl<T: 'static, F: FnMut(u64, Timestamp) -> T + 'static> SourceReader for GeneratorReader<F> {
    type Out = T;

    fn poll(&mut self, out: &mut impl SourceOutput<T>) -> Result<SourceStatus, BoxError> {
        let now = self.clock.now();
        let start = *self.start.get_or_insert(now);
        for _ in 0..RECORDS_PER_POLL {
            if self.next >= self.end {
                return Ok(SourceStatus::Finished);
            }
            let due = match self.nanos_per_record {
                Some(nanos) => self.due(start, nanos),
                None => now,
            };
            if due > now {
                return Ok(SourceStatus::Pending { until: due });
            }
            out.collect((self.make)(self.next, due));
            self.next += self.step;
        }
        Ok(SourceStatus::More)
    }
}
