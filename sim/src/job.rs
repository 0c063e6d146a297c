//! One run of a simulated job, from a restore to a crash or the end: its subtasks, its channels, and
//! the driver that performs what the coordinator commands.

use crate::channel::Channel;
use crate::check::{self, Check, Violation};
use crate::disk::Operation;
use crate::message::{Context, Ghost, ToCoordinator, ToSubtask, Token};
use crate::names;
use crate::part::{Part, snapshot_path};
use crate::plan::Plan;
use crate::stored::{folder, manifest};
use crate::subtask::{Subtask, write_durably};
use crate::{Bug, Report, Watch};
use millstream_protocol::manifest::layout;
use millstream_protocol::{
    AbortReason, CheckpointCoordinator, CheckpointKind, Command, Event, FileReferences, SubtaskId,
};
use millstream_types::CheckpointId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a run has ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All input was processed and all output committed.
    Finished,
    /// It was stopped, with a checkpoint to go on from.
    Stopped,
    /// The coordinator has failed it.
    Failed(String),
}

/// How long the last faults have their effects.
const CALMING_TICKS: u64 = 200;

/// A message of a run that has failed, which may still come.
pub(crate) type Stale = (SubtaskId, ToCoordinator);

pub(crate) struct Job {
    coordinator: CheckpointCoordinator,
    references: FileReferences,
    subtasks: Vec<Subtask>,
    channels: Vec<Channel>,
    /// What was acknowledged for each pending checkpoint.
    parts: BTreeMap<CheckpointId, BTreeMap<SubtaskId, (Part, Ghost)>>,
    /// Why each checkpoint was begun, and at which tick.
    begun: BTreeMap<CheckpointId, (CheckpointKind, u64)>,
    finals: BTreeMap<SubtaskId, (Part, Ghost)>,
    /// Files that were named or alive once: deleted as soon as nobody needs them.
    dead: BTreeSet<String>,
    /// The checkpoints whose manifests were begun.
    storing: BTreeSet<CheckpointId>,
    stale: Vec<Stale>,
    final_asked: bool,
    pub(crate) end: Option<End>,
}

impl Job {
    pub(crate) fn new(
        coordinator: CheckpointCoordinator,
        references: FileReferences,
        subtasks: Vec<Subtask>,
        channels: Vec<Channel>,
        stale: Vec<Stale>,
    ) -> Self {
        Self {
            coordinator,
            references,
            subtasks,
            channels,
            parts: BTreeMap::new(),
            begun: BTreeMap::new(),
            finals: BTreeMap::new(),
            dead: BTreeSet::new(),
            storing: BTreeSet::new(),
            stale,
            final_asked: false,
            end: None,
        }
    }

    /// The newest id that this process knows of.
    pub(crate) fn newest(&self) -> CheckpointId {
        self.coordinator.newest()
    }

    /// What is on the way to the coordinator when the run ends, and comes to the next one.
    pub(crate) fn into_stale(mut self) -> Vec<Stale> {
        let sent = self.subtasks.iter_mut().flat_map(|subtask| {
            let id = subtask.id;
            subtask.sent.drain(..).map(move |message| (id, message))
        });
        // Those of finished subtasks are of ids, not of runs, and would be believed: a real driver
        // holds one channel per run for them, as here.
        let fenced = |(_, message): &Stale| !matches!(message, ToCoordinator::Finished(..));
        sent.chain(self.stale).filter(fenced).collect()
    }

    /// One tick: everybody does a little.
    pub(crate) fn step(
        &mut self,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        for (token, done) in cx.disk.step(cx.now, cx.random) {
            self.on_disk(token, done.map_err(|error| error.to_string()), cx, report)?;
        }
        for _ in 0..self.subtasks.len() {
            let at = cx.random.index(self.subtasks.len());
            self.subtasks[at].step(&mut self.channels, cx);
            if self.end.is_none() && cx.random.one_in(cx.plan.message_delay) {
                self.deliver(at, cx, report)?;
            }
        }
        // Late enough to meet the checkpoints of this run.
        if cx.random.one_in(20)
            && let Some((subtask, message)) = self.stale.pop()
        {
            self.on_message(subtask, message, cx, report)?;
        }
        if self.coordinator.next_wakeup().is_some_and(|at| at <= time(cx.now)) {
            self.on_event(Event::Tick, cx, report)?;
        }
        let mut sinks = self.subtasks.iter().filter(|one| one.id.vertex == cx.plan.sink());
        if !self.final_asked && sinks.all(|sink| sink.ended) {
            self.final_asked = true;
            self.on_event(Event::Trigger(CheckpointKind::Final), cx, report)?;
        }
        Ok(())
    }

