//! Streams of records without a key.

use crate::connector::Sink;
use crate::{BoxError, Collector, KeyedStream, Timestamp};
use millstream_runtime::chain::{Chain, FromEdges, Link, Tail, Then};
use millstream_runtime::graph::{Edge, Graph, Pattern};
use millstream_runtime::links::{
    self, AssignTimestampsLink, Branches, FilterLink, FilterMapLink, FlatMapLink, FromSide,
    InspectLink, MapLink, ProcessLink, SideBranches,
};
use millstream_runtime::operator::{OutputTag, ProcessFunction, WatermarkStrategy, fail};
use millstream_state::{Data, Key};
use millstream_types::{OperatorId, VertexId};
use std::cell::RefCell;
use std::rc::Rc;

/// A stream of records.
///
/// Operators that follow one another on a stream are fused at compile time into one chain, which
/// runs as one loop in each of its subtasks; `C` is the type of that chain. A chain ends where
/// records change their subtask (`key_by`, `rebalance`, `broadcast`, …), where a stream is shared or
/// united, and where [`start_new_chain`](Self::start_new_chain) asks for it.
#[must_use = "a stream must be consumed: end it with sink_to, for_each, collect or discard"]
pub struct DataStream<C: Chain> {
    pub(crate) graph: Rc<RefCell<Graph>>,
    pub(crate) vertex: VertexId,
    /// The last operator: what `name`, `uid` and `side_output` are about.
    operator: OperatorId,
    /// Those of the last operator, if it can have any.
    sides: Option<SideBranches>,
    pub(crate) chain: C,
}

impl<C: Chain> DataStream<C> {
    pub(crate) fn new(
        graph: Rc<RefCell<Graph>>,
        vertex: VertexId,
        operator: OperatorId,
        chain: C,
    ) -> Self {
        Self { graph, vertex, operator, sides: None, chain }
    }

    pub(crate) fn with_sides(self, sides: SideBranches) -> Self {
        Self { sides: Some(sides), ..self }
    }

    pub(crate) fn operator(&self) -> OperatorId {
        self.operator
    }

    // ---- about the last operator ------------------------------------------------------------

    /// Names the last operator: in errors, metrics and the summary.
    pub fn name(self, name: &str) -> Self {
        self.graph.borrow_mut().set_name(self.operator, name);
        self
    }

    /// Gives the last operator the id by which its state is found again when a changed program
    /// resumes. Must be unique in the job.
    pub fn uid(self, uid: &str) -> Self {
        self.graph.borrow_mut().set_uid(self.operator, uid);
        self
    }

    /// Sets the number of subtasks of the chain that the last operator belongs to. To give
    /// operators that follow another number, end the chain first, for example with
    /// [`rebalance`](Self::rebalance) or [`start_new_chain`](Self::start_new_chain). A chain that is
    /// given two different numbers is refused, so also the chain of a source that reads with one
    /// subtask, such as a collection.
    pub fn set_parallelism(self, parallelism: u32) -> Self {
        self.graph.borrow_mut().set_parallelism(self.vertex, parallelism);
        self
    }

    /// A side output of the last operator, which must be a process function or a window. It can be
    /// read once ([`share`](Self::share) it if several need it); what nobody reads is dropped where
    /// it is emitted.
    ///
    /// What follows runs in the same subtasks as the operator, as if chained to it, so that
    /// [`set_parallelism`](Self::set_parallelism) there sets the parallelism of both. To give it
    /// subtasks of its own, begin with an exchange or [`start_new_chain`](Self::start_new_chain).
    pub fn side_output<T: Data>(&self, tag: &OutputTag<T>) -> DataStream<FromSide<T>> {
        let mut graph = self.graph.borrow_mut();
        let sides = self.sides.clone().unwrap_or_default();
        let name = tag.name();
        let refused = if self.sides.is_none() {
            Some(format!(
                "it has no side outputs, and the program reads \"{name}\" from it; read it from the process function or window that emits into it, before other operators follow"
            ))
        } else if !sides.claim(tag) {
            Some(format!("its side output \"{name}\" is read twice; read it once and share() it"))
        } else {
            None
        };
        if let Some(reason) = refused {
            graph.add_validation(self.operator, Box::new(|| Err(reason.into())));
        }
        let operator = graph.add_side(self.vertex, self.operator, name);
        let chain = FromSide::new(operator, tag.clone(), sides);
        DataStream::new(Rc::clone(&self.graph), self.vertex, operator, chain)
    }

    // ---- records one by one -----------------------------------------------------------------

    /// One record for each.
    pub fn map<Out: 'static>(
        self,
        function: impl FnMut(C::Out) -> Out + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = Out>> {
        self.then("map", |id| MapLink::new(id, function))
    }

