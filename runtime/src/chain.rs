//! Chains as they are put together: from the source or the gate onward, then built from the end.
//!
//! The program adds operators at the end of a chain ([`Then`]); each operator, though, owns the
//! next one by value. So a chain is described first and built last operator first, once per
//! subtask, on the slot's thread. When its end is known, each link in turn, from the last, becomes
//! a part of the [`Tail`], until only what the chain begins with is left.

use crate::checkpoint::Participant;
use crate::error::BoxError;
use crate::exchange::InputGate;
use crate::graph::{Edge, Graph};
use crate::operator::{Operator, TwoInputOperator};
use crate::source::{Pace, Source, SourceContext};
use crate::subtask::{HeadSubtask, SourceSubtask, Subtask, SubtaskContext, TwoInputSubtask};
use millstream_state::Data;
use millstream_types::{OperatorId, VertexId};

/// An operator that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// Which.
    pub operator: OperatorId,
    /// Why.
    pub error: BoxError,
}

/// The description of a chain up to some operator.
pub trait Chain: Clone + Send + 'static {
    /// What the last operator emits.
    type Out: 'static;

    /// Ends this chain of `vertex` in `tail`: it is complete now.
    fn close(self, graph: &mut Graph, vertex: VertexId, tail: impl Tail<Self::Out>);
}

/// The description of what drives a subtask's chain: a source, or what reads its input.
pub trait Head: Clone + Send + 'static {
    /// What it pushes into the chain.
    type Out: 'static;

    /// Builds the subtask in which `next` follows.
    ///
    /// # Errors
    /// What a source or an operator said when it was opened.
    fn build<N: Operator<Self::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Box<dyn Subtask>, OpenError>;
}

impl<H: Head> Chain for H {
    type Out = H::Out;

    fn close(self, graph: &mut Graph, vertex: VertexId, tail: impl Tail<H::Out>) {
        graph.close(vertex, self, tail);
    }
}

/// The description of one operator.
pub trait Link<In>: Clone + Send + 'static {
    /// What it emits.
    type Out: 'static;
    /// The operator, with the rest of the chain behind it.
    type Operator<N: Operator<Self::Out>>: Operator<In>;

    /// Builds the operator in front of `next`.
    ///
    /// # Errors
    /// What the operator said when it was opened.
    fn build<N: Operator<Self::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError>;
}

/// A chain with one more operator.
#[derive(Clone)]
pub struct Then<C, L> {
    chain: C,
    link: L,
}

impl<C, L> Then<C, L> {
    /// `chain`, then `link`.
    pub fn new(chain: C, link: L) -> Self {
        Self { chain, link }
    }
}

impl<C: Chain, L: Link<C::Out>> Chain for Then<C, L> {
    type Out = L::Out;

    fn close(self, graph: &mut Graph, vertex: VertexId, tail: impl Tail<L::Out>) {
        let link = self.link;
        self.chain.close(graph, vertex, move |context: &mut SubtaskContext| {
            let next = tail.build(context)?;
            link.build(context, next)
        });
    }
}

/// A chain that begins with a source.
#[derive(Clone)]
pub struct FromSource<S> {
    /// The source's operator.
    pub operator: OperatorId,
    /// The source.
    pub source: S,
}

impl<S: Source> Head for FromSource<S> {
    type Out = S::Out;

    fn build<N: Operator<S::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Box<dyn Subtask>, OpenError> {
        let operator = self.operator;
        let mut positions = context.list::<Vec<u8>>(operator, "positions")?;
        let participant = Participant::open(context, 0)?;
        let reader = self
            .source
            .open(&SourceContext {
                subtask: context.subtask,
                parallelism: context.parallelism,
                waker: context.waker.clone(),
                clock: context.clock.source(),
                counters: context.counters.clone(),
                restored: positions.take_restored().map(Into::into),
            })
            .map_err(|error| OpenError { operator, error })?;
        Ok(Box::new(SourceSubtask::new(
            operator,
            reader,
            next,
            participant,
            positions,
            context.metrics.clone(),
            context.latency_interval,
            context.source_rate.map(|rate| Pace::new(rate / f64::from(context.parallelism))),
        )))
    }
}

/// A chain that begins where one edge or more (a union) end.
pub struct FromEdges<T: Data>(Vec<Edge<T>>);

impl<T: Data> Clone for FromEdges<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Data> FromEdges<T> {
    /// A chain that reads all of `edges`.
    pub fn new(edges: Vec<Edge<T>>) -> Self {
        Self(edges)
    }

    /// The gate of a subtask, whose channels are numbered from `first` on.
    fn gate(&self, context: &SubtaskContext, first: usize) -> InputGate<T> {
        InputGate::new(
            self.0.iter().flat_map(|edge| edge.take_receivers(context.subtask)).collect(),
            first,
        )
    }
}

impl<T: Data> Head for FromEdges<T> {
    type Out = T;

    fn build<N: Operator<T>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Box<dyn Subtask>, OpenError> {
        let gate = self.gate(context, 0);
        let participant = Participant::open(context, gate.channels())?;
        Ok(Box::new(HeadSubtask::new(gate, next, participant, context.metrics.clone())))
    }
}

/// The description of an operator with two inputs.
pub trait TwoInputLink<L, R>: Clone + Send + 'static {
    /// What it emits.
    type Out: 'static;
    /// The operator, with the rest of the chain behind it.
    type Operator<N: Operator<Self::Out>>: TwoInputOperator<L, R>;

    /// Builds the operator in front of `next`.
    ///
    /// # Errors
    /// What the operator said when it was opened.
    fn build<N: Operator<Self::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError>;
}

/// A chain that begins with an operator that joins two streams.
pub struct FromTwo<L: Data, R: Data, O> {
    left: FromEdges<L>,
    right: FromEdges<R>,
    link: O,
}

impl<L: Data, R: Data, O: Clone> Clone for FromTwo<L, R, O> {
    fn clone(&self) -> Self {
        Self { left: self.left.clone(), right: self.right.clone(), link: self.link.clone() }
    }
}

impl<L: Data, R: Data, O> FromTwo<L, R, O> {
    /// `link` over the streams that come by these edges.
    pub fn new(left: Edge<L>, right: Edge<R>, link: O) -> Self {
        Self { left: FromEdges::new(vec![left]), right: FromEdges::new(vec![right]), link }
    }
}

impl<L, R, O> Head for FromTwo<L, R, O>
where
    L: Data,
    R: Data,
    O: TwoInputLink<L, R>,
{
    type Out = O::Out;

    fn build<N: Operator<O::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Box<dyn Subtask>, OpenError> {
        let operator = self.link.build(context, next)?;
        let left = self.left.gate(context, 0);
        let right = self.right.gate(context, left.channels());
        let participant = Participant::open(context, left.channels() + right.channels())?;
        let metrics = context.metrics.clone();
        Ok(Box::new(TwoInputSubtask::new(left, right, operator, participant, metrics)))
    }
}

/// The description of what ends a chain: an exchange or a sink.
pub trait Tail<T>: Clone + Send + 'static {
    /// The last operator.
    type Operator: Operator<T>;

    /// Builds the last operator.
    ///
    /// # Errors
    /// What a sink said when it was opened.
    fn build(self, context: &mut SubtaskContext) -> Result<Self::Operator, OpenError>;
}

impl<T, O, F> Tail<T> for F
where
    O: Operator<T>,
    F: FnOnce(&mut SubtaskContext) -> Result<O, OpenError> + Clone + Send + 'static,
{
    type Operator = O;

    fn build(self, context: &mut SubtaskContext) -> Result<O, OpenError> {
        self(context)
    }
}
