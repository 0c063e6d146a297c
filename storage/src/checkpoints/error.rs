//! What can be wrong with checkpoints.

use crate::StorageError;
use millstream_protocol::ManifestError;
use millstream_protocol::manifest::layout::Contents;
use millstream_types::CheckpointId;
use rustix::io::Errno;
use std::error::Error;

/// Why a checkpoint cannot be used, or its directory not be worked with.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read, written or deleted, or is missing.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A directory with other things in it.
    #[error(
        "{place}: holds files, and none of them is of a checkpoint: is it the directory that the \
         job was given?"
    )]
    NoCheckpoints {
        /// The directory, or what stands for one.
        place: String,
    },
    /// The directory has no such checkpoint.
    #[error("there is no checkpoint {checkpoint}; there are {present}")]
    Unknown {
        /// What was asked for.
        checkpoint: CheckpointId,
        /// What there is, as text.
        present: String,
    },
    /// A checkpoint without a manifest.
    #[error("{folder}: never completed: it has no manifest")]
    Incomplete {
        /// The checkpoint's folder.
        folder: String,
    },
    /// The manifest cannot be understood.
    #[error("{path}: {source}")]
    Manifest {
        /// The manifest.
        path: String,
        /// Why not.
        source: ManifestError,
    },
    /// The manifest of another checkpoint.
    #[error("{path}: it is the manifest of checkpoint {found}; was it moved?")]
    Misplaced {
        /// The manifest.
        path: String,
        /// The checkpoint that it is of.
        found: CheckpointId,
    },
    /// A snapshot's bytes are not those that were written.
    #[error(
        "{path}: its checksum should be {expected:#010x} but its bytes give {computed:#010x}: it \
         has been damaged"
    )]
    ChecksumMismatch {
        /// The file.
        path: String,
        /// What the manifest says.
        expected: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A snapshot is longer or shorter than what was written.
    #[error("{path}: it has {found} bytes, and {expected} were written: it has been damaged")]
    OtherLength {
        /// The file.
        path: String,
        /// What the manifest says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// A state file is not what its store wrote.
    #[error("{path}: {source}")]
    StateFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl CheckpointError {
    /// [`CheckpointError::Unknown`], with what there is instead.
    pub fn unknown(checkpoint: CheckpointId, contents: &Contents) -> Self {
        let present: Vec<_> = contents.checkpoints().map(|present| present.to_string()).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        Self::Unknown { checkpoint, present }
    }

    /// True if another host has refused something, or has not answered: it may do so later.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Storage(StorageError::Remote { .. }))
    }

    /// True if a file is missing, or its bytes are not those that were written: an older checkpoint
    /// may do. False for what the user can put right (access, a newer format), where going back to
    /// an older checkpoint would lose work for no reason.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage(StorageError::NotFound { .. } | StorageError::TooShort { .. }) => true,
            Self::Storage(StorageError::Io { source, .. }) => {
                // A sector that cannot be read, and a file system that has found itself damaged.
                let damage = [Errno::IO, Errno::UCLEAN, Errno::BADMSG];
                Errno::from_io_error(source).is_some_and(|errno| damage.contains(&errno))
            }
            Self::Manifest { source, .. } => !source.is_newer_format(),
            Self::Misplaced { .. }
            | Self::Incomplete { .. }
            | Self::ChecksumMismatch { .. }
            | Self::OtherLength { .. }
            | Self::StateFile { .. } => true,
            Self::Storage(_) | Self::NoCheckpoints { .. } | Self::Unknown { .. } => false,
        }
    }
}
