//! Time to live: how long what is kept in a state is there.
//!
//! What is written with a time to live carries its *expiry*, the processing time from which on it
//! counts as gone. Expiries are absolute, so the time during which a job is down counts. Whether an
//! expiry has come is asked of a [`StateClock`], which the runtime sets once per poll.

use crate::encoded::Coding;
use crate::heap::{AgingTable, Perishable};
use crate::{AlignedVec, Key, StateError};
use millstream_types::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How long the values of a state live, in processing time: they expire so long after they were
/// written. (Flink: `StateTtlConfig`.)
///
/// Values of a [`ValueState`](crate::ValueState) expire one by one, and so do elements of a
/// [`ListState`](crate::ListState) and entries of a [`MapState`](crate::MapState). A program that
/// comes with another duration changes that of what is written from then on.
///
/// ```
/// use millstream_state::{Ttl, TtlUpdate, TtlVisibility};
/// use std::time::Duration;
///
/// let session = Ttl::new(Duration::from_secs(3600)).update(TtlUpdate::OnReadAndWrite);
/// assert_eq!(session.duration(), Duration::from_secs(3600));
/// let cache = Ttl::new(Duration::from_secs(60))
///     .visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    duration: Duration,
    update: TtlUpdate,
    visibility: TtlVisibility,
}

/// What makes a value live on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlUpdate {
    /// To write it.
    #[default]
    OnCreateAndWrite,
    /// To read it, too. Every read of a value is then also a write.
    OnReadAndWrite,
}

/// Whether a value is seen that has expired and is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlVisibility {
    /// Never.
    #[default]
    NeverReturnExpired,
    /// As long as it has not been cleaned up; when that is, is not said. A restart of the job cleans up
    /// everything that has expired.
    ReturnExpiredIfNotCleanedUp,
}

impl Ttl {
    /// The longest that can be: 100 years, so that no expiry lies beyond what a timestamp holds.
    pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    /// Values live so long after they were written, and are not seen afterwards.
    ///
    /// # Panics
    /// If the duration is zero or longer than [`Ttl::DURATION_MAX`].
    #[must_use]
    pub fn new(duration: Duration) -> Self {
        assert!(!duration.is_zero(), "a time to live of zero keeps nothing; give at least 1 ns");
        assert!(
            duration <= Self::DURATION_MAX,
            "a time to live of {duration:?} is longer than the 100 years that there may be; to keep a \
             state for ever, give it none"
        );
        Self { duration, update: TtlUpdate::default(), visibility: TtlVisibility::default() }
    }

    /// Sets what makes a value live on.
    #[must_use]
    pub fn update(mut self, update: TtlUpdate) -> Self {
        self.update = update;
        self
    }

    /// Sets whether a value is seen that has expired and is still there.
    #[must_use]
    pub fn visibility(mut self, visibility: TtlVisibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// How long values live.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// The processing time by which state expires: shared by a slot's store and tables, and set by
/// whoever runs them, once for many records.
#[derive(Clone, Debug, Default)]
pub struct StateClock(Arc<AtomicI64>);

impl StateClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_nanos())))
    }

    /// The time that was set last.
    #[inline]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Sets the time.
    #[inline]
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_nanos(), Ordering::Relaxed);
    }
}

/// The time to live of one state, with the clock that it goes by.
#[derive(Clone)]
pub(crate) struct Lifetime {
    ttl: Ttl,
    clock: StateClock,
    /// The time at which the state was opened. What had expired by then may have been removed later, and
    /// the store has forgotten that.
    opened: Timestamp,
    /// What has been reclaimed of all states of the subtask.
    reclaimed: Rc<Cell<u64>>,
}

impl Lifetime {
    pub fn new(ttl: Ttl, clock: StateClock, reclaimed: Rc<Cell<u64>>) -> Self {
        let opened = clock.now();
        Self { ttl, clock, opened, reclaimed }
    }

    #[inline]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The expiry of what is written now.
    #[inline]
    pub fn expiry(&self) -> Timestamp {
        self.now() + self.ttl.duration
    }

    /// An expiry that is later by a part of the time to live: with it what has to outlive a value
    /// is written again only once for many writes of the value.
    #[inline]
    pub fn beyond(&self, expiry: Timestamp) -> Timestamp {
        expiry + self.ttl.duration / 8
    }

    /// True if what has this expiry has expired.
    #[inline]
    pub fn is_over(&self, expiry: Timestamp) -> bool {
        expiry <= self.now()
    }

    /// True if what has this expiry, and is there, can be seen.
    #[inline]
    pub fn is_visible(&self, expiry: Timestamp) -> bool {
        !self.is_over(expiry)
            || self.ttl.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp
                && expiry > self.opened
    }

    /// The new expiry of what is read now and has this one, if it changes.
    #[inline]
    pub fn refreshed(&self, expiry: Timestamp) -> Option<Timestamp> {
        let refresh = self.ttl.update == TtlUpdate::OnReadAndWrite && !self.is_over(expiry);
        refresh.then(|| self.expiry()).filter(|new| *new != expiry)
    }

    /// Counts what has been reclaimed.
    pub fn count_reclaimed(&self, values: u64) {
        self.reclaimed.set(self.reclaimed.get() + values);
    }
}

/// How many places of a table are looked at when there is nothing else to do, in about a microsecond.
const PLACES_PER_SWEEP: usize = 64;

/// What looks for expired entries in a table, a few places at a time.
pub(crate) fn sweep_of<K: Key, E: Perishable + 'static>(
    table: &Rc<RefCell<AgingTable<K, E>>>,
    lifetime: &Lifetime,
) -> impl Fn() + 'static {
    let (table, lifetime) = (Rc::clone(table), lifetime.clone());
    move || {
        // In use: then writes do it.
        if let Ok(mut table) = table.try_borrow_mut() {
            lifetime.count_reclaimed(table.sweep(lifetime.now(), PLACES_PER_SWEEP));
        }
    }
}

/// The bytes that an expiry takes.
pub(crate) const EXPIRY_BYTES: usize = 8;

/// Appends an expiry to an encoded value.
#[inline]
pub(crate) fn push_expiry(value: &mut AlignedVec, expiry: Timestamp) {
    value.extend_from_slice(&expiry.as_nanos().to_le_bytes());
}

/// The expiry at the end of a value, and what is before it.
#[inline]
pub(crate) fn split_expiry<'a>(
    coding: &Coding,
    value: &'a [u8],
) -> Result<(&'a [u8], Timestamp), StateError> {
    let (value, expiry) =
        value.split_last_chunk().ok_or_else(|| coding.malformed("a value has no expiry"))?;
    Ok((value, Timestamp::from_nanos(i64::from_le_bytes(*expiry))))
}

#[cfg(test)]
mod tests;
