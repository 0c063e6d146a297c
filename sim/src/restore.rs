//! From what a crash has left on the disk to a running job.
//!
//! # The order
//! 1. Names are made durable before any is trusted: after a kill, what is visible may not be.
//! 2. The newest checkpoint whose manifest and segments verify is chosen.
//! 3. What it has prepared is committed; whatever else was prepared is rolled back, and what was
//!    committed after it, too, when a newer checkpoint has rotted. All that durably.
//! 4. Manifests that do not verify are deleted, durably: not before, since they tell that what was
//!    committed after the chosen one is to be rolled back.
//! 5. Files that no checkpoint names are deleted.
//!
//! A crash between any two steps leaves a disk from which the same is done again.

use crate::channel::Channel;
use crate::check::{Check, Violation};
use crate::disk::{Disk, DiskError, Operation};
use crate::job::{Job, Stale, subtasks_of, time};
use crate::message::{Context, Token};
use crate::names;
use crate::plan::{assignment, group_of};
use crate::random::Random;
use crate::record::Record;
use crate::sink::Sink;
use crate::store::Store;
use crate::stored::{Stored, contents, folder, verified};
use crate::subtask::{Role, Split, Subtask, Wiring};
use crate::{Bug, Report};
use millstream_protocol::manifest::layout;
use millstream_protocol::{
    Aligner, CheckpointCoordinator, CheckpointKind, CheckpointMode, FileReferences, Owner,
    SubtaskId,
};
use millstream_types::{CheckpointId, VertexId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why a restore has come to nothing.
#[derive(Clone, Debug)]
pub(crate) enum Interrupted {
    /// The process was killed in between.
    Killed,
    /// The disk has failed; it is tried again.
    Disk(DiskError),
    /// A promise was not kept.
    Violated(Violation),
}

impl From<Violation> for Interrupted {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

/// What survives a failure without a crash.
#[derive(Default)]
pub(crate) struct Survivors {
    /// The newest id that the process knows of.
    pub(crate) newest: CheckpointId,
    pub(crate) stale: Vec<Stale>,
}

/// Starts the job from the newest checkpoint that verifies, or from nothing.
pub(crate) fn restore(
    cx: &mut Context<'_>,
    parallelism: &[u32],
    survivors: &mut Survivors,
    report: &mut Report,
) -> Result<Job, Interrupted> {
    perform(Operation::SyncDirectory, cx)?;
    let next = contents(cx.disk).next_checkpoint();
    let used = CheckpointId(next.0 - 1).max(survivors.newest);
    let (kept, bad) = verified(cx.disk);
    let chosen = kept.last();
    if chosen.is_none() && report.checkpoints > 0 {
        return Err(Check::Restorable.violated("no checkpoint verifies").into());
    }
    let restored = chosen.map_or(CheckpointId(0), Stored::checkpoint);
    cx.trace.line(cx.now, || format!("restores from {restored}, not from {bad:?}"));
    report.fallbacks += u64::from(!bad.is_empty());
    let prepared: BTreeSet<_> =
        chosen.iter().flat_map(|stored| stored.transactions()).map(str::to_owned).collect();
    settle_transactions(&prepared, restored, !bad.is_empty(), cx)?;
    perform(Operation::SyncDirectory, cx)?;
    for checkpoint in &bad {
        perform(Operation::Remove(layout::manifest_path(*checkpoint)), cx)?;
    }
    perform(Operation::SyncDirectory, cx)?;
    let references = delete_orphans(&kept, cx)?;

    let after = if cx.setup.bug == Some(Bug::StaleEpoch) { restored } else { used };
    let owner = |one: &Stored| match one.manifest.kind {
        CheckpointKind::Savepoint => Owner::User,
        CheckpointKind::Checkpoint | CheckpointKind::Final | CheckpointKind::Stop => Owner::System,
    };
    let coordinator = CheckpointCoordinator::new(
        cx.plan.settings,
        subtasks_of(cx.plan, parallelism),
        after,
        kept.iter().map(|stored| (stored.checkpoint(), owner(stored))),
        time(cx.now),
    );
    let stale = std::mem::take(&mut survivors.stale);
    let (subtasks, channels) = graph(chosen, parallelism, after, cx)?;
    Ok(Job::new(coordinator, references, subtasks, channels, stale))
}

fn perform(operation: Operation, cx: &mut Context<'_>) -> Result<(), Interrupted> {
    if cx.now < cx.plan.calm_at && cx.random.one_in(cx.plan.faults.restore * 4) {
        return Err(Interrupted::Killed);
    }
    cx.disk.perform(cx.now, operation, cx.random).map_err(Interrupted::Disk)
}

fn settle_transactions(
    prepared: &BTreeSet<String>,
    restored: CheckpointId,
    fell_back: bool,
    cx: &mut Context<'_>,
) -> Result<(), Interrupted> {
    for staged in prepared {
        let output = names::output(staged);
        if cx.disk.read(&output).is_some() {
            continue;
        }
        if cx.disk.read(staged).is_none() {
            let what = format!("checkpoint {restored} has prepared {staged}, which is gone");
            return Err(Check::LostTransaction.violated(what).into());
        }
        perform(Operation::Publish(staged.clone(), output), cx)?;
    }
    let staged: Vec<_> = cx.disk.list(names::STAGED).map(str::to_owned).collect();
    for name in staged {
        perform(Operation::Remove(name), cx)?;
    }
    let newer = |name: &&str| names::epoch(name) > restored;
    let outputs: Vec<_> = cx.disk.list(names::OUTPUT).filter(newer).map(str::to_owned).collect();
    if let (Some(output), false) = (outputs.first(), fell_back) {
        let what = format!("{output} is committed, and the newest checkpoint is {restored}");
        return Err(Check::EarlyCommit.violated(what).into());
    }
    for name in outputs {
        perform(Operation::Remove(name), cx)?;
    }
    Ok(())
}

fn delete_orphans(kept: &[Stored], cx: &mut Context<'_>) -> Result<FileReferences, Interrupted> {
    let mut references = FileReferences::new();
    for stored in kept {
        references.add(stored.checkpoint(), stored.manifest.state_files());
    }
    let contents = contents(cx.disk);
    let incomplete = contents.incomplete.keys().flat_map(|checkpoint| folder(*checkpoint, cx.disk));
    let files = contents.state_files.keys().map(|name| (name.as_str(), names::epoch(name)));
    // Nothing runs, so nothing but checkpoints needs a file.
    let orphans = references.orphans(files, CheckpointId(u64::MAX));
    let paths: Vec<_> = incomplete.chain(orphans.into_iter().map(layout::state_path)).collect();
    for path in paths {
        perform(Operation::Remove(path), cx)?;
    }
    perform(Operation::SyncDirectory, cx)?;
    Ok(references)
}

/// The subtasks with their state, and the channels between them.
fn graph(
    chosen: Option<&Stored>,
    parallelism: &[u32],
    epoch: CheckpointId,
    cx: &mut Context<'_>,
) -> Result<(Vec<Subtask>, Vec<Channel>), Interrupted> {
    let ids = subtasks_of(cx.plan, parallelism);
    let of = |vertex: u32| ids.iter().copied().filter(move |id| id.vertex == VertexId(vertex));
    let mut channels = Vec::new();
    let (mut inputs, mut outputs): (BTreeMap<SubtaskId, Vec<usize>>, BTreeMap<_, Vec<usize>>) =
        Default::default();
    for vertex in 0..cx.plan.sink().0 {
        for (from, to) in of(vertex).flat_map(|from| of(vertex + 1).map(move |to| (from, to))) {
            inputs.entry(to).or_default().push(channels.len());
            outputs.entry(from).or_default().push(channels.len());
            channels.push(Channel::new(from, to, cx.plan.credits));
        }
    }
    let mut recovered = in_flight(chosen, parallelism);
    let mut subtasks = Vec::new();
    for id in ids {
        let wiring = Wiring {
            inputs: inputs.remove(&id).unwrap_or_default(),
            outputs: outputs.remove(&id).unwrap_or_default(),
            recovered: recovered.remove(&id).unwrap_or_default(),
        };
        let lax = cx.setup.bug == Some(Bug::SkippedAlignment);
        let mode = if lax { CheckpointMode::AtLeastOnce } else { cx.plan.settings.mode };
        let aligner = Aligner::new(mode, wiring.inputs.len(), epoch);
        let role = role(id, chosen, parallelism, epoch, cx)?;
        subtasks.push(Subtask::new(id, role, wiring, aligner));
    }
    Ok((subtasks, channels))
}

fn role(
    id: SubtaskId,
    chosen: Option<&Stored>,
    parallelism: &[u32],
    epoch: CheckpointId,
    cx: &Context<'_>,
) -> Result<Role, Interrupted> {
    let parts = chosen.iter().flat_map(|stored| &stored.parts);
    let parts = parts.filter(|part| part.subtask.vertex == id.vertex);
    let parallelism = parallelism[id.vertex.0 as usize];
    if let Some(stage) = cx.plan.stage(id.vertex) {
        let first = CheckpointId(epoch.0 + 1);
        let mut store = Store::new(id, assignment(parallelism).range(id.subtask), first);
        for segment in parts.flat_map(|part| &part.segments) {
            let read = cx.disk.read(&layout::state_path(&segment.name));
            if read.and_then(|bytes| store.restore(segment, bytes)).is_none() {
                let what = format!("{} was verified and cannot be read", segment.name);
                return Err(Check::Restorable.violated(what).into());
            }
        }
        return Ok(Role::Keyed { store, stage });
    }
    if id.vertex == cx.plan.sink() {
        return Ok(Role::Sink(Sink::new(id)));
    }
    let offsets: BTreeMap<u32, u64> = parts.flat_map(|part| part.offsets.iter().copied()).collect();
    let mine = (0..cx.plan.splits.len() as u32).filter(|at| at % parallelism == id.subtask.0);
    let splits = mine
        .map(|index| Split { index, offset: offsets.get(&index).copied().unwrap_or_default() })
        .collect();
    Ok(Role::Source { splits, stopped: false })
}

/// What was in flight goes through the partitioner again.
fn in_flight(
    chosen: Option<&Stored>,
    parallelism: &[u32],
) -> BTreeMap<SubtaskId, VecDeque<Record>> {
    let mut recovered: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
    let parts = chosen.iter().flat_map(|stored| &stored.parts);
    for (vertex, record) in parts.flat_map(|part| &part.in_flight) {
        let owners = assignment(parallelism[vertex.0 as usize]);
        let subtask = owners.owner(group_of(record.key));
        let owner = SubtaskId { vertex: *vertex, subtask };
        recovered.entry(owner).or_default().push_back(*record);
    }
    recovered
}

/// At a crash, a bit of the newest checkpoint flips, in a file that no other checkpoint names. An older
/// one that verifies stays.
pub(crate) fn rot_newest(disk: &mut Disk<Token>, random: &mut Random) -> Option<String> {
    let (good, _) = verified(disk);
    let (newest, older) = good.split_last().filter(|(_, older)| !older.is_empty())?;
    let older: BTreeSet<_> = older.iter().flat_map(Stored::paths).collect();
    let own: Vec<_> = newest.paths().into_iter().filter(|path| !older.contains(path)).collect();
    let name = own[random.index(own.len())].clone();
    disk.rot(&name, random);
    Some(name)
}
