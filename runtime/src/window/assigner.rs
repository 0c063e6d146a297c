//! Which windows a record belongs to, and how windows are cut into slices.

use super::TimeWindow;
use millstream_types::Timestamp;
use std::time::Duration;

/// Windows of one size, each beginning where the one before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    size: Duration,
    offset: Duration,
}

impl Tumbling {
    /// Windows of `size` that begin at multiples of it since the epoch.
    ///
    /// # Panics
    /// If `size` is zero.
    pub fn of(size: Duration) -> Self {
        assert_length("the size of a tumbling window", size);
        Self { size, offset: Duration::ZERO }
    }

    /// Moves all windows by `offset`, for days that do not begin at midnight UTC and the like.
    pub fn with_offset(self, offset: Duration) -> Self {
        Self { offset, ..self }
    }
}

/// Windows of one size that begin every `slide`, and overlap if the slide is less than the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    size: Duration,
    slide: Duration,
    offset: Duration,
}

impl Sliding {
    /// Windows of `size` that begin at the multiples of `slide` since the epoch. Neither need be a
    /// multiple of the other. If the slide is greater than the size, the records between windows
    /// belong to none.
    ///
    /// # Panics
    /// If `size` or `slide` is zero.
    pub fn of(size: Duration, slide: Duration) -> Self {
        assert_length("the size of a sliding window", size);
        assert_length("the slide of a sliding window", slide);
        Self { size, slide, offset: Duration::ZERO }
    }

    /// Moves all windows by `offset`.
    pub fn with_offset(self, offset: Duration) -> Self {
        Self { offset, ..self }
    }
}

/// Windows that follow the data: a key's session lasts until nothing has come for `gap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    gap: Duration,
}

impl Session {
    /// Sessions that end `gap` after their last record.
    ///
    /// A record at `t` alone makes the session `[t, t + gap)`; sessions that overlap or touch are
    /// one. So two records exactly one gap apart share a session, unless the watermark that ends the
    /// first came between them: a strategy without out-of-orderness leaves that to chance.
    ///
    /// # Panics
    /// If `gap` is zero.
    pub fn with_gap(gap: Duration) -> Self {
        assert_length("the gap of a session window", gap);
        Self { gap }
    }

    /// The gap.
    pub fn gap(&self) -> Duration {
        self.gap
    }
}

/// One window over all of time. It fires at the end of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global;

fn assert_length(what: &str, length: Duration) {
    assert!(!length.is_zero(), "{what} is zero; it must be at least one nanosecond");
}

/// A way to cut time into windows, and windows into slices.
///
/// Made from [`Tumbling`], [`Sliding`] or [`Global`]. A slice is named by its end. Within a slide
/// windows begin at one point and end at one point, so there are at most two slices per slide,
/// however the size and the slide divide each other. (Slices of the length of their greatest common
/// divisor would be as many as `slide / gcd`.)
///
/// Times so near to the ends of time that a window would stick out are cut off there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicing(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Periodic { size: i64, slide: i64, offset: i64 },
    Global,
}

impl From<Tumbling> for Slicing {
    fn from(windows: Tumbling) -> Self {
        Self::periodic(windows.size, windows.size, windows.offset)
    }
}

impl From<Sliding> for Slicing {
    fn from(windows: Sliding) -> Self {
        Self::periodic(windows.size, windows.slide, windows.offset)
    }
}

impl From<Global> for Slicing {
    fn from(_: Global) -> Self {
        Self(Kind::Global)
    }
}

impl Slicing {
    fn periodic(size: Duration, slide: Duration, offset: Duration) -> Self {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let slide_nanos = nanos(slide);
        Self(Kind::Periodic {
            size: nanos(size),
            slide: slide_nanos,
            offset: nanos(offset).rem_euclid(slide_nanos),
        })
    }

    /// True if records need a timestamp.
    pub(super) fn needs_time(&self) -> bool {
        matches!(self.0, Kind::Periodic { .. })
    }

    /// The slice that an instant lies in; `None` if no window contains it.
    pub(super) fn slice_of(&self, time: Timestamp) -> Option<TimeWindow> {
        let Kind::Periodic { size, slide, .. } = self.0 else { return Some(TimeWindow::GLOBAL) };
        let begin = self.slide_of(time);
        // Within a slide the windows that began earlier end at this point.
        let cut = begin.saturating_add(size % slide);
        let end = begin.saturating_add(slide);
        let (start, end) = if size % slide == 0 {
            (begin, end)
        } else if time.as_nanos() < cut {
            (begin, cut)
        } else if size < slide {
            return None;
        } else {
            (cut, end)
        };
        Some(TimeWindow { start: Timestamp::from_nanos(start), end: Timestamp::from_nanos(end) })
    }