    /// One record for each, or an error, which fails the job with this operator's name.
    pub fn try_map<Out: 'static, E: Into<BoxError>>(
        self,
        mut function: impl FnMut(C::Out) -> Result<Out, E> + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = Out>> {
        self.then("try_map", |id| {
            MapLink::new(id, move |value| {
                function(value).unwrap_or_else(|error| fail(id, error.into()))
            })
        })
    }

    /// The records for which the function is true.
    pub fn filter(
        self,
        function: impl FnMut(&C::Out) -> bool + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = C::Out>> {
        self.then("filter", |id| FilterLink::new(id, function))
    }

    /// At most one record for each.
    pub fn filter_map<Out: 'static>(
        self,
        function: impl FnMut(C::Out) -> Option<Out> + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = Out>> {
        self.then("filter_map", |id| FilterMapLink::new(id, function))
    }

    /// Any number of records for each, emitted through the collector.
    pub fn flat_map<Out: 'static>(
        self,
        function: impl FnMut(C::Out, &mut dyn Collector<Out>) + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = Out>> {
        self.then("flat_map", |id| FlatMapLink::new(id, function))
    }

    /// Looks at each record and passes it on.
    pub fn inspect(
        self,
        function: impl FnMut(&C::Out) + Clone + Send + 'static,
    ) -> DataStream<impl Chain<Out = C::Out>> {
        self.then("inspect", |id| InspectLink::new(id, function))
    }

    /// A process function: any number of records, side outputs, errors.
    pub fn process<P>(self, function: P) -> DataStream<impl Chain<Out = P::Out>>
    where
        P: ProcessFunction<C::Out> + Clone + Send,
    {
        self.then_with_sides("process", |id, sides| ProcessLink::new(id, function, sides))
    }

    /// Gives each record its timestamp and makes watermarks: event time begins here. Put it as
    /// near to the source as can be.
    pub fn assign_timestamps<F>(
        self,
        strategy: WatermarkStrategy<F>,
    ) -> DataStream<impl Chain<Out = C::Out>>
    where
        F: FnMut(&C::Out) -> Timestamp + Clone + Send + 'static,
    {
        self.then("timestamps", |id| AssignTimestampsLink::new(id, strategy))
    }

    /// Adds an operator at the end of the chain.
    pub(crate) fn then<L: Link<C::Out>>(
        self,
        name: &str,
        link: impl FnOnce(OperatorId) -> L,
    ) -> DataStream<Then<C, L>> {
        let operator = self.graph.borrow_mut().add_operator(self.vertex, self.operator, name);
        let chain = Then::new(self.chain, link(operator));
        DataStream::new(self.graph, self.vertex, operator, chain)
    }

    /// Adds an operator that has side outputs.
    pub(crate) fn then_with_sides<L: Link<C::Out>>(
        self,
        name: &str,
        link: impl FnOnce(OperatorId, SideBranches) -> L,
    ) -> DataStream<Then<C, L>> {
        let sides = SideBranches::default();
        self.then(name, |operator| link(operator, sides.clone())).with_sides(sides)
    }

    // ---- exchanges --------------------------------------------------------------------------

    /// Partitions the stream by key: all records of a key come to the same subtask, in order.
    ///
    /// `key` is called several times for a record, and must return the same each time.
    pub fn key_by<K, F>(self, key: F) -> KeyedStream<K, F, C>
    where
        K: Key,
        F: Fn(&C::Out) -> K + Clone + Send + 'static,
        C::Out: Data,
    {
        KeyedStream::new(self, key)
    }

    /// Deals the records out to all subtasks of what follows, in turn.
    pub fn rebalance(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        self.exchange("rebalance", Pattern::AllToAll, links::rebalance_tail)
    }

    /// As [`rebalance`](Self::rebalance), but each subtask deals only to its share of the subtasks
    /// of what follows, so that fewer channels are needed.
    pub fn rescale(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        self.exchange("rescale", Pattern::Pointwise, links::rebalance_tail)
    }

    /// Sends every record to every subtask of what follows.
    pub fn broadcast(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data + Clone,
    {
        self.exchange("broadcast", Pattern::AllToAll, links::broadcast_tail)
    }

    /// Sends every record to the one subtask of what follows.
    pub fn global(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        self.exchange("global", Pattern::AllToAll, links::global_tail).set_parallelism(1)
    }

    /// Sends each record to the subtask that `function(record, number of subtasks)` names.
    pub fn partition_custom(
        self,
        function: impl FnMut(&C::Out, usize) -> usize + Clone + Send + 'static,
    ) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        let operator = self.operator;
        self.exchange("partition_custom", Pattern::AllToAll, move |edge| {
            links::custom_tail(operator, function, edge)
        })
    }

    /// Ends the chain here: the operators that follow are a chain of their own, connected one to
    /// one (or by turns, if their number differs).
    pub fn start_new_chain(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        self.exchange("forward", Pattern::Pointwise, links::rebalance_tail)
    }

    /// Keeps the last operator from being chained to those that follow. Together with a
    /// [`start_new_chain`](Self::start_new_chain) before it, it is a chain alone.
    pub fn disable_chaining(self) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        self.start_new_chain()
    }

