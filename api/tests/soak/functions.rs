//! User code of the random programs: process functions and a sink that keeps timestamps.

use crate::model::{Row, bucket_end, result_row};
use crate::random::mix;
use millstream::connector::{Sink, SinkContext, SinkWriter, SlotWaker};
use millstream::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Emits multiples of three into a side output.
#[derive(Clone)]
pub struct Thirds(pub OutputTag<u64>);

impl ProcessFunction<u64> for Thirds {
    type Out = u64;

    fn process(
        &mut self,
        value: u64,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        if value.is_multiple_of(3) {
            context.emit_to(&self.0, value);
        } else {
            out.collect(value);
        }
        Ok(())
    }
}

/// Emits a value only the first time.
pub struct Distinct {
    pub seen: MapState<u64, u64, bool>,
}

impl KeyedProcessFunction<u64, u64> for Distinct {
    type Out = u64;

    fn process(
        &mut self,
        value: u64,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        if !self.seen.contains(cx, &value) {
            self.seen.put(cx, &value, true);
            out.collect(value);
        }
        Ok(())
    }
}

/// Sums by key and bucket of event time with nothing but timers and state. What comes from the
/// right of two streams counts three times.
///
/// On the way it takes back timers, and sets timers of processing time that do nothing: they only
/// wake the slot.
pub struct Buckets {
    pub size: u64,
    pub sums: MapState<u64, i64, u64>,
    pub records: ValueState<u64, u64>,
    pub order: ListState<u64, i64>,
}

/// Event time in these programs stays far below this, processing time far above.
const BETWEEN_EVENT_AND_PROCESSING_TIME: i64 = 1_000_000_000_000_000_000;

impl Buckets {
    pub fn open(state: &mut KeyedState<'_, u64>, size: u64) -> Self {
        Self {
            size,
            sums: state.map("sums"),
            records: state.value("records"),
            order: state.list("order"),
        }
    }

    fn add(&mut self, value: u64, cx: &mut KeyedContext<'_, u64>) -> Result<(), BoxError> {
        let time = cx.timestamp().ok_or("a record lost its timestamp")?;
        if cx.watermark() >= time {
            return Err(format!("{time:?} is late: the watermark is {:?}", cx.watermark()).into());
        }
        let end = bucket_end(time.as_nanos(), self.size);
        if !self.sums.contains(cx, &end) {
            self.order.push(cx, end);
        }
        self.sums.modify(cx, &end, || 0, |sum| *sum += value);
        cx.register_event_timer(Timestamp::from_nanos(end));
        let decoy = Timestamp::from_nanos(end + 1 + (value % 7) as i64 * self.size as i64);
        let of_a_bucket = bucket_end(decoy.as_nanos(), self.size) == decoy.as_nanos();
        if !of_a_bucket {
            cx.register_event_timer(decoy);
            cx.delete_event_timer(decoy);
        }
        let count = self.records.modify(
            cx,
            || 0,
            |count| {
                *count += 1;
                *count
            },
        );
        if count % 64 == 1 {
            let soon = cx.processing_time() + Duration::from_micros(mix(value) % 300);
            cx.register_processing_timer(soon);
        }
        Ok(())
    }

    fn emit(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        let end = time.as_nanos();
        if end > BETWEEN_EVENT_AND_PROCESSING_TIME {
            return Ok(());
        }
        let sum = self.sums.remove(cx, &end).ok_or("a timer fired that was not set")?;
        let known = self.order.update(cx, |ends| {
            let before = ends.len();
            ends.retain(|e| *e != end);
            before - ends.len()
        });
        if known != 1 {
            return Err(format!("the list knows the bucket {known} times").into());
        }
        out.collect(result_row(*cx.key(), end, sum));
        Ok(())
    }
}

impl KeyedProcessFunction<u64, u64> for Buckets {
    type Out = u64;

    fn process(
        &mut self,
        value: u64,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        self.add(value, cx)
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        self.emit(time, cx, out)
    }
}

impl KeyedCoProcessFunction<u64, u64, u64> for Buckets {
    type Out = u64;

    fn process_left(
        &mut self,
        value: u64,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        self.add(value, cx)
    }

    fn process_right(
        &mut self,
        value: u64,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        self.add(value * 3, cx)
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        self.emit(time, cx, out)
    }
}

/// Keeps records with their timestamps, and cannot take more for a few polls now and then.
#[derive(Clone)]
pub struct TimedSink {
    rows: Arc<Mutex<Vec<Row>>>,
    blocks_every: u64,
}

impl TimedSink {
    /// One that is blocked for a while after so many records; never if zero.
    pub fn new(blocks_every: u64) -> Self {
        Self { rows: Arc::default(), blocks_every }
    }

    /// What it got.
    pub fn take(&self) -> Vec<Row> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink<u64> for TimedSink {
    type Writer = TimedWriter;

    fn open(self, context: &SinkContext) -> Result<TimedWriter, BoxError> {
        Ok(TimedWriter { sink: self, rows: Vec::new(), waker: context.waker.clone(), polls: 0 })
    }
}

pub struct TimedWriter {
    sink: TimedSink,
    rows: Vec<Row>,
    waker: SlotWaker,
    /// For how many polls it is still blocked.
    polls: u64,
}

impl SinkWriter<u64> for TimedWriter {
    fn write(&mut self, value: u64, timestamp: Timestamp) -> Result<(), BoxError> {
        self.rows.push((value, timestamp.as_nanos()));
        if self.sink.blocks_every > 0
            && (self.rows.len() as u64).is_multiple_of(self.sink.blocks_every)
        {
            self.polls = 1 + value % 4;
        }
        Ok(())
    }

    fn is_blocked(&mut self) -> bool {
        if self.polls == 0 {
            return false;
        }
        self.polls -= 1;
        // Whoever is blocked must see to it that its slot is woken.
        self.waker.wake();
        true
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        let mut all = self.sink.rows.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut self.rows);
        Ok(true)
    }
}
