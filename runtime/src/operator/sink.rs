//! The end of a stream: its records leave the job.

use super::{Operator, Signal, fail, in_user_code};
use crate::metrics::SubtaskMetrics;
use crate::rows::Rows;
use crate::sink::SinkWriter;
use millstream_types::{OperatorId, Timestamp};
use std::sync::Arc;

/// Writes every record to a [`SinkWriter`].
pub struct SinkOperator<W> {
    id: OperatorId,
    writer: W,
    written: u64,
    finished: bool,
    metrics: Arc<SubtaskMetrics>,
}

impl<W> SinkOperator<W> {
    /// Writes to `writer` on behalf of operator `id`.
    pub fn new(id: OperatorId, writer: W, metrics: Arc<SubtaskMetrics>) -> Self {
        Self { id, writer, written: 0, finished: false, metrics }
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
        if let Signal::LatencyMarker(marker) = signal {
            let latency = Timestamp::now().since(marker.emitted);
            self.metrics.record_latency(latency.as_nanos() as u64);
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
        if self.finished {
            return;
        }
        if let Err(error) = in_user_code(self.id, || self.writer.flush()) {
            fail(self.id, error);
        }
    }

    fn is_blocked(&mut self) -> bool {
        !self.finished && self.writer.is_blocked()
    }

    fn is_finished(&mut self) -> bool {
        if !self.finished {
            match in_user_code(self.id, || self.writer.finish()) {
                Ok(finished) => self.finished = finished,
                Err(error) => fail(self.id, error),
            }
        }
        self.finished
    }
}
