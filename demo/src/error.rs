//! What can go wrong, and what it means for the program.

use millstream::JobError;
use millstream_connectors::ReadError;
use millstream_ops::Exit;
use std::io;

/// Why the demo did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The job failed.
    #[error(transparent)]
    Job(JobError),
    /// The job failed at a record that is no event.
    #[error("{0}; mend the file, or skip and count such records with --skip-malformed")]
    Malformed(JobError),
    /// The terminal cannot be drawn on.
    #[error("the terminal cannot be used for the live view: {0}; try --plain")]
    Terminal(io::Error),
    /// Standard output cannot be written.
    #[error("standard output: cannot write it: {0}")]
    Output(io::Error),
}

impl DemoError {
    /// What it means for the program.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Job(error) | Self::Malformed(error) => Exit::of_job_error(error),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::OutputClosed,
            Self::Terminal(_) | Self::Output(_) => Exit::Failed,
        }
    }
}

impl From<JobError> for DemoError {
    fn from(error: JobError) -> Self {
        let is_malformed = match &error {
            JobError::Failed { error, .. } => {
                matches!(error.downcast_ref(), Some(ReadError::Malformed(_)))
            }
            _ => false,
        };
        if is_malformed { Self::Malformed(error) } else { Self::Job(error) }
    }
}
