//! Blocks of records as a source that can be divided anew.

use super::RECORDS_PER_POLL;
use super::numbers::{Numbers, Run, StoredRun};
use crate::connector::{
    BoxError, Source, SourceContext, SourceOutput, SourceReader, SourceStatus, decode_item,
    encode_item,
};
use std::collections::HashMap;

/// Blocks that a poll opens at the most, in case that they hold few records or none.
const BLOCKS_PER_POLL: usize = 64;

/// The source behind [`Environment::from_blocks`](crate::Environment::from_blocks).
#[derive(Clone)]
pub struct Blocks<F> {
    blocks: u64,
    make: F,
}

impl<F> Blocks<F> {
    /// Reads the records of `make(block)`, for each block below `blocks`.
    pub fn new(blocks: u64, make: F) -> Self {
        Self { blocks, make }
    }
}

/// What is left of some blocks, and how many records of the first of them have been read.
type StoredBlocks = (StoredRun, u64);

impl<I, F> Source for Blocks<F>
where
    I: Iterator<Item: 'static> + 'static,
    F: FnMut(u64) -> I + Clone + Send + 'static,
{
    type Out = I::Item;
    type Reader = BlocksReader<F, I>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SourceContext) -> Result<BlocksReader<F, I>, BoxError> {
        let mut begun = HashMap::new();
        let mut runs: Vec<Run> = Vec::new();
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            let (run, read) = decode_item::<StoredBlocks>(item)?;
            if read > 0 {
                begun.insert(run.0, read);
            }
            runs.push(run.into());
        }
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        Ok(BlocksReader {
            blocks: Numbers::new(self.blocks, subtask, parallelism, &runs),
            make: self.make,
            begun,
            current: None,
            read: 0,
        })
    }
}

/// Reads [`Blocks`].
pub struct BlocksReader<F, I> {
    make: F,
    /// The block that is being read, and those to come.
    blocks: Numbers,
    /// Records that were read of blocks before the restore, by block.
    begun: HashMap<u64, u64>,
    /// The rest of the block that is being read.
    current: Option<I>,
    /// Records that were read of it.
    read: u64,
}

impl<I: Iterator, F: FnMut(u64) -> I> BlocksReader<F, I> {
    /// Opens the next block; false if there is none.
    fn open_next(&mut self) -> Result<bool, BoxError> {
        let Some(block) = self.blocks.peek() else { return Ok(false) };
        let mut records = (self.make)(block);
        self.read = self.begun.get(&block).copied().unwrap_or(0);
        if let Some(last) = self.read.checked_sub(1)
            && records.nth(usize::try_from(last)?).is_none()
        {
            return Err(format!(
                "block {block} holds fewer than the {} records that were read of it before the \
                 checkpoint: it must hold the same ones each time",
                self.read
            )
            .into());
        }
        self.current = Some(records);
        Ok(true)
    }
}

impl<I, F> SourceReader for BlocksReader<F, I>
where
    I: Iterator<Item: 'static> + 'static,
    F: FnMut(u64) -> I + 'static,
{
    type Out = I::Item;

    #[inline]
    fn poll(&mut self, out: &mut impl SourceOutput<I::Item>) -> Result<SourceStatus, BoxError> {
        let mut left = RECORDS_PER_POLL.min(out.room());
        for _ in 0..BLOCKS_PER_POLL {
            if self.current.is_none() && !self.open_next()? {
                return Ok(SourceStatus::Finished);
            }
            if left == 0 {
                break;
            }
            if let Some(records) = &mut self.current {
                let count = out.collect_all(records, left);
                self.read += count;
                if count < left {
                    self.current = None;
                    self.blocks.advance();
                }
                left -= count;
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        let mut items = Vec::new();
        for (run, is_taken_from) in self.blocks.left() {
            let read = match &self.current {
                Some(_) if is_taken_from => self.read,
                _ => self.begun.get(&run.next).copied().unwrap_or(0),
            };
            let item: StoredBlocks = (run.into(), read);
            items.push(encode_item(&item)?);
        }
        Ok(items)
    }
}
