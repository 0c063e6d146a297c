//! What subtasks, the coordinator and the disk say to each other, and what they all need to know.

use crate::disk::{Disk, Operation};
use crate::part::Part;
use crate::plan::Plan;
use crate::random::Random;
use crate::{Setup, Trace};
use millstream_protocol::{CheckpointKind, SubtaskId};
use millstream_types::CheckpointId;
use std::collections::BTreeMap;

/// What a disk's script was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Segment(SubtaskId, String),
    Compaction(SubtaskId, String),
    Snapshot(SubtaskId, String),
    Prepare(SubtaskId, String),
    Commit(SubtaskId, String),
    Manifest(CheckpointId),
    Retire(CheckpointId),
    /// Nobody waits for it.
    Cleanup,
}

impl Token {
    /// Who waits for the script, if it is a subtask.
    pub(crate) fn subtask(&self) -> Option<SubtaskId> {
        match self {
            Self::Segment(id, _)
            | Self::Compaction(id, _)
            | Self::Snapshot(id, _)
            | Self::Prepare(id, _)
            | Self::Commit(id, _) => Some(*id),
            Self::Manifest(_) | Self::Retire(_) | Self::Cleanup => None,
        }
    }
}

/// From the coordinator to a subtask.
#[derive(Clone, Debug)]
pub(crate) enum ToSubtask {
    Announce(CheckpointId, CheckpointKind),
    Complete(CheckpointId),
    Abort(CheckpointId),
}

/// From a subtask to the coordinator.
#[derive(Clone, Debug)]
pub(crate) enum ToCoordinator {
    Acknowledge(CheckpointId, Part, Ghost),
    Decline(CheckpointId, String),
    Finished(Part, Ghost),
    Committed(CheckpointId),
}

/// A channel, by its ends.
pub(crate) type ChannelId = (SubtaskId, SubtaskId);

/// How many records lie on which side of a snapshot. The checker of cuts compares it with the other
/// ends' of the channels; no real part has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ghost {
    /// Emitted before the barrier, less those that the barrier overtook here.
    pub(crate) sent: BTreeMap<ChannelId, u64>,
    /// Read before the snapshot, and those that it captured.
    pub(crate) received: BTreeMap<ChannelId, u64>,
}

/// What a subtask does to the world, and what it needs to know of it.
pub(crate) struct Context<'a> {
    pub(crate) now: u64,
    pub(crate) plan: &'a Plan,
    pub(crate) setup: Setup,
    pub(crate) random: &'a mut Random,
    pub(crate) disk: &'a mut Disk<Token>,
    pub(crate) trace: &'a mut Trace,
}

impl Context<'_> {
    pub(crate) fn submit(&mut self, token: Token, operations: Vec<Operation>) {
        self.disk.submit(self.now, token, operations, self.random);
    }
}
