//! What becomes of records that come too late for their windows.

use crate::metrics::JobCounters;
use crate::operator::{OutputTag, SideOutputs};
use millstream_types::Timestamp;
use std::sync::Arc;

/// Counts late records and emits them into a side output, if there is one.
///
/// The operator that owns it passes every call but `record` on to `outputs`.
pub struct LateRecords<In> {
    counters: Arc<JobCounters>,
    tag: Option<OutputTag<In>>,
    pub(super) outputs: SideOutputs,
}

impl<In: 'static> LateRecords<In> {
    /// Late records are counted and dropped.
    pub fn dropped(counters: Arc<JobCounters>) -> Self {
        Self { counters, tag: None, outputs: SideOutputs::default() }
    }

    /// Late records are counted and emitted, with their timestamps, into the side output `tag` of
    /// `outputs`.
    pub fn put_out(counters: Arc<JobCounters>, tag: OutputTag<In>, outputs: SideOutputs) -> Self {
        Self { counters, tag: Some(tag), outputs }
    }

    #[cold]
    pub(super) fn take(&mut self, value: In, timestamp: Timestamp) {
        self.counters.add_late(1);
        if let Some(tag) = &self.tag {
            self.outputs.emit(tag, value, timestamp);
        }
    }
}

/// Implements the calls of [`Operator`](crate::operator::Operator) that only concern `self.next`
/// and the side output of `self.late`.
macro_rules! forward_to_next_and_late {
    () => {
        fn signal(&mut self, signal: $crate::operator::Signal) {
            self.late.outputs.signal(signal);
            self.next.signal(signal);
        }

        fn tick(&mut self, now: $crate::Timestamp) {
            self.late.outputs.tick(now);
            self.next.tick(now);
        }

        fn next_deadline(&self) -> $crate::Timestamp {
            self.next.next_deadline()
        }

        fn flush(&mut self) {
            self.late.outputs.flush();
            self.next.flush();
        }

        fn is_blocked(&mut self) -> bool {
            self.late.outputs.is_blocked() || self.next.is_blocked()
        }

        fn is_finished(&mut self) -> bool {
            // Both are asked: either may be doing work when it is.
            let late = self.late.outputs.is_finished();
            self.next.is_finished() && late
        }
    };
}
pub(super) use forward_to_next_and_late;
