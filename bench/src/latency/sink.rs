//! A sink that records how late results are.

use super::WARM_UP;
use super::clock::JobClock;
use super::histogram;
use hdrhistogram::Histogram;
use millstream::connector::{BoxError, Sink, SinkContext, SinkWriter};
use millstream::{Chain, DataStream, Timestamp};
use std::sync::{Arc, Mutex, PoisonError};

/// What all sinks of a job have recorded, in nanoseconds.
#[derive(Clone)]
pub(super) struct Recording {
    pub(super) clock: JobClock,
    nanos_per_record: f64,
    records: u64,
    total: Arc<Mutex<Histogram<u64>>>,
}

/// When a result was due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// At this time.
    At(Timestamp),
    /// With the record of this number.
    With(u64),
}

impl Recording {
    /// Of a job whose sources emit `records` at `rate` per second.
    pub(super) fn new(clock: JobClock, rate: u64, records: u64) -> Self {
        Self {
            clock,
            nanos_per_record: 1e9 / rate as f64,
            records,
            total: Arc::new(Mutex::new(histogram::empty())),
        }
    }

    /// Ends a stream in a sink that records how late its results are.
    pub(super) fn take<C: Chain>(
        &self,
        results: DataStream<C>,
        due: impl Fn(&C::Out) -> Due + Clone + Send + 'static,
    ) {
        results.sink_to("latency", LatencySink { recording: self.clone(), due });
    }

    pub(super) fn into_histogram(self) -> Histogram<u64> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Records what it sees, which is no result: if the job is restored, what is processed again is measured
/// again.
#[derive(Clone)]
struct LatencySink<F> {
    recording: Recording,
    due: F,
}

impl<T: 'static, F: Fn(&T) -> Due + Clone + Send + 'static> Sink<T> for LatencySink<F> {
    type Writer = LatencyWriter<F>;

    fn open(self, _: &SinkContext) -> Result<LatencyWriter<F>, BoxError> {
        Ok(LatencyWriter { own: histogram::empty(), sink: self })
    }
}

struct LatencyWriter<F> {
    own: Histogram<u64>,
    sink: LatencySink<F>,
}

impl<T: 'static, F: Fn(&T) -> Due + Clone + Send + 'static> SinkWriter<T> for LatencyWriter<F> {
    #[inline]
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        let recording = &self.sink.recording;
        let Some((start, now)) = recording.clock.start_and_now() else { return Ok(()) };
        let due = match (self.sink.due)(&value) {
            Due::At(time) => time.as_nanos(),
            // The end of the input, not a record, made these results complete.
            Due::With(number) if number >= recording.records => return Ok(()),
            Due::With(number) => {
                start.as_nanos() + (number as f64 * recording.nanos_per_record) as i64
            }
        };
        if due >= (start + WARM_UP).as_nanos() {
            let late = u64::try_from(now.as_nanos() - due).unwrap_or(0);
            self.own.saturating_record(late.max(1));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        let mut total = self.sink.recording.total.lock().unwrap_or_else(PoisonError::into_inner);
        total.add(std::mem::replace(&mut self.own, histogram::empty()))?;
        Ok(true)
    }
}
