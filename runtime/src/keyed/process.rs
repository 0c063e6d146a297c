//! The keyed process function: all that an operator can do, in the hands of the user.

use super::context::{KeyedContext, TimerService};
use super::lookahead::{Lookahead, Way, through_store};
use crate::error::BoxError;
use crate::operator::{
    Collector, Emit, Operator, SideOutputs, fail, forward_to_next_and_sides, in_user_code,
};
use crate::rows::Rows;
use millstream_state::{Key, LookAhead};
use millstream_types::{OperatorId, Timestamp, hash_key};

/// A function over the records of a key, with state and timers.
pub trait KeyedProcessFunction<K: Key, In>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Processes a record.
    ///
    /// # Errors
    /// What is returned fails the job, with the operator's name.
    fn process(
        &mut self,
        value: In,
        context: &mut KeyedContext<'_, K>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError>;

    /// A timer of the context's key is due.
    ///
    /// # Errors
    /// As [`KeyedProcessFunction::process`].
    fn on_timer(
        &mut self,
        time: Timestamp,
        context: &mut KeyedContext<'_, K>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError> {
        let _ = (time, context, out);
        Ok(())
    }
}

/// Runs a [`KeyedProcessFunction`].
pub struct KeyedProcess<K, P, KF, N> {
    id: OperatorId,
    key: KF,
    function: P,
    timers: TimerService<K>,
    sides: SideOutputs,
    ahead: LookAhead,
    lookahead: Lookahead,
    hashes: Vec<u64>,
    next: N,
}

impl<K, P, KF, N> KeyedProcess<K, P, KF, N> {
    pub(crate) fn new(
        id: OperatorId,
        key: KF,
        function: P,
        timers: TimerService<K>,
        sides: SideOutputs,
        ahead: LookAhead,
        next: N,
    ) -> Self {
        let (lookahead, hashes) = Default::default();
        Self { id, key, function, timers, sides, ahead, lookahead, hashes, next }
    }

    #[inline]
    fn process<In>(&mut self, value: In, timestamp: Timestamp, hash: u64, key: &K)
    where
        K: Key,
        P: KeyedProcessFunction<K, In>,
        N: Operator<P::Out>,
    {
        let Self { id, function, timers, sides, next, .. } = self;
        let mut context = KeyedContext { key, hash, timestamp, timers, sides };
        let mut out = Emit::new(next, timestamp);
        let done = in_user_code(*id, || function.process(value, &mut context, &mut out));
        done.unwrap_or_else(|error| fail(*id, error));
    }

    /// Row by row, the state of the next ones on its way into the cache.
    #[inline(never)]
    fn batch_ahead<In>(&mut self, rows: &mut Rows<In>)
    where
        K: Key,
        In: 'static,
        P: KeyedProcessFunction<K, In>,
        KF: Fn(&In) -> K,
        N: Operator<P::Out>,
    {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        in_user_code(self.id, || {
            hashes.extend(rows.values().iter().map(|value| hash_key(&(self.key)(value))));
        });
        through_store(
            rows,
            &hashes,
            self,
            |process, hashes| process.ahead.places(hashes),
            |process, hashes| process.ahead.entries(hashes),
            |process, value, timestamp, hash| {
                let key = in_user_code(process.id, || (process.key)(&value));
                process.process(value, timestamp, hash, &key);
            },
        );
        self.hashes = hashes;
    }

    fn fire<In>(&mut self, time: Timestamp, hash: u64, key: &K)
    where
        K: Key,
        P: KeyedProcessFunction<K, In>,
        N: Operator<P::Out>,
    {
        let Self { id, function, timers, sides, next, .. } = self;
        let mut context = KeyedContext { key, hash, timestamp: time, timers, sides };
        let mut out = Emit::new(next, time);
        let fired = in_user_code(*id, || function.on_timer(time, &mut context, &mut out));
        fired.unwrap_or_else(|error| fail(*id, error));
    }
}

impl<K, In, P, KF, N> Operator<In> for KeyedProcess<K, P, KF, N>
where
    K: Key,
    In: 'static,
    P: KeyedProcessFunction<K, In>,
    KF: Fn(&In) -> K + 'static,
    N: Operator<P::Out>,
{
    #[inline]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let key = in_user_code(self.id, || (self.key)(&value));
        self.process(value, timestamp, hash_key(&key), &key);
    }

    #[inline]
    fn batch(&mut self, rows: &mut Rows<In>) {
        if self.ahead.is_empty() {
            return rows.drain_each(|value, timestamp| self.record(value, timestamp));
        }
        if self.ahead.is_partly_cold() {
            return self.batch_ahead(rows);
        }
        let mut lookahead = std::mem::take(&mut self.lookahead);
        lookahead.run(rows.len(), |way| match way {
            Way::Straight => rows.drain_each(|value, timestamp| self.record(value, timestamp)),
            Way::Ahead => self.batch_ahead(rows),
        });
        self.lookahead = lookahead;
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.timers.advance(watermark);
        while let Some((time, hash, key)) = self.timers.pop_event() {
            self.fire(time, hash, &key);
        }
        self.sides.watermark(watermark);
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.timers.advance(watermark);
        self.sides.resume(watermark);
        self.next.resume(watermark);
    }

    fn tick(&mut self, now: Timestamp) {
        while let Some((time, hash, key)) = self.timers.pop_processing(now) {
            self.fire(time, hash, &key);
        }
        self.sides.tick(now);
        self.next.tick(now);
    }

    fn next_deadline(&self) -> Timestamp {
        let next = self.next.next_deadline().min(self.sides.next_deadline());
        self.timers.next_deadline().min(next)
    }

    forward_to_next_and_sides!([sides]: signal, flush, is_blocked, is_finished);
}
