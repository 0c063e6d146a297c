//! The manifest of a checkpoint: the file that names all its parts.
//!
//! # Invariants
//! - A checkpoint is complete if, and only if, its manifest exists: it is written last, when all
//!   that it names is durable, and never over another.
//! - A manifest is decoded whole or not at all. Every byte is covered by its checksum, and nothing
//!   in it is believed before the checksum has been compared.
//! - The names in it lead nowhere but into the checkpoint's own folder ([`SlotEntry::snapshot`]) and
//!   the folder of state files ([`SlotEntry::state_files`]).
//!
//! Where the files lie is said by [`layout`]; bytes and their order by `docs/formats/checkpoints.md`.

mod compatibility;
mod format;
pub mod layout;
#[cfg(test)]
mod tests;

use crate::CheckpointKind;
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the format that this program writes, and the newest that it reads.
pub const MANIFEST_FORMAT_VERSION: u32 = 1;

/// All there is to know of a complete checkpoint before its files are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which checkpoint of its job.
    pub checkpoint: CheckpointId,
    /// Why it was taken.
    pub kind: CheckpointKind,
    /// The name of the job that took it: for people, nothing is decided by it.
    pub job: String,
    /// When it was triggered, by the clock of the host.
    pub created: Timestamp,
    /// The number of key groups of the job.
    pub max_parallelism: u16,
    /// The name of the state backend that wrote the state.
    pub backend: String,
    /// The operators whose state it holds. No two have the same `uid`.
    pub operators: Vec<OperatorEntry>,
    /// What each slot contributed. No slot stands there twice.
    pub slots: Vec<SlotEntry>,
}

/// An operator whose state a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorEntry {
    /// The stable name by which state finds its operator again.
    pub uid: String,
    /// The name that people know it by.
    pub name: String,
    /// The number of its subtasks when the checkpoint was taken.
    pub parallelism: u32,
}

/// What one slot contributed to a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotEntry {
    /// The slot.
    pub slot: SlotIndex,
    /// The slot's snapshot, in the checkpoint's own folder.
    pub snapshot: FileEntry,
    /// The files of the slot's state store, in the store's order. They may belong to several
    /// checkpoints, and lie in the folder [`layout::STATE_FOLDER`].
    pub state_files: Vec<StateFileEntry>,
}

/// A file of one checkpoint alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// The crc32c (Castagnoli) of all of them.
    pub crc32c: u32,
}

/// A file of a state store. Its checksums are inside it, since a later checkpoint may refer to more
/// of the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFileEntry {
    /// Its name in the folder of state files; never given to another file.
    pub name: String,
    /// How many of its bytes belong to the checkpoint. The file may be longer.
    pub len: u64,
    /// What the store wants to know when it reads them.
    pub note: Vec<u8>,
}

/// Why bytes are not the manifest of a checkpoint that can be resumed from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Another kind of file.
    #[error("it is not the manifest of a checkpoint: it does not begin with the mark of one")]
    NotAManifest,
    /// The end is missing, as after a write that was cut off.
    #[error("it is truncated: {found} bytes of {expected}")]
    Truncated {
        /// The bytes that there should be.
        expected: u64,
        /// The bytes that there are.
        found: u64,
    },
    /// More bytes than the manifest's own.
    #[error("{count} bytes follow its end")]
    TrailingBytes {
        /// How many.
        count: u64,
    },
    /// A bit has changed since it was written.
    #[error(
        "its checksum is {stored:#010x} but its bytes give {computed:#010x}: it has been damaged"
    )]
    ChecksumMismatch {
        /// What was written.
        stored: u32,
        /// What the bytes give now.
        computed: u32,
    },
    /// From a later version of the program.
    #[error(
        "its format has version {version}, newer than this program's {MANIFEST_FORMAT_VERSION}: \
         upgrade the program that reads it"
    )]
    Newer {
        /// The version that it has.
        version: u32,
    },
    /// A version that no program has written.
    #[error("its format has version {version}, which no program writes")]
    UnknownVersion {
        /// The version that it has.
        version: u32,
    },
    /// The checksum is right, and yet the fields make no sense: a mistake of who wrote it.
    #[error("its {field} {problem}: the program that wrote it made a mistake")]
    Malformed {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It holds state for which the program has no place.
    #[error(
        "checkpoint {checkpoint} of job \"{job}\" holds the state of {operators}, and this program \
         has no operator of that uid: resume with the program that took it, give the operator its \
         former uid again, or begin without a checkpoint"
    )]
    OtherJob {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The job that took it.
        job: String,
        /// The operators that are missing, as text.
        operators: String,
    },
    /// Key groups are counted differently.
    #[error(
        "checkpoint {checkpoint} was taken with a max parallelism of {checkpointed}, and this job \
         has {requested}: set the max parallelism to {checkpointed}, or begin without a checkpoint"
    )]
    OtherMaxParallelism {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// What it was taken with.
        checkpointed: u16,
        /// What the job has.
        requested: u16,
    },
    /// State was written by another backend.
    #[error(
        "checkpoint {checkpoint} was taken with the state backend {checkpointed}, and this job has \
         {requested}: choose {checkpointed}, or begin without a checkpoint"
    )]
    OtherBackend {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// What it was taken with.
        checkpointed: String,
        /// What the job has.
        requested: String,
    },
}

impl ManifestError {
    /// True if nothing is wrong with the manifest but that this program is too old for it.
    pub fn is_newer_format(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }
}

impl Manifest {
    /// The names of the state files that the checkpoint needs, each once.
    pub fn state_files(&self) -> BTreeSet<&str> {
        let files = self.slots.iter().flat_map(|slot| &slot.state_files);
        files.map(|file| file.name.as_str()).collect()
    }

    /// The bytes that the checkpoint refers to, its manifest not counted. A state file that several
    /// slots name counts once.
    pub fn referenced_bytes(&self) -> u64 {
        let mut longest = BTreeMap::new();
        for file in self.slots.iter().flat_map(|slot| &slot.state_files) {
            let len = longest.entry(&file.name).or_insert(0);
            *len = file.len.max(*len);
        }
        let snapshots = self.slots.iter().map(|slot| slot.snapshot.len);
        // A manifest may claim any length, so the sum may go beyond the greatest.
        snapshots.chain(longest.into_values()).fold(0, u64::saturating_add)
    }
}

impl FileEntry {
    /// The entry of a file that holds `bytes`.
    ///
    /// Complexity: O(n), at the speed of the processor's crc instruction.
    pub fn of(name: impl Into<String>, bytes: &[u8]) -> Self {
        Self { name: name.into(), len: bytes.len() as u64, crc32c: crc_fast::crc32_iscsi(bytes) }
    }
}
