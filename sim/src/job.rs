//! One attempt at a simulated job, from a restore to a failure or the end: its subtasks, its channels,
//! and the driver that performs what the coordinator commands.
//!
//! With several hosts the driver is the first member's, and reaches the others' subtasks by messages.
//! What a member has written counts as durable when the replicas have it, too.

use crate::channel::Channel;
use crate::check::{self, Check, Violation};
use crate::disk::Operation;
use crate::hosts::{Crew, HostDisk};
use crate::message::{Context, Ghost, ToCoordinator, ToSubtask, Token};
use crate::names;
use crate::network::{Answer, Body};
use crate::part::{Part, snapshot_path};
use crate::plan::Plan;
use crate::replication::{Ended, Link, Task};
use crate::stored::{folder, manifest};
use crate::subtask::{Subtask, write_durably};
use crate::{Bug, Report, Watch};
use millstream_protocol::manifest::layout;
use millstream_protocol::{
    AbortReason, CheckpointCoordinator, CheckpointKind, Command, Event, FileReferences, Manifest,
    SubtaskId,
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
    /// The subtasks whose final snapshots they name.
    finished_for: BTreeMap<CheckpointId, Vec<SubtaskId>>,
    /// Those that wait until these are durable.
    manifests: BTreeMap<CheckpointId, Manifest>,
    stale: Vec<Stale>,
    final_asked: bool,
    pub(crate) end: Option<End>,
    /// The member of each subtask.
    members: Vec<usize>,
    links: Vec<Link>,
    /// What was written here and is being copied, with the tasks that are left.
    copying: Vec<(Token, usize)>,
    /// The member that goes on alone, as it has not heard yet that the attempt is over.
    zombie: Option<usize>,
}

