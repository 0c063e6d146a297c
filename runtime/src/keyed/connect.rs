//! Two keyed streams, one state: the connected form of the keyed process function.

use super::context::{KeyedContext, TimerService};
use crate::error::BoxError;
use crate::operator::{
    Collector, Emit, Operator, SideOutputs, TwoInputOperator, fail, forward_to_next_and_sides,
    in_user_code,
};
use millstream_state::Key;
use millstream_types::{OperatorId, Timestamp, hash_key};

/// A function over the records of a key in two streams, with shared state and timers.
pub trait KeyedCoProcessFunction<K: Key, L, R>: 'static {
    /// What it emits.
    type Out: 'static;

    /// Processes a record of the first stream.
    ///
    /// # Errors
    /// What is returned fails the job, with the operator's name.
    fn process_left(
        &mut self,
        value: L,
        context: &mut KeyedContext<'_, K>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError>;

    /// Processes a record of the second stream.
    ///
    /// # Errors
    /// As [`KeyedCoProcessFunction::process_left`].
    fn process_right(
        &mut self,
        value: R,
        context: &mut KeyedContext<'_, K>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError>;

    /// A timer of the context's key is due.
    ///
    /// # Errors
    /// As [`KeyedCoProcessFunction::process_left`].
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

/// Runs a [`KeyedCoProcessFunction`].
pub struct KeyedConnect<K, P, LF, RF, N> {
    id: OperatorId,
    left_key: LF,
    right_key: RF,
    function: P,
    timers: TimerService<K>,
    sides: SideOutputs,
    next: N,
}

impl<K, P, LF, RF, N> KeyedConnect<K, P, LF, RF, N> {
    pub(crate) fn new(
        id: OperatorId,
        keys: (LF, RF),
        function: P,
        timers: TimerService<K>,
        sides: SideOutputs,
        next: N,
    ) -> Self {
        Self { id, left_key: keys.0, right_key: keys.1, function, timers, sides, next }
    }

    fn fire<L, R>(&mut self, time: Timestamp, hash: u64, key: &K)
    where
        K: Key,
        P: KeyedCoProcessFunction<K, L, R>,
        N: Operator<P::Out>,
    {
        let Self { id, function, timers, sides, next, .. } = self;
        let mut context = KeyedContext { key, hash, timestamp: time, timers, sides };
        let mut out = Emit::new(next, time);
        let fired = in_user_code(*id, || function.on_timer(time, &mut context, &mut out));
        fired.unwrap_or_else(|error| fail(*id, error));
    }
}

impl<K, L, R, P, LF, RF, N> TwoInputOperator<L, R> for KeyedConnect<K, P, LF, RF, N>
where
    K: Key,
    L: 'static,
    R: 'static,
    P: KeyedCoProcessFunction<K, L, R>,
    LF: Fn(&L) -> K + 'static,
    RF: Fn(&R) -> K + 'static,
    N: Operator<P::Out>,
{
    #[inline]
    fn left(&mut self, value: L, timestamp: Timestamp) {
        let Self { id, left_key, function, timers, sides, next, .. } = self;
        let key = &in_user_code(*id, || left_key(&value));
        let mut context = KeyedContext { key, hash: hash_key(key), timestamp, timers, sides };
        let mut out = Emit::new(next, timestamp);
        let done = in_user_code(*id, || function.process_left(value, &mut context, &mut out));
        done.unwrap_or_else(|error| fail(*id, error));
    }

    #[inline]
    fn right(&mut self, value: R, timestamp: Timestamp) {
        let Self { id, right_key, function, timers, sides, next, .. } = self;
        let key = &in_user_code(*id, || right_key(&value));
        let mut context = KeyedContext { key, hash: hash_key(key), timestamp, timers, sides };
        let mut out = Emit::new(next, timestamp);
        let done = in_user_code(*id, || function.process_right(value, &mut context, &mut out));
        done.unwrap_or_else(|error| fail(*id, error));
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
