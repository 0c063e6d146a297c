//! What subtasks, the coordinator and the disk say to each other, and what they all need to know.

use crate::disk::Operation;
use crate::hosts::{Crew, Disks, HostDisk, HostId};
use crate::network::{Body, Message, Network};
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
    /// The snapshots of subtasks that have finished.
    Finals(CheckpointId),
    Manifest(CheckpointId),
    Retire(CheckpointId),
    /// What another member has asked for, by the number of its request; and the file that is spoiled if
    /// it comes to nothing.
    Serve(HostId, u64, Option<String>),
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
            Self::Finals(_)
            | Self::Manifest(_)
            | Self::Retire(_)
            | Self::Serve(..)
            | Self::Cleanup => None,
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
    /// All that was in flight at the restore has been received.
    Recovered,
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
    pub(crate) disks: &'a mut Disks,
    pub(crate) network: &'a mut Network,
    pub(crate) crew: &'a Crew,
    pub(crate) trace: &'a mut Trace,
}

impl Context<'_> {
    /// Begins a script where the files lie that it is about.
    pub(crate) fn submit(&mut self, token: Token, operations: Vec<Operation>) {
        let host = match token {
            Token::Prepare(..) | Token::Commit(..) => self.disks.outputs(),
            _ => self.crew.hosts[self.crew.member_of(token.subtask())],
        };
        self.submit_on(host, token, operations);
    }

    /// Begins a script on a host's disk.
    pub(crate) fn submit_on(&mut self, host: HostId, token: Token, operations: Vec<Operation>) {
        let token = (self.crew.attempt, token);
        if let Some(disk) = self.disks.get_mut(host) {
            disk.submit(self.now, token, operations, self.random);
        }
    }

    /// A member says something to another one.
    pub(crate) fn send(&mut self, from: usize, to: usize, body: Body) {
        let (from, to) = (self.crew.hosts[from], self.crew.hosts[to]);
        let message = Message { from, to, attempt: self.crew.attempt, body };
        self.network.send(self.now, message, self.random);
    }

    /// The disk of a member.
    pub(crate) fn disk_of(&self, member: usize) -> Option<&HostDisk> {
        self.disks.get(self.crew.hosts[member])
    }

    /// The disks of all members.
    pub(crate) fn places(&self) -> Vec<&HostDisk> {
        self.crew.disks(self.disks)
    }
}
