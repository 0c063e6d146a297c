//! A collection as a source.

use super::RECORDS_PER_POLL;
use crate::connector::{
    BoxError, Source, SourceContext, SourceOutput, SourceReader, SourceStatus, decode_item,
    encode_item,
};
use std::sync::Arc;

/// The source behind [`Environment::from_collection`](crate::Environment::from_collection).
pub struct Collection<T> {
    records: Arc<[T]>,
}

impl<T> Collection<T> {
    /// These records, in their order.
    pub fn new(records: impl IntoIterator<Item = T>) -> Self {
        Self { records: records.into_iter().collect() }
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { records: Arc::clone(&self.records) }
    }
}

impl<T: Clone + Send + Sync + 'static> Source for Collection<T> {
    type Out = T;
    type Reader = CollectionReader<T>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn open(self, context: &SourceContext) -> Result<CollectionReader<T>, BoxError> {
        let next = match context.restored.as_deref().and_then(<[_]>::first) {
            Some(position) => decode_item::<u64>(position)?,
            None => 0,
        };
        let count = self.records.len();
        if next > count as u64 {
            return Err(format!(
                "the collection has {count} records, and {next} were read before the checkpoint: \
                 is it the same job?"
            )
            .into());
        }
        Ok(CollectionReader { records: self.records, next: next as usize })
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
        let most = RECORDS_PER_POLL.min(out.room());
        self.next += out.collect_all(&mut rest, most) as usize;
        let done = self.next == self.records.len();
        Ok(if done { SourceStatus::Finished } else { SourceStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(vec![encode_item(&(self.next as u64))?])
    }
}
