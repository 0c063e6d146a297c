//! A chain that reads from other subtasks.

use super::{BATCHES_PER_POLL, Progress, Subtask};
use crate::exchange::{Event, InputGate};
use crate::metrics::SubtaskMetrics;
use crate::operator::{Operator, Signal};
use millstream_types::Timestamp;
use std::sync::Arc;

/// A gate and the chain behind it.
pub struct HeadSubtask<T: Send + 'static, N> {
    gate: InputGate<T>,
    chain: N,
    metrics: Arc<SubtaskMetrics>,
    /// Something was pushed since the last flush.
    dirty: bool,
    ended: bool,
}

impl<T: Send + 'static, N: Operator<T>> HeadSubtask<T, N> {
    /// Pushes what comes through `gate` into `chain`.
    pub fn new(gate: InputGate<T>, chain: N, metrics: Arc<SubtaskMetrics>) -> Self {
        Self { gate, chain, metrics, dirty: false, ended: false }
    }

    /// True if there was an event.
    fn step(&mut self) -> bool {
        match self.gate.poll() {
            Some(Event::Batch { channel, mut rows }) => {
                self.metrics.add_in(rows.len() as u64);
                self.chain.batch(&mut rows);
                self.gate.give_back(channel, rows);
            }
            Some(Event::Watermark(watermark)) => {
                self.metrics.set_watermark(watermark);
                self.chain.watermark(watermark);
            }
            Some(Event::Barrier(barrier)) => self.chain.signal(Signal::Barrier(barrier)),
            Some(Event::LatencyMarker(m)) => self.chain.signal(Signal::LatencyMarker(m)),
            Some(Event::Idle) => self.chain.signal(Signal::Idle),
            Some(Event::Active) => self.chain.signal(Signal::Active),
            Some(Event::EndOfInput) => {
                self.metrics.set_watermark(Timestamp::MAX);
                self.chain.watermark(Timestamp::MAX);
                self.chain.signal(Signal::EndOfInput);
                self.ended = true;
            }
            None => return false,
        }
        self.dirty = true;
        true
    }
}

impl<T: Send + 'static, N: Operator<T>> Subtask for HeadSubtask<T, N> {
    fn poll(&mut self, now: Timestamp) -> Progress {
        if self.ended {
            return poll_ended(&mut self.chain);
        }
        if self.chain.is_blocked() {
            self.metrics.count_blocked();
            return Progress::Blocked;
        }
        let mut events = 0;
        let mut dry = false;
        while events < BATCHES_PER_POLL && !self.ended {
            if !self.step() {
                dry = true;
                break;
            }
            events += 1;
            if self.chain.is_blocked() {
                break;
            }
        }
        if !self.ended {
            self.chain.tick(now);
        }
        if (dry || self.ended) && self.dirty {
            self.dirty = false;
            self.chain.flush();
        }
        if !self.gate.take_absorbed() && events == 0 {
            return Progress::Idle;
        }
        self.metrics.count_busy();
        Progress::Busy
    }

    fn next_deadline(&self) -> Timestamp {
        if self.ended { Timestamp::MAX } else { self.chain.next_deadline() }
    }
}

/// Polls a chain whose input has ended until it has handed over everything.
///
/// It is told the time no more: a timer that fired now would emit behind the end of input, and one
/// of the chain's ends may have finished before the others.
pub(super) fn poll_ended<T>(chain: &mut impl Operator<T>) -> Progress {
    chain.flush();
    if chain.is_finished() { Progress::Finished } else { Progress::Idle }
}
