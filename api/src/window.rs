//! Windows over keyed streams, and over whole streams.

use crate::{DataStream, KeyedStream, OutputTag};
use millstream_runtime::chain::Chain;
use millstream_runtime::graph::Pattern;
use millstream_runtime::links::{
    self, DirectWindowLink, LateOutput, PreAggregateLink, SessionWindowLink, SlicedWindowLink,
};
use millstream_runtime::window::{
    AggregateFunction, Count, Partial, ProcessWindowFunction, Reduce, Session, Slicing,
    WindowAggregate, WindowProcess, WindowResult,
};
use millstream_state::{Data, Key};
use millstream_types::hash_key;
use std::time::Duration;

impl<C: Chain> DataStream<C>
where
    C::Out: Data,
{
    /// Groups the whole stream by time: windows without a key, whose results one subtask makes.
    /// Aggregates are prepared by all subtasks before they are brought together.
    pub fn window_all(self, windows: impl Into<Slicing>) -> AllWindowedStream<C> {
        AllWindowedStream { stream: self, slicing: windows.into(), lateness: Duration::ZERO }
    }
}

impl<K, F, C> KeyedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// Groups the records of each key by time: [`Tumbling`](crate::Tumbling) or
    /// [`Sliding`](crate::Sliding) windows, or one for all of time ([`Global`](crate::Global)) that
    /// gives its result at the end of input.
    pub fn window(self, windows: impl Into<Slicing>) -> WindowedStream<K, F, C> {
        WindowedStream { keyed: self, slicing: windows.into(), lateness: Duration::ZERO }
    }
}

impl<K, F, C> KeyedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// Groups the records of each key into sessions, which end when none has come for a while (of
    /// event time).
    pub fn sessions(self, sessions: Session) -> SessionStream<K, F, C> {
        SessionStream {
            keyed: self,
            sessions,
            lateness: Duration::ZERO,
            late: LateOutput::dropped(),
        }
    }
}

/// A keyed stream whose records are grouped by time.
#[must_use = "windows do nothing until a function follows"]
pub struct WindowedStream<K, F, C: Chain> {
    keyed: KeyedStream<K, F, C>,
    slicing: Slicing,
    lateness: Duration,
}

impl<K, F, C> WindowedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// Keeps each window for this long (of event time) after it has given its result. A record that
    /// still comes for it makes it give an updated one. Zero unless set.
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// Puts records that come too late for their windows out aside. Ask the resulting stream for
    /// its [`side_output`](DataStream::side_output) with the same tag.
    ///
    /// The records must then reach the windows one by one: aggregates are not prepared before the
    /// exchange.
    pub fn late_output(self, tag: &OutputTag<C::Out>) -> DirectWindowedStream<K, F, C> {
        DirectWindowedStream { windowed: self, late: LateOutput::to(tag.clone()) }
    }

    /// One result per key and window.
    ///
    /// Aggregates in two phases: before the exchange each subtask aggregates what it has of a key,
    /// unless keys hardly repeat.
    pub fn aggregate<A: AggregateFunction<C::Out>>(
        self,
        function: A,
    ) -> DataStream<impl Chain<Out = WindowResult<K, A::Output>>> {
        let Self { keyed: KeyedStream { stream, key, .. }, slicing, lateness } = self;
        let first = function.clone();
        let stream =
            stream.then("pre-aggregate", |id| PreAggregateLink::new(id, slicing, key, first));
        let operator = stream.operator();
        let by_key = |partial: &Partial<K, A::Accumulator>| hash_key(&partial.key);
        stream
            .exchange("by key", Pattern::AllToAll, |edge| {
                links::by_key_tail(operator, by_key, edge)
            })
            .then("window", |id| SlicedWindowLink::new(id, slicing, lateness, function))
    }

    /// The number of records per key and window.
    pub fn count(self) -> DataStream<impl Chain<Out = WindowResult<K, u64>>> {
        self.aggregate(Count)
    }

    /// Combines the records of a key and window, two by two, in any grouping.
    pub fn reduce(
        self,
        function: impl Fn(C::Out, C::Out) -> C::Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = WindowResult<K, C::Out>>>
    where
        C::Out: Clone,
        Option<C::Out>: Data,
    {
        self.aggregate(Reduce::new(function))
    }

    /// Hands all records of a key and window to a function, once the window is complete.
    pub fn process<Out: 'static>(
        self,
        function: impl ProcessWindowFunction<K, C::Out, Out> + Clone + Send,
    ) -> DataStream<impl Chain<Out = Out>>
    where
        C::Out: Clone,
        Vec<C::Out>: Data,
    {
        DirectWindowedStream { windowed: self, late: LateOutput::dropped() }.process(function)
    }
}

/// A [`WindowedStream`] whose records come to the windows one by one.
#[must_use = "windows do nothing until a function follows"]
pub struct DirectWindowedStream<K, F, C: Chain> {
    windowed: WindowedStream<K, F, C>,
    late: LateOutput<C::Out>,
}

