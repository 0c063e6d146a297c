//! When windows of slices fire, and how long slices are kept.

use super::{Slicing, TimeWindow};
use millstream_types::Timestamp;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

const INSTANT: Duration = Duration::from_nanos(1);

/// The slices in which there are records, and the clock that fires the windows made of them.
///
/// # Invariants
/// - `slices` ascends strictly.
/// - All windows that end at or before `watermark + 1 ns` have fired, if they held a record, except
///   while the operator fires them one by one.
/// - A slice is kept until the last of its windows has expired: until the watermark has passed the
///   window's end by the allowed lateness.
pub(super) struct SliceCalendar {
    slicing: Slicing,
    lateness: Duration,
    slices: VecDeque<Timestamp>,
    watermark: Timestamp,
    /// All windows that end at or before have fired.
    fired: Timestamp,
    recent: Recent,
}

/// What is known of the slice that was touched last.
#[derive(Clone, Copy)]
struct Recent {
    slice: Timestamp,
    /// The first window of the slice has fired when the watermark reaches this.
    fires: Timestamp,
    /// The last one has expired when the watermark reaches this.
    expires: Timestamp,
}

/// No slice ends here.
const NO_SLICE: Timestamp = Timestamp::MIN;

impl SliceCalendar {
    /// A calendar that knows these slices, in any order.
    pub fn new(
        slicing: Slicing,
        allowed_lateness: Duration,
        slices: impl IntoIterator<Item = Timestamp>,
    ) -> Self {
        let mut slices: Vec<_> = slices.into_iter().collect();
        slices.sort_unstable();
        slices.dedup();
        Self {
            slicing,
            lateness: allowed_lateness,
            slices: slices.into(),
            watermark: Timestamp::MIN,
            fired: Timestamp::MIN,
            recent: Recent { slice: NO_SLICE, fires: Timestamp::MAX, expires: Timestamp::MAX },
        }
    }

    /// Notes that a record has come for a slice; false if the slice has expired: then the record is
    /// late.
    #[inline(always)]
    pub fn enter(&mut self, slice: Timestamp) -> bool {
        if slice != self.recent.slice {
            self.seek(slice);
        }
        self.watermark < self.recent.expires
    }

    /// True if windows of the slice that was entered last have fired already.
    #[inline(always)]
    pub fn entered_has_fired(&self) -> bool {
        self.watermark >= self.recent.fires
    }

    #[cold]
    fn seek(&mut self, slice: Timestamp) {
        let first = self.slicing.next_window(slice, Timestamp::MIN);
        self.recent = Recent {
            slice,
            fires: first.expect("a slice is part of a window") - INSTANT,
            expires: self.slice_expires(slice),
        };
        if self.watermark < self.recent.expires
            && let Err(at) = self.slices.binary_search(&slice)
        {
            self.slices.insert(at, slice);
        }
    }

    /// The watermark at which the last window of a slice expires.
    fn slice_expires(&self, slice: Timestamp) -> Timestamp {
        self.slicing.last_window(slice) - INSTANT + self.lateness
    }

    /// The windows of a slice that have fired and have not expired, by their ends.
    pub fn fired_windows(&self, slice: Timestamp) -> impl Iterator<Item = TimeWindow> + use<> {
        let (slicing, watermark, lateness) = (self.slicing, self.watermark, self.lateness);
        let next = move |after| slicing.next_window(slice, after);
        std::iter::successors(next(Timestamp::MIN), move |end| next(*end))
            .map(move |end| slicing.window_ending(end))
            .take_while(move |window| window.max_timestamp() <= watermark)
            .filter(move |window| window.max_timestamp() + lateness > watermark)
    }

    /// Positions of the slices that a window is made of, for [`SliceCalendar::slice`].
    pub fn slices_of(&self, window: TimeWindow) -> Range<usize> {
        self.slices.partition_point(|slice| *slice <= window.start)
            ..self.slices.partition_point(|slice| *slice <= window.end)
    }

    /// The slice at a position.
    pub fn slice(&self, at: usize) -> Timestamp {
        self.slices[at]
    }

    /// Begins to fire what a watermark closes: from now on [`SliceCalendar::next_due`] tells the
    /// windows, one after the other.
    pub fn advance(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.recent.slice = NO_SLICE;
    }

    /// Goes on where the watermark was `watermark` and all that it closes had fired.
    pub fn resume(&mut self, watermark: Timestamp) {
        self.advance(watermark);
        self.fired = watermark + INSTANT;
    }

    /// The next window to be fired: the first in order that holds a record.
    pub fn next_due(&mut self) -> Option<TimeWindow> {
        // Of the slices with a window still to come the first has the earliest one.
        let (slicing, fired) = (self.slicing, self.fired);
        let at = self.slices.partition_point(|slice| slicing.last_window(*slice) <= fired);
        let due = self
            .slices
            .get(at)
            .and_then(|slice| slicing.next_window(*slice, fired))
            .filter(|end| *end - INSTANT <= self.watermark);
        self.fired = due.unwrap_or(self.watermark + INSTANT);
        due.map(|end| slicing.window_ending(end))
    }

    /// The first slices of `window` that expire with it: nothing will be asked of them after it has
    /// fired. They are a beginning of [`SliceCalendar::slices_of`].
    pub fn last_use(&self, window: TimeWindow) -> Range<usize> {
        let all = self.slices_of(window);
        if window.max_timestamp() + self.lateness > self.watermark {
            return all.start..all.start;
        }
        let of_later = |slice: &Timestamp| self.slicing.last_window(*slice) > window.end;
        let count = self.slices.range(all.clone()).position(of_later).unwrap_or(all.len());
        all.start..all.start + count
    }

    /// Forgets slices.
    pub fn forget(&mut self, slices: Range<usize>) {
        self.slices.drain(slices);
    }

    /// Forgets one slice that has expired, and returns it.
    pub fn forget_expired(&mut self) -> Option<Timestamp> {
        let first = *self.slices.front()?;
        (self.slice_expires(first) <= self.watermark).then(|| {
            self.slices.pop_front();
            first
        })
    }
}
