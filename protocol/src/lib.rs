//! Decisions, without the deeds: when a checkpoint begins, what it waits for, when it is complete,
//! which ones are kept, when a failed job starts again, and how much may be sent.
//!
//! Everything here is a state machine: events in, commands out. No I/O, no clock, no thread; time
//! comes in as an argument, a [`Duration`](std::time::Duration) since an origin of the caller's. The
//! runtime performs the commands on real channels and disks, the simulation on simulated ones.
#![forbid(unsafe_code)]

mod aligner;
pub mod cluster;
mod coordinator;
mod copying;
mod credit;
mod deployment;
pub mod manifest;
mod pending;
mod restart;
mod retention;

pub use aligner::{Aligner, Alignment, CheckpointMode};
pub use coordinator::{
    AbortReason, CheckpointCoordinator, CheckpointKind, CheckpointSettings, Command, Event,
};
pub use copying::{CopyStep, FileCopy};
pub use credit::{CreditViolation, ReceiveCredits, SendCredits};
pub use deployment::{DEPLOYMENT_VARIABLE, Deployment, EndStatus, Member, Order, Told};
pub use manifest::{
    FileEntry, MANIFEST_FORMAT_VERSION, Manifest, ManifestError, OperatorEntry, SlotEntry,
    StateFileEntry,
};
pub use pending::{PendingCheckpoint, Stage, SubtaskId};
pub use restart::{ParseRestartStrategyError, Restart, RestartPolicy, RestartStrategy};
pub use retention::{FileReferences, KeptCheckpoints, Owner};
