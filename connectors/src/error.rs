//! What can go wrong outside a job, in words that say what to do.

use crate::format::Malformed;
use millstream::JobError;
use std::io;
use std::sync::Arc;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing is there.
    #[error(
        "{path}: no such file or directory; check the path (relative paths start at {directory})"
    )]
    NotFound {
        /// As the user gave it.
        path: String,
        /// The current directory.
        directory: String,
    },
    /// A pattern that matches no file.
    #[error("{pattern}: no file matches this pattern; check it, and quote it in the shell")]
    NoMatch {
        /// As the user gave it.
        pattern: String,
    },
    /// A pattern that is none.
    #[error("{pattern}: not a valid pattern: {reason}")]
    BadPattern {
        /// As the user gave it.
        pattern: String,
        /// Where and why.
        reason: String,
    },
    /// A directory without files to read.
    #[error(
        "{path}: the directory holds no files to read (hidden files and subdirectories are \
         skipped; a pattern such as {path}/**/* reads those)"
    )]
    EmptyDirectory {
        /// The directory.
        path: String,
    },
    /// Opening, listing or reading failed.
    #[error("{name}: cannot {action}: {error}{}", advice(.error))]
    Io {
        /// The file's path, or what else is read.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Compressed data that end too early.
    #[error("{name}: the {compression} data end early: the file was cut off; copy it again")]
    Truncated {
        /// The file's path.
        name: String,
        /// `gzip` or `zstd`.
        compression: &'static str,
    },
    /// Compressed data that cannot be decompressed.
    #[error(
        "{name}: no valid {compression} data ({error}): copy the file again, or rename it if it is not compressed"
    )]
    Corrupt {
        /// The file's path.
        name: String,
        /// `gzip` or `zstd`.
        compression: &'static str,
        /// What the decoder said.
        error: io::Error,
    },
    /// A file that a checkpoint refers to is no longer what it was.
    #[error(
        "{name}: the file had {before_bytes} bytes when the job began and has {now_bytes} now, so \
         the job cannot go on where the checkpoint was; put the file back as it was, or start \
         the job anew"
    )]
    Changed {
        /// The file's path.
        name: String,
        /// Its size when the job began.
        before_bytes: u64,
        /// Its size now.
        now_bytes: u64,
    },
    /// A record without end.
    #[error(
        "{name}: a record is longer than {limit_bytes} bytes; is this the right format for it \
         (one record per line, quotes closed)?"
    )]
    RecordTooLong {
        /// The input's name.
        name: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// A record that cannot be parsed, where that fails the job.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The reading thread panicked: a bug in a format's `complete_prefix`.
    #[error("{name}: the reading thread panicked")]
    ThreadDied {
        /// The input's name, or the source's before it opened one.
        name: Arc<str>,
    },
}

/// Why a sink cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory of a target is missing.
    #[error(
        "{path}: the directory {directory} does not exist; create it first (mkdir -p {directory})"
    )]
    NoDirectory {
        /// The target.
        path: String,
        /// Its directory.
        directory: String,
    },
    /// The target is a directory or a device.
    #[error("{path}: is {what}, not a regular file; give the path of a file in a directory")]
    NotAFile {
        /// The target.
        path: String,
        /// What it is, with its article.
        what: &'static str,
    },
    /// The target must be a directory, and is not.
    #[error("{path}: is not a directory; give the path of one, or of one that does not exist yet")]
    NotADirectory {
        /// The target.
        path: String,
    },
    /// Creating, writing, syncing or renaming failed.
    #[error("{name}: cannot {action}: {error}{}", advice(.error))]
    Io {
        /// The target's final path, or what else is written.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Whoever read the output has gone: no failure for a command line, but nothing more can be
    /// written.
    #[error("{name}: closed by its reader")]
    Closed {
        /// What was written to.
        name: String,
    },
    /// A record that the encoder cannot express.
    #[error("{name}: a record cannot be encoded: {reason}")]
    Encoding {
        /// The sink's target.
        name: String,
        /// What the encoder said.
        reason: String,
    },
    /// What was written before a checkpoint is gone.
    #[error(
        "{name}: {piece}, where a part of it was written before the checkpoint, is not there; resume \
         with the same output path, put the file back, or start the job anew"
    )]
    PieceMissing {
        /// The target.
        name: String,
        /// The file that is missing.
        piece: String,
    },
    /// What was written before a checkpoint is not what it was.
    #[error(
        "{name}: {piece}, where a part of it was written before the checkpoint, is damaged: {reason}; \
         put the file back as it was, resume from an earlier checkpoint, or start the job anew"
    )]
    PieceDamaged {
        /// The target.
        name: String,
        /// The damaged file.
        piece: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record for a file that has been completed.
    #[error("{name}: was completed before the checkpoint, and there is another record for it")]
    Completed {
        /// The target.
        name: String,
    },
    /// The results of another job are in the way.
    #[error(
        "{directory}: holds {part}, which is none of the results that this job goes on from; choose \
         an empty directory, or move the part-* files away"
    )]
    OtherParts {
        /// The target.
        directory: String,
        /// One of them.
        part: String,
    },
    /// The writing thread panicked.
    #[error("{name}: the writing thread panicked")]
    ThreadDied {
        /// The sink's target.
        name: String,
    },
}

impl WriteError {
    /// Sorts out the closed pipe from other failures.
    pub(crate) fn io(name: &str, action: &'static str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed { name: name.to_owned() },
            _ => Self::Io { name: name.to_owned(), action, error },
        }
    }
}

/// True if `error` is, or was caused by, output that its reader closed (`millstream … | head`):
/// a command line ends quietly then, with the exit code of SIGPIPE, 141.
pub fn is_closed_output(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(JobError::Failed { error, .. }) = error.downcast_ref() {
        return is_closed_output(&**error);
    }
    matches!(error.downcast_ref(), Some(WriteError::Closed { .. }))
        || error.source().is_some_and(is_closed_output)
}

/// What to do about an error of the system, as the end of a sentence.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match error.kind() {
        PermissionDenied => "; give the user who runs the job access to it",
        StorageFull => "; free some space or choose another disk",
        QuotaExceeded => "; raise the quota or choose another disk",
        ReadOnlyFilesystem => "; choose another directory",
        FileTooLarge => "; raise the limit (ulimit -f)",
        ConnectionRefused => "; start the server first, or check host and port",
        ConnectionReset => "; the other side broke off: start the job again when it is back",
        TimedOut | HostUnreachable | NetworkUnreachable => "; is the host up, and the port open?",
        AddrInUse => {
            "; stop the program that uses the port (ss -ltnp names it), or choose another port"
        }
        AddrNotAvailable => "; give an address of this machine, such as 0.0.0.0:PORT",
        _ => "",
    }
}
