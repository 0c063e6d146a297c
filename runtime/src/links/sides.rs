//! Side outputs and what follows on them.

use crate::chain::{Chain, OpenError, Tail};
use crate::graph::Graph;
use crate::operator::{OutputTag, SideOutputs};
use crate::subtask::SubtaskContext;
use millstream_types::{OperatorId, VertexId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes what follows on a side output for one more subtask.
type Branch = Box<dyn Fn() -> Attach + Send>;
type Attach = Box<dyn FnOnce(&mut SubtaskContext, &mut SideOutputs) -> Result<(), OpenError>>;

/// The side outputs of one operator that somebody consumes. The program adds consumers after the
/// operator, hence the shared list: it is read when subtasks are built.
#[derive(Clone, Default)]
pub struct SideBranches(Arc<Mutex<Consumed>>);

#[derive(Default)]
struct Consumed {
    /// The ids of the tags that the program reads.
    tags: Vec<u64>,
    /// What follows on them, where the program has ended it.
    branches: Vec<Branch>,
}

impl SideBranches {
    fn consumed(&self) -> MutexGuard<'_, Consumed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the program reads this side output; false if it does so already. Records have one
    /// consumer, as in other streams.
    pub fn claim<T>(&self, tag: &OutputTag<T>) -> bool {
        let mut consumed = self.consumed();
        let fresh = !consumed.tags.contains(&tag.id());
        consumed.tags.push(tag.id());
        fresh
    }

    fn add<T: 'static>(&self, tag: &OutputTag<T>, tail: impl Tail<T>) {
        let tag = tag.id();
        let branch: Branch = Box::new(move || {
            let tail = tail.clone();
            Box::new(move |context, sides| {
                sides.attach::<T>(tag, Box::new(tail.build(context)?));
                Ok(())
            })
        });
        self.consumed().branches.push(branch);
    }

    /// The side outputs of one subtask.
    ///
    /// # Errors
    /// What an operator or a sink that follows on one of them said when it was opened.
    pub fn build(&self, context: &mut SubtaskContext) -> Result<SideOutputs, OpenError> {
        let attach: Vec<Attach> = self.consumed().branches.iter().map(|branch| branch()).collect();
        // Without the lock: a sink may take its time to open, and the other slots open theirs.
        let mut sides = SideOutputs::default();
        for attach in attach {
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
    /// what [`Graph::add_side`] gave.
    pub fn new(operator: OperatorId, tag: OutputTag<T>, sides: SideBranches) -> Self {
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
