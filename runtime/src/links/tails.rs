//! What ends a chain: exchanges and sinks.

use crate::chain::{OpenError, Tail};
use crate::checkpoint::TRANSACTIONS;
use crate::error::BoxError;
use crate::exchange::{
    Broadcast, ByKey, Custom, Fork, Forward, Global, Outputs, Partitioned, Partitioner, Rebalance,
};
use crate::graph::{Edge, Graph, Outcome};
use crate::operator::{Operator, SinkOperator, SinkState};
use crate::sink::{Sink, SinkContext};
use crate::subtask::{SubtaskContext, assignment};
use millstream_state::Data;
use millstream_types::{OperatorId, VertexId};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

fn outputs<T: Data>(edge: &Edge<T>, context: &SubtaskContext) -> Result<Outputs<T>, OpenError> {
    let senders = edge.take_senders(context.subtask).into_iter();
    Ok(Outputs::new(
        senders.map(|(outbound, id)| (context.outlet(outbound), id)).collect(),
        context.in_flight(edge)?,
        &context.exchange,
        context.metrics.clone(),
        Rc::clone(&context.checkpoints),
    ))
}

/// Declares a tail that partitions by what `$partitioner` makes of the context and the targets.
fn partitioned_tail<T, P, M>(edge: Edge<T>, make: M) -> impl Tail<T>
where
    T: Data,
    P: Partitioner<T>,
    M: FnOnce(&SubtaskContext, usize) -> P + Clone + Send + 'static,
{
    move |context: &mut SubtaskContext| {
        let outputs = outputs(&edge, context)?;
        let partitioner = make(context, outputs.targets());
        Ok(Partitioned::new(outputs, partitioner))
    }
}

/// To the subtask of the same index; the edge is pointwise between equal parallelisms.
pub fn forward_tail<T: Data>(edge: Edge<T>) -> impl Tail<T> {
    partitioned_tail(edge, |_, _| Forward)
}

/// To the targets in turn: all subtasks, or (rescale) those that the edge gives this one.
pub fn rebalance_tail<T: Data>(edge: Edge<T>) -> impl Tail<T> {
    partitioned_tail(edge, |context, targets| Rebalance::new(context.subtask.0 as usize, targets))
}

/// To the first subtask.
pub fn global_tail<T: Data>(edge: Edge<T>) -> impl Tail<T> {
    partitioned_tail(edge, |_, _| Global)
}

/// To the subtask that owns the group of the key whose hash `hash` gives.
pub fn by_key_tail<T, F>(operator: OperatorId, hash: F, edge: Edge<T>) -> impl Tail<T>
where
    T: Data,
    F: Fn(&T) -> u64 + Clone + Send + 'static,
{
    partitioned_tail(edge, move |context, targets| {
        ByKey::new(operator, hash, &assignment(targets as u32, context.max_parallelism))
    })
}

/// To the subtask that the user's function names.
pub fn custom_tail<T, F>(operator: OperatorId, function: F, edge: Edge<T>) -> impl Tail<T>
where
    T: Data,
    F: FnMut(&T, usize) -> usize + Clone + Send + 'static,
{
    partitioned_tail(edge, move |_, targets| Custom::new(operator, function, targets))
}

/// To every subtask.
pub fn broadcast_tail<T: Data + Clone>(edge: Edge<T>) -> impl Tail<T> {
    move |context: &mut SubtaskContext| {
        let outputs = outputs(&edge, context)?;
        outputs.check_targets(edge.id().receiver)?;
        Ok(Broadcast::new(outputs))
    }
}

/// The consumers of a stream that several consume; the program adds to them.
pub struct Branches<T: Data>(Arc<Mutex<Vec<Edge<T>>>>);

impl<T: Data> Clone for Branches<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Data> Default for Branches<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Data> Branches<T> {
    /// Adds a consumer, which reads `edge`.
    pub fn add(&self, edge: Edge<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(edge);
    }
}

/// To every consumer.
pub fn fork_tail<T: Data + Clone>(branches: Branches<T>) -> impl Tail<T> {
    move |context: &mut SubtaskContext| {
        let edges = branches.0.lock().unwrap_or_else(PoisonError::into_inner);
        let branches = edges.iter().map(|edge| {
            let outputs = outputs(edge, context)?;
            let partitioner = Rebalance::new(context.subtask.0 as usize, outputs.targets());
            Ok(Box::new(Partitioned::new(outputs, partitioner)) as Box<dyn Operator<T>>)
        });
        Ok(Fork::new(branches.collect::<Result<_, _>>()?))
    }
}

/// Out of the job.
pub fn sink_tail<T: 'static, S: Sink<T>>(operator: OperatorId, sink: S) -> impl Tail<T> {
    move |context: &mut SubtaskContext| {
        let mut kept = context.list::<Vec<u8>>(operator, "writers")?;
        let transactions = context.list::<Vec<u8>>(operator, TRANSACTIONS)?;
        let writer = sink
            .open(&SinkContext {
                subtask: context.subtask,
                parallelism: context.parallelism,
                waker: context.waker.clone(),
                restored: kept.take_restored().map(Into::into),
            })
            .map_err(|error| OpenError { operator, error })?;
        let state = SinkState::new(operator, kept, transactions, context);
        Ok(SinkOperator::new(operator, writer, state, context.metrics.clone()))
    }
}

/// Registers what happens to a sink's output when the job ends.
pub fn sink_outcome<T: 'static, S: Sink<T>>(
    graph: &mut Graph,
    operator: OperatorId,
    vertex: VertexId,
    sink: S,
) {
    if !sink.restores_alone() {
        graph.mark_inseparable(operator);
    }
    graph.add_outcome(operator, vertex, Box::new(SinkOutcome { sink, of: PhantomData::<fn(T)> }));
}

struct SinkOutcome<T, S> {
    sink: S,
    of: PhantomData<fn(T)>,
}

impl<T: 'static, S: Sink<T>> Outcome for SinkOutcome<T, S> {
    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        self.sink.commit(transactions)
    }

    fn abort(&self, parallelism: u32) {
        self.sink.abort(parallelism);
    }
}