    /// One tick after a failure: what was on its way to the disk comes to its end, and those who
    /// waited for it say so, to nobody yet.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) {
        for (token, done) in cx.disk.step(cx.now, cx.random) {
            for subtask in &mut self.subtasks {
                if token.subtask() == Some(subtask.id) {
                    subtask.on_disk(&token, done.is_ok(), cx);
                }
            }
        }
    }

    /// Somebody asks for a checkpoint.
    pub(crate) fn trigger(
        &mut self,
        kind: CheckpointKind,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        self.on_event(Event::Trigger(kind), cx, report)
    }

    fn deliver(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let id = self.subtasks[at].id;
        match self.subtasks[at].sent.pop_front() {
            Some(message) => self.on_message(id, message, cx, report),
            None => Ok(()),
        }
    }

    fn on_message(
        &mut self,
        subtask: SubtaskId,
        message: ToCoordinator,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let event = match message {
            ToCoordinator::Acknowledge(checkpoint, part, ghost) => {
                if let Some(parts) = self.parts.get_mut(&checkpoint) {
                    parts.insert(subtask, (part, ghost));
                }
                Event::Acknowledge { subtask, checkpoint }
            }
            ToCoordinator::Decline(checkpoint, reason) => {
                Event::Decline { subtask, checkpoint, reason }
            }
            ToCoordinator::Finished(part, ghost) => {
                self.finals.insert(subtask, (part, ghost));
                Event::SubtaskFinished { subtask }
            }
            ToCoordinator::Committed(checkpoint) => Event::Committed { subtask, checkpoint },
        };
        self.on_event(event, cx, report)
    }

    fn on_event(
        &mut self,
        event: Event,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        if event != Event::Tick {
            cx.trace.line(cx.now, || format!("coordinator: {event:?}"));
        }
        let mut commands = Vec::new();
        self.coordinator.on_event(time(cx.now), event, &mut commands);
        for command in commands {
            cx.trace.line(cx.now, || format!("coordinator says {command:?}"));
            self.perform(command, cx, report)?;
        }
        Ok(())
    }

    fn perform(
        &mut self,
        command: Command,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        match command {
            Command::Announce { checkpoint, kind } => {
                if cx.setup.watch == Watch::EveryTick {
                    check::epoch_is_new(checkpoint, cx.disk)?;
                    report.announced(checkpoint)?;
                }
                self.parts.insert(checkpoint, BTreeMap::new());
                self.begun.insert(checkpoint, (kind, cx.now));
                self.tell(&ToSubtask::Announce(checkpoint, kind));
            }
            Command::StoreManifest { checkpoint, finished } => {
                self.store_manifest(checkpoint, &finished, cx)?;
            }
            Command::Complete { checkpoint } => {
                if cx.setup.watch == Watch::EveryTick {
                    check::is_restorable(checkpoint, cx.disk)?;
                }
                report.checkpoints += 1;
                let parts = self.parts.get(&checkpoint).into_iter().flat_map(BTreeMap::values);
                let mut parts = parts.map(|(part, _)| part);
                report.overtaken += u64::from(parts.any(|part| !part.in_flight.is_empty()));
                self.tell(&ToSubtask::Complete(checkpoint));
                self.parts.remove(&checkpoint);
                self.sweep(cx);
            }
            Command::Abort { checkpoint, reason } => {
                self.check_abort(checkpoint, &reason, cx.plan)?;
                report.aborted += 1;
                self.tell(&ToSubtask::Abort(checkpoint));
                let parts = self.parts.remove(&checkpoint).unwrap_or_default();
                let named = parts.into_values().flat_map(|(part, _)| part.segments);
                self.dead.extend(named.map(|segment| segment.name));
                self.sweep(cx);
                // A manifest that may yet come to be must find what it names.
                if !self.storing.contains(&checkpoint) {
                    delete_folder(checkpoint, cx);
                }
            }
            Command::Retire { checkpoint } => retire(checkpoint, cx),
            Command::Finish { checkpoint } => {
                let kind = self.begun.get(&checkpoint).map(|(kind, _)| *kind);
                let stopped = kind == Some(CheckpointKind::Stop);
                self.end = Some(if stopped { End::Stopped } else { End::Finished });
            }
            Command::FailJob { reason } => self.end = Some(End::Failed(reason)),
        }
        Ok(())
    }

    /// When nothing fails no checkpoint does.
    fn check_abort(
        &self,
        checkpoint: CheckpointId,
        reason: &AbortReason,
        plan: &Plan,
    ) -> Result<(), Violation> {
        let calm = |(_, begun): &(_, u64)| *begun >= plan.calm_at + CALMING_TICKS;
        if matches!(reason, AbortReason::Subsumed(_))
            || !self.begun.get(&checkpoint).is_some_and(calm)
        {
            return Ok(());
        }
        let what = format!("nothing fails, and checkpoint {checkpoint} is aborted: {reason}");
        Err(Check::Progress.violated(what))
    }

    fn tell(&mut self, message: &ToSubtask) {
        for subtask in &mut self.subtasks {
            subtask.mail.push_back(message.clone());
        }
    }

    fn store_manifest(
        &mut self,
        checkpoint: CheckpointId,
        finished: &[SubtaskId],
        cx: &mut Context<'_>,
    ) -> Result<(), Violation> {
        let kind =
            self.begun.get(&checkpoint).map_or(CheckpointKind::Checkpoint, |(kind, _)| *kind);
        let mut parts = self.parts.get(&checkpoint).cloned().unwrap_or_default();
        for subtask in finished {
            if let Some(last) = self.finals.get(subtask) {
                parts.insert(*subtask, last.clone());
            }
        }
        if cx.setup.watch == Watch::EveryTick {
            check::is_cut(checkpoint, &self.channels, &parts, cx.plan.settings.mode)?;
        }
        let parts: Vec<_> = parts.into_values().map(|(part, _)| part).collect();
        let manifest = manifest(checkpoint, kind, &parts, cx.plan, cx.now);
        // Named from now on, whatever becomes of the manifest.
        self.references.add(checkpoint, manifest.state_files());
        self.storing.insert(checkpoint);
        // Those that have finished cannot write into this checkpoint's folder any more.
        let last = parts.iter().filter(|part| finished.contains(&part.subtask));
        let mut script: Vec<_> = last
            .flat_map(|part| write_durably(&snapshot_path(checkpoint, part.subtask), part.encode()))
            .collect();
        let unfinished = names::unfinished_manifest(checkpoint);
        script.extend(write_durably(&unfinished, manifest.encode()));
        script.push(Operation::Publish(unfinished, layout::manifest_path(checkpoint)));
        if cx.setup.bug != Some(Bug::UnsyncedName) {
            script.push(Operation::SyncDirectory);
        }
        cx.submit(Token::Manifest(checkpoint), script);
        if cx.setup.bug == Some(Bug::CommitBeforeManifest) {
            self.tell(&ToSubtask::Complete(checkpoint));
        }
        Ok(())
    }

    fn on_disk(
        &mut self,
        token: Token,
        done: Result<(), String>,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        if let Err(error) = &done {
            report.disk_errors += 1;
            cx.trace.line(cx.now, || format!("disk: {token:?}: {error}"));
        }
        match token {
            Token::Segment(id, _)
            | Token::Compaction(id, _)
            | Token::Snapshot(id, _)
            | Token::Prepare(id, _)
            | Token::Commit(id, _) => self.on_subtask_disk(id, &token, done.is_ok(), cx, report),
            Token::Manifest(checkpoint) => {
                let event = match done {
                    Ok(()) => Event::ManifestStored { checkpoint },
                    Err(reason) => Event::ManifestFailed { checkpoint, reason },
                };
                self.on_event(event, cx, report)
            }
            Token::Retire(checkpoint) => {
                match done {
                    Ok(()) => {
                        report.retired += 1;
                        self.dead.extend(self.references.remove(checkpoint));
                        self.sweep(cx);
                        delete_folder(checkpoint, cx);
                    }
                    Err(_) => retire(checkpoint, cx),
                }
                Ok(())
            }
            Token::Cleanup => Ok(()),
        }
    }

    fn on_subtask_disk(
        &mut self,
        id: SubtaskId,
        token: &Token,
        ok: bool,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let Some(subtask) = self.subtasks.iter_mut().find(|subtask| subtask.id == id) else {
            return Ok(());
        };
        let dead = subtask.on_disk(token, ok, cx);
        if let (Token::Commit(_, staged), Watch::EveryTick) = (token, cx.setup.watch) {
            check::is_committed_in_time(&names::output(staged), cx.disk)?;
        }
        if let (Token::Compaction(..), true) = (token, ok) {
            report.compactions += 1;
            if cx.setup.bug == Some(Bug::DeletedEarly) {
                delete_segments(&dead, cx);
            }
        }
        self.dead.extend(dead);
        self.sweep(cx);
        Ok(())
    }

    /// Deletes what nobody names and nobody will.
    fn sweep(&mut self, cx: &mut Context<'_>) {
        let finals = self.finals.values().flat_map(|(part, _)| &part.segments);
        let pending = self.parts.values().flatten().flat_map(|(_, (part, _))| &part.segments);
        let alive = self.subtasks.iter().flat_map(Subtask::needed_files);
        let needed: BTreeSet<&str> =
            finals.chain(pending).map(|segment| segment.name.as_str()).chain(alive).collect();
        let references = &self.references;
        let free = |name: &String| !references.is_named(name) && !needed.contains(name.as_str());
        let gone: Vec<_> = self.dead.extract_if(.., free).collect();
        if !gone.is_empty() {
            delete_segments(&gone, cx);
        }
    }

    /// Checks what is to hold at every tick.
    pub(crate) fn check(&self, cx: &Context<'_>) -> Result<(), Violation> {
        for checkpoint in self.coordinator.kept().iter() {
            check::is_restorable(checkpoint, cx.disk)?;
        }
        let (pending, most) =
            (self.coordinator.pending().count(), self.coordinator.settings().max_concurrent);
        if pending > most as usize {
            return Err(Check::Concurrency.violated(format!("{pending} pending, {most} at most")));
        }
        Ok(())
    }
}