    /// The records of both streams, in no particular order.
    pub fn union<D: Chain<Out = C::Out>>(
        self,
        other: DataStream<D>,
    ) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        let (left, right) = (Edge::default(), Edge::default());
        let graph = Rc::clone(&self.graph);
        let (from_left, from_right) = (self.vertex, other.vertex);
        self.close(links::rebalance_tail(left.clone()));
        other.close(links::rebalance_tail(right.clone()));
        let (vertex, operator) = {
            let mut graph = graph.borrow_mut();
            let (vertex, operator) = graph.add_vertex("union");
            graph.connect(from_left, vertex, Pattern::Pointwise, &left);
            graph.connect(from_right, vertex, Pattern::Pointwise, &right);
            (vertex, operator)
        };
        DataStream::new(graph, vertex, operator, FromEdges::new(vec![left, right]))
    }

    /// Makes a stream that several consumers can read: each call of
    /// [`SharedStream::stream`] is one more, which gets all records.
    pub fn share(self) -> SharedStream<C::Out>
    where
        C::Out: Data + Clone,
    {
        let branches = Branches::default();
        let shared = SharedStream {
            graph: Rc::clone(&self.graph),
            vertex: self.vertex,
            branches: branches.clone(),
        };
        self.close(links::fork_tail(branches));
        shared
    }

    /// Ends the chain in an exchange and begins the next one.
    pub(crate) fn exchange<T: Tail<C::Out>>(
        self,
        name: &str,
        pattern: Pattern,
        tail: impl FnOnce(Edge<C::Out>) -> T,
    ) -> DataStream<FromEdges<C::Out>>
    where
        C::Out: Data,
    {
        let edge = Edge::default();
        let next = attach(&self.graph, self.vertex, pattern, edge.clone(), name);
        self.close(tail(edge));
        next
    }

    /// Completes this stream's chain.
    pub(crate) fn close(self, tail: impl Tail<C::Out>) {
        self.chain.close(&mut self.graph.borrow_mut(), self.vertex, tail);
    }

    // ---- the end ----------------------------------------------------------------------------

    /// Writes the stream to a sink.
    pub fn sink_to<S: Sink<C::Out>>(self, name: &str, sink: S) -> StreamSink {
        let graph = Rc::clone(&self.graph);
        let mut open = graph.borrow_mut();
        let operator = open.add_operator(self.vertex, self.operator, name);
        let checked = sink.clone();
        open.add_validation(operator, Box::new(move || checked.validate()));
        links::sink_outcome(&mut open, operator, self.vertex, sink.clone());
        self.chain.close(&mut open, self.vertex, links::sink_tail(operator, sink));
        drop(open);
        StreamSink { graph, operator }
    }
}

/// The end of a stream.
pub struct StreamSink {
    graph: Rc<RefCell<Graph>>,
    operator: OperatorId,
}

impl StreamSink {
    /// Gives the sink the id by which what it has written is found again when a changed program
    /// resumes. Must be unique in the job.
    ///
    /// What has no id is found by its place in the program and its name, so that nothing may be put in
    /// before it.
    pub fn uid(self, uid: &str) -> Self {
        self.graph.borrow_mut().set_uid(self.operator, uid);
        self
    }
}

/// A new vertex that reads `edge` from this one.
fn attach<T: Data>(
    graph: &Rc<RefCell<Graph>>,
    from: VertexId,
    pattern: Pattern,
    edge: Edge<T>,
    name: &str,
) -> DataStream<FromEdges<T>> {
    let (vertex, operator) = {
        let mut graph = graph.borrow_mut();
        let (vertex, operator) = graph.add_vertex(name);
        graph.connect(from, vertex, pattern, &edge);
        (vertex, operator)
    };
    DataStream::new(Rc::clone(graph), vertex, operator, FromEdges::new(vec![edge]))
}

/// A stream that several consumers read; see [`DataStream::share`].
pub struct SharedStream<T: Data> {
    graph: Rc<RefCell<Graph>>,
    vertex: VertexId,
    branches: Branches<T>,
}

impl<T: Data> SharedStream<T> {
    /// One more stream of all records.
    pub fn stream(&self) -> DataStream<FromEdges<T>> {
        let edge = Edge::default();
        self.branches.add(edge.clone());
        attach(&self.graph, self.vertex, Pattern::Pointwise, edge, "shared")
    }
}
