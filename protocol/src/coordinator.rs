//! Decides when a job's checkpoints begin, what they wait for, and how they end.
//!
//! Pure: events in, commands out. The caller performs the commands in the order in which they were
//! pushed, and reports what came of them.
//!
//! # Invariants
//! - Ids strictly increase, and start after every id that was ever used in the directory.
//! - At most `max_concurrent` checkpoints are pending, and none before all that was in flight at the restore
//!   has been received.
//! - [`StoreManifest`](Command::StoreManifest) follows the last subtask's acknowledgement,
//!   [`Complete`](Command::Complete) follows the durable manifest, and nothing is retired before a
//!   newer checkpoint is complete.
//! - Each [`Announce`](Command::Announce) is followed by exactly one of `Complete` and
//!   [`Abort`](Command::Abort), unless the job ends before.
//! - A manifest that may exist is completed or retired, never forgotten: it would name files that are
//!   taken for orphans.
//! - When some subtasks go back to a checkpoint while others go on, none is pending or completes from then on that has
//!   anything of what they did since, and none begins before all have what was in flight.

use crate::aligner::CheckpointMode;
use crate::pending::{PendingCheckpoint, Stage, SubtaskId};
use crate::retention::{KeptCheckpoints, Owner};
use millstream_types::CheckpointId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// When checkpoints are taken, and how many failures and copies there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// From the begin of one periodic checkpoint to the begin of the next; `None`: only on demand.
    pub interval: Option<Duration>,
    /// What barriers do with records in flight.
    pub mode: CheckpointMode,
    /// How long a subtask aligns before its barrier overtakes; `None`: as long as it takes.
    pub alignment_timeout: Option<Duration>,
    /// A checkpoint that takes longer is aborted.
    pub timeout: Duration,
    /// From the end of one checkpoint to the begin of the next periodic one, at least. What is asked
    /// for on demand does not wait for it.
    pub min_pause: Duration,
    /// How many checkpoints may be pending, at least 1. Barriers that may overtake allow only one.
    pub max_concurrent: u32,
    /// How many checkpoints in a row may fail before the job does.
    pub tolerable_failures: u32,
    /// How many completed checkpoints are kept, at least 1. Savepoints do not count.
    pub retained: u32,
}

impl Default for CheckpointSettings {
    /// On demand, exactly-once, ten minutes at most, one at a time, no failure is tolerated, the
    /// newest is kept.
    fn default() -> Self {
        Self {
            interval: None,
            mode: CheckpointMode::ExactlyOnce,
            alignment_timeout: None,
            timeout: Duration::from_secs(600),
            min_pause: Duration::ZERO,
            max_concurrent: 1,
            tolerable_failures: 0,
            retained: 1,
        }
    }
}

impl CheckpointSettings {
    fn concurrent_max(&self) -> usize {
        let overtakes = self.mode == CheckpointMode::Unaligned || self.alignment_timeout.is_some();
        if overtakes { 1 } else { self.max_concurrent.max(1) as usize }
    }
}

/// Why a checkpoint is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointKind {
    /// At an interval or on demand.
    Checkpoint,
    /// For the user, who owns it.
    Savepoint,
    /// After the end of all input, so that sinks commit what is left. The job's last; repeated until
    /// it completes.
    Final,
    /// To stop the job before the end of its input: sources emit nothing after the barrier. The
    /// job's last; repeated until it completes.
    Stop,
}

impl CheckpointKind {
    const ALL: [Self; 4] = [Self::Checkpoint, Self::Savepoint, Self::Final, Self::Stop];

    /// The number of the kind in manifests and messages.
    pub fn code(self) -> u8 {
        match self {
            Self::Checkpoint => 1,
            Self::Savepoint => 2,
            Self::Final => 3,
            Self::Stop => 4,
        }
    }

    /// The kind of a number, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// True if the job ends with it.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Final | Self::Stop)
    }
}

