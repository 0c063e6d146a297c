//! How much a poll of a source does.

use std::time::Duration;

/// How long a poll may take: barriers, timers and a cancellation wait behind it.
const POLL_TIME: Duration = Duration::from_millis(1);
/// No poll emits more, however little each record costs.
const RECORDS_MAX: u64 = 1 << 16;

/// How many records a poll may emit, so that it takes about a millisecond whatever the chain behind the
/// source does with each: user code may take microseconds for a record or seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollBudget {
    records: u64,
}

impl PollBudget {
    /// One that knows nothing yet, and begins with few.
    pub(crate) fn new() -> Self {
        Self { records: 16 }
    }

    /// How many records the next poll may emit; at least one.
    pub(crate) fn records(self) -> u64 {
        self.records
    }

    /// A poll has emitted so many records, at least one, and has taken so long. Less is allowed at once
    /// where that was too long, more little by little.
    pub(crate) fn polled(&mut self, emitted: u64, took: Duration) {
        let took = took.as_nanos().max(1);
        let affordable = POLL_TIME.as_nanos() * u128::from(emitted) / took;
        let affordable = u64::try_from(affordable).unwrap_or(u64::MAX);
        self.records = affordable.clamp(1, RECORDS_MAX.min(self.records * 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn polls_soon_take_about_as_long_as_they_may(
            before in prop::collection::vec((1u64..100_000, 0u64..1_000_000_000), 0..20),
            nanos_per_record in 1u64..10_000_000_000,
        ) {
            let mut budget = PollBudget::new();
            for (emitted, nanos) in before {
                budget.polled(emitted, Duration::from_nanos(nanos));
            }
            for _ in 0..20 {
                let emitted = budget.records();
                prop_assert!(emitted > 0);
                budget.polled(emitted, Duration::from_nanos(emitted * nanos_per_record));
            }
            let nanos = budget.records() * nanos_per_record;
            let most = POLL_TIME.as_nanos() as u64;
            prop_assert!(nanos <= most || budget.records() == 1);
            prop_assert!(nanos * 2 >= most || budget.records() == RECORDS_MAX);
        }
    }
}
