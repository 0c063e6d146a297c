//! A job's processing time, read outside of its slots' polls.

use millstream::Timestamp;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The job's clock, known from the moment at which record 0 is made: it is due at the very time at
/// which its source looked at the clock, a fraction of a microsecond before. Both the job's clock
/// and this one follow the monotonic clock, so they never drift apart.
#[derive(Clone, Debug, Default)]
pub(super) struct JobClock(Arc<OnceLock<(Instant, Timestamp)>>);

impl JobClock {
    /// Called with every record's number and due time, before it is emitted.
    #[inline]
    pub(super) fn observe(&self, number: u64, due: Timestamp) {
        if number == 0 {
            // Set once only: there is one record 0.
            let _ = self.0.set((Instant::now(), due));
        }
    }

    /// When record 0 was due, and now. `None` until there was a record.
    #[inline]
    pub(super) fn start_and_now(&self) -> Option<(Timestamp, Timestamp)> {
        let (instant, start) = *self.0.get()?;
        Some((start, start + instant.elapsed()))
    }
}
