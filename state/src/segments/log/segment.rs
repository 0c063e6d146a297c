//! One segment of the log.

use super::aging::Aging;
use crate::segments::format::{PAGE, TableEntry};
use crate::segments::memory::Buffer;
use crate::segments::note::Note;
use memmap2::Mmap;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Where a segment's bytes are.
pub(super) enum Body {
    Resident(Arc<Buffer>),
    /// Holds the mapping that the segment's view points into.
    Mapped(Mmap),
    /// Nothing in it is live.
    Gone,
}

/// Who wrote a segment.
#[derive(Clone)]
pub(in crate::segments) enum Lineage {
    /// This store.
    Own,
    /// One of an earlier run.
    Restored {
        /// What holds for its records, as it is noted in checkpoints: epochs after the checkpoint
        /// that was restored are void, and of the key groups only those count that this store has
        /// taken.
        note: Arc<Note>,
        /// From the segment numbers of the store that wrote it to those of this one.
        numbers: Arc<HashMap<u32, u32>>,
        /// The tables of the store that wrote it, by id.
        tables: Arc<Vec<TableEntry>>,
    },
}

pub(in crate::segments) struct Segment {
    pub(super) body: Body,
    /// The name of its file, whether it is written yet or not.
    pub(in crate::segments) name: String,
    pub(in crate::segments) lineage: Lineage,
    /// Bytes of live records.
    pub(super) live: u64,
    /// What of it expires.
    pub(super) aging: Aging,
    /// Bytes of all records that were written to it.
    pub(super) appended: u64,
    /// The number of records in the open extent.
    pub(super) records: u32,
    /// The end of its records; of the tail's, see the log's fill mark.
    pub(super) filled: usize,
    /// The end of its last closed extent, which is the length of its file; 0 if there is none.
    pub(super) closed: usize,
    /// Where the records of closed extents lie.
    pub(super) extents: Vec<Range<usize>>,
    /// The tables that its open extent may hold records of, as they stand in a trailer.
    pub(super) tables: Arc<[u8]>,
    /// Its file, mapped, for when its memory is wanted.
    pub(super) mapping: Option<Mmap>,
    /// A checkpoint may refer to its file.
    pub(super) listed: bool,
    pub(super) stage: Stage,
    /// Compaction has left nothing but these records.
    pub(super) held: Option<Vec<Range<usize>>>,
    /// Compaction leaves it alone until there are so many segments.
    pub(super) held_until: u32,
}

/// The life of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    InUse,
    /// Nothing in it is live, but checkpoints before this epoch need it.
    Retired {
        needed_before: u32,
    },
    /// Nothing refers to it any more.
    Forgotten,
}

impl Segment {
    pub(super) fn new(body: Body, name: String, tables: Arc<[u8]>) -> Self {
        Self {
            body,
            name,
            lineage: Lineage::Own,
            live: 0,
            aging: Aging::default(),
            appended: 0,
            records: 0,
            filled: PAGE,
            closed: 0,
            extents: Vec::new(),
            tables,
            mapping: None,
            listed: false,
            stage: Stage::InUse,
            held: None,
            held_until: 0,
        }
    }

    /// Where the open extent begins.
    pub(super) fn extent_start(&self) -> usize {
        self.closed.max(PAGE)
    }
}
