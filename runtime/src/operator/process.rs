//! The process function of a stream without keys: any number of records, side outputs.

use super::{
    Collector, Emit, Operator, OutputTag, SideOutputs, fail, forward_to_next_and_sides,
    in_user_code,
};
use crate::clock::PollClock;
use crate::error::BoxError;
use millstream_types::{OperatorId, Timestamp};
use std::rc::Rc;

/// A function over the records of a stream.
pub trait ProcessFunction<In>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Processes a record.
    ///
    /// # Errors
    /// What is returned fails the job, with the operator's name.
    fn process(
        &mut self,
        value: In,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError>;
}

/// What a [`ProcessFunction`] is called with.
pub struct ProcessContext<'a> {
    timestamp: Timestamp,
    watermark: Timestamp,
    clock: &'a PollClock,
    sides: &'a mut SideOutputs,
}

impl ProcessContext<'_> {
    /// The record's timestamp, if it has one.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.timestamp.is_some().then_some(self.timestamp)
    }

    /// Event time: no record at or before it is expected any more.
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Processing time, read once per batch.
    pub fn processing_time(&self) -> Timestamp {
        self.clock.now()
    }

    /// Emits into a side output, with the record's timestamp.
    #[inline]
    pub fn emit_to<T: 'static>(&mut self, tag: &OutputTag<T>, value: T) {
        self.sides.emit(tag, value, self.timestamp);
    }
}

/// Runs a [`ProcessFunction`].
pub struct Process<P, N> {
    id: OperatorId,
    function: P,
    watermark: Timestamp,
    clock: Rc<PollClock>,
    sides: SideOutputs,
    next: N,
}

impl<P, N> Process<P, N> {
    /// Calls `function` on behalf of operator `id`.
    pub fn new(
        id: OperatorId,
        function: P,
        clock: Rc<PollClock>,
        sides: SideOutputs,
        next: N,
    ) -> Self {
        Self { id, function, watermark: Timestamp::MIN, clock, sides, next }
    }
}

impl<In, P, N> Operator<In> for Process<P, N>
where
    P: ProcessFunction<In>,
    N: Operator<P::Out>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let Self { id, function, watermark, clock, sides, next } = self;
        let mut context = ProcessContext { timestamp, watermark: *watermark, clock, sides };
        let mut out = Emit::new(next, timestamp);
        let done = in_user_code(*id, || function.process(value, &mut context, &mut out));
        done.unwrap_or_else(|error| fail(*id, error));
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.sides.watermark(watermark);
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.sides.resume(watermark);
        self.next.resume(watermark);
    }

    forward_to_next_and_sides!([sides]: signal, tick, next_deadline, flush, is_blocked, is_finished);
}
