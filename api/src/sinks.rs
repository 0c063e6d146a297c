//! Sinks inside the program: collect, for each, discard.

use crate::DataStream;
use crate::connector::{BoxError, Sink, SinkContext, SinkWriter};
use millstream_runtime::chain::Chain;
use millstream_types::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};

impl<C: Chain> DataStream<C> {
    /// Gathers all records in memory, for tests and small results. They are there once the job has
    /// ended.
    pub fn collect(self) -> Collected<C::Out>
    where
        C::Out: Send,
    {
        let collected = Collected(Arc::default());
        self.sink_to("collect", CollectSink(collected.clone()));
        collected
    }

    /// Calls a function with each record. Each subtask has a clone of the function of its own.
    pub fn for_each(self, function: impl FnMut(C::Out) + Clone + Send + 'static) {
        self.sink_to("for_each", ForEachSink(function));
    }

    /// Drops all records.
    pub fn discard(self) {
        self.sink_to("discard", ForEachSink(|_| ()));
    }
}

/// Where [`DataStream::collect`] puts the records.
pub struct Collected<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Collected<T> {
    /// Takes the records: those of each subtask in order, the subtasks in no particular order.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct CollectSink<T>(Collected<T>);

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Sink<T> for CollectSink<T> {
    type Writer = CollectWriter<T>;

    fn open(self, _: &SinkContext) -> Result<CollectWriter<T>, BoxError> {
        Ok(CollectWriter { records: Vec::new(), collected: self.0 })
    }
}

struct CollectWriter<T> {
    records: Vec<T>,
    collected: Collected<T>,
}

impl<T: Send + 'static> SinkWriter<T> for CollectWriter<T> {
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        self.records.push(value);
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        let mut all = self.collected.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut self.records);
        Ok(true)
    }
}

#[derive(Clone)]
struct ForEachSink<F>(F);

impl<T: 'static, F: FnMut(T) + Clone + Send + 'static> Sink<T> for ForEachSink<F> {
    type Writer = Self;

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