    /// Where the last slide begins that does so not after `time`.
    fn slide_of(&self, time: Timestamp) -> i64 {
        let Kind::Periodic { slide, offset, .. } = self.0 else { return i64::MIN };
        let time = time.as_nanos();
        time.saturating_sub(time.saturating_sub(offset).rem_euclid(slide))
    }

    /// The window with this end.
    pub(super) fn window_ending(&self, end: Timestamp) -> TimeWindow {
        match self.0 {
            Kind::Periodic { size, .. } => TimeWindow {
                start: Timestamp::from_nanos(end.as_nanos().saturating_sub(size)),
                end,
            },
            Kind::Global => TimeWindow::GLOBAL,
        }
    }

    /// The end of the last window that contains a slice.
    pub(super) fn last_window(&self, slice_end: Timestamp) -> Timestamp {
        let Kind::Periodic { size, .. } = self.0 else { return Timestamp::MAX };
        Timestamp::from_nanos(
            self.slide_of(slice_end - Duration::from_nanos(1)).saturating_add(size),
        )
    }

    /// The end of the first window that contains a slice and ends after `after`.
    pub(super) fn next_window(&self, slice_end: Timestamp, after: Timestamp) -> Option<Timestamp> {
        let last = self.last_window(slice_end);
        let Kind::Periodic { slide, .. } = self.0 else { return (last > after).then_some(last) };
        if last <= after {
            return None;
        }
        let earliest = slice_end.as_nanos().max(after.as_nanos().saturating_add(1));
        let (last, slide) = (i128::from(last.as_nanos()), i128::from(slide));
        let end = last - (last - i128::from(earliest)) / slide * slide;
        // Fits i64: lies between `earliest` and `last`.
        Some(Timestamp::from_nanos(end as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(nanos: i64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn d(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    /// All windows that contain an instant, by the definition, the ends ascending.
    fn windows_at(time: i64, size: i64, slide: i64, offset: i64) -> Vec<i64> {
        (time - size..=time)
            .filter(|start| (start - offset).rem_euclid(slide) == 0 && start + size > time)
            .map(|start| start + size)
            .collect()
    }

    proptest! {
        #[test]
        fn all_instants_of_a_slice_are_in_the_same_windows(
            time in -200i64..200, size in 1i64..40, slide in 1i64..40, offset in 0u64..80,
        ) {
            let slicing = Slicing::from(
                Sliding::of(d(size as u64), d(slide as u64)).with_offset(d(offset)),
            );
            let expected = windows_at(time, size, slide, offset as i64);
            let Some(slice) = slicing.slice_of(t(time)) else {
                prop_assert!(expected.is_empty());
                return Ok(());
            };
            prop_assert!(slice.contains(t(time)));
            let (mut ends, mut after) = (Vec::new(), Timestamp::MIN);
            while let Some(end) = slicing.next_window(slice.end, after) {
                ends.push(end.as_nanos());
                after = end;
            }
            prop_assert_eq!(&ends, &expected);
            prop_assert_eq!(slicing.last_window(slice.end), t(expected[expected.len() - 1]));
            for other in slice.start.as_nanos()..slice.end.as_nanos() {
                prop_assert_eq!(slicing.slice_of(t(other)), Some(slice));
                prop_assert_eq!(&windows_at(other, size, slide, offset as i64), &expected);
            }
        }

        #[test]
        fn the_ends_of_time_do_not_overflow(
            time in prop_oneof![i64::MIN..i64::MIN + 100, i64::MAX - 100..i64::MAX],
            size in 1u64..u64::MAX, slide in 1u64..u64::MAX, offset in any::<u64>(),
        ) {
            let slicing = Slicing::from(Sliding::of(d(size), d(slide)).with_offset(d(offset)));
            if let Some(slice) = slicing.slice_of(t(time)) {
                prop_assert!(slicing.next_window(slice.end, slice.start) <= Some(Timestamp::MAX));
                prop_assert!(slicing.window_ending(slice.end).start <= slice.end);
            }
        }
    }

    #[test]
    fn a_slide_has_two_slices_at_most() {
        let slicing = Slicing::from(Sliding::of(Duration::from_secs(3600), d(7)));
        let ends: std::collections::BTreeSet<_> =
            (0..7).map(|n| slicing.slice_of(t(n)).unwrap().end).collect();
        assert_eq!(ends.len(), 2);
    }

    #[test]
    #[should_panic(expected = "the slide of a sliding window is zero")]
    fn a_slide_of_zero_is_refused() {
        Sliding::of(Duration::from_secs(1), Duration::ZERO);
    }
}
