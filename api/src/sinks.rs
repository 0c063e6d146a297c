//! Sinks inside the program: collect, for each, discard.

mod collect;
mod total;

pub use collect::{CollectSink, Collected};
pub use total::{Total, TotalSink};

use crate::connector::{BoxError, Sink, SinkContext, SinkWriter};
use crate::{DataStream, StreamSink};
use millstream_runtime::chain::Chain;
use millstream_types::Timestamp;

impl<C: Chain> DataStream<C> {
    /// Gathers all records in memory, for tests and small results. Each is there once when the job has
    /// ended, also if it was restored in between within this process; see [`Collected`].
    pub fn collect(self) -> Collected<C::Out>
    where
        C::Out: Send,
    {
        let collected = Collected::default();
        self.sink_to("collect", collected.sink());
        collected
    }

    /// Calls a function with each record. Each subtask has a clone of the function of its own.
    ///
    /// What the function does is done: if the job is restored from a checkpoint, it is called again
    /// with the records that came after that (at least once).
    pub fn for_each(self, function: impl FnMut(C::Out) + Clone + Send + 'static) -> StreamSink {
        self.sink_to("for_each", ForEachSink(function))
    }

    /// Drops all records.
    pub fn discard(self) -> StreamSink {
        self.sink_to("discard", ForEachSink(|_| ()))
    }
}

#[derive(Clone)]
struct ForEachSink<F>(F);

impl<T: 'static, F: FnMut(T) + Clone + Send + 'static> Sink<T> for ForEachSink<F> {
    type Writer = Self;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, _: &SinkContext) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl<T: 'static, F: FnMut(T) + 'static> SinkWriter<T> for ForEachSink<F> {
    #[inline(always)]
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        (self.0)(value);
        Ok(())
    }
}
