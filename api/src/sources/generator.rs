//! Records that are made up, at a rate.

use super::RECORDS_PER_POLL;
use super::numbers::{Numbers, Run, StoredRun};
use crate::Timestamp;
use crate::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
    decode_item, encode_item,
};
use std::marker::PhantomData;

/// Makes up records, at a rate and up to a number if they are set.
///
/// Records are due at a fixed rate, whatever the job does: if it falls behind, it is given all that
/// is due (an *open loop*), and what the function is told as a record's due time tells how late it
/// is. The subtasks share the numbers: subtask `i` of `n` makes records `i`, `i + n`, `i + 2n`, … A
/// job that is restored makes each number that was not made before, with any number of subtasks; the
/// least of them is due at once.
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

/// The source behind [`Environment::generate`](crate::Environment::generate).
pub struct Generated<F, T> {
    generator: Generator<F>,
    of: PhantomData<fn() -> T>,
}

impl<F, T> Generated<F, T> {
    /// What this generator makes.
    pub fn new(generator: Generator<F>) -> Self {
        Self { generator, of: PhantomData }
    }
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

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SourceContext) -> Result<GeneratorReader<F>, BoxError> {
        let restored = context.restored.iter().flat_map(|items| items.iter());
        let restored: Vec<Run> = restored
            .map(|item| Ok(decode_item::<StoredRun>(item)?.into()))
            .collect::<Result<_, BoxError>>()?;
        let count = self.generator.count.unwrap_or(u64::MAX);
        Ok(GeneratorReader {
            make: self.generator.make,
            nanos_per_record: self.generator.rate.map(|rate| 1e9 / rate),
            numbers: Numbers::new(count, context.subtask.0, context.parallelism, &restored),
            clock: context.clock,
            start: None,
        })
    }
}

/// Reads a [`Generator`].
pub struct GeneratorReader<F> {
    make: F,
    nanos_per_record: Option<f64>,
    numbers: Numbers,
    clock: ProcessingClock,
    /// When the first number was due: the first poll.
    start: Option<Timestamp>,
}

impl<F> GeneratorReader<F> {
    fn due(&self, number: u64, start: Timestamp, nanos_per_record: f64) -> Timestamp {
        let nanos = ((number - self.numbers.base()) as f64 * nanos_per_record) as i64;
        Timestamp::from_nanos(start.as_nanos().saturating_add(nanos))
    }
}

impl<T: 'static, F: FnMut(u64, Timestamp) -> T + 'static> SourceReader for GeneratorReader<F> {
    type Out = T;

    fn poll(&mut self, out: &mut impl SourceOutput<T>) -> Result<SourceStatus, BoxError> {
        let now = self.clock.now();
        let start = *self.start.get_or_insert(now);
        for _ in 0..RECORDS_PER_POLL.min(out.room()) {
            let Some(number) = self.numbers.peek() else { return Ok(SourceStatus::Finished) };
            let due = match self.nanos_per_record {
                Some(nanos) => self.due(number, start, nanos),
                None => now,
            };
            if due > now {
                return Ok(SourceStatus::Pending { until: due });
            }
            out.collect((self.make)(number, due));
            self.numbers.advance();
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        let items = self.numbers.left().into_iter();
        items.map(|(run, _)| encode_item(&StoredRun::from(run))).collect()
    }
}
