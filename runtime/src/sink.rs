//! Sinks: where records leave a job.
//!
//! A [`Sink`] is cloned to every subtask, where it opens a [`SinkWriter`]. A writer never blocks:
//! what must wait goes through a thread of its own. What a job wrote becomes visible under its
//! final name in [`Sink::commit`], once, after every subtask has finished; a job that fails or is
//! cancelled calls [`Sink::abort`] instead.

use crate::error::BoxError;
use crate::source::SlotWaker;
use millstream_types::{SubtaskIndex, Timestamp};

/// A writer of a sink: one subtask's part of it.
pub trait SinkWriter<T>: 'static {
    /// Takes one record.
    ///
    /// # Errors
    /// What is returned here and below fails the job, with the sink's name.
    fn write(&mut self, value: T, timestamp: Timestamp) -> Result<(), BoxError>;

    /// Called when the input has run dry for now: what people are waiting to see goes out.
    ///
    /// # Errors
    /// See [`SinkWriter::write`].
    fn flush(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// True if no more records should be written for now.
    fn is_blocked(&mut self) -> bool {
        false
    }

    /// Called after the last record, again and again until it returns true: everything is handed
    /// over and durable as far as this sink promises it. Nothing else is called after that.
    ///
    /// # Errors
    /// See [`SinkWriter::write`].
    fn finish(&mut self) -> Result<bool, BoxError> {
        self.flush()?;
        Ok(true)
    }
}

/// A sink of records.
pub trait Sink<T>: Clone + Send + 'static {
    /// The writer of one subtask.
    type Writer: SinkWriter<T>;

    /// Checks what can be checked before anything is started. Called once per job.
    ///
    /// # Errors
    /// Says what is wrong and what to do; the job is not started.
    fn validate(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Opens the writer of one subtask, on the slot's thread, before the job starts.
    ///
    /// # Errors
    /// Fails the job.
    fn open(self, context: &SinkContext) -> Result<Self::Writer, BoxError>;

    /// Makes visible what all subtasks wrote. Called once, when all have finished; may block.
    ///
    /// # Errors
    /// Fails the job.
    fn commit(&self, parallelism: u32) -> Result<(), BoxError> {
        let _ = parallelism;
        Ok(())
    }

    /// Removes what was written, after a failure or a cancellation. Called once; may block.
    fn abort(&self, parallelism: u32) {
        let _ = parallelism;
    }
}

/// What a sink knows of its subtask.
#[derive(Clone)]
pub struct SinkContext {
    /// Which of the parallel writers this is.
    pub subtask: SubtaskIndex,
    /// How many there are.
    pub parallelism: u32,
    /// Wakes this writer's slot, from any thread.
    pub waker: SlotWaker,
}
