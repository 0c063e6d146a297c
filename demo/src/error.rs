//! What can go wrong, and what it means for the program.

use millstream::JobError;
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
    Job(#[from] JobError),
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
            Self::Job(error) => Exit::of_job_error(error),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::OutputClosed,
            Self::Terminal(_) | Self::Output(_) => Exit::Failed,
        }
    }
}
