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
use crate::check::{Check, Violation, is_intact};
use crate::disk::{Disk, DiskError, Operation};
use crate::job::{Job, Stale, subtasks_of, time};
use crate::manifest::Manifest;
use crate::names;
use crate::plan::{assignment, group_of};
use crate::random::Random;
use crate::record::Record;
use crate::sink::Sink;
use crate::store::Store;
use crate::subtask::{Context, Role, Split, Subtask, Token, Wiring};
use crate::{Bug, Report};
use millstream_protocol::{
    Aligner, CheckpointCoordinator, CheckpointMode, FileReferences, Owner, SubtaskId,
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
    let all_names: Vec<_> = cx.disk.list("").map(names::epoch).collect();
    let used = all_names.into_iter().max().unwrap_or_default().max(survivors.newest);
    let (kept, bad) = verified(cx.disk);
    let chosen = kept.last();
    if chosen.is_none() && report.checkpoints > 0 {
        return Err(Check::Restorable.violated("no checkpoint verifies").into());
    }
    let restored = chosen.map_or(CheckpointId(0), |manifest| manifest.checkpoint);
    cx.trace.line(cx.now, || format!("restores from {restored}, not from {bad:?}"));
    report.fallbacks += u64::from(!bad.is_empty());
    let prepared: BTreeSet<_> =
        chosen.iter().flat_map(|manifest| manifest.transactions()).map(str::to_owned).collect();
    settle_transactions(&prepared, restored, !bad.is_empty(), cx)?;
    perform(Operation::SyncDirectory, cx)?;
    for name in &bad {
        perform(Operation::Remove(name.clone()), cx)?;
    }
    perform(Operation::SyncDirectory, cx)?;
    let references = delete_orphans(&kept, cx)?;

    let after = if cx.setup.bug == Some(Bug::StaleEpoch) { restored } else { used };
    let owner = |one: &Manifest| if one.savepoint { Owner::User } else { Owner::System };
    let coordinator = CheckpointCoordinator::new(
        cx.plan.settings,
        subtasks_of(cx.plan, parallelism),
        after,
        kept.iter().map(|manifest| (manifest.checkpoint, owner(manifest))),
        time(cx.now),
    );
    let stale = std::mem::take(&mut survivors.stale);
    let (subtasks, channels) = graph(chosen, parallelism, after, cx)?;
    Ok(Job::new(coordinator, references, subtasks, channels, stale))
}

/// The checkpoints that verify, oldest first, and the names of those that do not.
pub(crate) fn verified(disk: &Disk<Token>) -> (Vec<Manifest>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for name in disk.list(names::MANIFEST) {
        let intact = |manifest: &Manifest| {
            manifest.segments().all(|segment| {
                disk.read(&segment.name).is_some_and(|bytes| is_intact(segment, bytes))
            })
        };
        match disk.read(name).and_then(Manifest::decode).filter(intact) {
            Some(manifest) => good.push(manifest),
            None => bad.push(name.to_owned()),
        }
    }
    (good, bad)
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

fn delete_orphans(kept: &[Manifest], cx: &mut Context<'_>) -> Result<FileReferences, Interrupted> {
    let mut references = FileReferences::new();
    for manifest in kept {
        references.add(manifest.checkpoint, manifest.files());
    }
    let files = [names::SEGMENT, names::UNFINISHED_MANIFEST];
    let files = files.into_iter().flat_map(|kind| cx.disk.list(kind));
    // Nothing runs, so nothing but checkpoints needs a file.
    let orphans = references
        .orphans(files.map(|name| (name, names::epoch(name))), CheckpointId(u64::MAX))
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    for name in orphans {
        perform(Operation::Remove(name), cx)?;
    }
    perform(Operation::SyncDirectory, cx)?;
    Ok(references)
}

/// The subtasks with their state, and the channels between them.
fn graph(
    chosen: Option<&Manifest>,
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
    chosen: Option<&Manifest>,
    parallelism: &[u32],
    epoch: CheckpointId,
    cx: &Context<'_>,
) -> Result<Role, Interrupted> {
    let parts = chosen.iter().flat_map(|manifest| &manifest.parts);
    let parts = parts.filter(|part| part.subtask.vertex == id.vertex);
    let parallelism = parallelism[id.vertex.0 as usize];
    if let Some(stage) = cx.plan.stage(id.vertex) {
        let first = CheckpointId(epoch.0 + 1);
        let mut store = Store::new(id, assignment(parallelism).range(id.subtask), first);
        for segment in parts.flat_map(|part| &part.segments) {
            let read = cx.disk.read(&segment.name);
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
    chosen: Option<&Manifest>,
    parallelism: &[u32],
) -> BTreeMap<SubtaskId, VecDeque<Record>> {
    let mut recovered: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
    let parts = chosen.iter().flat_map(|manifest| &manifest.parts);
    for (vertex, record) in parts.flat_map(|part| &part.in_flight) {
        let owners = assignment(parallelism[vertex.0 as usize]);
        let subtask = owners.owner(group_of(record.key));
        let owner = SubtaskId { vertex: *vertex, subtask };
        recovered.entry(owner).or_default().push_back(*record);
    }
    recovered
}

/// At a crash, bits of the newest checkpoint flip: of its manifest, or of a segment that no other
/// checkpoint names. An older one that verifies stays.
pub(crate) fn rot_newest(disk: &mut Disk<Token>, random: &mut Random) -> Option<String> {
    let (good, _) = verified(disk);
    let [.., _, newest] = &good[..] else { return None };
    let older: BTreeSet<_> =
        good[..good.len() - 1].iter().flat_map(|manifest| manifest.files()).collect();
    let mut own: Vec<_> = newest.files().filter(|name| !older.contains(name)).collect();
    let manifest = names::manifest(newest.checkpoint);
    own.push(&manifest);
    let name = own[random.index(own.len())].to_owned();
    disk.rot(&name, random);
    Some(name)
}
