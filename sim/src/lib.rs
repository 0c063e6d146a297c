//! Deterministic simulation of checkpoints and recovery, on one host and on several: one seed decides the
//! job, the schedule, the delays, the crashes, what becomes of disks and hosts, and what passes between
//! them.
//!
//! What decides is the real code of `millstream-protocol`; channels, clock, disks, network and processes
//! are simulated, on one thread. At every tick checkers compare what is with what was promised: see
//! [`Check`]. A run ends when the job has finished and its output is that of a job that was never
//! disturbed. [`Bug`]s can be planted, to show that the checkers see them.
//!
//! ```
//! use millstream_sim::{Setup, run};
//!
//! let report = run(7, Setup::default()).unwrap();
//! assert!(report.checkpoints > 0);
//! ```
#![forbid(unsafe_code)]

mod channel;
mod check;
mod disk;
mod hosts;
mod job;
mod message;
mod names;
mod network;
mod part;
mod plan;
mod random;
mod record;
mod replication;
mod restore;
mod simulation;
mod sink;
mod store;
mod stored;
mod subtask;
mod zombie;

pub use check::{Check, Violation};

use millstream_types::CheckpointId;
use simulation::Simulation;
use std::fmt;

/// A mistake that is made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A subtask acknowledges when its files are written, not when they are synced.
    AcknowledgeBeforeSync,
    /// A subtask goes on to read channels whose barrier has come.
    SkippedAlignment,
    /// After a restore ids go on from the restored checkpoint's, not from the newest that was used.
    StaleEpoch,
    /// Compaction deletes the segments that it has replaced, whoever names them.
    DeletedEarly,
    /// Sinks commit when all have acknowledged, not when the manifest is durable.
    CommitBeforeManifest,
    /// What a segment that could not be written was to hold is not written again.
    LostChanges,
    /// Records that a barrier has overtaken are not added to the snapshot.
    NothingCaptured,
    /// After a restore, what is sent anew does not wait for what was in flight on other channels.
    UnalignedRecovery,
    /// A manifest counts as stored when it is synced, and its name is not.
    UnsyncedName,
    /// A member counts as durable what the replicas have not answered yet.
    AcknowledgeBeforeCopy,
    /// A replica answers when it has written a part of a file, and has not synced it.
    UnsyncedCopy,
    /// Replicas delete by age, also what a newer checkpoint names.
    CopyDeletedEarly,
    /// A job goes on from a checkpoint whose manifest may be with one host only, and leaves it there.
    LoneManifest,
    /// What members of earlier attempts say and ask for counts as if it were of this one.
    NoFencing,
    /// Every other grant of credits to another host is lost.
    LostGrant,
    /// What a grant adds counts twice.
    DoubleGrant,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::AcknowledgeBeforeSync,
        Self::SkippedAlignment,
        Self::StaleEpoch,
        Self::DeletedEarly,
        Self::CommitBeforeManifest,
        Self::LostChanges,
        Self::NothingCaptured,
        Self::UnalignedRecovery,
        Self::UnsyncedName,
        Self::AcknowledgeBeforeCopy,
        Self::UnsyncedCopy,
        Self::CopyDeletedEarly,
        Self::LoneManifest,
        Self::NoFencing,
        Self::LostGrant,
        Self::DoubleGrant,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::SkippedAlignment => "skipped-alignment",
            Self::StaleEpoch => "stale-epoch",
            Self::DeletedEarly => "deleted-early",
            Self::CommitBeforeManifest => "commit-before-manifest",
            Self::LostChanges => "lost-changes",
            Self::NothingCaptured => "nothing-captured",
            Self::UnalignedRecovery => "unaligned-recovery",
            Self::UnsyncedName => "unsynced-name",
            Self::AcknowledgeBeforeCopy => "acknowledge-before-copy",
            Self::UnsyncedCopy => "unsynced-copy",
            Self::CopyDeletedEarly => "copy-deleted-early",
            Self::LoneManifest => "lone-manifest",
            Self::NoFencing => "no-fencing",
            Self::LostGrant => "lost-grant",
            Self::DoubleGrant => "double-grant",
        }
    }

    /// The bug of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// How closely a run is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Watch {
    /// Checkers look inside at every tick, and find a mistake before it has done harm.
    #[default]
    EveryTick,
    /// Only what a user would see counts: whether the job can be restored, whether it ends, and what
    /// it has put out.
    Outcome,
}

