//! A chain that begins with a source.

use super::head::poll_ended;
use super::{Progress, Subtask};
use crate::checkpoint::{Participant, Phase};
use crate::metrics::SubtaskMetrics;
use crate::operator::{Collector, Operator, Signal, fail};
use crate::source::{Pace, PollBudget, SourceOutput, SourceReader, SourceStatus, for_each_up_to};
use millstream_protocol::CheckpointKind;
use millstream_state::OperatorList;
use millstream_types::{CheckpointId, LatencyMarker, OperatorId, Timestamp};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    participant: Participant,
    /// What the reader says of where it is.
    positions: OperatorList<Vec<u8>>,
    phase: Phase,
    /// The job stops with the barrier that was emitted last: nothing follows it.
    stopped: bool,
    pace: Option<Pace>,
    budget: PollBudget,
}

impl<R: SourceReader, N: Operator<R::Out>> SourceSubtask<R, N> {
    /// Pushes what `reader` emits into `chain`.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub(crate) fn new(
        operator: OperatorId,
        reader: R,
        chain: N,
        participant: Participant,
        positions: OperatorList<Vec<u8>>,
        metrics: Arc<SubtaskMetrics>,
        latency_interval: Option<Duration>,
        pace: Option<Pace>,
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
            participant,
            positions,
            phase: Phase::Running,
            stopped: false,
            pace,
            budget: PollBudget::new(),
        }
    }

    /// Hands over what came before the barrier. Timers do not fire any more.
    fn poll_stopped(&mut self) -> Progress {
        if std::mem::take(&mut self.dirty) {
            self.chain.flush();
        }
        Progress::Idle
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
        if self.phase != Phase::Running {
            return poll_ended(&mut self.chain, &mut self.participant, &mut self.phase);
        }
        if self.chain.is_blocked() {
            self.metrics.count_blocked();
            return Progress::Blocked;
        }
        if self.stopped {
            return self.poll_stopped();
        }
        let due = self.pace.as_ref().map_or(u64::MAX, |pace| pace.room(now));
        let room = due.min(self.budget.records());
        let mut out = Entrance { chain: &mut self.chain, emitted: 0, room };
        let start = Instant::now();
        let status = match (&self.pace, due) {
            (Some(pace), 0) => SourceStatus::Pending { until: pace.next(now) },
            _ => match self.reader.poll(&mut out) {
                Ok(status) => status,
                Err(error) => fail(self.operator, error),
            },
        };
        let emitted = out.emitted;
        if emitted > 0 {
            self.budget.polled(emitted, start.elapsed());
        }
        if let Some(pace) = &mut self.pace {
            pace.emitted(emitted, now);
        }
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
                self.phase = Phase::Ended;
                self.dirty = true;
            }
        }
        if self.dirty {
            self.dirty = false;
            self.chain.flush();
        }
        let ended = self.phase != Phase::Running;
        if emitted > 0 || ended { Progress::Busy } else { Progress::Idle }
    }

    fn next_deadline(&self) -> Timestamp {
        match self.phase {
            Phase::Running if self.stopped => Timestamp::MAX,
            Phase::Running => self.until.min(self.chain.next_deadline()),
            Phase::Ended | Phase::Finished => Timestamp::MAX,
        }
    }

    fn resume(&mut self) {
        if let Some(watermark) = self.participant.restored() {
            self.chain.resume(watermark);
            self.participant.begin(true, |signal| self.chain.signal(signal));
            self.dirty = true;
        }
    }

    fn announce(&mut self, checkpoint: CheckpointId, kind: CheckpointKind) {
        let Self { operator, reader, chain, participant, positions, phase, .. } = self;
        let noted = reader.snapshot().and_then(|at| Ok(positions.set(at)?));
        noted.unwrap_or_else(|error| fail(*operator, error));
        participant.on_announce(checkpoint, *phase, Timestamp::MIN, |signal| chain.signal(signal));
        self.dirty = true;
        self.stopped |= kind == CheckpointKind::Stop;
    }

    fn abort(&mut self, checkpoint: CheckpointId) {
        self.participant.on_abort(checkpoint);
    }
}

/// Where the reader emits: the first operator of the chain.
struct Entrance<'a, N> {
    chain: &'a mut N,
    emitted: u64,
    /// How many may be emitted.
    room: u64,
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
        self.emitted >= self.room || self.chain.is_blocked()
    }

    #[inline]
    fn room(&mut self) -> u64 {
        self.room.saturating_sub(self.emitted)
    }

    #[inline(always)]
    fn collect_all(&mut self, records: &mut impl Iterator<Item = T>, most: u64) -> u64 {
        let chain = &mut *self.chain;
        let count = for_each_up_to(most, records, |record| chain.record(record, Timestamp::MIN));
        self.emitted += count;
        count
    }
}
