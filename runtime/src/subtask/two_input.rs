//! A chain that reads two streams of different types.

use super::{BATCHES_PER_POLL, Progress, Subtask};
use crate::checkpoint::{Participant, Phase};
use crate::exchange::{Event, Finish, InputGate, Valve};
use crate::metrics::SubtaskMetrics;
use crate::operator::{Signal, TwoInputOperator};
use millstream_protocol::{Alignment, CheckpointKind};
use millstream_state::Data;
use millstream_types::{CheckpointId, Timestamp};
use std::sync::Arc;

/// Two gates and the chain behind them.
pub struct TwoInputSubtask<L: Send + 'static, R: Send + 'static, N> {
    left: InputGate<L>,
    right: InputGate<R>,
    /// Combines the two gates' watermarks: left is channel 0, right is channel 1.
    valve: Valve,
    chain: N,
    /// Over the channels of both gates: those of the left one come first.
    participant: Participant,
    phase: Phase,
    watermark: Timestamp,
    metrics: Arc<SubtaskMetrics>,
    dirty: bool,
    /// Barriers may overtake.
    looks_ahead: bool,
}

impl<L, R, N> TwoInputSubtask<L, R, N>
where
    L: Data,
    R: Data,
    N: TwoInputOperator<L, R>,
{
    /// Pushes what comes through both gates into `chain`.
    pub(crate) fn new(
        mut left: InputGate<L>,
        mut right: InputGate<R>,
        chain: N,
        participant: Participant,
        metrics: Arc<SubtaskMetrics>,
    ) -> Self {
        let captures = participant.captures();
        let looks_ahead = captures.is_some();
        left.capture_into(captures.clone());
        right.capture_into(captures);
        Self {
            looks_ahead,
            left,
            right,
            valve: Valve::new(2),
            chain,
            participant,
            phase: Phase::Running,
            watermark: Timestamp::MIN,
            metrics,
            dirty: false,
        }
    }

    fn step_left(&mut self) -> bool {
        let control = match self.left.poll(self.participant.aligner()) {
            Some(Event::Batch { channel, mut rows }) => {
                self.metrics.add_in(rows.len() as u64);
                self.chain.left_batch(&mut rows);
                self.left.give_back(channel, rows);
                self.dirty = true;
                return true;
            }
            Some(event) => event.into_control(),
            None => return false,
        };
        self.on_control(0, control);
        true
    }

    fn step_right(&mut self) -> bool {
        let control = match self.right.poll(self.participant.aligner()) {
            Some(Event::Batch { channel, mut rows }) => {
                self.metrics.add_in(rows.len() as u64);
                self.chain.right_batch(&mut rows);
                self.right.give_back(channel, rows);
                self.dirty = true;
                return true;
            }
            Some(event) => event.into_control(),
            None => return false,
        };
        self.on_control(1, control);
        true
    }

    fn on_control(&mut self, side: usize, control: Event<std::convert::Infallible>) {
        self.dirty = true;
        let watermark = match control {
            Event::Batch { .. } => unreachable!("control carries no rows"),
            Event::Watermark(watermark) => self.valve.watermark(side, watermark),
            Event::Checkpoint(alignment) => {
                self.perform(alignment);
                None
            }
            Event::LatencyMarker(marker) => {
                self.chain.signal(Signal::LatencyMarker(marker));
                None
            }
            Event::Idle => {
                let (watermark, idle) = self.valve.idle(side);
                if idle {
                    self.advance(watermark);
                    self.chain.signal(Signal::Idle);
                    return;
                }
                watermark
            }
            Event::Active => {
                if self.valve.active(side) {
                    self.chain.signal(Signal::Active);
                }
                None
            }
            Event::EndOfInput => {
                let (watermark, finish) = self.valve.finish(side);
                match finish {
                    Finish::Ended => {
                        self.advance(Some(Timestamp::MAX));
                        self.chain.signal(Signal::EndOfInput);
                        self.phase = Phase::Ended;
                        return;
                    }
                    Finish::OthersIdle => {
                        self.advance(watermark);
                        self.chain.signal(Signal::Idle);
                        return;
                    }
                    Finish::OthersGoOn => watermark,
                }
            }
        };
        self.advance(watermark);
    }

    fn perform(&mut self, alignment: Alignment) {
        let Self { participant, chain, phase, watermark, .. } = self;
        participant.perform(alignment, *phase, *watermark, |signal| chain.signal(signal));
    }

    /// Passes on barriers that overtake, which need no credit; true if there was one.
    fn look_ahead(&mut self, now: Timestamp) -> bool {
        let overdue = self.participant.overdue(now);
        let mut any = false;
        loop {
            let aligner = self.participant.aligner();
            let left = self.left.look_ahead(overdue, aligner);
            let Some(alignment) = left.or_else(|| self.right.look_ahead(overdue, aligner)) else {
                break;
            };
            self.perform(alignment);
            any = true;
        }
        self.dirty |= any;
        any
    }

    fn advance(&mut self, watermark: Option<Timestamp>) {
        if let Some(watermark) = watermark {
            self.watermark = watermark;
            self.metrics.set_watermark(watermark);
            self.chain.watermark(watermark);
        }
    }
}

impl<L, R, N> Subtask for TwoInputSubtask<L, R, N>
where
    L: Data,
    R: Data,
    N: TwoInputOperator<L, R>,
{
    fn poll(&mut self, now: Timestamp) -> Progress {
        if self.phase != Phase::Running {
            // Without the time, for the reason that `poll_ended` gives.
            self.chain.flush();
            if !self.chain.is_finished() {
                return Progress::Idle;
            }
            self.phase = Phase::Finished;
            self.participant.on_finished();
            return Progress::Finished;
        }
        let overtaken = self.looks_ahead && self.look_ahead(now);
        if self.chain.is_blocked() {
            self.metrics.count_blocked();
            return if overtaken { Progress::Busy } else { Progress::Blocked };
        }
        let mut events = usize::from(overtaken);
        let mut dry = false;
        while events < BATCHES_PER_POLL && self.phase == Phase::Running {
            let left = self.step_left();
            let right = self.phase == Phase::Running && self.step_right();
            if !left && !right {
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
        let absorbed = self.left.take_absorbed() | self.right.take_absorbed();
        if !absorbed && events == 0 {
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
            self.valve.resume(watermark);
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
