//! What windows do with their records, seen from the operators: aggregates and functions over all
//! elements alike.

use super::{AggregateFunction, TimeWindow, WindowResult};
use crate::error::BoxError;
use crate::operator::{Collector, Emit, Operator, fail, in_user_code};
use millstream_state::Data;
use millstream_types::OperatorId;
use std::marker::PhantomData;

/// User code that sees all records of a window at once, when it fires.
///
/// Implemented for closures `FnMut(&K, TimeWindow, &[In], &mut dyn Collector<Out>)`, which cannot
/// fail.
pub trait ProcessWindowFunction<K, In, Out>: 'static {
    /// Processes a window of a key. What is collected gets the window's
    /// [`TimeWindow::max_timestamp`]. The elements are in the order in which they came; if windows
    /// overlap, within each slice, and if sessions were merged, within each of them.
    ///
    /// # Errors
    /// What is returned fails the job, with the operator's name.
    fn process(
        &mut self,
        key: &K,
        window: TimeWindow,
        elements: &[In],
        out: &mut dyn Collector<Out>,
    ) -> Result<(), BoxError>;
}

impl<K, In, Out, F> ProcessWindowFunction<K, In, Out> for F
where
    F: FnMut(&K, TimeWindow, &[In], &mut dyn Collector<Out>) + 'static,
{
    fn process(
        &mut self,
        key: &K,
        window: TimeWindow,
        elements: &[In],
        out: &mut dyn Collector<Out>,
    ) -> Result<(), BoxError> {
        self(key, window, elements, out);
        Ok(())
    }
}

/// How records become a window's state, and a window's state becomes output: what the operators see
/// of [`WindowAggregate`] and [`WindowProcess`].
///
/// Its methods run user code so that a panic names the operator.
pub trait WindowFunction<K, In>: 'static {
    /// What is kept for each key and window.
    type State: Data + Clone;
    /// What comes out.
    type Out: 'static;

    /// The state of no record.
    fn create(&self) -> Self::State;
    /// Adds a record to a state.
    fn add(&self, state: &mut Self::State, value: In);
    /// Adds the records of another state.
    fn merge(&self, state: &mut Self::State, other: &Self::State);
    /// Emits what a window has to say about a key.
    fn fire(
        &mut self,
        key: K,
        window: TimeWindow,
        state: &Self::State,
        next: &mut impl Operator<Self::Out>,
    );
}

/// One [`WindowResult`] per key and window, by an [`AggregateFunction`].
#[derive(Clone)]
pub struct WindowAggregate<A> {
    id: OperatorId,
    function: A,
}

impl<A> WindowAggregate<A> {
    /// Aggregates by `function` on behalf of operator `id`.
    pub fn new(id: OperatorId, function: A) -> Self {
        Self { id, function }
    }
}

impl<K: 'static, In, A: AggregateFunction<In>> WindowFunction<K, In> for WindowAggregate<A> {
    type State = A::Accumulator;
    type Out = WindowResult<K, A::Output>;

    #[inline]
    fn create(&self) -> Self::State {
        in_user_code(self.id, || self.function.create())
    }

    #[inline]
    fn add(&self, state: &mut Self::State, value: In) {
        in_user_code(self.id, || self.function.add(state, value));
    }

    #[inline]
    fn merge(&self, state: &mut Self::State, other: &Self::State) {
        in_user_code(self.id, || self.function.merge(state, other));
    }

    #[inline]
    fn fire(
        &mut self,
        key: K,
        window: TimeWindow,
        state: &Self::State,
        next: &mut impl Operator<Self::Out>,
    ) {
        let value = in_user_code(self.id, || self.function.result(state));
        next.record(WindowResult { key, window, value }, window.max_timestamp());
    }
}

/// All elements of a window at once, handed to a [`ProcessWindowFunction`].
pub struct WindowProcess<P, Out> {
    id: OperatorId,
    function: P,
    emits: PhantomData<fn(Out)>,
}

impl<P: Clone, Out> Clone for WindowProcess<P, Out> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.function.clone())
    }
}

impl<P, Out> WindowProcess<P, Out> {
    /// Calls `function` on behalf of operator `id`.
    pub fn new(id: OperatorId, function: P) -> Self {
        Self { id, function, emits: PhantomData }
    }
}

impl<K, In, Out, P> WindowFunction<K, In> for WindowProcess<P, Out>
where
    In: Clone + 'static,
    Vec<In>: Data,
    Out: 'static,
    P: ProcessWindowFunction<K, In, Out>,
{
    type State = Vec<In>;
    type Out = Out;

    #[inline]
    fn create(&self) -> Vec<In> {
        Vec::new()
    }

    #[inline]
    fn add(&self, elements: &mut Vec<In>, value: In) {
        elements.push(value);
    }

    fn merge(&self, elements: &mut Vec<In>, other: &Vec<In>) {
        elements.extend_from_slice(other);
    }

    fn fire(
        &mut self,
        key: K,
        window: TimeWindow,
        elements: &Vec<In>,
        next: &mut impl Operator<Out>,
    ) {
        let mut out = Emit::new(next, window.max_timestamp());
        let done =
            in_user_code(self.id, || self.function.process(&key, window, elements, &mut out));
        done.unwrap_or_else(|error| fail(self.id, error));
    }
}
