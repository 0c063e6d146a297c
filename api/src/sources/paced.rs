//! A source that is slowed down.

use crate::Timestamp;
use crate::connector::{
    BoxError, Collector, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader,
    SourceStatus,
};
use std::time::Duration;

/// What a subtask may catch up with after it was held up: so much of a second's records.
const BURST: Duration = Duration::from_millis(100);
/// How long records are gathered, so that a slot need not wake for each.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A source that emits at most so many records per second, over all its subtasks.
///
/// Each subtask emits an equal share; one that has come to its end leaves its share unused. A subtask
/// that was held up catches up with a tenth of a second at the most. To be stopped at the very
/// record, a reader heeds [`SourceOutput::room`], as all of this project do; what another emits beyond
/// it is made good by a longer wait.
///
/// ```
/// use millstream::{Collection, Config, Environment, Paced};
/// let env = Environment::new(Config::default());
/// let numbers = Paced::new(Collection::new(0..10), Some(1_000.0));
/// let numbers = env.from_source("numbers", numbers).collect();
/// env.execute("ten in a hundredth of a second")?;
/// assert_eq!(numbers.take(), (0..10).collect::<Vec<_>>());
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Paced<S> {
    source: S,
    rate: Option<f64>,
}

impl<S: Source> Paced<S> {
    /// Limits `source` to so many records per second; to none for `None`.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn new(source: S, records_per_second: Option<f64>) -> Self {
        if let Some(rate) = records_per_second {
            assert!(rate > 0.0, "a rate must be above zero, not {rate}");
        }
        Self { source, rate: records_per_second }
    }
}

impl<S: Source> Source for Paced<S> {
    type Out = S::Out;
    type Reader = PacedReader<S::Reader>;

    fn validate(&self) -> Result<(), BoxError> {
        self.source.validate()
    }

    fn parallelism(&self) -> Option<u32> {
        self.source.parallelism()
    }

    fn is_replayable(&self) -> bool {
        self.source.is_replayable()
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        let pace = self.rate.map(|rate| Pace::new(rate / f64::from(context.parallelism)));
        Ok(PacedReader { reader: self.source.open(context)?, pace, clock: context.clock })
    }
}

/// Reads a [`Paced`] source.
pub struct PacedReader<R> {
    reader: R,
    pace: Option<Pace>,
    clock: ProcessingClock,
}

impl<R: SourceReader> SourceReader for PacedReader<R> {
    type Out = R::Out;

    fn poll(&mut self, out: &mut impl SourceOutput<R::Out>) -> Result<SourceStatus, BoxError> {
        let Some(pace) = &mut self.pace else { return self.reader.poll(out) };
        let now = self.clock.now();
        let room = pace.room(now);
        if room == 0 {
            return Ok(SourceStatus::Pending { until: pace.due().max(now + POLL_INTERVAL) });
        }
        let mut limited = Limited { out, room, emitted: 0 };
        let status = self.reader.poll(&mut limited)?;
        pace.emitted(limited.emitted, now);
        Ok(status)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        self.reader.snapshot()
    }
}

/// When one may emit: the generic cell rate algorithm (ITU-T I.371), pure.
#[derive(Clone, Copy, Debug)]
struct Pace {
    nanos_per_record: f64,
    /// When the next record is due, in nanoseconds; none before the first.
    due: Option<f64>,
}

impl Pace {
    fn new(records_per_second: f64) -> Self {
        Self { nanos_per_record: 1e9 / records_per_second, due: None }
    }

    /// The time of the next record; what lies too far back is forgotten.
    fn due_at(&self, now: Timestamp) -> f64 {
        let now = now.as_nanos() as f64;
        self.due.map_or(now, |due| due.max(now - BURST.as_nanos() as f64))
    }

    /// How many records are due.
    fn room(&self, now: Timestamp) -> u64 {
        let late = now.as_nanos() as f64 - self.due_at(now);
        if late < 0.0 { 0 } else { (late / self.nanos_per_record) as u64 + 1 }
    }

    /// So many were emitted.
    fn emitted(&mut self, records: u64, now: Timestamp) {
        self.due = Some(self.due_at(now) + records as f64 * self.nanos_per_record);
    }

    fn due(&self) -> Timestamp {
        self.due.map_or(Timestamp::MIN, |due| Timestamp::from_nanos(due.ceil() as i64))
    }
}

/// An output with room for a few records.
struct Limited<'a, O> {
    out: &'a mut O,
    room: u64,
    emitted: u64,
}

impl<T, O: SourceOutput<T>> Collector<T> for Limited<'_, O> {
    #[inline]
    fn collect(&mut self, value: T) {
        self.emitted += 1;
        self.out.collect(value);
    }

    #[inline]
    fn collect_at(&mut self, value: T, timestamp: Timestamp) {
        self.emitted += 1;
        self.out.collect_at(value, timestamp);
    }
}

impl<T, O: SourceOutput<T>> SourceOutput<T> for Limited<'_, O> {
    fn is_blocked(&mut self) -> bool {
        self.emitted >= self.room || self.out.is_blocked()
    }

    fn room(&mut self) -> u64 {
        self.room.saturating_sub(self.emitted).min(self.out.room())
    }

    #[inline]
    fn collect_all(&mut self, records: &mut impl Iterator<Item = T>, most: u64) -> u64 {
        let count = self.out.collect_all(records, most);
        self.emitted += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pace_is_kept_over_any_span_and_nothing_due_is_withheld(
            rate in 1u32..1_000_000,
            steps in prop::collection::vec(0u64..50_000_000, 1..100),
        ) {
            let mut pace = Pace::new(f64::from(rate));
            let (mut now, mut emitted) = (1_000_000_000, 0);
            let start = now;
            for (index, step) in steps.into_iter().enumerate() {
                now += if index == 0 { 0 } else { step as i64 };
                let room = pace.room(Timestamp::from_nanos(now));
                prop_assert!(room > 0 || pace.due() >= Timestamp::from_nanos(now));
                pace.emitted(room, Timestamp::from_nanos(now));
                emitted += room;
                let due = (now - start) as f64 / 1e9 * f64::from(rate);
                prop_assert!((emitted as f64 - due - 1.0).abs() < 1.001, "{emitted} of {due}");
            }
        }

        #[test]
        fn what_was_missed_is_not_made_up_for(rate in 20u32..100_000, pause in 1i64..100) {
            let mut pace = Pace::new(f64::from(rate));
            pace.emitted(pace.room(Timestamp::from_nanos(0)), Timestamp::from_nanos(0));
            let room = pace.room(Timestamp::from_nanos(pause * 1_000_000_000));
            let burst = f64::from(rate) * BURST.as_secs_f64();
            prop_assert!((room as f64 - burst).abs() <= 2.0, "{room} at {rate} per second");
        }
    }
}
