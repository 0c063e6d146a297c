//! The sink: how late results are, and the first one of a key.

use super::{Counted, NOT_MEASURED, Shared, Update, Watched, lock};
use hdrhistogram::Histogram;
use millstream::connector::{BoxError, Sink, SinkContext, SinkWriter, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone)]
pub(super) struct Results(pub(super) Arc<Shared>);

impl Sink<(Update, Counted)> for Results {
    type Writer = ResultsWriter;

    fn open(self, _: &SinkContext) -> Result<ResultsWriter, BoxError> {
        let opened = self.0.version.load(Ordering::Acquire);
        Ok(ResultsWriter { shared: self.0, opened, phase: 0, latencies: empty() })
    }
}

/// Three digits; grows as needed.
fn empty() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are within the bounds")
}

pub(super) struct ResultsWriter {
    shared: Arc<Shared>,
    /// The last order then.
    opened: u64,
    /// The phase of the latencies.
    phase: u32,
    latencies: Histogram<u64>,
}

impl ResultsWriter {
    #[cold]
    fn change_to(&mut self, phase: u32) {
        if !self.latencies.is_empty() {
            let latencies = std::mem::replace(&mut self.latencies, empty());
            lock(&self.shared.latencies).push((self.phase, latencies));
        }
        self.phase = phase;
    }

    #[cold]
    fn look(&mut self, counted: Counted) {
        let mut watched = lock(&self.shared.watched);
        let is_it = |of: &mut Watched| of.key == counted.key && self.opened >= of.since;
        if let Some(Watched { sender, .. }) = watched.take_if(is_it) {
            self.shared.has_watched.store(false, Ordering::Release);
            // Whoever watched may have given up.
            let _ = sender.send(counted);
        }
    }
}

impl SinkWriter<(Update, Counted)> for ResultsWriter {
    #[inline]
    fn write(&mut self, result: (Update, Counted), _: Timestamp) -> Result<(), BoxError> {
        let (update, counted) = result;
        if self.shared.has_watched.load(Ordering::Relaxed) {
            self.look(counted);
        }
        if update.due != NOT_MEASURED
            && let Some(clock) = self.shared.clock.get().copied()
        {
            if update.phase != self.phase {
                self.change_to(update.phase);
            }
            let late = u64::try_from(clock.now().as_nanos() - update.due).unwrap_or(0);
            // It grows as needed, which `saturating_record` would not do.
            let _ = self.latencies.record(late.max(1));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        self.change_to(0);
        Ok(true)
    }
}
