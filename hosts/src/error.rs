//! What can go wrong with the hosts themselves.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why hosts, or a fault between them, cannot be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// So many hosts do not fit a set.
    #[error("a set has 1 to {max} hosts, not {count}")]
    Count {
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A number that makes no sense for a fault.
    #[error("{0}")]
    Argument(String),
    /// A program cannot be started.
    #[error("{program} cannot be started")]
    Start {
        /// Its name and arguments.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program has failed.
    #[error("{program}: {status}: {said}; its input was:\n{input}")]
    Failed {
        /// Its name and arguments.
        program: String,
        /// How it has ended.
        status: ExitStatus,
        /// What it has said of it.
        said: String,
        /// What it was told to do.
        input: String,
    },
    /// A program did not end in time and has been killed.
    #[error("{program} has not ended after {limit:?} and was killed")]
    Hangs {
        /// Its name and arguments.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// A process in a host lives on although it was killed.
    #[error("processes in {namespace} live on {limit:?} after they were killed")]
    LivesOn {
        /// The host's name.
        namespace: String,
        /// How long they had.
        limit: Duration,
    },
    /// A file of the system cannot be used.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl HostsError {
    /// For `map_err`: an operation on a file has failed.
    pub(crate) fn io<E: Into<std::io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source: source.into() }
    }
}