/// Deletes a checkpoint's manifest, durably; its files come after.
fn retire(checkpoint: CheckpointId, cx: &mut Context<'_>) {
    let script =
        vec![Operation::Remove(layout::manifest_path(checkpoint)), Operation::SyncDirectory];
    cx.submit(Token::Retire(checkpoint), script);
}

fn delete_folder(checkpoint: CheckpointId, cx: &mut Context<'_>) {
    let files = folder(checkpoint, cx.disk);
    if !files.is_empty() {
        cx.submit(Token::Cleanup, files.into_iter().map(Operation::Remove).collect());
    }
}

fn delete_segments(names: &[String], cx: &mut Context<'_>) {
    cx.trace.line(cx.now, || format!("deletes {names:?}"));
    let paths = names.iter().map(|name| layout::state_path(name));
    cx.submit(Token::Cleanup, paths.map(Operation::Remove).collect());
}

/// The coordinator's time at a tick.
pub(crate) fn time(tick: u64) -> Duration {
    Duration::from_millis(tick)
}

/// The subtasks of a plan's vertices, with so many each.
pub(crate) fn subtasks_of(plan: &Plan, parallelism: &[u32]) -> Vec<SubtaskId> {
    let ids = (0..=plan.sink().0).flat_map(|vertex| {
        (0..parallelism[vertex as usize]).map(move |subtask| SubtaskId {
            vertex: millstream_types::VertexId(vertex),
            subtask: millstream_types::SubtaskIndex(subtask),
        })
    });
    ids.collect()
}
