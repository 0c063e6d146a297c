//! Timestamps and watermarks: where event time begins.

use super::{Operator, Signal, fail, in_user_code};
use crate::forward_to_next;
use millstream_state::OperatorList;
use millstream_types::{OperatorId, Timestamp};
use std::time::Duration;

/// How a stream's event time is made: each record's timestamp, and how far behind the greatest
/// timestamp seen the watermark stays.
///
/// A watermark of `t` says that no record at or before `t` follows. With records at most `d` out
/// of order, after a greatest timestamp of `m` that is true for `m - d - 1 ns`.
#[derive(Clone, Debug)]
pub struct WatermarkStrategy<F> {
    timestamp: F,
    out_of_orderness: Duration,
    idle_after: Option<Duration>,
}

impl<F> WatermarkStrategy<F> {
    /// For a stream (of each source subtask) whose timestamps never go back.
    pub fn monotonic(timestamp: F) -> Self {
        Self::bounded_out_of_orderness(Duration::ZERO, timestamp)
    }

    /// For a stream whose records come at most `bound` (of event time) after a later one. Those
    /// that come even later are late: windows drop them, or put them out aside.
    pub fn bounded_out_of_orderness(bound: Duration, timestamp: F) -> Self {
        Self { timestamp, out_of_orderness: bound, idle_after: None }
    }

    /// Declares the stream idle when nothing came for this long (of processing time) though it was
    /// read, so that it does not hold back the watermark of those that it is merged with. Time in
    /// which backpressure kept it from being read does not count.
    pub fn with_idleness(mut self, after: Duration) -> Self {
        self.idle_after = Some(after);
        self
    }
}

/// What one subtask knows of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The greatest timestamp that it has seen.
    pub greatest: Timestamp,
    /// The watermark that it has emitted last.
    pub emitted: Timestamp,
}

impl Default for EventTime {
    fn default() -> Self {
        Self { greatest: Timestamp::MIN, emitted: Timestamp::MIN }
    }
}

impl EventTime {
    /// What a subtask knows after a restart, from what all subtasks kept before: the least of all,
    /// because what they read may be dealt out anew, and a watermark that one of them was entitled to
    /// would make another's records late.
    pub fn restored(kept: &[(i64, i64)]) -> Self {
        let of = |(greatest, emitted): &(i64, i64)| Self {
            greatest: Timestamp::from_nanos(*greatest),
            emitted: Timestamp::from_nanos(*emitted),
        };
        let least = |a: Self, b: Self| Self {
            greatest: a.greatest.min(b.greatest),
            emitted: a.emitted.min(b.emitted),
        };
        kept.iter().map(of).reduce(least).unwrap_or_default()
    }
}

/// The least processing time between two watermarks while records keep coming. When the input runs
/// dry the watermark goes at once.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(1);

/// Gives each record its timestamp and generates watermarks.
pub struct AssignTimestamps<F, N> {
    id: OperatorId,
    strategy: WatermarkStrategy<F>,
    /// The greatest timestamp so far.
    greatest: Timestamp,
    emitted: Timestamp,
    emitted_at: Timestamp,
    idleness: Idleness,
    kept: OperatorList<(i64, i64)>,
    next: N,
}

/// What is known of the input's idleness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idleness {
    /// Records came since the last tick.
    Active,
    /// No record since the tick at this time.
    Quiet(Timestamp),
    /// Declared idle.
    Idle,
}

impl<F, N> AssignTimestamps<F, N> {
    /// A link that applies `strategy` and pushes into `next`. What it knows of event time it keeps in
    /// `kept`, and goes on with `known`.
    pub fn new(
        id: OperatorId,
        strategy: WatermarkStrategy<F>,
        known: EventTime,
        kept: OperatorList<(i64, i64)>,
        next: N,
    ) -> Self {
        Self {
            id,
            strategy,
            greatest: known.greatest,
            emitted: known.emitted,
            emitted_at: Timestamp::MIN,
            idleness: Idleness::Active,
            kept,
            next,
        }
    }

    /// The watermark that the records so far allow.
    fn current(&self) -> Timestamp {
        if self.greatest.is_some() {
            self.greatest - self.strategy.out_of_orderness - Duration::from_nanos(1)
        } else {
            Timestamp::MIN
        }
    }

    // Out of the loop of records, which would be too large to be inlined into the source's.
    #[cold]
    #[inline(never)]
    fn activate<In>(&mut self)
    where
        N: Operator<In>,
    {
        if self.idleness == Idleness::Idle {
            self.next.signal(Signal::Active);
        }
        self.idleness = Idleness::Active;
    }

    fn emit<In>(&mut self)
    where
        N: Operator<In>,
    {
        let watermark = self.current();
        if watermark > self.emitted {
            self.emitted = watermark;
            self.next.watermark(watermark);
        }
    }
}

impl<In, F, N> Operator<In> for AssignTimestamps<F, N>
where
    F: FnMut(&In) -> Timestamp + 'static,
    N: Operator<In>,
{
    #[inline(always)]
    fn record(&mut self, value: In, _: Timestamp) {
        let timestamp = in_user_code(self.id, || (self.strategy.timestamp)(&value));
        // A branch, not a maximum: streams come nearly in order, so that it is predicted, and no
        // record waits for what the one before it stored.
        if timestamp >= self.greatest {
            self.greatest = timestamp;
        }
        if self.idleness != Idleness::Active {
            self.activate();
        }
        self.next.record(value, timestamp);
    }

    /// Watermarks from before are of another time line: only the one after the end of input counts.
    fn watermark(&mut self, watermark: Timestamp) {
        if watermark == Timestamp::MAX {
            self.emitted = watermark;
            self.next.watermark(watermark);
        }
    }

    fn resume(&mut self, _: Timestamp) {
        self.next.resume(self.emitted);
    }

    fn signal(&mut self, signal: Signal) {
        if let Signal::Barrier(..) | Signal::EndOfInput = signal {
            let known = (self.greatest.as_nanos(), self.emitted.as_nanos());
            self.kept.set([known]).unwrap_or_else(|error| fail(self.id, error.into()));
        }
        self.next.signal(signal);
    }

    fn tick(&mut self, now: Timestamp) {
        if now >= self.emitted_at + WATERMARK_INTERVAL {
            self.emitted_at = now;
            self.emit();
        }
        if let Some(after) = self.strategy.idle_after {
            match self.idleness {
                Idleness::Active => self.idleness = Idleness::Quiet(now),
                Idleness::Quiet(since) if now >= since + after => {
                    self.idleness = Idleness::Idle;
                    self.next.signal(Signal::Idle);
                }
                Idleness::Quiet(_) | Idleness::Idle => {}
            }
        }
        self.next.tick(now);
    }

    fn next_deadline(&self) -> Timestamp {
        let idle = match (self.strategy.idle_after, self.idleness) {
            (Some(after), Idleness::Quiet(since)) => since + after,
            _ => Timestamp::MAX,
        };
        idle.min(self.next.next_deadline())
    }

    fn flush(&mut self) {
        self.emit();
        self.next.flush();
    }

    forward_to_next!(is_blocked, is_finished);
}
