//! Performs what the checkpoint coordinator decides: announces, stores, commits, deletes.
//!
//! Runs on the thread that controls the job. What must wait for a disk is done by another
//! ([`Disk`](super::Disk)).

use super::restore::in_words;
use super::{Disk, DiskOrder, Mail, Report, SealedSnapshot, Transaction};
use crate::config::CheckpointConfig;
use crate::error::{BoxError, JobError};
use crate::hosts::Post;
use crate::metrics::JobCounters;
use millstream_protocol::{
    AbortReason, CheckpointCoordinator, CheckpointKind, Command, Event, FileEntry, Manifest,
    OperatorEntry, Owner, SlotEntry, StateFileEntry, SubtaskId,
};
use millstream_state::{FileChange, StateFile};
use millstream_storage::CheckpointDirectory;
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// What the job is for the manifests of its checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct JobIdentity {
    pub(crate) name: String,
    pub(crate) backend: String,
    pub(crate) max_parallelism: u16,
    pub(crate) operators: Vec<OperatorEntry>,
}

impl JobIdentity {
    /// The same, with these operators alone: a program that resumes must have those that have state.
    pub(crate) fn of_operators(&self, uids: &BTreeSet<String>) -> Self {
        let operators = self.operators.iter().filter(|operator| uids.contains(&operator.uid));
        Self { operators: operators.cloned().collect(), ..self.clone() }
    }
}

/// Makes transactions visible: called with those of a completed checkpoint.
pub(crate) trait Commit {
    fn commit(&self, transactions: &[Transaction]) -> Result<(), BoxError>;
}

/// What the job is to do.
#[derive(Debug)]
pub(crate) enum Step {
    /// Go on.
    GoOn,
    /// End: its last checkpoint is complete and committed.
    Finish,
    /// Fail.
    Fail(BoxError),
}

/// The checkpoints of one attempt.
pub(crate) struct Control {
    coordinator: CheckpointCoordinator,
    identity: JobIdentity,
    origin: Instant,
    /// The subtasks of each slot.
    subtasks: BTreeMap<SlotIndex, Vec<SubtaskId>>,
    post: Post,
    collected: BTreeMap<CheckpointId, Collected>,
    /// The state files that each slot's store counts on, as of its last report.
    live: BTreeMap<SlotIndex, Vec<String>>,
    disk: Disk,
    counters: Arc<JobCounters>,
    /// What those go back to that have failed.
    restore: Option<RestoreFrom>,
}

/// What subtasks go back to that have failed: the newest checkpoint of the attempt or, if there is none, what that began
/// with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestoreFrom(pub(crate) Option<CheckpointId>);

/// What there is of a pending checkpoint.
struct Collected {
    kind: CheckpointKind,
    created: Timestamp,
    begun: Instant,
    slots: BTreeMap<SlotIndex, SlotPart>,
    transactions: Vec<Transaction>,
}

#[derive(Default)]
struct SlotPart {
    snapshot: Option<FileEntry>,
    files: Option<Vec<StateFile>>,
}

