//! The second phase of a windowed aggregate, after the shuffle.

use super::function::{WindowAggregate, WindowFunction};
use super::slices::SliceWindows;
use super::{AggregateFunction, Partial, Slicing, WindowResult};
use crate::metrics::JobCounters;
use crate::operator::Operator;
use millstream_state::{Key, WindowTable};
use millstream_types::{OperatorId, Timestamp};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// Merges partial aggregates per slice and key, and slices into windows; emits one
/// [`WindowResult`] per window and key when the window fires.
///
/// Late partials are counted, record by record, and dropped: their records are gone already. A job
/// that wants to see its late records uses [`DirectWindow`](super::DirectWindow).
pub struct SlicedWindow<In: 'static, K: 'static, A: AggregateFunction<In>, N> {
    windows: SliceWindows<K, In, WindowAggregate<A>>,
    counters: Arc<JobCounters>,
    next: N,
}

impl<In, K, A, N> SlicedWindow<In, K, A, N>
where
    K: Key,
    A: AggregateFunction<In>,
{
    /// A link that merges into `table` on behalf of operator `id` and pushes into `next`. `slicing`
    /// must be that of the first phase.
    ///
    /// A window keeps its state for `allowed_lateness` after it has fired, and fires again for each
    /// partial that comes in this time.
    pub fn new(
        id: OperatorId,
        slicing: impl Into<Slicing>,
        allowed_lateness: Duration,
        function: A,
        table: WindowTable<K, A::Accumulator>,
        counters: Arc<JobCounters>,
        next: N,
    ) -> Self {
        let function = WindowAggregate::new(id, function);
        let windows = SliceWindows::new(slicing.into(), allowed_lateness, function, table);
        Self { windows, counters, next }
    }
}

impl<In, K, A, N> Operator<Partial<K, A::Accumulator>> for SlicedWindow<In, K, A, N>
where
    In: 'static,
    K: Key,
    A: AggregateFunction<In>,
    N: Operator<WindowResult<K, A::Output>>,
{
    #[inline]
    fn record(&mut self, partial: Partial<K, A::Accumulator>, _: Timestamp) {
        let Partial { key, slice_end, accumulator, records } = partial;
        if !self.windows.enter(slice_end) {
            self.counters.add_late(records);
            return;
        }
        let accumulator = Cell::new(Some(accumulator));
        self.windows.update(
            slice_end,
            &key,
            |_| accumulator.take().expect("taken once"),
            |function, state| {
                if let Some(other) = accumulator.take() {
                    WindowFunction::<K, In>::merge(function, state, &other);
                }
            },
            &mut self.next,
        );
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.windows.advance(watermark, &mut self.next);
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.windows.resume(watermark);
        self.next.resume(watermark);
    }

    crate::forward_to_next!(signal, tick, next_deadline, flush, is_blocked, is_finished);
}

#[cfg(test)]
mod tests;
