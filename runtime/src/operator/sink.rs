//! The end of a stream: its records leave the job.

use super::{Operator, Signal, fail, in_user_code};
use crate::checkpoint::{SinkTransactions, SubtaskCheckpoints};
use crate::error::BoxError;
use crate::metrics::SubtaskMetrics;
use crate::rows::Rows;
use crate::sink::{PreCommit, Prepared, SinkWriter};
use crate::source::SlotWaker;
use crate::subtask::SubtaskContext;
use millstream_state::OperatorList;
use millstream_types::{Barrier, CheckpointId, OperatorId, Timestamp};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// Writes every record to a [`SinkWriter`], and brings its transactions into checkpoints.
pub struct SinkOperator<W> {
    id: OperatorId,
    writer: W,
    written: u64,
    state: SinkState,
    end: End,
    metrics: Arc<SubtaskMetrics>,
}

/// How far a writer has come with its end.
enum End {
    /// Not begun, or not come to.
    Open,
    /// All is handed over, and the last transaction is being prepared.
    Preparing(Receiver<Result<(), BoxError>>),
    Finished,
}

/// What a sink keeps beside what its writer holds.
pub struct SinkState {
    id: OperatorId,
    /// What writers go on with.
    writers: OperatorList<Vec<u8>>,
    /// What is to be committed again if the job is restored.
    transactions: OperatorList<Vec<u8>>,
    pending: SinkTransactions,
    checkpoints: Rc<SubtaskCheckpoints>,
    waker: SlotWaker,
}

impl SinkState {
    /// The state of operator `id`, kept in these lists.
    pub fn new(
        id: OperatorId,
        writers: OperatorList<Vec<u8>>,
        transactions: OperatorList<Vec<u8>>,
        context: &SubtaskContext,
    ) -> Self {
        let checkpoints = Rc::clone(&context.checkpoints);
        let pending = checkpoints.add_sink(id);
        let waker = context.waker.clone();
        Self { id, writers, transactions, pending, checkpoints, waker }
    }

    /// Takes up what a writer hands over for a checkpoint; `None` after the end of the input.
    fn take_up(&self, checkpoint: Option<CheckpointId>, handed_over: PreCommit) {
        let PreCommit { state, transaction } = handed_over;
        let completed = self.checkpoints.completed();
        let mut pending = self.pending.borrow_mut();
        pending.retain(|(part_of, _)| part_of.is_none_or(|part_of| part_of > completed));
        pending.extend(transaction.map(|bytes| (checkpoint, bytes)));
        let kept = self.writers.set(state);
        let kept = kept
            .and_then(|()| self.transactions.set(pending.iter().map(|(_, bytes)| bytes.clone())));
        drop(pending);
        kept.unwrap_or_else(|error| fail(self.id, error.into()));
    }
}

impl<W> SinkOperator<W> {
    /// Writes to `writer` on behalf of operator `id`.
    pub fn new(id: OperatorId, writer: W, state: SinkState, metrics: Arc<SubtaskMetrics>) -> Self {
        Self { id, writer, written: 0, state, end: End::Open, metrics }
    }

    fn pre_commit<T>(&mut self, checkpoint: Option<CheckpointId>, prepared: Prepared)
    where
        W: SinkWriter<T>,
    {
        match in_user_code(self.id, || self.writer.pre_commit(prepared)) {
            Ok(handed_over) => self.state.take_up(checkpoint, handed_over),
            Err(error) => fail(self.id, error),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.end, End::Open)
    }

    fn report(&mut self) {
        self.metrics.add_written(std::mem::take(&mut self.written));
    }
}

impl<T, W: SinkWriter<T>> Operator<T> for SinkOperator<W> {
    #[inline(always)]
    fn record(&mut self, value: T, timestamp: Timestamp) {
        self.written += 1;
        if let Err(error) = in_user_code(self.id, || self.writer.write(value, timestamp)) {
            fail(self.id, error);
        }
    }

    #[inline]
    fn batch(&mut self, rows: &mut Rows<T>) {
        rows.drain_each(|value, timestamp| self.record(value, timestamp));
        self.report();
    }

    fn watermark(&mut self, _: Timestamp) {}

    fn resume(&mut self, _: Timestamp) {}

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::LatencyMarker(marker) => {
                let latency = Timestamp::now().since(marker.emitted);
                self.metrics.record_latency(latency.as_nanos() as u64);
            }
            Signal::Barrier(Barrier { checkpoint }, _) if self.is_open() => {
                self.report();
                let prepared = self.state.checkpoints.prepared(checkpoint);
                self.pre_commit(Some(checkpoint), prepared);
            }
            Signal::Barrier(..)
            | Signal::Recovering(_)
            | Signal::Idle
            | Signal::Active
            | Signal::EndOfInput => {}
        }
    }

    fn tick(&mut self, _: Timestamp) {
        self.report();
    }

    fn next_deadline(&self) -> Timestamp {
        Timestamp::MAX
    }

    fn flush(&mut self) {
        self.report();
        // The chain may have another end, which has not finished yet.
        if !self.is_open() {
            return;
        }
        if let Err(error) = in_user_code(self.id, || self.writer.flush()) {
            fail(self.id, error);
        }
    }

    fn is_blocked(&mut self) -> bool {
        self.is_open() && self.writer.is_blocked()
    }

    fn is_finished(&mut self) -> bool {
        if self.is_open() {
            match in_user_code(self.id, || self.writer.finish()) {
                Ok(false) => return false,
                Ok(true) => {
                    let (told, hear) = channel();
                    let waker = self.state.waker.clone();
                    let prepared = Prepared::new(move |result| {
                        // An error means that the job has ended meanwhile.
                        let _ = told.send(result);
                        waker.wake();
                    });
                    self.pre_commit(None, prepared);
                    self.end = End::Preparing(hear);
                }
                Err(error) => fail(self.id, error),
            }
        }
        if let End::Preparing(hear) = &self.end {
            match hear.try_recv() {
                Ok(Ok(())) => self.end = End::Finished,
                Ok(Err(error)) => fail(self.id, error),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    unreachable!("a dropped `Prepared` says that it was")
                }
            }
        }
        true
    }
}
