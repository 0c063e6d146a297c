//! Where the files of checkpoints lie: put, create if absent, get, list, delete.
//!
//! Everything here blocks, and belongs on a thread of the control plane, never on a slot's.
#![forbid(unsafe_code)]

mod checkpoints;
mod error;
mod local;
mod location;
mod lock;
#[cfg(feature = "object-store")]
mod object;
mod path;
mod replicated;

pub use checkpoints::{
    CheckpointDirectory, CheckpointError, CheckpointInfo, Cleaned, Newest, Orphans, StateFileCheck,
    StateFileReader,
};
pub use error::StorageError;
pub use local::LocalDirectory;
pub use location::Location;
pub use lock::{DirectoryLock, LockError};
#[cfg(feature = "object-store")]
pub use object::ObjectStorage;
pub use replicated::Replicated;

use std::path::{Path, PathBuf};

/// A place for files that are written whole and never changed: a directory or an object store.
///
/// Paths are relative, with `/` between their parts; no part is empty, `.` or `..`, or begins with
/// `.partial-` (files that are being written have such names, and are never seen here).
///
/// # Invariants
/// - A file that can be seen is whole: no reader finds half of one, whenever the writer dies.
/// - What a method has done when it returns without an error survives the loss of power, a deletion
///   too. After an error it may or may not have been done.
pub trait Storage: Send + Sync {
    /// Writes a file, over the one that is there if there is one.
    ///
    /// # Errors
    /// If it cannot be written; then no half of it is left under its name.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Writes a file to each place that is to have it and has it not, or not with these bytes.
    ///
    /// # Errors
    /// As [`put`](Self::put), if it is missing anywhere.
    fn put_where_missing(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        if self.get(path).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        self.put(path, bytes)
    }

    /// Writes a file where there is none. Of several writers at the same time, one succeeds.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`] if there is one, which stays as it is; else as
    /// [`put`](Self::put).
    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Writes a file with the first `len` bytes of a local one, over the one that is there. Takes
    /// little memory, however long it is. If the local file *is* the one at `path`, it is made
    /// durable and keeps all its bytes.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`StorageError::TooShort`] if the local file has fewer bytes.
    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError>;

    /// As [`copy_from_local`](Self::copy_from_local), for a file that only ever grows at its end:
    /// nothing is done if that many bytes are there already.
    ///
    /// # Errors
    /// As [`copy_from_local`](Self::copy_from_local).
    fn follow_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        match self.len(path) {
            Ok(found) if found >= len => Ok(()),
            Err(error) if !error.is_not_found() => Err(error),
            _ => self.copy_from_local(local, len, path),
        }
    }

    /// A whole file.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], or if it cannot be read.
    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError>;

    /// `len` bytes of a file, from `offset` on.
    ///
    /// # Errors
    /// [`StorageError::NotFound`]; [`StorageError::TooShort`] if the file ends before; or if it
    /// cannot be read.
    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], or if it cannot be looked at.
    fn len(&self, path: &str) -> Result<u64, StorageError>;

    /// The files in a folder and the folders in it, in the order of their paths; `""` for all.
    /// Empty if there is no such folder.
    ///
    /// # Errors
    /// If it cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError>;

    /// Deletes a file. No error if there is none.
    ///
    /// # Errors
    /// If it cannot be deleted.
    fn delete(&self, path: &str) -> Result<(), StorageError>;

    /// Deletes a folder and all that is in it, in no particular order. No error if there is none.
    ///
    /// # Errors
    /// If something cannot be deleted; the rest may be gone by then.
    fn delete_folder(&self, folder: &str) -> Result<(), StorageError>;

    /// Deletes what writers that died left of files that they had not finished, if such a thing can
    /// be here. Nobody may be writing meanwhile. Returns how many files.
    ///
    /// # Errors
    /// If one cannot be deleted.
    fn delete_unfinished(&self) -> Result<usize, StorageError> {
        Ok(0)
    }

    /// The places that each may have a copy of the same file, in the order in which they are asked for
    /// it. None if there is but this one.
    fn copies(&self) -> Vec<&dyn Storage> {
        Vec::new()
    }

    /// Where the file at `path` lies on this host, if it does.
    fn local_path(&self, path: &str) -> Option<PathBuf> {
        let _ = path;
        None
    }

    /// How messages call the file at `path`: something that can be opened or looked up.
    fn title(&self, path: &str) -> String;
}

/// A file that a [`Storage`] holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Where.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
}
