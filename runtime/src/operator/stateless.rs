//! Operators that remember nothing: map, filter, flat map, inspect.

use super::{Collector, Emit, Operator, in_user_code};
use crate::forward_to_next;
use millstream_types::{OperatorId, Timestamp};
use std::marker::PhantomData;

/// Declares an operator that owns a function and the next operator.
macro_rules! stateless {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<F, N> {
            id: OperatorId,
            function: F,
            next: N,
        }

        impl<F, N> $name<F, N> {
            /// A link that calls `function` on behalf of operator `id` and pushes into `next`.
            pub fn new(id: OperatorId, function: F, next: N) -> Self {
                Self { id, function, next }
            }
        }
    };
}

stateless! {
    /// One record for each.
    Map
}

impl<In, Out, F, N> Operator<In> for Map<F, N>
where
    F: FnMut(In) -> Out + 'static,
    N: Operator<Out>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let out = in_user_code(self.id, || (self.function)(value));
        self.next.record(out, timestamp);
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}

stateless! {
    /// The records for which the function is true.
    Filter
}

impl<In, F, N> Operator<In> for Filter<F, N>
where
    F: FnMut(&In) -> bool + 'static,
    N: Operator<In>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        if in_user_code(self.id, || (self.function)(&value)) {
            self.next.record(value, timestamp);
        }
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}

stateless! {
    /// At most one record for each.
    FilterMap
}

impl<In, Out, F, N> Operator<In> for FilterMap<F, N>
where
    F: FnMut(In) -> Option<Out> + 'static,
    N: Operator<Out>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        if let Some(out) = in_user_code(self.id, || (self.function)(value)) {
            self.next.record(out, timestamp);
        }
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}

/// Any number of records for each, emitted through a collector.
pub struct FlatMap<F, N, Out> {
    id: OperatorId,
    function: F,
    next: N,
    emits: PhantomData<fn(Out)>,
}

impl<F, N, Out> FlatMap<F, N, Out> {
    /// A link that calls `function` on behalf of operator `id`; what it emits goes into `next`.
    pub fn new(id: OperatorId, function: F, next: N) -> Self {
        Self { id, function, next, emits: PhantomData }
    }
}

impl<In, Out, F, N> Operator<In> for FlatMap<F, N, Out>
where
    F: FnMut(In, &mut dyn Collector<Out>) + 'static,
    N: Operator<Out>,
    Out: 'static,
{
    /// The collector is passed as a trait object because a closure cannot be generic over the rest
    /// of the chain; once the closure is inlined here its vtable is known and the calls are direct.
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let mut out = Emit::new(&mut self.next, timestamp);
        in_user_code(self.id, || (self.function)(value, &mut out));
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}

stateless! {
    /// Looks at each record and passes it on.
    Inspect
}

impl<In, F, N> Operator<In> for Inspect<F, N>
where
    F: FnMut(&In) + 'static,
    N: Operator<In>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        in_user_code(self.id, || (self.function)(&value));
        self.next.record(value, timestamp);
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}
