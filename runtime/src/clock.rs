//! Processing time.

use millstream_state::StateClock;
use millstream_types::Timestamp;
use std::time::Instant;

/// Processing time from a monotonic clock: it starts at the wall clock's time when the job does,
/// and a wall clock that is set does not move it.
#[derive(Clone, Copy, Debug)]
pub struct ProcessingClock {
    wall: Timestamp,
    instant: Instant,
}

impl ProcessingClock {
    /// A clock that begins with the wall clock's time.
    #[expect(clippy::new_without_default, reason = "two clocks differ, so none is the default")]
    pub fn new() -> Self {
        Self { wall: Timestamp::now(), instant: Instant::now() }
    }

    /// The time now.
    #[inline]
    pub fn now(self) -> Timestamp {
        self.wall + self.instant.elapsed()
    }
}

/// Processing time as one slot sees it: the same for all that happens within one poll. State expires by
/// it, too.
#[derive(Debug)]
pub struct PollClock {
    source: ProcessingClock,
    now: StateClock,
}

impl PollClock {
    /// A clock that follows `source`.
    pub fn new(source: ProcessingClock) -> Self {
        Self { source, now: StateClock::at(source.now()) }
    }

    /// The time of the current poll.
    #[inline]
    pub fn now(&self) -> Timestamp {
        self.now.now()
    }

    /// The same time, for state.
    pub(crate) fn of_state(&self) -> StateClock {
        self.now.clone()
    }

    /// The clock that this one follows.
    pub fn source(&self) -> ProcessingClock {
        self.source
    }

    /// Reads the source for the next poll.
    pub(crate) fn update(&self) -> Timestamp {
        let now = self.source.now();
        self.now.set(now);
        now
    }
}
