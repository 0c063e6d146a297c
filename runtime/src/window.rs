//! Windows: operators that group records by time, or by count, and by key.
//!
//! Windows of a fixed size are computed from **slices** (panes): a slice is a stretch of time in
//! which no window begins or ends, a record is aggregated once, into the slice that it falls in,
//! and the result of a window is the merge of its slices, however many windows overlap. Slices are
//! cut as in *paired windows* (Krishnamurthy et al., "On-the-fly sharing for streamed aggregation",
//! SIGMOD 2006).
//!
//! Associative aggregates take two phases: [`PreAggregate`] before the shuffle, [`SlicedWindow`]
//! after it. Whatever needs the records themselves takes one, [`DirectWindow`] or
//! [`SessionWindow`], after the shuffle; or [`CountWindow`], for which event time plays no part.
//!
//! # Invariants
//! - The watermark `w` closes the windows with `end - 1 ns <= w`. They fire in the order of their
//!   ends, before the watermark is passed on; a window without a record does not fire.
//! - A result carries the timestamp [`TimeWindow::max_timestamp`], so that it falls into the window
//!   of the same bounds downstream.
//! - A record that comes when its window has fired but within the allowed lateness makes the window
//!   fire again, for its key, with the updated result. Later than that it is late: put out aside if
//!   somebody wants it, else dropped and counted.

mod aggregate;
mod assigner;
mod calendar;
mod count;
mod dense_table;
mod direct;
mod error;
mod function;
mod join;
mod late;
mod one_or_more;
mod pre_aggregate;
mod session;
mod sliced;
mod slices;
#[cfg(test)]
pub(crate) mod testing;

pub use aggregate::{
    AggregateFunction, Count, Max, MaxBy, Min, MinBy, Reduce, Sum, Top1WithTies, TopK,
};
pub use assigner::{Global, Session, Slicing, Sliding, Tumbling};
pub use count::{CountTable, CountWindow};
pub use direct::DirectWindow;
pub use error::WindowError;
pub use function::{ProcessWindowFunction, WindowAggregate, WindowFunction, WindowProcess};
pub use join::{JoinTable, WindowJoin};
pub use late::LateRecords;
pub use pre_aggregate::{Partial, PreAggregate};
pub use session::{SessionTable, SessionWindow};
pub use sliced::SlicedWindow;

use millstream_types::Timestamp;
use rkyv::rancor::{Fallible, Source};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::fmt;
use std::time::Duration;

/// A stretch of event time, from `start` up to but not including `end`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize,
)]
pub struct TimeWindow {
    /// The first instant.
    #[rkyv(with = Nanos)]
    pub start: Timestamp,
    /// The instant after the last.
    #[rkyv(with = Nanos)]
    pub end: Timestamp,
}

impl TimeWindow {
    /// All of time: the window of records that are not grouped by time.
    pub const GLOBAL: Self = Self { start: Timestamp::MIN, end: Timestamp::MAX };

    /// The last instant: one nanosecond before the end. The timestamp of the window's result.
    #[inline]
    pub fn max_timestamp(&self) -> Timestamp {
        self.end - Duration::from_nanos(1)
    }

    /// True if the instant lies in the window.
    #[inline]
    pub fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && time < self.end
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// What a window says about a key when it fires.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct WindowResult<K, V> {
    /// The key; `()` if the stream is not keyed.
    pub key: K,
    /// The window.
    pub window: TimeWindow,
    /// The result.
    pub value: V,
}

/// Archives a [`Timestamp`] as its nanoseconds since the epoch.
pub(crate) struct Nanos;

impl ArchiveWith<Timestamp> for Nanos {
    type Archived = <i64 as Archive>::Archived;
    type Resolver = ();

    fn resolve_with(field: &Timestamp, (): (), out: Place<Self::Archived>) {
        field.as_nanos().resolve((), out);
    }
}

impl<S: Fallible + ?Sized> SerializeWith<Timestamp, S> for Nanos {
    fn serialize_with(_: &Timestamp, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: Fallible<Error: Source> + ?Sized> DeserializeWith<<i64 as Archive>::Archived, Timestamp, D>
    for Nanos
{
    fn deserialize_with(
        field: &<i64 as Archive>::Archived,
        _: &mut D,
    ) -> Result<Timestamp, D::Error> {
        Ok(Timestamp::from_nanos(field.to_native()))
    }
}
