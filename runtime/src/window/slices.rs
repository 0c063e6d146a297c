//! Windows that are merged from slices: what they keep, when they fire, what is late.

use super::dense_table::DenseTable;
use super::function::WindowFunction;
use super::{Slicing, TimeWindow};
use crate::operator::Operator;
use millstream_state::{Key, WindowTable};
use millstream_types::{Timestamp, hash_key};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

const INSTANT: Duration = Duration::from_nanos(1);

/// The windows of one subtask: a state for each slice and key, and the clock that fires them.
///
/// # Invariants
/// - `slices` are the namespaces of `table`, ascending.
/// - All windows that end at or before `watermark + 1 ns` have fired, if they held a record.
/// - A slice is kept until the last of its windows has expired: until the watermark has passed the
///   window's end by the allowed lateness.
pub(super) struct SliceWindows<K, In, F: WindowFunction<K, In>> {
    slicing: Slicing,
    lateness: Duration,
    function: F,
    table: WindowTable<K, F::State>,
    slices: VecDeque<Timestamp>,
    recent: Recent,
    /// Where a window of several slices is merged; empty between calls.
    merged: DenseTable<K, F::State>,
    watermark: Timestamp,
    of: PhantomData<fn(In)>,
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

impl<K, In, F> SliceWindows<K, In, F>
where
    K: Key,
    F: WindowFunction<K, In>,
{
    /// The windows of `slicing` over the states in `table`, which may hold some already.
    pub fn new(
        slicing: Slicing,
        lateness: Duration,
        function: F,
        table: WindowTable<K, F::State>,
    ) -> Self {
        Self {
            slicing,
            lateness,
            function,
            slices: table.namespaces().into(),
            table,
            recent: Recent { slice: NO_SLICE, fires: Timestamp::MAX, expires: Timestamp::MAX },
            merged: DenseTable::default(),
            watermark: Timestamp::MIN,
            of: PhantomData,
        }
    }

    /// True if all windows of a slice have expired: records that fall into it are late.
    #[inline]
    pub fn has_expired(&mut self, slice: Timestamp) -> bool {
        if slice != self.recent.slice {
            self.seek(slice);
        }
        self.watermark >= self.recent.expires
    }

    /// Changes the state of a key in a slice that has not expired, made by `init` if there is none,
    /// and fires again those of its windows that have fired already.
    #[inline]
    pub fn update(
        &mut self,
        slice: Timestamp,
        key: &K,
        init: impl FnOnce(&F) -> F::State,
        change: impl FnOnce(&F, &mut F::State),
        next: &mut impl Operator<F::Out>,
    ) {
        debug_assert!(!self.has_expired(slice), "the slice that ends at {slice} is forgotten");
        let hash = hash_key(key);
        let function = &self.function;
        self.table.modify(slice, hash, key, || init(function), |state| change(function, state));
        if self.watermark >= self.recent.fires {
            self.fire_again(slice, hash, key, next);
        }
    }

    /// Makes `slice` the recent one, and one of those that are kept unless it has expired.
    #[cold]
    fn seek(&mut self, slice: Timestamp) {
        let first = self.slicing.next_window(slice, Timestamp::MIN);
        self.recent = Recent {
            slice,
            fires: first.expect("a slice is part of a window") - INSTANT,
            expires: self.expires(slice),
        };
        if self.watermark < self.recent.expires
            && let Err(at) = self.slices.binary_search(&slice)
        {
            self.slices.insert(at, slice);
        }
    }

    /// The watermark at which the last window of a slice expires.
    fn expires(&self, slice: Timestamp) -> Timestamp {
        self.slicing.last_window(slice) - INSTANT + self.lateness
    }

    /// Positions of the slices that a window is made of.
    fn slices_of(&self, window: TimeWindow) -> Range<usize> {
        self.slices.partition_point(|slice| *slice <= window.start)
            ..self.slices.partition_point(|slice| *slice <= window.end)
    }

    /// Fires those windows of a slice for a key that have fired and have not expired.
    #[cold]
    fn fire_again(
        &mut self,
        slice: Timestamp,
        hash: u64,
        key: &K,
        next: &mut impl Operator<F::Out>,
    ) {
        let mut after = Timestamp::MIN;
        while let Some(end) = self.slicing.next_window(slice, after) {
            after = end;
            let window = self.slicing.window_ending(end);
            if window.max_timestamp() > self.watermark {
                break;
            }
            if window.max_timestamp() + self.lateness <= self.watermark {
                continue;
            }
            let mut merged: Option<F::State> = None;
            for at in self.slices_of(window) {
                self.table.with(self.slices[at], hash, key, |state| match (&mut merged, state) {
                    (_, None) => {}
                    (None, Some(state)) => merged = Some(state.clone()),
                    (Some(merged), Some(state)) => self.function.merge(merged, state),
                });
            }
            let merged = merged.expect("the slice that was changed is part of the window");
            self.function.fire(key.clone(), window, &merged, next);
        }
    }

    /// Fires the windows that the watermark closes, in the order of their ends, and forgets the
    /// slices that no record can reach any more.
    pub fn advance(&mut self, watermark: Timestamp, next: &mut impl Operator<F::Out>) {
        let mut fired = self.watermark + INSTANT;
        self.watermark = watermark;
        self.recent.slice = NO_SLICE;
        while let Some(end) = self.next_window(fired)
            && end - INSTANT <= watermark
        {
            self.fire(self.slicing.window_ending(end), next);
            fired = end;
        }
        while let Some(first) = self.slices.front()
            && self.expires(*first) <= watermark
        {
            self.table.remove_namespace(*first);
            self.slices.pop_front();
        }
    }

    /// The end of the first window after `fired` that holds a record.
    fn next_window(&self, fired: Timestamp) -> Option<Timestamp> {
        // Of the slices with a window still to come the first has the earliest one.
        let at = self.slices.partition_point(|slice| self.slicing.last_window(*slice) <= fired);
        self.slicing.next_window(*self.slices.get(at)?, fired)
    }

    fn fire(&mut self, window: TimeWindow, next: &mut impl Operator<F::Out>) {
        let range = self.slices_of(window);
        let Self { function, table, merged, .. } = self;
        // The slices for which this is the last window come first.
        let kept = if window.max_timestamp() + self.lateness <= self.watermark {
            let slicing = &self.slicing;
            range.start
                + self
                    .slices
                    .range(range.clone())
                    .take_while(|slice| slicing.last_window(**slice) <= window.end)
                    .count()
        } else {
            range.start
        };
        if range.len() == 1 {
            let slice = self.slices[range.start];
            if kept > range.start {
                table.take(slice, |key, state| function.fire(key, window, &state, next));
            } else {
                table.for_each_in(slice, |key, state| {
                    function.fire(key.clone(), window, state, next);
                });
            }
        } else {
            for at in range.start..kept {
                table.take(self.slices[at], |key, state| match merged.find(&key) {
                    Ok(at) => function.merge(merged.value_mut(at), &state),
                    Err(vacant) => drop(merged.insert(vacant, key, state)),
                });
            }
            for at in kept..range.end {
                table.for_each_in(self.slices[at], |key, state| match merged.find(key) {
                    Ok(at) => function.merge(merged.value_mut(at), state),
                    Err(vacant) => drop(merged.insert(vacant, key.clone(), state.clone())),
                });
            }
            for (key, state) in merged.drain() {
                function.fire(key, window, &state, next);
            }
        }
        self.slices.drain(range.start..kept);
    }
}
