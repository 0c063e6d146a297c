//! Side outputs and what follows on them.

use crate::chain::{Chain, OpenError, Tail};
use crate::graph::Graph;
use crate::operator::{OutputTag, SideOutputs};
use crate::subtask::SubtaskContext;
use millstream_types::{OperatorId, VertexId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Attach = Box<dyn Fn(&mut SubtaskContext, &mut SideOutputs) -> Result<(), OpenError> + Send>;

/// The side outputs of one operator that somebody consumes. The program adds consumers after the
/// operator, hence the shared list: it is read when subtasks are built.
#[derive(Clone, Default)]
pub struct SideBranches(Arc<Mutex<Branches>>);

#[derive(Default)]
struct Branches {
    /// The ids of the tags that have a consumer.
    claimed: Vec<u64>,
    attach: Vec<Attach>,
}

impl SideBranches {
    fn branches(&self) -> MutexGuard<'_, Branches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the program reads this side output; false if it does so already. Records have one
    /// consumer, as in other streams.
    pub fn claim<T>(&self, tag: &OutputTag<T>) -> bool {
        let mut branches = self.branches();
        let fresh = !branches.claimed.contains(&tag.id());
        branches.claimed.push(tag.id());
        fresh
    }

    fn add<T: 'static>(&self, tag: &OutputTag<T>, tail: impl Tail<T>) {
        let tag = tag.id();
        let attach: Attach = Box::new(move |context, sides| {
            let consumer = tail.clone().build(context)?;
            sides.attach::<T>(tag, Box::new(consumer));
            Ok(())
        });
        self.branches().attach.push(attach);
    }

    /// The side outputs of one subtask.
    ///
    /// # Errors
    /// What an operator or a sink that follows on one of them said when it was opened.
    pub fn build(&self, context: &mut SubtaskContext) -> Result<SideOutputs, OpenError> {
        let mut sides = SideOutputs::default();
        for attach in &self.branches().attach {
            attach(context, &mut sides)?;
        }
        Ok(sides)
    }
}

/// A chain that begins with a side output. It runs in the subtask of the operator that emits into
/// it, so that a record need not go through a channel to come to where the program wants it.
pub struct FromSide<T> {
    operator: OperatorId,
    tag: OutputTag<T>,
    sides: SideBranches,
}

impl<T> Clone for FromSide<T> {
    fn clone(&self) -> Self {
        Self { operator: self.operator, tag: self.tag.clone(), sides: self.sides.clone() }
    }
}

impl<T: 'static> FromSide<T> {
    /// The records that go to `tag` of the operator whose side outputs these are. `operator` is
    /// the side output's name in the graph, where it is open until the chain ends.
    pub fn new(
        graph: &mut Graph,
        operator: OperatorId,
        tag: OutputTag<T>,
        sides: SideBranches,
    ) -> Self {
        graph.open_side(operator);
        Self { operator, tag, sides }
    }
}

impl<T: 'static> Chain for FromSide<T> {
    type Out = T;

    fn close(self, graph: &mut Graph, _: VertexId, tail: impl Tail<T>) {
        graph.close_side(self.operator);
        self.sides.add(&self.tag, tail);
    }
}
