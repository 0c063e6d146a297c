//! Subtasks: chains with something at their head that drives them.
//!
//! A subtask is polled by its slot. A poll does a bounded amount of work: so all subtasks of a slot
//! get their turn, and what one made is still in the cache when the next takes it.

mod head;
mod source;
mod two_input;

pub use head::HeadSubtask;
pub use source::SourceSubtask;
pub use two_input::TwoInputSubtask;

use crate::chain::OpenError;
use crate::checkpoint::SubtaskCheckpoints;
use crate::clock::PollClock;
use crate::exchange::{
    ExchangeSettings, InFlight, InFlightError, Outbound, Outlet, SlotLinks, channel_of, decode,
};
use crate::graph::Edge;
use crate::metrics::{JobCounters, SubtaskMetrics};
use crate::source::SlotWaker;
use millstream_protocol::CheckpointKind;
use millstream_state::{Data, OperatorList, SubtaskState, TableSpec};
use millstream_types::{
    CheckpointId, KeyGroupAssignment, KeyGroupRange, OperatorId, SubtaskIndex, Timestamp,
};
use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Batches that a poll takes from a gate at the most. Few, so that they are still in the second
/// level cache when the next chain of the slot reads what this one wrote.
pub(crate) const BATCHES_PER_POLL: usize = 4;

/// What a poll of a subtask came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done; there may be more.
    Busy,
    /// Nothing to do.
    Idle,
    /// Something to do, but an output has no credit.
    Blocked,
    /// Done for ever.
    Finished,
}

/// A chain with its head.
pub trait Subtask {
    /// Does some work. `now` is processing time, read once per pass over the slot's subtasks.
    fn poll(&mut self, now: Timestamp) -> Progress;

    /// When to poll again though nothing comes in; [`Timestamp::MAX`] for never.
    fn next_deadline(&self) -> Timestamp;

    /// When to poll again even if an output has no credit: a barrier has to overtake then.
    fn overtake_at(&self) -> Timestamp {
        Timestamp::MAX
    }

    /// Goes on where the checkpoint was that the job begins with. Called once, before the first poll,
    /// whether there is one or not.
    fn resume(&mut self);

    /// A checkpoint begins: a source emits its barrier, and a subtask that reads no more takes its
    /// snapshot.
    fn announce(&mut self, checkpoint: CheckpointId, kind: CheckpointKind);

    /// A checkpoint is given up: nothing waits for its barriers any more.
    fn abort(&mut self, checkpoint: CheckpointId);
}

/// What the operators of a subtask are built with, on its slot's thread.
pub struct SubtaskContext {
    /// Which of the parallel subtasks this is.
    pub subtask: SubtaskIndex,
    /// How many there are.
    pub parallelism: u32,
    /// The operator under whose uid the state of the subtask itself is found again.
    pub anchor: OperatorId,
    /// All of its operators: it may have been another of them.
    pub(crate) operators: Vec<OperatorId>,
    /// The number of key groups of the job.
    pub max_parallelism: u16,
    /// How records are batched on the edges that leave the chain.
    pub exchange: ExchangeSettings,
    /// This subtask's counters.
    pub metrics: Arc<SubtaskMetrics>,
    /// The job's counters.
    pub counters: Arc<JobCounters>,
    /// Processing time as of the current poll.
    pub clock: Rc<PollClock>,
    /// Wakes the slot.
    pub waker: SlotWaker,
    /// What its operators remember.
    pub state: Rc<SubtaskState>,
    /// Its part in checkpoints.
    pub checkpoints: Rc<SubtaskCheckpoints>,
    /// The stable name of each operator, by id.
    pub uids: Arc<[String]>,
    /// The slot's connections to other hosts, if the job runs on several.
    pub(crate) links: Option<Rc<RefCell<SlotLinks>>>,
    /// How often sources emit latency markers.
    pub latency_interval: Option<Duration>,
    /// The most records per second that a source emits, over all its subtasks.
    pub source_rate: Option<f64>,
}

impl SubtaskContext {
    /// Who owns which key group in this vertex.
    pub fn assignment(&self) -> KeyGroupAssignment {
        assignment(self.parallelism, self.max_parallelism)
    }

    fn links(&self) -> RefMut<'_, SlotLinks> {
        let links = self.links.as_ref().expect("a job on several hosts has links");
        links.borrow_mut()
    }

    /// Opens the sending end of a channel.
    pub(crate) fn outlet<T: Data>(&self, outbound: Outbound<T>) -> Outlet<T> {
        match outbound {
            Outbound::Here(sender) => Outlet::Here(sender),
            Outbound::Elsewhere(channel) => self.links().outlet(channel),
        }
    }

    /// Opens a list of what an operator keeps beside its keyed state.
    ///
    /// # Errors
    /// As [`SubtaskState::list`].
    pub fn list<T: Data>(
        &self,
        operator: OperatorId,
        name: &str,
    ) -> Result<OperatorList<T>, OpenError> {
        self.state
            .list(&self.uids[operator.0 as usize], name)
            .map_err(|error| OpenError { operator, error: error.into() })
    }

    /// The items of an operator's list in the checkpoint that the job began with.
    pub(crate) fn restored_items<T: Data>(
        &self,
        operator: OperatorId,
        name: &str,
    ) -> Result<Option<Vec<T>>, OpenError> {
        self.state
            .restored_items(&self.uids[operator.0 as usize], name)
            .map_err(|error| OpenError { operator, error: error.into() })
    }

    /// What of an edge's records in flight this subtask, which sends by it, emits again; in order.
    pub(crate) fn in_flight<T: Data>(&self, edge: &Edge<T>) -> Result<Vec<InFlight<T>>, OpenError> {
        let id = edge.id();
        let failed =
            |error: InFlightError| OpenError { operator: id.receiver, error: error.into() };
        let items = self.restored_items::<Vec<u8>>(id.receiver, &id.list_name())?;
        let mut mine = Vec::new();
        for item in items.into_iter().flatten() {
            let InFlight { sender, target, targets, .. } = channel_of(&item).map_err(failed)?;
            if edge.emits_again(sender, target, targets) == self.subtask.0 {
                mine.push(decode::<T>(&item).map_err(failed)?);
            }
        }
        // Within one end of a channel they are in order already.
        mine.sort_by_key(|batch| (batch.sender, batch.end));
        Ok(mine)
    }

    /// Names a table of an operator's keyed state.
    pub fn table_spec(&self, operator: OperatorId, table: &str) -> TableSpec {
        let uid = &*self.uids[operator.0 as usize];
        TableSpec::new(uid, table, self.key_groups(), self.max_parallelism)
    }

    /// The key groups of this subtask.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.assignment().range(self.subtask)
    }
}

/// The assignment for a parallelism that was checked when the job was put together.
pub(crate) fn assignment(parallelism: u32, max_parallelism: u16) -> KeyGroupAssignment {
    u16::try_from(parallelism)
        .ok()
        .and_then(|p| KeyGroupAssignment::new(p, max_parallelism))
        .expect("the graph's validation refuses a parallelism above the number of key groups")
}
