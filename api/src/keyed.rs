//! Streams with a key.

use crate::{ConnectedStreams, DataStream, JoinedStreams, KeyedProcessFunction, KeyedState};
use millstream_runtime::chain::{Chain, FromEdges};
use millstream_runtime::graph::{Edge, Pattern};
use millstream_runtime::keyed::FoldFunction;
use millstream_runtime::links::{self, FoldLink, KeyedProcessLink};
use millstream_state::{Data, Key};
use millstream_types::hash_key;
use std::marker::PhantomData;
use std::ops::AddAssign;

/// A stream that is partitioned by key. What is kept for a key is seen by its records only.
#[must_use = "a keyed stream does nothing until an operator follows"]
pub struct KeyedStream<K, F, C: Chain> {
    pub(crate) stream: DataStream<C>,
    pub(crate) key: F,
    of: PhantomData<fn(K)>,
}

impl<K, F, C> KeyedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    pub(crate) fn new(stream: DataStream<C>, key: F) -> Self {
        Self { stream, key, of: PhantomData }
    }

    /// The stream behind the exchange by key, and the key function.
    pub(crate) fn exchanged(self, name: &str) -> (DataStream<FromEdges<C::Out>>, F) {
        let operator = self.stream.operator();
        let key = self.key.clone();
        let stream = self.stream.exchange(name, Pattern::AllToAll, |edge: Edge<C::Out>| {
            links::by_key_tail(operator, move |value: &C::Out| hash_key(&key(value)), edge)
        });
        (stream, self.key)
    }

    /// Keeps a value per key and emits, for each record, what `function` makes of both.
    fn fold<Fold>(
        self,
        name: &str,
        function: Fold,
    ) -> DataStream<impl Chain<Out = Fold::Out> + use<K, F, C, Fold>>
    where
        Fold: FoldFunction<K, C::Out> + Clone + Send,
    {
        let (stream, key) = self.exchanged("by key");
        stream.then(name, |id| FoldLink::new(id, key, function))
    }

    /// A running count: for each record, its key and how many of them there were.
    pub fn count(self) -> DataStream<impl Chain<Out = (K, u64)>> {
        let first = |key: &K, _: C::Out| (1, (key.clone(), 1));
        self.fold(
            "count",
            Running::new(first, |key: &K, count: &mut u64, _: C::Out| {
                *count += 1;
                (key.clone(), *count)
            }),
        )
    }

    /// Combines what the earlier records of a key came to with each record, and emits the result.
    pub fn reduce(
        self,
        mut function: impl FnMut(C::Out, C::Out) -> C::Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = C::Out>>
    where
        C::Out: Clone,
    {
        let first = |_: &K, value: C::Out| (value.clone(), value);
        self.fold(
            "reduce",
            Running::new(first, move |_: &K, kept: &mut C::Out, value| {
                *kept = function(kept.clone(), value);
                kept.clone()
            }),
        )
    }

    /// A running sum of what `of` takes from each record.
    pub fn sum<N>(
        self,
        of: impl FnMut(&C::Out) -> N + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = (K, N)>>
    where
        N: Data + Clone + AddAssign,
    {
        let (mut of_first, mut of_next) = (of.clone(), of);
        let first = move |key: &K, value: C::Out| {
            let sum = of_first(&value);
            (sum.clone(), (key.clone(), sum))
        };
        self.fold(
            "sum",
            Running::new(first, move |key: &K, sum: &mut N, value: C::Out| {
                *sum += of_next(&value);
                (key.clone(), sum.clone())
            }),
        )
    }

    /// For each record, the record of its key so far for which `by` is least; the earliest of equal
    /// ones.
    pub fn min_by<N: PartialOrd>(
        self,
        mut by: impl FnMut(&C::Out) -> N + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = C::Out>>
    where
        C::Out: Clone,
    {
        self.reduce(move |before, value| if by(&value) < by(&before) { value } else { before })
            .name("min")
    }

    /// For each record, the record of its key so far for which `by` is greatest; the earliest of
    /// equal ones.
    pub fn max_by<N: PartialOrd>(
        self,
        mut by: impl FnMut(&C::Out) -> N + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = C::Out>>
    where
        C::Out: Clone,
    {
        self.reduce(move |before, value| if by(&value) > by(&before) { value } else { before })
            .name("max")
    }

    /// A process function with state and timers per key. `make` opens the state and returns the
    /// function; it is called once in each subtask.
    ///
    /// ```
    /// use millstream::prelude::*;
    ///
    /// /// Emits a record of a key only the first time.
    /// struct Distinct {
    ///     seen: ValueState<String, bool>,
    /// }
    ///
    /// impl KeyedProcessFunction<String, String> for Distinct {
    ///     type Out = String;
    ///     fn process(
    ///         &mut self,
    ///         value: String,
    ///         cx: &mut KeyedContext<'_, String>,
    ///         out: &mut impl Collector<String>,
    ///     ) -> Result<(), BoxError> {
    ///         if self.seen.get(cx).is_none() {
    ///             self.seen.set(cx, true);
    ///             out.collect(value);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let env = Environment::new(Config::default());
    /// let distinct = env
    ///     .from_collection("words", ["a", "b", "a"].map(String::from))
    ///     .key_by(|word| word.clone())
    ///     .process(|state| Distinct { seen: state.value("seen") })
    ///     .collect();
    /// env.execute("distinct")?;
    /// assert_eq!(distinct.take(), ["a", "b"]);
    /// # Ok::<(), JobError>(())
    /// ```
    pub fn process<P>(
        self,
        make: impl FnOnce(&mut KeyedState<'_, K>) -> P + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = P::Out>>
    where
        P: KeyedProcessFunction<K, C::Out>,
    {
        let (stream, key) = self.exchanged("by key");
        stream.then_with_sides("process", |id, sides| KeyedProcessLink::new(id, key, make, sides))
    }

    /// Puts this stream beside another one with the same type of key, for a function that reads
    /// both.
    pub fn connect<G, D>(self, other: KeyedStream<K, G, D>) -> ConnectedStreams<K, F, C, G, D>
    where
        G: Fn(&D::Out) -> K + Clone + Send + 'static,
        D: Chain,
        D::Out: Data,
    {
        ConnectedStreams::new(self, other)
    }

    /// Puts this stream beside another one with the same type of key, to pair the records of a key
    /// that fall into the same window.
    pub fn join<G, D>(self, other: KeyedStream<K, G, D>) -> JoinedStreams<K, F, C, G, D>
    where
        G: Fn(&D::Out) -> K + Clone + Send + 'static,
        D: Chain,
        D::Out: Data,
    {
        JoinedStreams::new(ConnectedStreams::new(self, other))
    }
}

/// A [`FoldFunction`] of two closures.
#[derive(Clone)]
struct Running<First, Next> {
    first: First,
    next: Next,
}

impl<First, Next> Running<First, Next> {
    fn new(first: First, next: Next) -> Self {
        Self { first, next }
    }
}

impl<K, In, State, Out, First, Next> FoldFunction<K, In> for Running<First, Next>
where
    State: Data,
    Out: 'static,
    First: FnMut(&K, In) -> (State, Out) + 'static,
    Next: FnMut(&K, &mut State, In) -> Out + 'static,
{
    type State = State;
    type Out = Out;

    #[inline(always)]
    fn first(&mut self, key: &K, value: In) -> (State, Out) {
        (self.first)(key, value)
    }

    #[inline(always)]
    fn next(&mut self, key: &K, state: &mut State, value: In) -> Out {
        (self.next)(key, state, value)
    }
}
