//! A source's rate.

use millstream_types::Timestamp;
use std::time::Duration;

/// What a subtask may catch up with after it was held up: so much of a second's records.
const BURST: Duration = Duration::from_millis(100);
/// How long records are gathered, so that a slot need not wake for each.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// When a source may emit that is slowed down: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    nanos_per_record: f64,
    /// When the next record is due, in nanoseconds; none before the first.
    due: Option<f64>,
}

impl Pace {
    /// So many records per second.
    ///
    /// # Panics
    /// If the rate is not above zero.
    pub fn new(records_per_second: f64) -> Self {
        assert!(records_per_second > 0.0, "a rate must be above zero, not {records_per_second}");
        Self { nanos_per_record: 1e9 / records_per_second, due: None }
    }

    /// The time of the next record; what lies too far back is forgotten.
    fn due_at(&self, now: Timestamp) -> f64 {
        let now = now.as_nanos() as f64;
        self.due.map_or(now, |due| due.max(now - BURST.as_nanos() as f64))
    }

    /// How many records are due.
    pub fn room(&self, now: Timestamp) -> u64 {
        let late = now.as_nanos() as f64 - self.due_at(now);
        if late < 0.0 { 0 } else { (late / self.nanos_per_record) as u64 + 1 }
    }

    /// So many were emitted.
    pub fn emitted(&mut self, records: u64, now: Timestamp) {
        self.due = Some(self.due_at(now) + records as f64 * self.nanos_per_record);
    }

    /// When to look again if there is no room `now`.
    pub fn next(&self, now: Timestamp) -> Timestamp {
        self.due().max(now + POLL_INTERVAL)
    }

    fn due(&self) -> Timestamp {
        self.due.map_or(Timestamp::MIN, |due| Timestamp::from_nanos(due.ceil() as i64))
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