impl fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "checkpoint",
            Self::Savepoint => "savepoint",
            Self::Final => "final",
            Self::Stop => "stop",
        })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed: at least whenever [`CheckpointCoordinator::next_wakeup`] has come.
    Tick,
    /// A checkpoint is asked for. One that waits to begin stands for all of its kind.
    Trigger(CheckpointKind),
    /// A subtask's snapshot is durable.
    Acknowledge {
        /// Whose.
        subtask: SubtaskId,
        /// For which checkpoint.
        checkpoint: CheckpointId,
    },
    /// A subtask cannot take part.
    Decline {
        /// Which.
        subtask: SubtaskId,
        /// In which checkpoint.
        checkpoint: CheckpointId,
        /// Why not.
        reason: String,
    },
    /// A subtask has come to its end, its final snapshot is durable, and it will acknowledge nothing
    /// more. What it acknowledged was reported before.
    SubtaskFinished {
        /// Which.
        subtask: SubtaskId,
    },
    /// A manifest is durable under its name.
    ManifestStored {
        /// Of which checkpoint.
        checkpoint: CheckpointId,
    },
    /// A manifest could not be stored. It may exist all the same.
    ManifestFailed {
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// A subtask has received all that was in flight to it in the checkpoint that the run began with.
    Recovered {
        /// Which.
        subtask: SubtaskId,
    },
    /// Subtasks have failed, with all those that they are connected with, and are to go back to the newest
    /// checkpoint while others go on (the region of Flink's pipelined region failover). What they do from then on is
    /// told only after the [`Restore`](Command::Restore) that follows.
    Failed {
        /// Which.
        subtasks: Vec<SubtaskId>,
    },
    /// A subtask has committed all that belongs to a completed checkpoint.
    Committed {
        /// Which.
        subtask: SubtaskId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell all slots that a checkpoint begins. Sources emit its barrier.
    Announce {
        /// Which.
        checkpoint: CheckpointId,
        /// Why it is taken.
        kind: CheckpointKind,
    },
    /// Store the manifest, durably and only if there is none of this name, of the snapshots that
    /// were acknowledged and the final ones of finished subtasks.
    StoreManifest {
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// The subtasks whose final snapshots it names.
        finished: Vec<SubtaskId>,
    },
    /// Tell all subtasks to commit what belongs to this checkpoint and to earlier ones.
    Complete {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Tell all subtasks that a checkpoint will not complete. What sinks prepared for it belongs to
    /// the next.
    Abort {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: AbortReason,
    },
    /// Delete a checkpoint's manifest, if there is one, and then the files that only it named.
    Retire {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Have subtasks that have failed go on from a checkpoint. No other begins before each of them has
    /// [recovered](Event::Recovered).
    Restore {
        /// The newest that has completed in this run; `None` if none has, and it is what the run began with.
        checkpoint: Option<CheckpointId>,
        /// Which.
        subtasks: Vec<SubtaskId>,
    },
    /// The job's last checkpoint is complete and committed everywhere: the job may end.
    Finish {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// More checkpoints in a row have failed than are tolerated: fail the job. Nothing follows; a
    /// manifest that is being stored still may come to be, and is one to restore from.
    FailJob {
        /// The last failure.
        reason: String,
    },
}

/// Why a checkpoint was aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// A subtask could not take part.
    Declined {
        /// Which.
        subtask: SubtaskId,
        /// What it said.
        reason: String,
    },
    /// It took too long.
    TimedOut {
        /// Whom it was waiting for; nobody: for its manifest.
        waiting_for: Vec<SubtaskId>,
    },
    /// Its manifest could not be stored.
    ManifestFailed(String),
    /// A newer one completed. This is no failure.
    Subsumed(CheckpointId),
    /// A subtask goes back to an older one. This is no failure of the checkpoint's.
    Failed(SubtaskId),
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declined { subtask, reason } => write!(f, "{subtask} declined it: {reason}"),
            Self::TimedOut { waiting_for } => match &waiting_for[..] {
                [] => f.write_str("its manifest was not stored in time"),
                [one] => write!(f, "it timed out while it waited for {one}"),
                [one, rest @ ..] => {
                    write!(f, "it timed out while it waited for {one} and {} more", rest.len())
                }
            },
            Self::ManifestFailed(reason) => write!(f, "its manifest was not stored: {reason}"),
            Self::Subsumed(by) => write!(f, "checkpoint {by}, newer, has completed"),
            Self::Failed(subtask) => write!(f, "{subtask} goes back to an older one"),
        }
    }
}

/// The checkpoints of one run of a job.
#[derive(Clone, Debug)]
pub struct CheckpointCoordinator {
    settings: CheckpointSettings,
    running: BTreeSet<SubtaskId>,
    finished: BTreeSet<SubtaskId>,
    /// The newest id in use.
    newest: CheckpointId,
    pending: BTreeMap<CheckpointId, PendingCheckpoint>,
    /// Aborted while their manifests were being stored: nothing is known of these yet.
    unsettled: BTreeSet<CheckpointId>,
    kept: KeptCheckpoints,
    /// Those to whom there is more that was in flight at the restore.
    recovering: BTreeSet<SubtaskId>,
    /// Those that have failed, and have not been told yet what they go back to.
    failed: BTreeSet<SubtaskId>,
    /// Asked for, and not begun; each kind once.
    requested: VecDeque<CheckpointKind>,
    /// When the next periodic one is due.
    due: Option<Duration>,
    /// When the last checkpoint ended.
    ended_at: Option<Duration>,
    /// Since the last one completed.
    failures: u32,
    /// The last that completed in this run.
    completed: Option<CheckpointId>,
    /// The job's last checkpoint, complete, and who has yet to commit it.
    committing: Option<(CheckpointId, BTreeSet<SubtaskId>)>,
    over: bool,
}

/// Before a failed last checkpoint is repeated, lest it be tried as fast as it fails.
const REPEAT_PAUSE: Duration = Duration::from_millis(100);

impl CheckpointCoordinator {
    /// The coordinator of a run that begins at `now`.
    ///
    /// `newest_used` is the newest id that anything in the checkpoint directory carries, complete or
    /// not: ids start after it, so that no message or file of an earlier run can be taken for one of
    /// this run's. `kept` are the checkpoints that earlier runs left complete.
    pub fn new(
        settings: CheckpointSettings,
        subtasks: impl IntoIterator<Item = SubtaskId>,
        newest_used: CheckpointId,
        kept: impl IntoIterator<Item = (CheckpointId, Owner)>,
        now: Duration,
    ) -> Self {
        let kept = KeptCheckpoints::new(settings.retained, kept);
        let newest = kept.iter().next_back().map_or(newest_used, |kept| kept.max(newest_used));
        Self {
            settings,
            running: subtasks.into_iter().collect(),
            finished: BTreeSet::new(),
            newest,
            pending: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            kept,
            recovering: BTreeSet::new(),
            failed: BTreeSet::new(),
            requested: VecDeque::new(),
            due: settings.interval.map(|interval| now + interval),
            ended_at: None,
            failures: 0,
            completed: None,
            committing: None,
            over: false,
        }
    }

    /// No checkpoint begins before each of these subtasks has [recovered](Event::Recovered): what was in
    /// flight to them in the checkpoint that the run begins with would be part of the next one, too, and mixed
    /// with what was sent after it. As in Flink, a checkpoint that is due meanwhile begins then.
    pub fn wait_for(&mut self, recovering: impl IntoIterator<Item = SubtaskId>) {
        self.recovering.extend(recovering);
    }

    /// Something has happened at `now`, which never goes back. What is to be done is pushed to
    /// `commands`.
    ///
    /// Events of checkpoints that are over, and of subtasks that are not the job's, are ignored.
    ///
    /// Complexity: O(log subtasks) for an acknowledgement, O(subtasks) for a begin.
    pub fn on_event(&mut self, now: Duration, event: Event, commands: &mut Vec<Command>) {
        if self.over {
            return;
        }
        match event {
            Event::Tick => {}
            Event::Trigger(kind) => {
                if !self.requested.contains(&kind) {
                    self.requested.push_back(kind);
                }
            }
            Event::Acknowledge { subtask, checkpoint } => {
                if let Some(pending) = self.pending.get_mut(&checkpoint)
                    && pending.acknowledge(subtask)
                {
                    commands.push(store_manifest(pending));
                }
            }
            Event::Decline { subtask, checkpoint, reason } => {
                if self.is_collecting(checkpoint) {
                    self.fail(now, checkpoint, AbortReason::Declined { subtask, reason }, commands);
                }
            }
            Event::SubtaskFinished { subtask } => self.on_finished(subtask, commands),
            Event::ManifestStored { checkpoint } => self.on_stored(now, checkpoint, commands),
            Event::ManifestFailed { checkpoint, reason } => {
                if self.stage(checkpoint) == Some(Stage::Storing) {
                    self.fail(now, checkpoint, AbortReason::ManifestFailed(reason), commands);
                } else if self.unsettled.remove(&checkpoint) {
                    commands.push(Command::Retire { checkpoint });
                }
            }
            Event::Recovered { subtask } => {
                self.recovering.remove(&subtask);
                // One that has failed since the job's last checkpoint has gone back to it, with whatever was to be
                // committed.
                if let Some((_, committing)) = &mut self.committing {
                    committing.remove(&subtask);
                    self.finish_if_committed(commands);
                }
            }
            Event::Failed { subtasks } => self.on_failed(now, &subtasks, commands),
            Event::Committed { subtask, checkpoint } => {
                if let Some((last, committing)) = &mut self.committing
                    && *last == checkpoint
                {
                    committing.remove(&subtask);
                    self.finish_if_committed(commands);
                }
            }
        }
        self.time_out(now, commands);
        self.restore_if_settled(commands);
        self.begin_due(now, commands);
    }

    /// When [`Event::Tick`] is due, if nothing else happens before; `None` if time changes nothing.
    pub fn next_wakeup(&self) -> Option<Duration> {
        if self.over {
            return None;
        }
        let timeouts = self.pending.values().map(|pending| self.deadline(pending));
        let begins = if self.may_begin() { self.next_begin().map(|(at, _)| at) } else { None };
        timeouts.chain(begins).min()
    }

    /// The pending checkpoints, oldest first. Each [names](PendingCheckpoint::waiting_for) whom it
    /// waits for.
    pub fn pending(&self) -> impl Iterator<Item = &PendingCheckpoint> {
        self.pending.values()
    }

    /// The newest id in use, 0 if there was none.
    pub fn newest(&self) -> CheckpointId {
        self.newest
    }

    /// The completed checkpoints that are kept.
    pub fn kept(&self) -> &KeptCheckpoints {
        &self.kept
    }

    /// The newest checkpoint that has completed in this run.
    pub fn completed(&self) -> Option<CheckpointId> {
        self.completed
    }

    /// How many checkpoints have failed since the last one completed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The settings.
    pub fn settings(&self) -> &CheckpointSettings {
        &self.settings
    }

    fn stage(&self, checkpoint: CheckpointId) -> Option<Stage> {
        self.pending.get(&checkpoint).map(PendingCheckpoint::stage)
    }

    fn is_collecting(&self, checkpoint: CheckpointId) -> bool {
        self.stage(checkpoint) == Some(Stage::Collecting)
    }

    fn deadline(&self, pending: &PendingCheckpoint) -> Duration {
        pending.begun().saturating_add(self.settings.timeout)
    }

    fn on_finished(&mut self, subtask: SubtaskId, commands: &mut Vec<Command>) {
        if !self.running.remove(&subtask) {
            return;
        }
        self.finished.insert(subtask);
        self.recovering.remove(&subtask);
        for pending in self.pending.values_mut() {
            if pending.finish(subtask) {
                commands.push(store_manifest(pending));
            }
        }
        if let Some((_, committing)) = &mut self.committing {
            committing.remove(&subtask);
            self.finish_if_committed(commands);
        }
    }

    fn on_failed(&mut self, now: Duration, subtasks: &[SubtaskId], commands: &mut Vec<Command>) {
        let Some(first) = subtasks.first().copied() else { return };
        for subtask in subtasks {
            self.finished.remove(subtask);
            self.running.insert(*subtask);
        }
        self.recovering.extend(subtasks);
        self.failed.extend(subtasks);
        // All have run to their ends when it is asked for again.
        self.requested.retain(|kind| *kind != CheckpointKind::Final);
        // One whose manifest is being stored may be there already: what becomes of it is waited for.
        let collecting = |(id, pending): (&CheckpointId, &PendingCheckpoint)| {
            (pending.stage() == Stage::Collecting).then_some(*id)
        };
        for checkpoint in self.pending.iter().filter_map(collecting).collect::<Vec<_>>() {
            let kind = self.abort(now, checkpoint, AbortReason::Failed(first), commands);
            if kind == Some(CheckpointKind::Stop) && !self.requested.contains(&CheckpointKind::Stop)
            {
                self.requested.push_front(CheckpointKind::Stop);
            }
        }
    }

    /// What those go back to that have failed, if nothing newer can come to be any more that they had a part in.
    fn restore_if_settled(&mut self, commands: &mut Vec<Command>) {
        if self.over
            || self.failed.is_empty()
            || !self.pending.is_empty()
            || !self.unsettled.is_empty()
        {
            return;
        }
        let checkpoint = self.completed;
        let subtasks = std::mem::take(&mut self.failed).into_iter().collect();
        commands.push(Command::Restore { checkpoint, subtasks });
    }

    fn on_stored(&mut self, now: Duration, checkpoint: CheckpointId, commands: &mut Vec<Command>) {
        if self.unsettled.remove(&checkpoint) {
            commands.push(Command::Retire { checkpoint });
            return;
        }
        if self.stage(checkpoint) != Some(Stage::Storing) {
            return;
        }
        let Some(done) = self.pending.remove(&checkpoint) else { return };
        commands.push(Command::Complete { checkpoint });
        (self.ended_at, self.failures) = (Some(now), 0);
        self.completed = self.completed.max(Some(checkpoint));
        // Subtasks have committed these with the newer one. A savepoint was promised to its user.
        let subsumed: Vec<_> = self
            .pending
            .range(..checkpoint)
            .filter(|(_, older)| older.kind() != CheckpointKind::Savepoint)
            .map(|(id, _)| *id)
            .collect();
        for older in subsumed {
            self.abort(now, older, AbortReason::Subsumed(checkpoint), commands);
        }
        let owner =
            if done.kind() == CheckpointKind::Savepoint { Owner::User } else { Owner::System };
        let retired = self.kept.complete(checkpoint, owner);
        commands.extend(retired.into_iter().map(|checkpoint| Command::Retire { checkpoint }));
        if done.kind().is_last() {
            let running = done.acknowledged().filter(|one| self.running.contains(one)).collect();
            self.committing = Some((checkpoint, running));
            self.finish_if_committed(commands);
        }
    }

    fn finish_if_committed(&mut self, commands: &mut Vec<Command>) {
        if let Some((checkpoint, committing)) = &self.committing
            && committing.is_empty()
        {
            self.over = true;
            commands.push(Command::Finish { checkpoint: *checkpoint });
        }
    }

    /// Ends a pending checkpoint without success. The kind is returned for whoever repeats it.
    fn abort(
        &mut self,
        now: Duration,
        checkpoint: CheckpointId,
        reason: AbortReason,
        commands: &mut Vec<Command>,
    ) -> Option<CheckpointKind> {
        let pending = self.pending.remove(&checkpoint)?;
        self.ended_at = Some(now);
        let settled = matches!(reason, AbortReason::ManifestFailed(_));
        commands.push(Command::Abort { checkpoint, reason });
        if settled {
            commands.push(Command::Retire { checkpoint });
        } else if pending.stage() == Stage::Storing {
            self.unsettled.insert(checkpoint);
        }
        Some(pending.kind())
    }

    fn fail(
        &mut self,
        now: Duration,
        checkpoint: CheckpointId,
        reason: AbortReason,
        commands: &mut Vec<Command>,
    ) {
        let text = reason.to_string();
        let Some(kind) = self.abort(now, checkpoint, reason, commands) else { return };
        if kind.is_last() && !self.requested.contains(&kind) {
            self.requested.push_front(kind);
        }
        self.failures += 1;
        if self.failures > self.settings.tolerable_failures {
            self.over = true;
            let reason = format!(
                "checkpoint {checkpoint} failed, the {}. in a row, and {} are tolerated: {text}",
                self.failures, self.settings.tolerable_failures
            );
            commands.push(Command::FailJob { reason });
        }
    }

    fn time_out(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let late: Vec<_> = self
            .pending
            .values()
            .filter(|pending| self.deadline(pending) <= now)
            .map(|pending| (pending.id(), pending.waiting_for().collect::<Vec<_>>()))
            .collect();
        for (checkpoint, waiting_for) in late {
            if !self.over {
                self.fail(now, checkpoint, AbortReason::TimedOut { waiting_for }, commands);
            }
        }
    }

    /// True if there is room for another one, and the last has not begun.
    fn may_begin(&self) -> bool {
        let last = self.pending.values().any(|pending| pending.kind().is_last());
        !self.over
            && self.recovering.is_empty()
            && self.committing.is_none()
            && !last
            && self.pending.len() < self.settings.concurrent_max()
    }

    /// When the next one may begin if there is room, and which it is.
    fn next_begin(&self) -> Option<(Duration, CheckpointKind)> {
        if let Some(kind) = self.requested.front().copied() {
            let repeated = kind.is_last() && self.failures > 0;
            let pause = if repeated { REPEAT_PAUSE } else { Duration::ZERO };
            return Some((self.ended_at.map_or(Duration::ZERO, |at| at + pause), kind));
        }
        // When all have finished nothing changes any more.
        let due = self.due.filter(|_| !self.running.is_empty())?;
        let rested = self.ended_at.map_or(Duration::ZERO, |at| at + self.settings.min_pause);
        Some((due.max(rested), CheckpointKind::Checkpoint))
    }

    fn begin_due(&mut self, now: Duration, commands: &mut Vec<Command>) {
        while self.may_begin()
            && let Some((at, kind)) = self.next_begin()
            && at <= now
        {
            if self.requested.pop_front().is_none()
                && let (Some(due), Some(interval)) = (&mut self.due, self.settings.interval)
            {
                // At the interval's own rhythm, but what was missed is not made up for.
                *due = if *due + interval > now { *due + interval } else { now + interval };
            }
            self.newest.0 += 1;
            let checkpoint = self.newest;
            let (running, finished) = (self.running.clone(), self.finished.clone());
            let pending = PendingCheckpoint::new(checkpoint, kind, now, running, finished);
            commands.push(Command::Announce { checkpoint, kind });
            if pending.stage() == Stage::Storing {
                commands.push(store_manifest(&pending));
            }
            self.pending.insert(checkpoint, pending);
        }
    }
}

fn store_manifest(pending: &PendingCheckpoint) -> Command {
    Command::StoreManifest { checkpoint: pending.id(), finished: pending.finished().collect() }
}

#[cfg(test)]
mod tests;
