//! What can go wrong with segments, in words that say what to do.

use crate::StateError;
use std::io;
use std::sync::Arc;

/// A failure of the backend `segments`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A file could not be made, written, synced or read.
    #[error("{operation} {file:?}: {source}")]
    Io {
        /// The file or directory.
        file: String,
        /// What was to be done with it.
        operation: &'static str,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// An earlier write failed, so what the store would make durable now would have a hole.
    #[error("no state is made durable any more since a write failed: {0}")]
    Poisoned(Box<SegmentError>),
    /// A file is not what was written, or was never a segment.
    #[error("segment {file:?} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file is of a format that this version does not know.
    #[error(
        "segment {file:?} has format version {found}, and this program reads {known}: use the version that wrote it, or a newer one"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// A table's types are not those it was written with.
    #[error(
        "state {table:?} was written as {written:?} and is opened as {opened:?}: give the new state \
         another name, or the types that it had"
    )]
    Schema {
        /// Operator and table.
        table: String,
        /// The types of then.
        written: String,
        /// The types of now.
        opened: String,
    },
    /// There is no memory left, and no directory to move state to.
    #[error(
        "the slot's state needs {needed} bytes, and state_memory allows {budget}: allow more, or give \
         the job a checkpoint directory, into which state is moved when memory is short"
    )]
    NoDirectory {
        /// The memory needed.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// The part that must be in memory does not fit.
    #[error(
        "the index of the slot's state and its open segment need {needed} bytes, and state_memory allows \
         {budget}: allow more, or use more slots"
    )]
    Memory {
        /// The memory needed.
        needed: u64,
        /// The budget.
        budget: u64,
    },
    /// A checkpoint of a job without a directory.
    #[error("a checkpoint needs a directory for the segments: set the checkpoint directory")]
    Nowhere,
    /// A value that no record can hold.
    #[error("a key and value of {bytes} bytes: a record holds less than 4 GiB")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// A number that counts something has come to its end.
    #[error("{0}")]
    Exhausted(&'static str),
}

impl SegmentError {
    pub(super) fn io(file: impl Into<String>, operation: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.into(), operation, source: Arc::new(source) }
    }

    /// True if there was no room for a file, and may be later.
    pub(super) fn is_no_room(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// As the error of a store, which was doing this.
    pub(super) fn during(self, operation: &'static str) -> StateError {
        StateError::Backend { backend: "segments".into(), operation, source: Box::new(self) }
    }
}
