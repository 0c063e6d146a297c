//! Windows of so many records of a key.

use crate::{DataStream, KeyedStream};
use millstream_runtime::chain::Chain;
use millstream_runtime::links::CountWindowLink;
use millstream_runtime::window::{
    AggregateFunction, ProcessWindowFunction, Reduce, WindowAggregate, WindowProcess, WindowResult,
};
use millstream_state::{Data, Key};
use std::num::NonZeroU64;

impl<K, F, C> KeyedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// Groups every `count` records of a key, in the order in which they come, and gives a result as
    /// soon as there are as many.
    ///
    /// Event time plays no part: no record is late, none needs a timestamp. A result's window begins
    /// with the timestamp of its earliest record and ends 1 ns after that of the latest, which the
    /// result carries; without timestamps it says nothing. What is left of a key when the input
    /// ends, fewer records than `count`, gives no result.
    ///
    /// ```
    /// use millstream::prelude::*;
    ///
    /// let env = Environment::new(Config::default());
    /// let sums = env
    ///     .from_collection("numbers", 1..=10u64)
    ///     .key_by(|n| n % 2)
    ///     .count_window(2)
    ///     .reduce(|a, b| a + b)
    ///     .map(|sum| sum.value)
    ///     .collect();
    /// env.execute("sums of two")?;
    /// // 9 and 10 wait for another.
    /// assert_eq!(sums.take(), [1 + 3, 2 + 4, 5 + 7, 6 + 8]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// If `count` is zero.
    pub fn count_window(self, count: u64) -> CountWindowedStream<K, F, C> {
        let count = NonZeroU64::new(count);
        let count = count.expect("a count window of 0 records is never full; ask for at least 1");
        CountWindowedStream { keyed: self, count }
    }
}

/// A keyed stream whose records are grouped by their number; see [`KeyedStream::count_window`].
#[must_use = "windows do nothing until a function follows"]
pub struct CountWindowedStream<K, F, C: Chain> {
    keyed: KeyedStream<K, F, C>,
    count: NonZeroU64,
}

impl<K, F, C> CountWindowedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// One result per key and full window.
    pub fn aggregate<A: AggregateFunction<C::Out>>(
        self,
        function: A,
    ) -> DataStream<impl Chain<Out = WindowResult<K, A::Output>>> {
        let Self { keyed, count } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then("count window", |id| {
            CountWindowLink::new(id, count, key, WindowAggregate::new(id, function))
        })
    }

    /// Combines the records of a key and window, two by two.
    pub fn reduce(
        self,
        function: impl Fn(C::Out, C::Out) -> C::Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = WindowResult<K, C::Out>>>
    where
        C::Out: Clone,
        Option<C::Out>: Data,
    {
        self.aggregate(Reduce::new(function))
    }

    /// Hands all records of a key and window to a function, once the window is full.
    pub fn process<Out: 'static>(
        self,
        function: impl ProcessWindowFunction<K, C::Out, Out> + Clone + Send,
    ) -> DataStream<impl Chain<Out = Out>>
    where
        C::Out: Clone,
        Vec<C::Out>: Data,
    {
        let Self { keyed, count } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then("count window", |id| {
            CountWindowLink::new(id, count, key, WindowProcess::new(id, function))
        })
    }
}
