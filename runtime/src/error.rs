//! What can go wrong with a job.

use crate::checkpoint::in_words;

/// Any error, as user code returns it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a job did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The program or its configuration asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A source or sink could not be prepared; nothing was started.
    #[error("{operator}: {error}")]
    Validation {
        /// The source's or sink's name.
        operator: String,
        /// What it said.
        error: BoxError,
    },
    /// User code panicked.
    #[error("operator \"{operator}\" (subtask {subtask}) panicked: {message}")]
    Panicked {
        /// The operator's name.
        operator: String,
        /// Which of its subtasks.
        subtask: u32,
        /// The panic's message.
        message: String,
    },
    /// User code, a source or a sink returned an error.
    #[error("operator \"{operator}\" (subtask {subtask}) failed: {}", in_words(&**error))]
    Failed {
        /// The operator's name.
        operator: String,
        /// Which of its subtasks.
        subtask: u32,
        /// What it returned. Its causes are part of the message.
        error: BoxError,
    },
    /// A slot's executor could not be started.
    #[error("slot {slot} cannot start: {message}")]
    Executor {
        /// Which slot.
        slot: u32,
        /// Why, and what to do.
        message: String,
    },
    /// The checkpoint that the job was to begin with cannot be used.
    #[error("the job cannot be restored: {0}")]
    Restore(String),
    /// The job's checkpoints cannot be taken, or what they hold cannot be committed.
    #[error("checkpoints: {0}")]
    Checkpoint(BoxError),
    /// Another host of the job cannot be reached, or is lost.
    #[error("{0}")]
    Host(String),
    /// The connections between slots of several hosts have failed.
    #[error("{}", in_words(&**.0))]
    Connection(BoxError),
    /// The job has failed, as the member of it says that controls it.
    #[error("{0}")]
    Elsewhere(String),
    /// The job was cancelled.
    #[error("the job was cancelled")]
    Canceled,
}
