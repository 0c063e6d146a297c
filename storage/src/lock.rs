//! One writer per checkpoint directory.

use millstream_types::Timestamp;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The right to write into a directory: an exclusive lock on a file in it, which holds in words who
/// has it.
///
/// The lock is the kernel's (`flock`), so it ends with its process however that ends; what the file
/// says plays no part in it. On a network file system it excludes other hosts as far as that does.
/// An object store has none: there, manifests are created if absent.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
    words: String,
}

/// Why a directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "{}: in use by {holder}; stop it, or choose another directory", path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// Who has it, as they wrote it.
        holder: Holder,
    },
    /// The file cannot be made or locked.
    #[error("{}: cannot {action}{}", path.display(), crate::error::advice(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(Option<String>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("a process that has not said its name"))
    }
}

impl DirectoryLock {
    /// Locks the file at `path`, which is made if there is none. Does not wait.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it, or this one by another lock; and if the file
    /// cannot be made.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let io = |action, source| LockError::Io { path: path.to_owned(), action, source };
        // Not truncated: until it is locked, the words in it are somebody else's.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(|error| io("open it for writing", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: path.to_owned(), holder: holder(path) });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock it", error)),
        }
        let host = rustix::system::uname();
        let words = format!(
            "process {} on {}, since {} UTC",
            std::process::id(),
            host.nodename().to_string_lossy(),
            Timestamp::now()
        );
        file.set_len(0)
            .and_then(|()| file.write_all(words.as_bytes()))
            .map_err(|error| io("write into it", error))?;
        Ok(Self { file, words })
    }
}

impl DirectoryLock {
    /// What it says of who has it: words that no other lock says.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl Holder {
    /// The words that it has written, if it has.
    pub fn words(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The words are worth nothing without the lock, and the lock ends with the file's handle:
        // neither has to succeed. The file stays, since deleting it could take another's lock away.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn holder(path: &Path) -> Holder {
    let words = fs::read_to_string(path).unwrap_or_default();
    let words = words.trim();
    Holder((!words.is_empty()).then(|| words.to_owned()))
}
