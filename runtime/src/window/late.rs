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
    /// Late records are counted and, if there is a tag, emitted with their timestamps into that
    /// side output of `outputs`.
    pub fn new(
        counters: Arc<JobCounters>,
        tag: Option<OutputTag<In>>,
        outputs: SideOutputs,
    ) -> Self {
        Self { counters, tag, outputs }
    }

    #[cold]
    pub(super) fn take(&mut self, value: In, timestamp: Timestamp) {
        self.counters.add_late(1);
        if let Some(tag) = &self.tag {
            self.outputs.emit(tag, value, timestamp);
        }
    }
}