impl<K, F, C> DirectWindowedStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// As [`WindowedStream::allowed_lateness`].
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.windowed.lateness = lateness;
        self
    }

    /// As [`WindowedStream::aggregate`], in one phase.
    pub fn aggregate<A: AggregateFunction<C::Out>>(
        self,
        function: A,
    ) -> DataStream<impl Chain<Out = WindowResult<K, A::Output>>> {
        let Self { windowed: WindowedStream { keyed, slicing, lateness }, late } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then_with_sides("window", |id, sides| {
            let function = WindowAggregate::new(id, function);
            DirectWindowLink::new(id, (slicing, lateness), key, function, (late, sides))
        })
    }

    /// As [`WindowedStream::process`].
    pub fn process<Out: 'static>(
        self,
        function: impl ProcessWindowFunction<K, C::Out, Out> + Clone + Send,
    ) -> DataStream<impl Chain<Out = Out>>
    where
        C::Out: Clone,
        Vec<C::Out>: Data,
    {
        let Self { windowed: WindowedStream { keyed, slicing, lateness }, late } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then_with_sides("window", |id, sides| {
            let function = WindowProcess::new(id, function);
            DirectWindowLink::new(id, (slicing, lateness), key, function, (late, sides))
        })
    }
}

/// A stream whose records are grouped by time alone; see [`DataStream::window_all`].
#[must_use = "windows do nothing until a function follows"]
pub struct AllWindowedStream<C: Chain> {
    stream: DataStream<C>,
    slicing: Slicing,
    lateness: Duration,
}

impl<C: Chain> AllWindowedStream<C>
where
    C::Out: Data,
{
    /// As [`WindowedStream::allowed_lateness`].
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// One result per window, aggregated in two phases.
    pub fn aggregate<A: AggregateFunction<C::Out>>(
        self,
        function: A,
    ) -> DataStream<impl Chain<Out = WindowResult<(), A::Output>>> {
        let Self { stream, slicing, lateness } = self;
        let first = function.clone();
        stream
            .then("pre-aggregate", |id| PreAggregateLink::new(id, slicing, |_: &C::Out| (), first))
            .exchange("global", Pattern::AllToAll, links::global_tail)
            .set_parallelism(1)
            .then("window", |id| SlicedWindowLink::new(id, slicing, lateness, function))
    }

    /// The number of records per window.
    pub fn count(self) -> DataStream<impl Chain<Out = WindowResult<(), u64>>> {
        self.aggregate(Count)
    }

    /// Combines the records of a window, two by two, in any grouping.
    pub fn reduce(
        self,
        function: impl Fn(C::Out, C::Out) -> C::Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = WindowResult<(), C::Out>>>
    where
        C::Out: Clone,
        Option<C::Out>: Data,
    {
        self.aggregate(Reduce::new(function))
    }
}

/// A keyed stream whose records are grouped into sessions; see [`KeyedStream::sessions`].
#[must_use = "windows do nothing until a function follows"]
pub struct SessionStream<K, F, C: Chain> {
    keyed: KeyedStream<K, F, C>,
    sessions: Session,
    lateness: Duration,
    late: LateOutput<C::Out>,
}

impl<K, F, C> SessionStream<K, F, C>
where
    K: Key,
    F: Fn(&C::Out) -> K + Clone + Send + 'static,
    C: Chain,
    C::Out: Data,
{
    /// As [`WindowedStream::allowed_lateness`].
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = lateness;
        self
    }

    /// As [`WindowedStream::late_output`].
    pub fn late_output(mut self, tag: &OutputTag<C::Out>) -> Self {
        self.late = LateOutput::to(tag.clone());
        self
    }

    /// One result per key and session.
    pub fn aggregate<A: AggregateFunction<C::Out>>(
        self,
        function: A,
    ) -> DataStream<impl Chain<Out = WindowResult<K, A::Output>>> {
        let Self { keyed, sessions, lateness, late } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then_with_sides("sessions", |id, sides| {
            let function = WindowAggregate::new(id, function);
            SessionWindowLink::new(id, (sessions, lateness), key, function, (late, sides))
        })
    }

    /// The number of records per key and session.
    pub fn count(self) -> DataStream<impl Chain<Out = WindowResult<K, u64>>> {
        self.aggregate(Count)
    }

    /// Combines the records of a key and session, two by two.
    pub fn reduce(
        self,
        function: impl Fn(C::Out, C::Out) -> C::Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = WindowResult<K, C::Out>>>
    where
        C::Out: Clone,
        Option<C::Out>: Data,
    {
        self.aggregate(Reduce::new(function))
    }

    /// Hands all records of a key and session to a function, once the session has ended.
    pub fn process<Out: 'static>(
        self,
        function: impl ProcessWindowFunction<K, C::Out, Out> + Clone + Send,
    ) -> DataStream<impl Chain<Out = Out>>
    where
        C::Out: Clone,
        Vec<C::Out>: Data,
    {
        let Self { keyed, sessions, lateness, late } = self;
        let (stream, key) = keyed.exchanged("by key");
        stream.then_with_sides("sessions", |id, sides| {
            let function = WindowProcess::new(id, function);
            SessionWindowLink::new(id, (sessions, lateness), key, function, (late, sides))
        })
    }
}
