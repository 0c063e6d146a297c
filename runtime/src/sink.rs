//! Sinks: where records leave a job.
//!
//! A [`Sink`] is cloned to every subtask, where it opens a [`SinkWriter`]. A writer never blocks:
//! what must wait goes through a thread of its own.
//!
//! # Exactly once
//! Sinks commit in two phases (as Flink's `TwoPhaseCommitSinkFunction`). At a checkpoint's barrier,
//! and at the end of the input, a writer makes what it has written durable but not visible, and hands
//! over a *transaction*: what [`Sink::commit`] needs to make it visible. The transaction is part of
//! the checkpoint; when that is complete, it is committed, and when a job begins with the checkpoint,
//! it is committed again, because nobody knows whether that was done. So a commit is idempotent.
//! Without checkpoints there is one commit, at the end of the job.

use crate::error::BoxError;
use crate::source::SlotWaker;
use millstream_types::{SubtaskIndex, Timestamp};
use std::sync::Arc;

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
    /// over and durable as far as this sink promises it. Only `pre_commit` is called after that.
    ///
    /// # Errors
    /// See [`SinkWriter::write`].
    fn finish(&mut self) -> Result<bool, BoxError> {
        self.flush()?;
        Ok(true)
    }

    /// The first phase: called at each checkpoint's barrier, and once after `finish`. What was
    /// written so far is to become durable, and `prepared` is told when it is, now or later and from
    /// any thread; what is written from now on belongs to the next transaction.
    ///
    /// A sink without transactions flushes: what follows the last checkpoint is written twice if the
    /// job is restored.
    ///
    /// # Errors
    /// See [`SinkWriter::write`].
    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        prepared.ready();
        Ok(PreCommit::default())
    }
}

/// What a writer hands over at a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreCommit {
    /// What the writers of a restored job need to go on: see [`SinkContext::restored`].
    pub state: Vec<Vec<u8>>,
    /// What is to be committed when the checkpoint is complete.
    pub transaction: Option<Vec<u8>>,
}

/// Told by a writer when what it has pre-committed is durable. Dropped without a word, the
/// checkpoint fails.
pub struct Prepared(Option<PreparedCallback>);

type PreparedCallback = Box<dyn FnOnce(Result<(), BoxError>) + Send>;

impl Prepared {
    /// Calls `done` with what the writer says, once.
    pub fn new(done: impl FnOnce(Result<(), BoxError>) + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    /// All is durable.
    pub fn ready(mut self) {
        self.tell(Ok(()));
    }

    /// It cannot be made durable.
    pub fn failed(mut self, error: BoxError) {
        self.tell(Err(error));
    }

    fn tell(&mut self, result: Result<(), BoxError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.tell(Err("the sink's writer has given up".into()));
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

    /// True if one writer can be restored while others go on: if there are as many as when the checkpoint was
    /// taken, it needs nothing of what those gave that they have changed since, and does away with nothing of
    /// theirs. Otherwise a failure of one makes all start again.
    fn restores_alone(&self) -> bool {
        false
    }

    /// Opens the writer of one subtask, on the slot's thread, before the job starts.
    ///
    /// # Errors
    /// Fails the job.
    fn open(self, context: &SinkContext) -> Result<Self::Writer, BoxError>;

    /// The second phase: makes visible what these transactions of all writers hold. Called when the
    /// checkpoint that they are part of is complete, and before the start of a job that is restored
    /// from it, so maybe twice for the same transaction, also when the first time was cut short. Not
    /// on a slot's thread; may block.
    ///
    /// # Errors
    /// Fails the job, which does it again when it is restored.
    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let _ = transactions;
        Ok(())
    }

    /// Removes what was written and will never be committed, after a failure or a cancellation of a
    /// job that nothing can be restored from. Called once; may block.
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
    /// If the job begins with a checkpoint: [`PreCommit::state`] of all subtasks' writers, in the
    /// order of the subtasks, of which there may have been more or fewer. Each writer takes its share
    /// by a rule of the sink's own.
    pub restored: Option<Arc<[Vec<u8>]>>,
}
