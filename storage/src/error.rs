//! What can go wrong with files, and what to do about it.

use std::io;

/// A failure of a storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("{path}: cannot {action}{}", advice(source))]
    Io {
        /// The file.
        path: String,
        /// What was tried: `write it`, `read it`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No such file or directory.
    #[error("{path}: it does not exist")]
    NotFound {
        /// The file.
        path: String,
    },
    /// There is a file already where none must be.
    #[error("{path}: there is such a file already; does another job write to the same place?")]
    AlreadyExists {
        /// The file.
        path: String,
    },
    /// A file ends before what was asked for.
    #[error("{path}: it is truncated: {found} bytes of at least {expected}")]
    TooShort {
        /// The file.
        path: String,
        /// The bytes that there should be.
        expected: u64,
        /// The bytes that there are.
        found: u64,
    },
    /// A storage on other hosts refused, or did not answer.
    #[error("{path}: cannot {action}{advice}")]
    Remote {
        /// The file.
        path: String,
        /// What was tried.
        action: &'static str,
        /// What to do, as the end of a sentence.
        advice: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Text that names no storage.
    #[error("\"{location}\" names no storage: {reason}")]
    BadLocation {
        /// The text.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path that no file may have.
    #[error("\"{path}\" can be no path in a storage: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl StorageError {
    /// An error of the operating system while `action` was done to the file that messages call
    /// `path`.
    pub(crate) fn io(path: String, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            _ => Self::Io { path, action, source },
        }
    }

    /// True for [`StorageError::NotFound`].
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// What to do about an error of the system, as the end of a sentence.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match error.kind() {
        PermissionDenied => "; give the user who runs this access to it",
        StorageFull => "; free some space or choose a directory on another disk",
        QuotaExceeded => "; raise the quota or choose a directory on another disk",
        ReadOnlyFilesystem => {
            "; the file system is mounted read-only: mount it for writing or choose another \
             directory"
        }
        FileTooLarge => "; raise the limit (ulimit -f)",
        NotADirectory => "; a file stands where a directory should be",
        StaleNetworkFileHandle => "; was the directory replaced or unmounted meanwhile?",
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "; raise the limit of open files (ulimit -n)"
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "; the disk may be failing: look into the kernel's log (dmesg)"
        }
        _ => "",
    }
}
