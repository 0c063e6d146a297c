//! What a job counts while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a whole job that are touched rarely, so that all slots can share them.
#[derive(Debug, Default)]
pub struct JobCounters {
    malformed: AtomicU64,
    late: AtomicU64,
}

impl JobCounters {
    /// Counts records that a source could not parse and skipped.
    pub fn add_malformed(&self, count: u64) {
        self.malformed.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that sources could not parse and skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Counts records that came after their window had closed.
    pub fn add_late(&self, count: u64) {
        self.late.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that came after their window had closed.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}
