//! A job's processing time, read outside of its slots' polls.

use millstream::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
use millstream::{Environment, Timestamp};
use std::sync::{Arc, OnceLock};

/// The clock by which a job's records are due.
///
/// Sources are told it, sinks are not: so a source without records, which is beside those of the
/// job, passes it on.
#[derive(Clone, Debug, Default)]
pub(super) struct JobClock {
    clock: Arc<OnceLock<ProcessingClock>>,
    start: Arc<OnceLock<Timestamp>>,
}

impl JobClock {
    /// Adds the source that passes the clock on.
    pub(super) fn read_in(&self, env: &Environment) {
        env.from_source("clock", ClockSource(self.clone())).discard();
    }

    /// Called with every record's number and due time, before it is emitted.
    #[inline]
    pub(super) fn observe(&self, number: u64, due: Timestamp) {
        if number == 0 {
            // Set once only: there is one record 0.
            let _ = self.start.set(due);
        }
    }

    /// When record 0 was due, and now. `None` until there was a record.
    #[inline]
    pub(super) fn start_and_now(&self) -> Option<(Timestamp, Timestamp)> {
        Some((*self.start.get()?, self.clock.get()?.now()))
    }
}

#[derive(Clone)]
struct ClockSource(JobClock);

impl Source for ClockSource {
    type Out = ();
    type Reader = Self;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn open(self, context: &SourceContext) -> Result<Self, BoxError> {
        // Set once only: there is one subtask.
        let _ = self.0.clock.set(context.clock);
        Ok(self)
    }
}

impl SourceReader for ClockSource {
    type Out = ();

    fn poll(&mut self, _: &mut impl SourceOutput<()>) -> Result<SourceStatus, BoxError> {
        Ok(SourceStatus::Finished)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(Vec::new())
    }
}
