//! Windows that are merged from slices.

use super::calendar::SliceCalendar;
use super::dense_table::DenseTable;
use super::function::WindowFunction;
use super::{Slicing, TimeWindow};
use crate::operator::Operator;
use millstream_state::{Key, WindowTable};
use millstream_types::{Timestamp, hash_key};
use std::marker::PhantomData;
use std::time::Duration;

/// The windows of one subtask: a state for each slice and key.
///
/// # Invariants
/// - The namespaces of `table` are slices that `calendar` knows.
/// - `merged` is empty between calls.
pub(super) struct SliceWindows<K, In, F: WindowFunction<K, In>> {
    function: F,
    table: WindowTable<K, F::State>,
    calendar: SliceCalendar,
    /// Where a window of several slices is merged.
    merged: DenseTable<K, F::State>,
    of: PhantomData<fn(In)>,
}

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
            function,
            calendar: SliceCalendar::new(slicing, lateness, table.namespaces()),
            table,
            merged: DenseTable::default(),
            of: PhantomData,
        }
    }

    /// Notes that a record has come for a slice; false if it is late.
    #[inline(always)]
    pub fn enter(&mut self, slice: Timestamp) -> bool {
        self.calendar.enter(slice)
    }

    /// Changes the state of a key in the slice that was entered last, made by `init` if there is
    /// none, and fires again those of its windows that have fired already.
    #[inline]
    pub fn update(
        &mut self,
        slice: Timestamp,
        key: &K,
        init: impl FnOnce(&F) -> F::State,
        change: impl FnOnce(&F, &mut F::State),
        next: &mut impl Operator<F::Out>,
    ) {
        let hash = hash_key(key);
        let function = &self.function;
        self.table.modify(slice, hash, key, || init(function), |state| change(function, state));
        if self.calendar.entered_has_fired() {
            self.fire_again(slice, hash, key, next);
        }
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
        for window in self.calendar.fired_windows(slice) {
            let mut merged: Option<F::State> = None;
            for at in self.calendar.slices_of(window) {
                let slice = self.calendar.slice(at);
                self.table.with(slice, hash, key, |state| match (&mut merged, state) {
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
        self.calendar.advance(watermark);
        while let Some(window) = self.calendar.next_due() {
            self.fire(window, next);
        }
        while let Some(slice) = self.calendar.forget_expired() {
            self.table.remove_namespace(slice);
        }
    }

    /// The windows that the watermark closes have fired before the job began with a checkpoint.
    pub fn resume(&mut self, watermark: Timestamp) {
        self.calendar.resume(watermark);
    }

    fn fire(&mut self, window: TimeWindow, next: &mut impl Operator<F::Out>) {
        let Self { function, table, calendar, merged, .. } = self;
        let slices = calendar.slices_of(window);
        let used_up = calendar.last_use(window);
        if slices.len() == 1 {
            let slice = calendar.slice(slices.start);
            if used_up.is_empty() {
                table.for_each_in(slice, |key, state| {
                    function.fire(key.clone(), window, state, next);
                });
            } else {
                table.take(slice, |key, state| function.fire(key, window, &state, next));
            }
        } else {
            for at in used_up.clone() {
                table.take(calendar.slice(at), |key, state| match merged.find(&key) {
                    Ok(at) => function.merge(merged.value_mut(at), &state),
                    Err(vacant) => drop(merged.insert(vacant, key, state)),
                });
            }
            for at in used_up.end..slices.end {
                table.for_each_in(calendar.slice(at), |key, state| match merged.find(key) {
                    Ok(at) => function.merge(merged.value_mut(at), state),
                    Err(vacant) => drop(merged.insert(vacant, key.clone(), state.clone())),
                });
            }
            for (key, state) in merged.drain() {
                function.fire(key, window, &state, next);
            }
        }
        calendar.forget(used_up);
    }
}