impl Job {
    pub(crate) fn new(
        coordinator: CheckpointCoordinator,
        references: FileReferences,
        subtasks: Vec<Subtask>,
        channels: Vec<Channel>,
        stale: Vec<Stale>,
        crew: &Crew,
    ) -> Self {
        let members = subtasks.iter().map(|one| crew.member_of(Some(one.id))).collect();
        let all = 0..crew.hosts.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        let links = pairs.filter(|(from, to)| from != to).map(|(from, to)| Link::new(from, to));
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
            finished_for: BTreeMap::new(),
            manifests: BTreeMap::new(),
            stale,
            final_asked: false,
            end: None,
            members,
            links: links.collect(),
            copying: Vec::new(),
            zombie: None,
        }
    }

    /// What is left of the attempt when all members but one know that it is over.
    pub(crate) fn leave(&mut self, zombie: usize) {
        self.zombie = Some(zombie);
    }

    /// Whether a member takes part, and does not stand still.
    fn is_active(&self, member: usize, cx: &Context<'_>) -> bool {
        self.zombie.is_none_or(|zombie| zombie == member)
            && !cx.network.is_frozen(cx.crew.hosts[member])
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
        self.pass(cx, report)?;
        for _ in 0..self.subtasks.len() {
            let at = cx.random.index(self.subtasks.len());
            if !self.is_active(self.members[at], cx) {
                continue;
            }
            self.subtasks[at].step(&mut self.channels, cx);
            if self.end.is_none() && cx.random.one_in(cx.plan.message_delay) {
                self.deliver(at, cx, report)?;
            }
        }
        self.copy(cx, report)?;
        if cx.setup.watch == Watch::EveryTick {
            for channel in &self.channels {
                channel.check_credits().map_err(|what| Check::Credits.violated(what))?;
            }
        }
        if !self.is_active(0, cx) {
            return Ok(());
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

    /// What is on its way between hosts arrives.
    fn pass(&mut self, cx: &mut Context<'_>, report: &mut Report) -> Result<(), Violation> {
        for at in 0..self.channels.len() {
            let channel = &mut self.channels[at];
            let end = |id| cx.crew.hosts[cx.crew.member_of(Some(id))];
            let (from, to) = (end(channel.from), end(channel.to));
            if from == to || self.zombie.is_some() {
                continue;
            }
            let open = (cx.network.is_open(from, to), cx.network.is_open(to, from));
            match channel.pass(open, cx.random) {
                Ok((frames, grants)) => {
                    report.frames += frames;
                    report.grants += grants;
                }
                Err(violation) if cx.setup.watch == Watch::EveryTick => {
                    return Err(Check::Credits.violated(violation.to_string()));
                }
                Err(violation) => self.end = Some(End::Failed(violation.to_string())),
            }
        }
        Ok(())
    }

    /// Members have each other write copies.
    fn copy(&mut self, cx: &mut Context<'_>, report: &mut Report) -> Result<(), Violation> {
        for at in 0..self.links.len() {
            if !self.is_active(self.links[at].from(), cx) {
                continue;
            }
            if let Some(ended) = self.links[at].step(cx) {
                self.on_task(ended, cx, report)?;
            }
            report.resumed_copies += std::mem::take(&mut self.links[at].resumed);
        }
        Ok(())
    }

    /// A member has answered another one.
    pub(crate) fn on_answer(
        &mut self,
        (from, to): (usize, usize),
        number: u64,
        answer: Answer,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.iter_mut().find(|link| link.is_of(to, from)) else {
            return Ok(());
        };
        match link.on_answer(number, answer) {
            Some(ended) => self.on_task(ended, cx, report),
            None => Ok(()),
        }
    }

    fn on_task(
        &mut self,
        Ended { token, ok }: Ended,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let Some(at) = self.copying.iter().position(|(one, _)| *one == token) else {
            return Ok(());
        };
        self.copying[at].1 -= 1;
        // A manifest that somebody still has, whom nobody reaches, harms nobody: there is a newer one.
        let ok = ok || matches!(token, Token::Retire(_));
        if ok && self.copying[at].1 > 0 {
            return Ok(());
        }
        self.copying.swap_remove(at);
        report.copies += u64::from(ok);
        let done = if ok { Ok(()) } else { Err("a copy could not be written".to_owned()) };
        self.on_durable(token, done, cx, report)
    }

    /// Has the replicas write what a member has written. False if there are none, or it is nothing that
    /// they are to have.
    fn begin_copies(&mut self, token: &Token, cx: &Context<'_>) -> bool {
        let tasks = match token {
            Token::Segment(_, name) | Token::Compaction(_, name) => {
                vec![Task::Follow(layout::state_path(name), token.clone())]
            }
            Token::Snapshot(_, path) => vec![Task::Put(path.clone(), token.clone())],
            Token::Manifest(checkpoint) => {
                vec![Task::Create(layout::manifest_path(*checkpoint), token.clone())]
            }
            Token::Finals(checkpoint) => {
                let finals = self.finished_for.get(checkpoint).into_iter().flatten();
                let path = |subtask| snapshot_path(*checkpoint, subtask);
                finals.map(|subtask| Task::Put(path(*subtask), token.clone())).collect()
            }
            Token::Retire(checkpoint) => {
                vec![Task::Delete(vec![layout::manifest_path(*checkpoint)], token.clone())]
            }
            Token::Prepare(..) | Token::Commit(..) | Token::Serve(..) | Token::Cleanup => {
                return false;
            }
        };
        let member = cx.crew.member_of(token.subtask());
        let replicas = match token {
            // What is to go goes everywhere.
            Token::Retire(_) => (1..cx.crew.hosts.len()).collect(),
            _ => cx.crew.replicas_of(member),
        };
        for link in &mut self.links {
            if replicas.iter().any(|replica| link.is_of(member, *replica)) {
                tasks.iter().for_each(|task| link.add(task.clone()));
            }
        }
        let left = tasks.len() * replicas.len();
        if left == 0 || cx.setup.bug == Some(Bug::AcknowledgeBeforeCopy) {
            return false;
        }
        self.copying.push((token.clone(), left));
        true
    }

    /// Restored segments are not with the replicas that their members have now.
    pub(crate) fn begin(
        &mut self,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let restored = self.subtasks.iter().flat_map(Subtask::uncopied_files);
        for token in restored.collect::<Vec<_>>() {
            self.on_disk(token, Ok(()), cx, report)?;
        }
        Ok(())
    }

    /// One tick after a failure: what was on its way to the disk has come to its end, and those who
    /// waited for it say so, to nobody yet.
    pub(crate) fn settle(&mut self, token: &Token, ok: bool, cx: &mut Context<'_>) {
        for subtask in &mut self.subtasks {
            if token.subtask() == Some(subtask.id) {
                subtask.on_disk(token, ok, cx);
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
        match (self.subtasks[at].sent.pop_front(), self.members[at]) {
            (Some(message), 0) => self.on_message(id, message, cx, report),
            (Some(message), member) => {
                cx.send(member, 0, Body::Report(id, message));
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// A subtask of another host is told something.
    pub(crate) fn on_mail(&mut self, id: SubtaskId, message: ToSubtask) {
        let subtask = self.subtasks.iter_mut().find(|subtask| subtask.id == id);
        subtask.into_iter().for_each(|subtask| subtask.mail.push_back(message.clone()));
    }

    /// A subtask says something to the coordinator.
    pub(crate) fn on_message(
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
            ToCoordinator::Recovered => Event::Recovered { subtask },
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
                    check::epoch_is_new(checkpoint, &cx.places())?;
                    if self.zombie.is_none() {
                        report.announced(checkpoint)?;
                    }
                }
                self.parts.insert(checkpoint, BTreeMap::new());
                self.begun.insert(checkpoint, (kind, cx.now));
                self.tell(&ToSubtask::Announce(checkpoint, kind), cx);
            }
            Command::StoreManifest { checkpoint, finished } => {
                self.store_manifest(checkpoint, &finished, cx, report)?;
            }
            Command::Complete { checkpoint } => {
                if cx.setup.watch == Watch::EveryTick {
                    check::is_restorable(checkpoint, &cx.places(), cx.plan.copies + 1)?;
                }
                report.completed(checkpoint);
                let parts = self.parts.get(&checkpoint).into_iter().flat_map(BTreeMap::values);
                let mut parts = parts.map(|(part, _)| part);
                report.overtaken += u64::from(parts.any(|part| !part.in_flight.is_empty()));
                self.tell(&ToSubtask::Complete(checkpoint), cx);
                self.parts.remove(&checkpoint);
                self.sweep(cx);
            }
            Command::Abort { checkpoint, reason } => {
                self.check_abort(checkpoint, &reason, cx.plan)?;
                report.aborted += 1;
                self.tell(&ToSubtask::Abort(checkpoint), cx);
                let parts = self.parts.remove(&checkpoint).unwrap_or_default();
                let named = parts.into_values().flat_map(|(part, _)| part.segments);
                self.dead.extend(named.map(|segment| segment.name));
                self.sweep(cx);
                // A manifest that may yet come to be must find what it names.
                if !self.storing.contains(&checkpoint) {
                    self.delete_folder(checkpoint, cx);
                }
            }
            Command::Retire { checkpoint } => retire(checkpoint, cx),
            Command::Restore { .. } => unreachable!("no part of a job fails alone here"),
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

    fn tell(&mut self, message: &ToSubtask, cx: &mut Context<'_>) {
        for (subtask, member) in self.subtasks.iter_mut().zip(&self.members) {
            match member {
                0 => subtask.mail.push_back(message.clone()),
                _ => cx.send(0, *member, Body::Mail(subtask.id, message.clone())),
            }
        }
    }

    fn store_manifest(
        &mut self,
        checkpoint: CheckpointId,
        finished: &[SubtaskId],
        cx: &mut Context<'_>,
        report: &mut Report,
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
        report.manifests += 1;
        // Named from now on, whatever becomes of the manifest.
        self.references.add(checkpoint, manifest.state_files());
        self.storing.insert(checkpoint);
        self.manifests.insert(checkpoint, manifest);
        self.finished_for.insert(checkpoint, finished.to_vec());
        // Those that have finished cannot write into this checkpoint's folder any more.
        let last = parts.iter().filter(|part| finished.contains(&part.subtask));
        let script: Vec<_> = last
            .flat_map(|part| write_durably(&snapshot_path(checkpoint, part.subtask), part.encode()))
            .collect();
        if script.is_empty() {
            self.write_manifest(checkpoint, cx);
        } else {
            cx.submit(Token::Finals(checkpoint), script);
        }
        if cx.setup.bug == Some(Bug::CommitBeforeManifest) {
            self.tell(&ToSubtask::Complete(checkpoint), cx);
        }
        Ok(())
    }

    /// All that it names is durable.
    fn write_manifest(&mut self, checkpoint: CheckpointId, cx: &mut Context<'_>) {
        let Some(manifest) = self.manifests.remove(&checkpoint) else { return };
        let unfinished = names::unfinished_manifest(checkpoint);
        let mut script = write_durably(&unfinished, manifest.encode());
        script.push(Operation::Publish(unfinished, layout::manifest_path(checkpoint)));
        if cx.setup.bug != Some(Bug::UnsyncedName) {
            script.push(Operation::SyncDirectory);
        }
        cx.submit(Token::Manifest(checkpoint), script);
    }

    /// A script has ended.
    pub(crate) fn on_disk(
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
        if done.is_ok() && self.begin_copies(&token, cx) {
            return Ok(());
        }
        self.on_durable(token, done, cx, report)
    }

    /// What a script has written is durable here and with the replicas, or is not and will not be.
    fn on_durable(
        &mut self,
        token: Token,
        done: Result<(), String>,
        cx: &mut Context<'_>,
        report: &mut Report,
    ) -> Result<(), Violation> {
        match token {
            Token::Segment(id, _)
            | Token::Compaction(id, _)
            | Token::Snapshot(id, _)
            | Token::Prepare(id, _)
            | Token::Commit(id, _) => self.on_subtask_disk(id, &token, done.is_ok(), cx, report),
            Token::Finals(checkpoint) if done.is_ok() => {
                self.write_manifest(checkpoint, cx);
                Ok(())
            }
            Token::Finals(checkpoint) | Token::Manifest(checkpoint) => {
                let event = match done {
                    Ok(()) => Event::ManifestStored { checkpoint },
                    Err(reason) => Event::ManifestFailed { checkpoint, reason },
                };
                self.on_event(event, cx, report)
            }
            Token::Retire(checkpoint) => {
                if done.is_err() {
                    retire(checkpoint, cx);
                    return Ok(());
                }
                report.retired += 1;
                if cx.setup.bug == Some(Bug::CopyDeletedEarly) {
                    let named = self.references.files();
                    let old = named.filter(|name| names::epoch(name) <= checkpoint);
                    self.delete_elsewhere(old.map(layout::state_path).collect());
                }
                self.dead.extend(self.references.remove(checkpoint));
                self.sweep(cx);
                self.delete_folder(checkpoint, cx);
                Ok(())
            }
            Token::Serve(..) | Token::Cleanup => Ok(()),
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
            let places = cx.places();
            check::is_committed_in_time(&names::output(staged), cx.disks.output(), &places)?;
        }
        if let (Token::Compaction(..), true) = (token, ok) {
            report.compactions += 1;
            if cx.setup.bug == Some(Bug::DeletedEarly) {
                self.delete_segments(&dead, cx);
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
            self.delete_segments(&gone, cx);
        }
    }

    fn delete_folder(&mut self, checkpoint: CheckpointId, cx: &mut Context<'_>) {
        let files = folder(checkpoint, &cx.places());
        self.delete(files, cx);
    }

    fn delete_segments(&mut self, names: &[String], cx: &mut Context<'_>) {
        cx.trace.line(cx.now, || format!("deletes {names:?}"));
        self.delete(names.iter().map(|name| layout::state_path(name)).collect(), cx);
    }

    /// Deletes files, here and everywhere else.
    fn delete(&mut self, paths: Vec<String>, cx: &mut Context<'_>) {
        if paths.is_empty() {
            return;
        }
        self.delete_elsewhere(paths.clone());
        cx.submit(Token::Cleanup, paths.into_iter().map(Operation::Remove).collect());
    }

    fn delete_elsewhere(&mut self, paths: Vec<String>) {
        let task = Task::Delete(paths, Token::Cleanup);
        let first = self.links.iter_mut().filter(|link| link.from() == 0);
        first.for_each(|link| link.add(task.clone()));
    }

    /// Checks what is to hold at every tick, when so many hosts were lost since a checkpoint completed.
    pub(crate) fn check(
        &self,
        lost: usize,
        places: &[&HostDisk],
        plan: &Plan,
    ) -> Result<(), Violation> {
        // Older ones have fewer copies when a host has been lost.
        let promised = if places.len() == 1 { usize::MAX } else { 1 };
        for checkpoint in self.coordinator.kept().iter().rev().take(promised) {
            check::is_restorable(checkpoint, places, plan.copies + 1 - lost)?;
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
