//! A chain that begins with a source.

use super::{Progress, Subtask};
use crate::metrics::SubtaskMetrics;
use crate::operator::{Collector, Operator, Signal, fail};
use crate::source::{SourceOutput, SourceReader, SourceStatus, for_each_up_to};
use millstream_types::{LatencyMarker, OperatorId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A reader and the chain behind it.
pub struct SourceSubtask<R, N> {
    operator: OperatorId,
    reader: R,
    chain: N,
    metrics: Arc<SubtaskMetrics>,
    latency_interval: Option<Duration>,
    next_marker: Timestamp,
    /// When to poll again; the reader's word.
    until: Timestamp,
    dirty: bool,
    ended: bool,
}

impl<R: SourceReader, N: Operator<R::Out>> SourceSubtask<R, N> {
    /// Pushes what `reader` emits into `chain`.
    pub fn new(
        operator: OperatorId,
        reader: R,
        chain: N,
        metrics: Arc<SubtaskMetrics>,
        latency_interval: Option<Duration>,
    ) -> Self {
        Self {
            operator,
            reader,
            chain,
            metrics,
            latency_interval,
            next_marker: Timestamp::MIN,
            until: Timestamp::MAX,
            dirty: false,
            ended: false,
        }
    }

    fn emit_latency_marker(&mut self, now: Timestamp) {
        if let Some(interval) = self.latency_interval
            && now >= self.next_marker
        {
            self.next_marker = now + interval;
            // The clock of the poll may be old by as much as the poll took so far.
            let emitted = Timestamp::now();
            self.chain.signal(Signal::LatencyMarker(LatencyMarker { emitted }));
        }
    }
}

impl<R: SourceReader, N: Operator<R::Out>> Subtask for SourceSubtask<R, N> {
    fn poll(&mut self, now: Timestamp) -> Progress {
        if self.ended {
            return super::head::poll_ended(&mut self.chain);
        }
        if self.chain.is_blocked() {
            self.metrics.count_blocked();
            return Progress::Blocked;
        }
        let mut out = Entrance { chain: &mut self.chain, emitted: 0 };
        let status = match self.reader.poll(&mut out) {
            Ok(status) => status,
            Err(error) => fail(self.operator, error),
        };
        let emitted = out.emitted;
        if emitted > 0 {
            self.metrics.add_in(emitted);
            self.dirty = true;
        }
        self.emit_latency_marker(now);
        self.chain.tick(now);
        self.until = Timestamp::MAX;
        match status {
            SourceStatus::More => {
                self.metrics.count_busy();
                return Progress::Busy;
            }
            SourceStatus::Pending { until } => self.until = until,
            SourceStatus::Finished => {
                self.chain.watermark(Timestamp::MAX);
                self.chain.signal(Signal::EndOfInput);
                self.ended = true;
                self.dirty = true;
            }
        }
        if self.dirty {
            self.dirty = false;
            self.chain.flush();
        }
        if emitted > 0 || self.ended { Progress::Busy } else { Progress::Idle }
    }

    fn next_deadline(&self) -> Timestamp {
        if self.ended { Timestamp::MAX } else { self.until.min(self.chain.next_deadline()) }
    }
}

/// Where the reader emits: the first operator of the chain.
struct Entrance<'a, N> {
    chain: &'a mut N,
    emitted: u64,
}

impl<T, N: Operator<T>> Collector<T> for Entrance<'_, N> {
    #[inline(always)]
    fn collect(&mut self, value: T) {
        self.emitted += 1;
        self.chain.record(value, Timestamp::MIN);
    }

    #[inline(always)]
    fn collect_at(&mut self, value: T, timestamp: Timestamp) {
        self.emitted += 1;
        self.chain.record(value, timestamp);
    }
}

impl<T, N: Operator<T>> SourceOutput<T> for Entrance<'_, N> {
    #[inline]
    fn is_blocked(&mut self) -> bool {
        self.chain.is_blocked()
    }

    #[inline(always)]
    fn collect_all(&mut self, records: &mut impl Iterator<Item = T>, most: u64) -> u64 {
        let chain = &mut *self.chain;
        let count = for_each_up_to(most, records, |record| chain.record(record, Timestamp::MIN));
        self.emitted += count;
        count
    }
}
