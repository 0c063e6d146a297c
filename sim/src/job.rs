//! One run of a simulated job, from a restore to a crash or the end: its subtasks, its channels, and
//! the driver that performs what the coordinator commands.

use crate::channel::Channel;
use crate::check::{self, Check, Violation};
use crate::disk::Operation;
use crate::manifest::{Manifest, Part};
use crate::names;
use crate::plan::Plan;
use crate::subtask::{Context, Ghost, Subtask, ToCoordinator, ToSubtask, Token};
use crate::{Bug, Report, Watch};
use millstream_protocol::{
    CheckpointCoordinator, CheckpointKind, Command, Event, FileReferences, SubtaskId,
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

/// A message of a run that has failed, which may still come.
pub(crate) type Stale = (SubtaskId, ToCoordinator);

pub(crate) struct Job {
    coordinator: CheckpointCoordinator,
    references: FileReferences,
    subtasks: Vec<Subtask>,
    channels: Vec<Channel>,
    /// What was acknowledged for each pending checkpoint.
    parts: BTreeMap<CheckpointId, BTreeMap<SubtaskId, (Part, Ghost)>>,
    kinds: BTreeMap<CheckpointId, CheckpointKind>,
    finals: BTreeMap<SubtaskId, (Part, Ghost)>,
    /// Files that were named or alive once: deleted as soon as nobody needs them.
    dead: BTreeSet<String>,
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
            kinds: BTreeMap::new(),
            finals: BTreeMap::new(),
            dead: BTreeSet::new(),
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
            if self.end.is_none() && cx.random.one_in(2) {
                self.deliver(at, cx, report)?;
            }
        }
        if cx.random.one_in(4)
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
                self.kinds.insert(checkpoint, kind);
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
            Command::Abort { checkpoint, .. } => {
                report.aborted += 1;
                self.tell(&ToSubtask::Abort(checkpoint));
                let parts = self.parts.remove(&checkpoint).unwrap_or_default();
                let named = parts.into_values().flat_map(|(part, _)| part.segments);
                self.dead.extend(named.map(|segment| segment.name));
                self.sweep(cx);
            }
            Command::Retire { checkpoint } => retire(checkpoint, cx),
            Command::Finish { checkpoint } => {
                let stopped = self.kinds.get(&checkpoint) == Some(&CheckpointKind::Stop);
                self.end = Some(if stopped { End::Stopped } else { End::Finished });
            }
            Command::FailJob { reason } => self.end = Some(End::Failed(reason)),
        }
        Ok(())
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
        let kind = self.kinds.get(&checkpoint).copied().unwrap_or(CheckpointKind::Checkpoint);
        let mut parts = self.parts.get(&checkpoint).cloned().unwrap_or_default();
        for subtask in finished {
            if let Some(last) = self.finals.get(subtask) {
                parts.insert(*subtask, last.clone());
            }
        }
        if cx.setup.watch == Watch::EveryTick {
            check::is_cut(checkpoint, &self.channels, &parts, cx.plan.settings.mode)?;
        }
        let parts = parts.into_values().map(|(part, _)| part).collect();
        let manifest = Manifest::new(checkpoint, kind, parts);
        // Named from now on, whatever becomes of the manifest.
        self.references.add(checkpoint, manifest.files());
        let (unfinished, name) =
            (names::unfinished_manifest(checkpoint), names::manifest(checkpoint));
        let mut script = vec![
            Operation::Create(unfinished.clone()),
            Operation::Append(unfinished.clone(), manifest.encode()),
            Operation::Sync(unfinished.clone()),
            Operation::Publish(unfinished, name),
        ];
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
                let script = dead.iter().cloned().map(Operation::Remove).collect();
                cx.submit(Token::Cleanup, script);
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
            cx.trace.line(cx.now, || format!("deletes {gone:?}"));
            cx.submit(Token::Cleanup, gone.into_iter().map(Operation::Remove).collect());
        }
    }

    /// Checks what is to hold at every tick.
    pub(crate) fn check(&self, cx: &Context<'_>) -> Result<(), Violation> {
        for checkpoint in self.coordinator.kept().iter() {
            if !cx.disk.is_rotten(&names::manifest(checkpoint)) {
                check::is_restorable(checkpoint, cx.disk)?;
            }
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
    let script = vec![
        Operation::Remove(names::unfinished_manifest(checkpoint)),
        Operation::Remove(names::manifest(checkpoint)),
        Operation::SyncDirectory,
    ];
    cx.submit(Token::Retire(checkpoint), script);
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
