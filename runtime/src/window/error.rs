//! What can be wrong with the records that windows are given.

/// Why a window operator fails the job.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Windows of event time need it.
    #[error(
        "a record without a timestamp came to a window; give the stream timestamps and watermarks \
         before it is windowed"
    )]
    NoTimestamp,
}