/// What is asked of a run beside its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Setup {
    /// The mistake that is made.
    pub bug: Option<Bug>,
    /// How closely it is watched.
    pub watch: Watch,
}

/// What has happened in a run that went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How long it took, in ticks of a millisecond.
    pub ticks: u64,
    /// Times that a job was started.
    pub starts: u64,
    /// Kills and power failures.
    pub crashes: u64,
    /// Restarts within a process.
    pub failovers: u64,
    /// Jobs that were stopped with a checkpoint, and resumed.
    pub stops: u64,
    /// Restores that found a newer checkpoint which did not verify.
    pub fallbacks: u64,
    /// Checkpoints that completed.
    pub checkpoints: u64,
    /// Checkpoints that were aborted.
    pub aborted: u64,
    /// Checkpoints whose files were given up.
    pub retired: u64,
    /// Compactions.
    pub compactions: u64,
    /// Scripts that the disk has failed.
    pub disk_errors: u64,
    /// Checkpoints whose barriers overtook records.
    pub overtaken: u64,
    /// Attempts on several hosts.
    pub spread: u64,
    /// Hosts that were lost with their disks.
    pub lost_hosts: u64,
    /// Hosts that were taken for lost, replaced, and went on meanwhile.
    pub zombies: u64,
    /// Attempts that failed as a host was not heard of.
    pub silences: u64,
    /// Hosts that stood still for a while.
    pub freezes: u64,
    /// Ways between two hosts that were cut for a while.
    pub cuts: u64,
    /// What members of earlier attempts said or asked for, and nobody believed.
    pub fenced: u64,
    /// What members have written and all replicas have.
    pub copies: u64,
    /// Copies that went on from where an earlier attempt had left them.
    pub resumed_copies: u64,
    /// Files that a host had not, and got from another one for a restore.
    pub fetched: u64,
    /// Elements that passed between hosts.
    pub frames: u64,
    /// Grants of credits that did.
    pub grants: u64,
    /// Manifests that were begun.
    manifests: u64,
    newest_announced: CheckpointId,
    /// What has been put out follows from it, or from a newer one.
    newest_completed: CheckpointId,
}

impl Report {
    /// A checkpoint has completed.
    fn completed(&mut self, checkpoint: CheckpointId) {
        self.checkpoints += 1;
        self.newest_completed = checkpoint.max(self.newest_completed);
    }

    /// A process announces an id.
    fn announced(&mut self, checkpoint: CheckpointId) -> Result<(), Violation> {
        let newest = std::mem::replace(&mut self.newest_announced, checkpoint);
        if newest < checkpoint {
            return Ok(());
        }
        let what = format!("checkpoint {checkpoint} is announced after {newest}");
        Err(Check::EpochRegress.violated(what))
    }
}

/// A run in which a promise was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was asked of the run.
    pub setup: Setup,
    /// When it was seen.
    pub tick: u64,
    /// What was seen.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    /// Ends with the command that replays the run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, setup, tick, violation } = self;
        write!(f, "seed {seed}, tick {tick}: {violation}\nreplay: ")?;
        write!(f, "millstream-sim --seeds 1 --from {seed} --trace")?;
        if let Some(bug) = setup.bug {
            write!(f, " --bug {}", bug.name())?;
        }
        f.write_str(if setup.watch == Watch::Outcome { " --outcome" } else { "" })
    }
}

/// The lines that tell what has happened, if anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Trace(Option<Vec<String>>);

impl Trace {
    fn line(&mut self, now: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(format!("{now:>6} {}", text()));
        }
    }
}

/// Runs the job of a seed to its end.
///
/// # Errors
/// If a promise was not kept.
pub fn run(seed: u64, setup: Setup) -> Result<Report, Failure> {
    Simulation::new(seed, setup, Trace::default()).run().0
}

/// Like [`run`], and tells what has happened, line by line.
pub fn run_traced(seed: u64, setup: Setup) -> (Result<Report, Failure>, Vec<String>) {
    let (result, trace) = Simulation::new(seed, setup, Trace(Some(Vec::new()))).run();
    (result, trace.0.unwrap_or_default())
}