impl Control {
    /// The control of an attempt whose subtasks are `subtasks`, by slot.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub(crate) fn new(
        directory: CheckpointDirectory,
        newest_used: CheckpointId,
        config: &CheckpointConfig,
        identity: JobIdentity,
        subtasks: BTreeMap<SlotIndex, Vec<SubtaskId>>,
        post: Post,
        reports: Sender<Report>,
        counters: Arc<JobCounters>,
    ) -> Result<Self, JobError> {
        let present =
            directory.list().map_err(|error| JobError::Checkpoint(in_words(&error).into()))?;
        let kept = present.iter().filter_map(|info| {
            let user = info.kind()? == CheckpointKind::Savepoint;
            Some((info.checkpoint, if user { Owner::User } else { Owner::System }))
        });
        let origin = Instant::now();
        let coordinator = CheckpointCoordinator::new(
            config.settings,
            subtasks.values().flatten().copied(),
            newest_used,
            kept,
            Duration::ZERO,
        );
        let disk = Disk::start(directory, config.stores(), reports)?;
        Ok(Self {
            coordinator,
            identity,
            origin,
            subtasks,
            post,
            collected: BTreeMap::new(),
            live: BTreeMap::new(),
            disk,
            counters,
            restore: None,
        })
    }

    /// No checkpoint begins before these subtasks have received what was in flight.
    pub(crate) fn wait_for(&mut self, recovering: impl IntoIterator<Item = SubtaskId>) {
        self.coordinator.wait_for(recovering);
    }

    /// One of them has.
    pub(crate) fn on_recovered(&mut self, subtask: SubtaskId, commit: &dyn Commit) -> Step {
        self.decide([Event::Recovered { subtask }], commit)
    }

    /// Slots have failed, and are to go back to a checkpoint while others go on: which one,
    /// [`take_restore`](Self::take_restore) says, maybe later.
    pub(crate) fn on_failed(&mut self, slots: Range<u32>, commit: &dyn Commit) -> Step {
        let slots = self.subtasks.range(SlotIndex(slots.start)..SlotIndex(slots.end));
        let subtasks = slots.flat_map(|(_, subtasks)| subtasks).copied().collect();
        self.decide([Event::Failed { subtasks }], commit)
    }

    /// What all go back to that have failed, if it is known, and was not said before.
    pub(crate) fn take_restore(&mut self) -> Option<RestoreFrom> {
        self.restore.take()
    }

    /// The slots are reached there from now on.
    pub(crate) fn post_to(&mut self, post: Post) {
        self.post = post;
    }

    /// How long until [`Control::tick`] is due.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let at = self.coordinator.next_wakeup()?;
        Some(at.saturating_sub(self.origin.elapsed()))
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, commit: &dyn Commit) -> Step {
        self.decide([Event::Tick], commit)
    }

    /// A checkpoint is asked for.
    pub(crate) fn trigger(&mut self, kind: CheckpointKind, commit: &dyn Commit) -> Step {
        self.decide([Event::Trigger(kind)], commit)
    }

    /// A slot's part is complete.
    pub(crate) fn on_sealed(&mut self, sealed: SealedSnapshot) {
        let SealedSnapshot { slot, checkpoint, bytes, transactions } = sealed;
        let Some(collected) = self.collected.get_mut(&checkpoint) else { return };
        collected.transactions.extend(transactions);
        if let Some(bytes) = bytes {
            self.disk.order(DiskOrder::Snapshot { slot, checkpoint, bytes });
        }
    }

    /// What a slot of this process keeps by itself is durable on this host, or cannot be made so.
    pub(crate) fn on_persisted(
        &self,
        slot: SlotIndex,
        checkpoint: CheckpointId,
        result: Result<Vec<StateFile>, String>,
    ) {
        self.disk.order(DiskOrder::StateFiles { slot, checkpoint, result });
    }

    /// A store of this process has done something with a state file.
    pub(crate) fn on_file_change(&self, change: FileChange) {
        self.disk.order(DiskOrder::Follow(change));
    }

    /// What a slot keeps by itself is durable wherever it is to be, or cannot be made so.
    pub(crate) fn on_durable(
        &mut self,
        slot: SlotIndex,
        checkpoint: CheckpointId,
        result: Result<Vec<StateFile>, String>,
        commit: &dyn Commit,
    ) -> Step {
        if let Ok(files) = &result {
            self.live.insert(slot, files.iter().map(|file| file.name.clone()).collect());
        }
        self.on_part(slot, checkpoint, result, commit, |part, files| part.files = Some(files))
    }

    /// A slot's bytes have been stored, or cannot be.
    pub(crate) fn on_stored(
        &mut self,
        slot: SlotIndex,
        checkpoint: CheckpointId,
        result: Result<FileEntry, String>,
        commit: &dyn Commit,
    ) -> Step {
        self.on_part(slot, checkpoint, result, commit, |part, file| part.snapshot = Some(file))
    }

    fn on_part<T>(
        &mut self,
        slot: SlotIndex,
        checkpoint: CheckpointId,
        result: Result<T, String>,
        commit: &dyn Commit,
        note: impl FnOnce(&mut SlotPart, T),
    ) -> Step {
        let Some(collected) = self.collected.get_mut(&checkpoint) else { return Step::GoOn };
        let subtasks = self.subtasks.get(&slot).cloned().unwrap_or_default();
        match result {
            Ok(value) => {
                let part = collected.slots.entry(slot).or_default();
                note(part, value);
                if part.snapshot.is_none() || part.files.is_none() {
                    return Step::GoOn;
                }
                let acknowledge = |subtask| Event::Acknowledge { subtask, checkpoint };
                self.decide(subtasks.into_iter().map(acknowledge), commit)
            }
            Err(reason) => {
                let decline = subtasks.first().map(|subtask| Event::Decline {
                    subtask: *subtask,
                    checkpoint,
                    reason,
                });
                self.decide(decline, commit)
            }
        }
    }

    /// A subtask cannot take part.
    pub(crate) fn on_declined(
        &mut self,
        subtask: SubtaskId,
        checkpoint: CheckpointId,
        reason: String,
        commit: &dyn Commit,
    ) -> Step {
        self.decide([Event::Decline { subtask, checkpoint, reason }], commit)
    }

    /// A manifest has been stored, or could not be.
    pub(crate) fn on_manifest(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<(), String>,
        commit: &dyn Commit,
    ) -> Step {
        let event = match result {
            Ok(()) => Event::ManifestStored { checkpoint },
            Err(reason) => Event::ManifestFailed { checkpoint, reason },
        };
        self.decide([event], commit)
    }

    fn decide(&mut self, events: impl IntoIterator<Item = Event>, commit: &dyn Commit) -> Step {
        let mut events: Vec<Event> = events.into_iter().collect();
        let mut step = Step::GoOn;
        while !events.is_empty() {
            let mut commands = Vec::new();
            for event in events.drain(..) {
                self.coordinator.on_event(self.origin.elapsed(), event, &mut commands);
            }
            for command in commands {
                match self.perform(command, &mut events, commit) {
                    Step::GoOn => {}
                    Step::Finish => step = Step::Finish,
                    fail @ Step::Fail(_) => return fail,
                }
            }
        }
        step
    }

    fn perform(&mut self, command: Command, events: &mut Vec<Event>, commit: &dyn Commit) -> Step {
        match command {
            Command::Announce { checkpoint, kind } => {
                self.collected.insert(
                    checkpoint,
                    Collected {
                        kind,
                        created: Timestamp::now(),
                        begun: Instant::now(),
                        slots: BTreeMap::new(),
                        transactions: Vec::new(),
                    },
                );
                self.post.send(Mail::Announce(checkpoint, kind));
            }
            Command::StoreManifest { checkpoint, .. } => {
                if let Some(collected) = self.collected.get(&checkpoint) {
                    let manifest = self.manifest(checkpoint, collected);
                    self.disk.order(DiskOrder::Manifest(Box::new(manifest)));
                }
            }
            Command::Complete { checkpoint } => return self.complete(checkpoint, events, commit),
            Command::Abort { checkpoint, reason } => {
                if !matches!(reason, AbortReason::Subsumed(_)) {
                    tracing::warn!("checkpoint {checkpoint} failed: {reason}");
                    self.counters.add_failed_checkpoint();
                }
                self.collected.remove(&checkpoint);
                self.post.send(Mail::Abort(checkpoint));
            }
            Command::Retire { checkpoint } => {
                let live = self.live.values().flatten().cloned().collect();
                self.disk.order(DiskOrder::Retire { checkpoint, live });
            }
            Command::Restore { checkpoint, .. } => self.restore = Some(RestoreFrom(checkpoint)),
            Command::Finish { .. } => return Step::Finish,
            Command::FailJob { reason } => {
                return Step::Fail(
                    format!("checkpoints fail, and more than are tolerated: {reason}").into(),
                );
            }
        }
        Step::GoOn
    }

    fn complete(
        &mut self,
        checkpoint: CheckpointId,
        events: &mut Vec<Event>,
        commit: &dyn Commit,
    ) -> Step {
        let Some(collected) = self.collected.remove(&checkpoint) else { return Step::GoOn };
        if let Err(error) = commit.commit(&collected.transactions) {
            return Step::Fail(error);
        }
        let took = collected.begun.elapsed();
        tracing::debug!("checkpoint {checkpoint} is complete after {took:?}");
        self.counters.add_completed_checkpoint(checkpoint, took);
        let oldest = self.coordinator.kept().oldest().unwrap_or(checkpoint);
        self.post.send(Mail::Complete { checkpoint, oldest });
        let subtasks = self.subtasks.values().flatten();
        events.extend(subtasks.map(|subtask| Event::Committed { subtask: *subtask, checkpoint }));
        Step::GoOn
    }

    fn manifest(&self, checkpoint: CheckpointId, collected: &Collected) -> Manifest {
        let JobIdentity { name, backend, max_parallelism, operators } = self.identity.clone();
        let slots = collected.slots.iter().filter_map(|(slot, part)| {
            let files = part.files.iter().flatten().map(|file| StateFileEntry {
                name: file.name.clone(),
                len: file.len,
                note: file.note.clone(),
            });
            Some(SlotEntry {
                slot: *slot,
                snapshot: part.snapshot.clone()?,
                state_files: files.collect(),
            })
        });
        Manifest {
            checkpoint,
            kind: collected.kind,
            job: name,
            created: collected.created,
            max_parallelism,
            backend,
            operators,
            slots: slots.collect(),
        }
    }

    /// The newest checkpoint that the attempt has completed.
    pub(crate) fn completed(&self) -> Option<CheckpointId> {
        self.coordinator.completed()
    }

    /// The newest id in use.
    pub(crate) fn newest(&self) -> CheckpointId {
        self.coordinator.newest()
    }
}
