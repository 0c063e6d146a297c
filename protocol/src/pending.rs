//! A checkpoint that has begun and has not ended, and whom it waits for.

use crate::coordinator::CheckpointKind;
use millstream_types::{CheckpointId, SubtaskIndex, VertexId};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// One subtask of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubtaskId {
    /// The vertex that it is an instance of.
    pub vertex: VertexId,
    /// Which instance.
    pub subtask: SubtaskIndex,
}

impl fmt::Display for SubtaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vertex {}, subtask {}", self.vertex, self.subtask)
    }
}

/// How far a pending checkpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Subtasks have yet to acknowledge.
    Collecting,
    /// Its manifest is being stored.
    Storing,
}

/// A checkpoint that has begun and has not ended.
///
/// # Invariants
/// - Each subtask of the job is in exactly one of: waited for, acknowledged, finished.
/// - The stage is `Storing` if and only if nobody is waited for.
#[derive(Clone, Debug)]
pub struct PendingCheckpoint {
    id: CheckpointId,
    kind: CheckpointKind,
    begun: Duration,
    waiting: BTreeSet<SubtaskId>,
    acknowledged: BTreeSet<SubtaskId>,
    finished: BTreeSet<SubtaskId>,
}

impl PendingCheckpoint {
    /// A checkpoint that waits for `running`; the final snapshots of `finished` are part of it.
    pub(crate) fn new(
        id: CheckpointId,
        kind: CheckpointKind,
        begun: Duration,
        running: BTreeSet<SubtaskId>,
        finished: BTreeSet<SubtaskId>,
    ) -> Self {
        Self { id, kind, begun, waiting: running, acknowledged: BTreeSet::new(), finished }
    }

    /// Its id.
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    /// Why it was begun.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// When it was begun.
    pub fn begun(&self) -> Duration {
        self.begun
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        if self.waiting.is_empty() { Stage::Storing } else { Stage::Collecting }
    }

    /// The subtasks that have neither acknowledged nor finished: whose barrier is stuck, or whose
    /// snapshot is not durable yet.
    pub fn waiting_for(&self) -> impl Iterator<Item = SubtaskId> {
        self.waiting.iter().copied()
    }

    /// The subtasks whose snapshots of this checkpoint are part of it.
    pub fn acknowledged(&self) -> impl Iterator<Item = SubtaskId> {
        self.acknowledged.iter().copied()
    }

    /// The subtasks whose final snapshots are part of it, since they finished before its barrier
    /// came to them.
    pub fn finished(&self) -> impl Iterator<Item = SubtaskId> {
        self.finished.iter().copied()
    }

    /// Returns true if the subtask was the last one.
    pub(crate) fn acknowledge(&mut self, subtask: SubtaskId) -> bool {
        let waited_for = self.waiting.remove(&subtask);
        if waited_for {
            self.acknowledged.insert(subtask);
        }
        waited_for && self.waiting.is_empty()
    }

    /// Returns true if the subtask was the last one.
    pub(crate) fn finish(&mut self, subtask: SubtaskId) -> bool {
        let waited_for = self.waiting.remove(&subtask);
        if waited_for {
            self.finished.insert(subtask);
        }
        waited_for && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtask(index: u32) -> SubtaskId {
        SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(index) }
    }

    fn pending(running: u32) -> PendingCheckpoint {
        let running = (0..running).map(subtask).collect();
        PendingCheckpoint::new(
            CheckpointId(7),
            CheckpointKind::Checkpoint,
            Duration::ZERO,
            running,
            BTreeSet::new(),
        )
    }

    #[test]
    fn a_stuck_barrier_names_whom_it_waits_for() {
        let mut pending = pending(3);
        assert!(!pending.acknowledge(subtask(1)));
        assert!(!pending.finish(subtask(0)));
        let names: Vec<_> = pending.waiting_for().map(|subtask| subtask.to_string()).collect();
        assert_eq!(names, ["vertex 1, subtask 2"]);
        assert_eq!(pending.stage(), Stage::Collecting);
    }

    #[test]
    fn only_the_last_one_completes_it_and_only_once() {
        let mut pending = pending(2);
        assert!(!pending.acknowledge(subtask(0)));
        assert!(!pending.acknowledge(subtask(0)), "twice is once");
        assert!(!pending.acknowledge(subtask(9)), "a stranger does not count");
        assert!(pending.finish(subtask(1)));
        assert!(!pending.acknowledge(subtask(1)), "finished already");
        assert!(!pending.finish(subtask(0)), "acknowledged already");
        assert_eq!(pending.stage(), Stage::Storing);
        assert_eq!(pending.acknowledged().collect::<Vec<_>>(), [subtask(0)]);
        assert_eq!(pending.finished().collect::<Vec<_>>(), [subtask(1)]);
    }
}
