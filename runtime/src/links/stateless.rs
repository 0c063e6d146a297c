//! Links that keep no state.

use crate::chain::{Link, OpenError};
use crate::links::SideBranches;
use crate::operator::{
    AssignTimestamps, Collector, EventTime, Filter, FilterMap, FlatMap, Inspect, Map, Operator,
    Process, ProcessFunction, WatermarkStrategy,
};
use crate::subtask::SubtaskContext;
use millstream_types::{OperatorId, Timestamp};
use std::marker::PhantomData;

/// Declares a link that owns a function `F` of this bound and emits `$out`.
macro_rules! function_link {
    (
        $(#[$doc:meta])*
        $link:ident<F, $out:ident>: $operator:ty, $build:expr, where F: $($bound:tt)+
    ) => {
        $(#[$doc])*
        pub struct $link<F, $out> {
            id: OperatorId,
            function: F,
            emits: PhantomData<fn($out)>,
        }

        impl<F: Clone, $out> Clone for $link<F, $out> {
            fn clone(&self) -> Self {
                Self::new(self.id, self.function.clone())
            }
        }

        impl<F, $out> $link<F, $out> {
            /// Operator `id`, which calls `function`.
            pub fn new(id: OperatorId, function: F) -> Self {
                Self { id, function, emits: PhantomData }
            }
        }

        function_link!(@ $link, $out, $operator, $build, $($bound)+);
    };
    (@ $link:ident, In, $operator:ty, $build:expr, $($bound:tt)+) => {
        impl<In, F> Link<In> for $link<F, In>
        where
            In: 'static,
            F: $($bound)+ + Clone + Send + 'static,
        {
            function_link!(@@ In, $operator, $build);
        }
    };
    (@ $link:ident, Out, $operator:ty, $build:expr, $($bound:tt)+) => {
        impl<In, Out, F> Link<In> for $link<F, Out>
        where
            In: 'static,
            Out: 'static,
            F: $($bound)+ + Clone + Send + 'static,
        {
            function_link!(@@ Out, $operator, $build);
        }
    };
    (@@ $out:ident, $operator:ty, $build:expr) => {
        type Out = $out;
        type Operator<N: Operator<$out>> = $operator;

        fn build<N: Operator<$out>>(
            self,
            _: &mut SubtaskContext,
            next: N,
        ) -> Result<Self::Operator<N>, OpenError> {
            Ok($build(self.id, self.function, next))
        }
    };
}

function_link! {
    /// See [`Map`].
    MapLink<F, Out>: Map<F, N>, Map::new, where F: FnMut(In) -> Out
}
function_link! {
    /// See [`Filter`].
    FilterLink<F, In>: Filter<F, N>, Filter::new, where F: FnMut(&In) -> bool
}
function_link! {
    /// See [`FilterMap`].
    FilterMapLink<F, Out>: FilterMap<F, N>, FilterMap::new, where F: FnMut(In) -> Option<Out>
}
function_link! {
    /// See [`FlatMap`].
    FlatMapLink<F, Out>: FlatMap<F, N, Out>, FlatMap::new, where F: FnMut(In, &mut dyn Collector<Out>)
}
function_link! {
    /// See [`Inspect`].
    InspectLink<F, In>: Inspect<F, N>, Inspect::new, where F: FnMut(&In)
}

/// See [`AssignTimestamps`].
#[derive(Clone)]
pub struct AssignTimestampsLink<F> {
    id: OperatorId,
    strategy: WatermarkStrategy<F>,
}

impl<F> AssignTimestampsLink<F> {
    /// Operator `id`, which applies `strategy`.
    pub fn new(id: OperatorId, strategy: WatermarkStrategy<F>) -> Self {
        Self { id, strategy }
    }
}

impl<In, F> Link<In> for AssignTimestampsLink<F>
where
    In: 'static,
    F: FnMut(&In) -> Timestamp + Clone + Send + 'static,
{
    type Out = In;
    type Operator<N: Operator<In>> = AssignTimestamps<F, N>;

    fn build<N: Operator<In>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<AssignTimestamps<F, N>, OpenError> {
        let mut kept = context.list(self.id, "event time")?;
        let known = kept
            .take_restored()
            .map(|kept| EventTime::restored(&kept, context.subtask, context.parallelism));
        Ok(AssignTimestamps::new(self.id, self.strategy, known.unwrap_or_default(), kept, next))
    }
}

/// See [`Process`].
#[derive(Clone)]
pub struct ProcessLink<P> {
    id: OperatorId,
    function: P,
    sides: SideBranches,
}

impl<P> ProcessLink<P> {
    /// Operator `id`, which calls `function`.
    pub fn new(id: OperatorId, function: P, sides: SideBranches) -> Self {
        Self { id, function, sides }
    }
}

impl<In, P> Link<In> for ProcessLink<P>
where
    In: 'static,
    P: ProcessFunction<In> + Clone + Send + 'static,
{
    type Out = P::Out;
    type Operator<N: Operator<P::Out>> = Process<P, N>;

    fn build<N: Operator<P::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Process<P, N>, OpenError> {
        let sides = self.sides.build(context)?;
        Ok(Process::new(self.id, self.function, context.clock.clone(), sides, next))
    }
}
