//! A chain that reads from other subtasks.

use super::{BATCHES_PER_POLL, Progress, Subtask};
use crate::checkpoint::{Participant, Phase};
use crate::exchange::{Event, InputGate};
use crate::metrics::SubtaskMetrics;
use crate::operator::{Operator, Signal};
use millstream_protocol::{Alignment, CheckpointKind};
use millstream_state::Data;
use millstream_types::{CheckpointId, Timestamp};
use std::sync::Arc;

/// A gate and the chain behind it.
pub struct HeadSubtask<T: Send + 'static, N> {
    gate: InputGate<T>,
    chain: N,
    participant: Participant,
    phase: Phase,
    watermark: Timestamp,
    metrics: Arc<SubtaskMetrics>,
    /// Something was pushed since the last flush.
    dirty: bool,
    /// Barriers may overtake.
    looks_ahead: bool,
}

impl<T: Data, N: Operator<T>> HeadSubtask<T, N> {
    /// Pushes what comes through `gate` into `chain`.
    pub(crate) fn new(
        mut gate: InputGate<T>,
        chain: N,
        participant: Participant,
        metrics: Arc<SubtaskMetrics>,
    ) -> Self {
        let captures = participant.captures();
        let looks_ahead = captures.is_some();
        gate.capture_into(captures);
        Self {
            gate,
            looks_ahead,
            chain,
            participant,
            phase: Phase::Running,
            watermark: Timestamp::MIN,
            metrics,
            dirty: false,
        }
    }

    /// True if there was an event.
    fn step(&mut self) -> bool {
        match self.gate.poll(self.participant.aligner()) {
            Some(Event::Batch { channel, mut rows }) => {
                self.metrics.add_in(rows.len() as u64);
                self.chain.batch(&mut rows);
                self.gate.give_back(channel, rows);
            }
            Some(Event::Watermark(watermark)) => self.advance(watermark),
            Some(Event::Checkpoint(alignment)) => {
                self.perform(alignment);
            }
            Some(Event::LatencyMarker(m)) => self.chain.signal(Signal::LatencyMarker(m)),
            Some(Event::Idle) => self.chain.signal(Signal::Idle),
            Some(Event::Active) => self.chain.signal(Signal::Active),
            Some(Event::EndOfInput) => {
                self.advance(Timestamp::MAX);
                self.chain.signal(Signal::EndOfInput);
                self.phase = Phase::Ended;
            }
            None => return false,
        }
        self.dirty = true;
        true
    }

    fn perform(&mut self, alignment: Alignment) {
        let Self { participant, chain, phase, watermark, .. } = self;
        participant.perform(alignment, *phase, *watermark, |signal| chain.signal(signal));
    }

    /// Passes on barriers that overtake, which need no credit; true if there was one.
    fn look_ahead(&mut self, now: Timestamp) -> bool {
        let overdue = self.participant.overdue(now);
        let mut any = false;
        while let Some(alignment) = self.gate.look_ahead(overdue, self.participant.aligner()) {
            self.perform(alignment);
            any = true;
        }
        self.dirty |= any;
        any
    }

    fn advance(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.metrics.set_watermark(watermark);
        self.chain.watermark(watermark);
    }
}

impl<T: Data, N: Operator<T>> Subtask for HeadSubtask<T, N> {
    fn poll(&mut self, now: Timestamp) -> Progress {
        if self.phase != Phase::Running {
            return poll_ended(&mut self.chain, &mut self.participant, &mut self.phase);
        }
        let overtaken = self.looks_ahead && self.look_ahead(now);
        if self.chain.is_blocked() {
            self.metrics.count_blocked();
            return if overtaken { Progress::Busy } else { Progress::Blocked };
        }
        let mut events = usize::from(overtaken);
        let mut dry = false;
        while events < BATCHES_PER_POLL && self.phase == Phase::Running {
            if !self.step() {
                dry = true;
                break;
            }
            events += 1;
            if self.chain.is_blocked() {
                break;
            }
        }
        let ended = self.phase != Phase::Running;
        if !ended {
            self.chain.tick(now);
        }
        if (dry || ended) && self.dirty {
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
        if self.phase == Phase::Running { self.chain.next_deadline() } else { Timestamp::MAX }
    }

    fn overtake_at(&self) -> Timestamp {
        self.participant.overtake_at()
    }

    fn resume(&mut self) {
        if let Some(watermark) = self.participant.restored() {
            self.watermark = watermark;
            self.gate.resume(watermark);
            self.chain.resume(watermark);
            self.participant.begin(false, |signal| self.chain.signal(signal));
            self.dirty = true;
        }
    }

    fn announce(&mut self, checkpoint: CheckpointId, _: CheckpointKind) {
        let Self { participant, chain, phase, watermark, .. } = self;
        participant.on_announce(checkpoint, *phase, *watermark, |signal| chain.signal(signal));
    }

    fn abort(&mut self, checkpoint: CheckpointId) {
        self.participant.on_abort(checkpoint);
    }
}

/// Polls a chain whose input has ended until it has handed over everything.
///
/// It is told the time no more: a timer that fired now would emit behind the end of input, and one
/// of the chain's ends may have finished before the others.
pub(super) fn poll_ended<T>(
    chain: &mut impl Operator<T>,
    participant: &mut Participant,
    phase: &mut Phase,
) -> Progress {
    chain.flush();
    if !chain.is_finished() {
        return Progress::Idle;
    }
    *phase = Phase::Finished;
    participant.on_finished();
    Progress::Finished
}
