//! Sources inside the program: collections, iterators, blocks, a rate-limited generator.

mod blocks;
mod collection;
mod generator;
mod iterator;
mod numbers;
mod paced;

pub use blocks::Blocks;
pub use collection::Collection;
pub use generator::{Generated, Generator};
pub use iterator::ParallelIterator;
pub use paced::Paced;

use crate::{DataStream, Environment, Timestamp};
use millstream_runtime::chain::FromSource;

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
        self.from_source(name, Collection::new(records))
    }

    /// A stream of what iterators yield: each subtask reads `make(subtask, number of subtasks)`.
    /// The iterators must not block. The stream is bounded if they end.
    ///
    /// A job that is restored makes the iterators again and passes over what they had yielded, so
    /// they must yield the same each time; and it must have the same number of subtasks. Records that
    /// can be had by number are better read with [`Environment::from_blocks`].
    pub fn from_iterator<I, F>(
        &self,
        name: &str,
        make: F,
    ) -> DataStream<FromSource<ParallelIterator<F>>>
    where
        I: Iterator<Item: 'static> + 'static,
        F: FnOnce(u32, u32) -> I + Clone + Send + 'static,
    {
        self.from_source(name, ParallelIterator::new(make))
    }

    /// A bounded stream of blocks of records, numbered from 0: the subtasks read `make(block)` for
    /// the blocks below `blocks`, each one in turn. A block must hold the same records each time. Any
    /// number of subtasks can share the blocks, and take them over from any other number.
    ///
    /// ```
    /// use millstream::{Config, Environment};
    /// let env = Environment::new(Config::default().with_slots(2));
    /// let squares = env.from_blocks("squares", 3, |block| (4 * block..4 * block + 4).map(|n| n * n));
    /// let squares = squares.collect();
    /// env.execute("the first twelve squares")?;
    /// assert_eq!(squares.take().iter().sum::<u64>(), (0..12).map(|n| n * n).sum::<u64>());
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn from_blocks<I, F>(
        &self,
        name: &str,
        blocks: u64,
        make: F,
    ) -> DataStream<FromSource<Blocks<F>>>
    where
        I: Iterator<Item: 'static> + 'static,
        F: FnMut(u64) -> I + Clone + Send + 'static,
    {
        self.from_source(name, Blocks::new(blocks, make))
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
        self.from_source(name, Generated::new(generator))
    }
}
