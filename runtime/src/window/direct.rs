//! Windows over the records themselves, in one phase.

use super::function::WindowFunction;
use super::late::LateRecords;
use super::slices::SliceWindows;
use super::{Slicing, TimeWindow, WindowError};
use crate::operator::{Operator, fail, forward_to_next_and_sides, in_user_code};
use millstream_state::{Key, WindowTable};
use millstream_types::{OperatorId, Timestamp};
use std::time::Duration;

/// Adds each record to the state of its slice and key, and emits what `F` makes of a window when
/// it fires.
///
/// For functions over all elements of a window, and for aggregates whose late records somebody
/// wants to see; other aggregates take the two phases.
pub struct DirectWindow<In, K, KF, F: WindowFunction<K, In>, N> {
    id: OperatorId,
    slicing: Slicing,
    key: KF,
    /// The slice of the last record.
    recent: TimeWindow,
    windows: SliceWindows<K, In, F>,
    late: LateRecords<In>,
    next: N,
}

impl<In, K, KF, F, N> DirectWindow<In, K, KF, F, N>
where
    K: Key,
    F: WindowFunction<K, In>,
{
    /// A link that keeps windows in `table` on behalf of operator `id` and pushes into `next`.
    ///
    /// A window keeps its state for `allowed_lateness` after it has fired, and fires again for each
    /// record that comes in this time.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        id: OperatorId,
        slicing: impl Into<Slicing>,
        allowed_lateness: Duration,
        key: KF,
        function: F,
        table: WindowTable<K, F::State>,
        late: LateRecords<In>,
        next: N,
    ) -> Self {
        let slicing = slicing.into();
        Self {
            id,
            slicing,
            key,
            recent: TimeWindow { start: Timestamp::MAX, end: Timestamp::MIN },
            windows: SliceWindows::new(slicing, allowed_lateness, function, table),
            late,
            next,
        }
    }

    /// Makes the slice of `time` the recent one; false if no window contains `time`.
    #[cold]
    fn seek(&mut self, time: Timestamp) -> bool {
        if !time.is_some() && self.slicing.needs_time() {
            fail(self.id, Box::new(WindowError::NoTimestamp));
        }
        let slice = self.slicing.slice_of(time);
        self.recent = slice.unwrap_or(self.recent);
        slice.is_some()
    }
}

impl<In, K, KF, F, N> Operator<In> for DirectWindow<In, K, KF, F, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    F: WindowFunction<K, In>,
    N: Operator<F::Out>,
{
    #[inline]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        if !self.recent.contains(timestamp) && !self.seek(timestamp) {
            return;
        }
        let slice = self.recent.end;
        if !self.windows.enter(slice) {
            self.late.take(value, timestamp);
            return;
        }
        let key = in_user_code(self.id, || (self.key)(&value));
        self.windows.update(
            slice,
            &key,
            |function| function.create(),
            |function, state| function.add(state, value),
            &mut self.next,
        );
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.windows.advance(watermark, &mut self.next);
        self.late.outputs.watermark(watermark);
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.windows.resume(watermark);
        self.late.outputs.resume(watermark);
        self.next.resume(watermark);
    }

    forward_to_next_and_sides!(
        [late.outputs]: signal, tick, next_deadline, flush, is_blocked, is_finished
    );
}
