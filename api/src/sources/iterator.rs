//! Iterators as a source, one per subtask.

use super::RECORDS_PER_POLL;
use crate::connector::{
    BoxError, Source, SourceContext, SourceOutput, SourceReader, SourceStatus, decode_item,
    encode_item,
};

/// The source behind [`Environment::from_iterator`](crate::Environment::from_iterator).
#[derive(Clone)]
pub struct ParallelIterator<F> {
    make: F,
}

impl<F> ParallelIterator<F> {
    /// Reads `make(subtask, number of subtasks)` with each subtask.
    pub fn new(make: F) -> Self {
        Self { make }
    }
}

/// Where an iterator is: of which subtask it is, of how many, and how many records it has yielded.
type Position = (u32, u32, u64);

impl<I, F> Source for ParallelIterator<F>
where
    I: Iterator<Item: 'static> + 'static,
    F: FnOnce(u32, u32) -> I + Clone + Send + 'static,
{
    type Out = I::Item;
    type Reader = IteratorReader<I>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SourceContext) -> Result<IteratorReader<I>, BoxError> {
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        let mut reader = IteratorReader {
            records: (self.make)(subtask, parallelism),
            subtask,
            parallelism,
            taken: 0,
            is_done: false,
        };
        let Some(restored) = &context.restored else { return Ok(reader) };
        // An iterator that has ended has left nothing.
        reader.is_done = true;
        for item in restored.iter() {
            let (of, before, taken) = decode_item::<Position>(item)?;
            if before != parallelism {
                return Err(format!(
                    "iterators were made for {before} subtasks, and nobody knows which records are \
                     left for {parallelism}: resume with {before} slots, or use a source that can \
                     be divided anew, such as `generate` or `from_blocks`"
                )
                .into());
            }
            if of == subtask {
                reader.skip(taken)?;
            }
        }
        Ok(reader)
    }
}

/// Reads an iterator.
pub struct IteratorReader<I> {
    records: I,
    subtask: u32,
    parallelism: u32,
    /// Records that the iterator has yielded.
    taken: u64,
    is_done: bool,
}

impl<I: Iterator> IteratorReader<I> {
    /// Goes on behind so many records.
    fn skip(&mut self, records: u64) -> Result<(), BoxError> {
        self.is_done = false;
        self.taken = records;
        let Some(last) = records.checked_sub(1) else { return Ok(()) };
        if self.records.nth(usize::try_from(last)?).is_none() {
            return Err(format!(
                "the iterator of subtask {} yields fewer than the {records} records that it had \
                 yielded before the checkpoint: it must yield the same ones each time",
                self.subtask
            )
            .into());
        }
        Ok(())
    }
}

impl<I: Iterator<Item: 'static> + 'static> SourceReader for IteratorReader<I> {
    type Out = I::Item;

    #[inline]
    fn poll(&mut self, out: &mut impl SourceOutput<I::Item>) -> Result<SourceStatus, BoxError> {
        if self.is_done {
            return Ok(SourceStatus::Finished);
        }
        let most = RECORDS_PER_POLL.min(out.room());
        let count = out.collect_all(&mut self.records, most);
        self.taken += count;
        self.is_done = count < most;
        Ok(if self.is_done { SourceStatus::Finished } else { SourceStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        if self.is_done {
            return Ok(Vec::new());
        }
        let position: Position = (self.subtask, self.parallelism, self.taken);
        Ok(vec![encode_item(&position)?])
    }
}
