//! Exit codes, for scripts.

use millstream::{BoxError, ConfigError, JobError, JobStatus};
use millstream_connectors::is_closed_output;
use std::process::ExitCode;

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all went well.
    Success,
    /// 1: the job failed while it ran.
    Failed,
    /// 2: what was asked for cannot be done; nothing was started.
    Usage,
    /// 130: a signal cancelled the job.
    Cancelled,
    /// 141, as SIGPIPE would give: whoever read the output has gone, which is no failure.
    OutputClosed,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Cancelled => 130,
            Self::OutputClosed => 141,
        }
    }

    /// What a job's error means for the program.
    pub fn of_job_error(error: &JobError) -> Self {
        match error {
            JobError::Invalid(_) | JobError::Validation { .. } | JobError::Restore(_) => {
                Self::Usage
            }
            JobError::Canceled => Self::Cancelled,
            JobError::Failed { error, .. } if is_closed_output(error.as_ref()) => {
                Self::OutputClosed
            }
            JobError::Panicked { .. }
            | JobError::Failed { .. }
            | JobError::Executor { .. }
            | JobError::Host(_)
            | JobError::Connection(_)
            | JobError::Elsewhere(_)
            | JobError::Checkpoint(_) => Self::Failed,
        }
    }

    /// What any error means for the program: that of a job or of a configuration by its kind, any
    /// other one a failure.
    pub fn of_error(error: &BoxError) -> Self {
        if let Some(job) = error.downcast_ref() {
            Self::of_job_error(job)
        } else if error.is::<ConfigError>() || error.is::<crate::MetricsServerError>() {
            Self::Usage
        } else if is_closed_output(error.as_ref()) {
            Self::OutputClosed
        } else {
            Self::Failed
        }
    }

    /// What the end of a job means for the program.
    pub fn of_status(status: JobStatus) -> Self {
        match status {
            JobStatus::Finished | JobStatus::Stopped => Self::Success,
            JobStatus::Canceled => Self::Cancelled,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
