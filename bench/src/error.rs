//! What can go wrong, in words that say what to do.

use millstream::{BoxError, ConfigError, JobError};
use millstream_ops::{Exit, MetricsServerError};
use millstream_state::StateError;
use millstream_workloads::throughput::data::DataError;
use std::io;

/// Why a benchmark came to no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A setting does not work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsServerError),
    /// The input of the throughput workloads is not there or not usable.
    #[error(transparent)]
    Data(DataError),
    /// A store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The job failed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The file for rows cannot be written.
    #[error("{0}")]
    Output(BoxError),
    /// A file or stream cannot be written.
    #[error("{name}: cannot {action}: {source}{}", advice(.source))]
    Write {
        /// Its name.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever read standard output has gone.
    #[error("{name}: closed by its reader")]
    OutputClosed {
        /// What was written.
        name: String,
    },
    /// A program to compare with does not do as it should.
    #[error("{program}: {reason}")]
    Peer {
        /// The program.
        program: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// Two programs came to different results.
    #[error("{0}")]
    Different(String),
    /// A signal came.
    #[error("cancelled")]
    Cancelled,
}

impl BenchError {
    /// Sorts out the closed pipe from other failures to write.
    pub(crate) fn write(name: &str, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed { name: name.to_owned() },
            _ => Self::Write { name: name.to_owned(), action, source },
        }
    }

    /// What it means for the program.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Output(_) | Self::Config(_) | Self::Metrics(_) => Exit::Usage,
            Self::Data(DataError::Missing { .. } | DataError::TooShort { .. }) => Exit::Usage,
            Self::Data(_)
            | Self::State(_)
            | Self::Write { .. }
            | Self::Peer { .. }
            | Self::Different(_) => Exit::Failed,
            Self::Job(error) => Exit::of_job_error(error),
            Self::OutputClosed { .. } => Exit::OutputClosed,
            Self::Cancelled => Exit::Cancelled,
        }
    }
}

impl From<DataError> for BenchError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Cancelled { .. } => Self::Cancelled,
            error => Self::Data(error),
        }
    }
}

/// What to do about an error of the system, as the end of a sentence.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match error.kind() {
        NotFound => "; does its directory exist?",
        PermissionDenied => "; choose a place that you may write to",
        StorageFull => "; free some space or choose another disk",
        QuotaExceeded => "; raise the quota or choose another disk",
        ReadOnlyFilesystem => "; choose another directory",
        FileTooLarge => "; raise the limit (ulimit -f)",
        _ => "",
    }
}
