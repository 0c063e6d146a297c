//! Checkpoints and what a job begins with: performs what `millstream-protocol` decides.
//!
//! ```text
//! coordinator (the job's control thread)            a slot's thread
//!   Announce ───────── mailbox ──────────▶ sources emit the barrier; it flows through the chains
//!                                          each subtask: aligned → barrier on → snapshot
//!   stores the bytes ◀──── Sealed ──────── all of the slot's subtasks have added theirs
//!   copies, then     ◀──── Persisted ───── the store has persisted, the sinks have prepared
//!   acknowledges
//!   manifest, commit, Complete ──▶ mailbox
//! ```

mod control;
mod disk;
mod mailbox;
mod participant;
mod restore;
mod slot;

pub(crate) use control::{Commit, Control, JobIdentity, RestoreFrom, Step};
pub(crate) use disk::{Disk, DiskOrder};
pub(crate) use mailbox::{Mail, Mailbox};
pub(crate) use participant::{Participant, Phase};
pub(crate) use restore::{
    Beginning, Damaged, DamagedElsewhere, RestoreInto, Restored, damaged_file, exactly, in_words,
    newest,
};
pub(crate) use slot::SlotCheckpoints;
pub use slot::{SinkTransactions, SubtaskCheckpoints};

use millstream_protocol::SubtaskId;
use millstream_state::{FileChange, StateFile};
use millstream_types::{CheckpointId, OperatorId, SlotIndex};
use std::collections::BTreeSet;
use std::time::Instant;

/// What the threads of a job tell the one that controls it.
pub(crate) enum Report {
    /// A slot has built its subtasks, or failed to. These uids are of operators that remember something.
    Ready { attempt: u64, with_state: BTreeSet<String> },
    /// Every subtask of a slot has finished.
    Finished { attempt: u64, at: Instant, transactions: Vec<Transaction> },
    /// A slot's loop is over.
    Ended { attempt: u64 },
    /// A slot's part of a checkpoint is complete, and yet to be stored.
    Sealed(SealedSnapshot),
    /// What the slot itself had to make durable for it is so on this host.
    Persisted { slot: SlotIndex, checkpoint: CheckpointId, result: Result<Vec<StateFile>, String> },
    /// A store has done something with a file, and others are to have copies of it.
    FileChanged(FileChange),
    /// What the slot has persisted is wherever the checkpoint counts on it.
    Durable { slot: SlotIndex, checkpoint: CheckpointId, result: Result<Vec<StateFile>, String> },
    /// A subtask has received all that was in flight in the restored checkpoint.
    Recovered { attempt: u64, subtask: SubtaskId },
    /// A subtask cannot take part in a checkpoint.
    Declined { subtask: SubtaskId, checkpoint: CheckpointId, reason: String },
    /// A slot's bytes have been stored.
    Stored {
        slot: SlotIndex,
        checkpoint: CheckpointId,
        result: Result<millstream_protocol::FileEntry, String>,
    },
    /// A manifest has been stored.
    ManifestStored { checkpoint: CheckpointId, result: Result<(), String> },
    /// Somebody asks for a checkpoint.
    Asked,
    /// Somebody wants something of the job: see the requests.
    Woken,
}

/// A slot's part of a checkpoint.
pub(crate) struct SealedSnapshot {
    pub(crate) slot: SlotIndex,
    pub(crate) checkpoint: CheckpointId,
    /// A snapshot of all its subtasks; `None` if another member of the job stores it.
    pub(crate) bytes: Option<Vec<u8>>,
    /// What is to be committed when the checkpoint is complete.
    pub(crate) transactions: Vec<Transaction>,
}

/// The name of the list of a sink's transactions.
pub(crate) const TRANSACTIONS: &str = "transactions";

/// What a writer of a sink has prepared.
#[derive(Clone)]
pub(crate) struct Transaction {
    pub(crate) operator: OperatorId,
    pub(crate) bytes: Vec<u8>,
}
