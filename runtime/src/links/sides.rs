//! The consumers of an operator's side outputs, as the program names them.

use crate::exchange::{Outputs, Partitioned, Rebalance};
use crate::graph::Edge;
use crate::operator::{OutputTag, SideOutputs};
use crate::subtask::SubtaskContext;
use std::sync::{Arc, Mutex, PoisonError};

type Attach = Box<dyn Fn(&mut SubtaskContext, &mut SideOutputs) + Send>;

/// The side outputs of one operator that somebody consumes. The program adds consumers after the
/// operator, hence the shared list: it is read when subtasks are built.
#[derive(Clone, Default)]
pub struct SideBranches(Arc<Mutex<Vec<Attach>>>);

impl SideBranches {
    /// Adds a consumer, which reads `edge`.
    pub fn add<T: Send + 'static>(&self, tag: &OutputTag<T>, edge: Edge<T>) {
        let tag = tag.id();
        let attach: Attach = Box::new(move |context, sides| {
            let senders = edge.take_senders(context.subtask);
            let partitioner = Rebalance::new(context.subtask.0 as usize, senders.len());
            let outputs = Outputs::new(senders, &context.exchange, context.metrics.clone());
            sides.attach::<T>(tag, Box::new(Partitioned::new(outputs, partitioner)));
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(attach);
    }

    /// The side outputs of one subtask.
    pub fn build(&self, context: &mut SubtaskContext) -> SideOutputs {
        let mut sides = SideOutputs::default();
        for attach in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            attach(context, &mut sides);
        }
        sides
    }
}
