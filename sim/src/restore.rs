//! From what a failure has left on the disks to a running job.
//!
//! # The order
//! 1. Names are made durable before any is trusted: after a kill, what is visible may not be.
//! 2. The newest checkpoint whose manifest and segments verify is chosen. On several hosts, what is good
//!    on any of them is good; and its manifest is written to all that are to have it.
//! 3. What it has prepared is committed; whatever else was prepared is rolled back, and what was
//!    committed after it, too, when a newer checkpoint has rotted. All that durably.
//! 4. Manifests that do not verify are deleted, durably: not before, since they tell that what was
//!    committed after the chosen one is to be rolled back.
//! 5. Files that no checkpoint names are deleted.
//! 6. Each host gets the segments that its subtasks need.
//!
//! A crash between any two steps leaves disks from which the same is done again.

use crate::channel::{Channel, Element, Windows};
use crate::check::{Check, Violation};
use crate::disk::{DiskError, Operation};
use crate::hosts::{HostDisk, HostId};
use crate::job::{Job, Stale, subtasks_of, time};
use crate::message::Context;
use crate::names;
use crate::part::SegmentRef;
use crate::plan::{assignment, group_of};
use crate::random::Random;
use crate::record::Record;
use crate::sink::Sink;
use crate::store::Store;
use crate::stored::{Stored, contents, folder, is_intact, verified};
use crate::subtask::write_durably;
use crate::subtask::{Role, Split, Subtask, Wiring};
use crate::{Bug, Report};
use millstream_protocol::manifest::layout;
use millstream_protocol::{
    Aligner, CheckpointCoordinator, CheckpointKind, CheckpointMode, FileReferences, Owner,
    SubtaskId,
};
use millstream_types::{Barrier, CheckpointId, VertexId};
use std::collections::{BTreeMap, BTreeSet};

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
    everywhere(Operation::SyncDirectory, cx)?;
    perform(cx.disks.outputs(), Operation::SyncDirectory, cx)?;
    let places = cx.places();
    let next = contents(&places).next_checkpoint();
    let used = CheckpointId(next.0 - 1).max(survivors.newest);
    let (kept, bad) = verified(&places);
    let chosen = kept.last();
    if chosen.is_none() && report.checkpoints > 0 {
        return Err(Check::Restorable.violated("no checkpoint verifies").into());
    }
    let restored = chosen.map_or(CheckpointId(0), Stored::checkpoint);
    cx.trace.line(cx.now, || format!("restores from {restored}, not from {bad:?}"));
    // On one host a bit of it may have flipped, and there is no other copy.
    let newest = report.newest_completed;
    if cx.crew.hosts.len() > 1 && restored < newest {
        let what = format!("checkpoint {newest} has completed, and {restored} is all there is");
        return Err(Check::Restorable.violated(what).into());
    }
    report.fallbacks += u64::from(!bad.is_empty());
    if let Some(chosen) = chosen
        && cx.setup.bug != Some(Bug::LoneManifest)
    {
        copy_manifest(chosen, cx)?;
    }
    let prepared: BTreeSet<_> =
        chosen.iter().flat_map(|stored| stored.transactions()).map(str::to_owned).collect();
    // From now on its output can be seen.
    report.newest_completed = newest.max(restored);
    settle_transactions(&prepared, restored, !bad.is_empty(), cx)?;
    perform(cx.disks.outputs(), Operation::SyncDirectory, cx)?;
    for checkpoint in &bad {
        everywhere(Operation::Remove(layout::manifest_path(*checkpoint)), cx)?;
    }
    everywhere(Operation::SyncDirectory, cx)?;
    let references = delete_orphans(&kept, cx)?;

    let after = if cx.setup.bug == Some(Bug::StaleEpoch) { restored } else { used };
    let owner = |one: &Stored| match one.manifest.kind {
        CheckpointKind::Savepoint => Owner::User,
        CheckpointKind::Checkpoint | CheckpointKind::Final | CheckpointKind::Stop => Owner::System,
    };
    let mut coordinator = CheckpointCoordinator::new(
        cx.plan.settings,
        subtasks_of(cx.plan, parallelism),
        after,
        kept.iter().map(|stored| (stored.checkpoint(), owner(stored))),
        time(cx.now),
    );
    let stale = std::mem::take(&mut survivors.stale);
    let Graph { subtasks, channels, recovering } = graph(chosen, parallelism, after, cx, report)?;
    coordinator.wait_for(recovering);
    let mut job = Job::new(coordinator, references, subtasks, channels, stale, cx.crew);
    job.begin(cx, report)?;
    Ok(job)
}

fn perform(host: HostId, operation: Operation, cx: &mut Context<'_>) -> Result<(), Interrupted> {
    if cx.now < cx.plan.calm_at && cx.random.one_in(cx.plan.faults.restore * 4) {
        return Err(Interrupted::Killed);
    }
    match cx.disks.get_mut(host) {
        Some(disk) => disk.perform(cx.now, operation, cx.random).map_err(Interrupted::Disk),
        None => Ok(()),
    }
}

/// Does it in the directories of all members.
fn everywhere(operation: Operation, cx: &mut Context<'_>) -> Result<(), Interrupted> {
    let hosts = cx.crew.hosts.clone();
    hosts.into_iter().try_for_each(|host| perform(host, operation.clone(), cx))
}

/// Writes a file on a host, in the place of what it may have there.
fn rewrite(
    host: HostId,
    path: &str,
    bytes: Vec<u8>,
    cx: &mut Context<'_>,
) -> Result<(), Interrupted> {
    let remove = Operation::Remove(path.to_owned());
    let script = std::iter::once(remove).chain(write_durably(path, bytes));
    let mut script = script.chain([Operation::SyncDirectory]);
    let written = script.try_for_each(|operation| perform(host, operation, cx));
    if let (Err(Interrupted::Disk(_)), Some(disk)) = (&written, cx.disks.get_mut(host)) {
        // What a failed sync has dropped the next one would not miss.
        let _ = disk.perform(cx.now, Operation::Remove(path.to_owned()), cx.random);
    }
    written
}

/// A manifest may have come to some of those who are to have it, and not to the others.
fn copy_manifest(chosen: &Stored, cx: &mut Context<'_>) -> Result<(), Interrupted> {
    let path = layout::manifest_path(chosen.checkpoint());
    let bytes = chosen.manifest.encode();
    let members = std::iter::once(0).chain(cx.crew.replicas_of(0));
    for host in members.map(|member| cx.crew.hosts[member]).collect::<Vec<_>>() {
        let here = cx.disks.get(host).and_then(|disk| disk.read(&path));
        if here != Some(&*bytes) {
            rewrite(host, &path, bytes.clone(), cx)?;
        }
    }
    Ok(())
}

fn settle_transactions(
    prepared: &BTreeSet<String>,
    restored: CheckpointId,
    fell_back: bool,
    cx: &mut Context<'_>,
) -> Result<(), Interrupted> {
    let outputs = cx.disks.outputs();
    for staged in prepared {
        let output = names::output(staged);
        if cx.disks.output().read(&output).is_some() {
            continue;
        }
        if cx.disks.output().read(staged).is_none() {
            let what = format!("checkpoint {restored} has prepared {staged}, which is gone");
            return Err(Check::LostTransaction.violated(what).into());
        }
        perform(outputs, Operation::Publish(staged.clone(), output), cx)?;
    }
    let list = |prefix: &str, cx: &Context<'_>| {
        let names = cx.disks.output().list(prefix).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    for name in list(names::STAGED, cx) {
        perform(outputs, Operation::Remove(name), cx)?;
    }
    let newer = list(names::OUTPUT, cx).into_iter().filter(|name| names::epoch(name) > restored);
    let newer: Vec<_> = newer.collect();
    if let (Some(output), false) = (newer.first(), fell_back) {
        let what = format!("{output} is committed, and the newest checkpoint is {restored}");
        return Err(Check::EarlyCommit.violated(what).into());
    }
    newer.into_iter().try_for_each(|name| perform(outputs, Operation::Remove(name), cx))
}

fn delete_orphans(kept: &[Stored], cx: &mut Context<'_>) -> Result<FileReferences, Interrupted> {
    let mut references = FileReferences::new();
    for stored in kept {
        references.add(stored.checkpoint(), stored.manifest.state_files());
    }
    let places = cx.places();
    let contents = contents(&places);
    let incomplete = contents.incomplete.keys().flat_map(|checkpoint| folder(*checkpoint, &places));
    let files = contents.state_files.keys().map(|name| (name.as_str(), names::epoch(name)));
    // Nothing runs, so nothing but checkpoints needs a file.
    let orphans = references.orphans(files, CheckpointId(u64::MAX));
    let paths: Vec<_> = incomplete.chain(orphans.into_iter().map(layout::state_path)).collect();
    for path in paths {
        everywhere(Operation::Remove(path), cx)?;
    }
    everywhere(Operation::SyncDirectory, cx)?;
    Ok(references)
}

/// Brings a segment to a host that needs it, or makes durable what it has.
fn fetch(
    segment: &SegmentRef,
    host: HostId,
    cx: &mut Context<'_>,
    report: &mut Report,
) -> Result<Vec<u8>, Interrupted> {
    let path = layout::state_path(&segment.name);
    let here = cx.disks.get(host).and_then(|disk| disk.read(&path)).map(<[u8]>::to_vec);
    let places = cx.places();
    let all = here.iter().map(Vec::as_slice);
    let mut all = all.chain(places.iter().filter_map(|disk| disk.read(&path)));
    let Some(bytes) = all.find(|bytes| is_intact(segment, bytes)).map(<[u8]>::to_vec) else {
        let what = format!("{path} was verified and cannot be read");
        return Err(Check::Restorable.violated(what).into());
    };
    if cx.crew.hosts.len() == 1 {
        return Ok(bytes);
    }
    if here.as_ref() == Some(&bytes) {
        perform(host, Operation::Sync(path), cx)?;
    } else {
        report.fetched += 1;
        rewrite(host, &path, bytes.clone(), cx)?;
    }
    Ok(bytes)
}

struct Graph {
    subtasks: Vec<Subtask>,
    channels: Vec<Channel>,
    /// Those that first receive what was in flight.
    recovering: Vec<SubtaskId>,
}

/// The subtasks with their state, and the channels between them with what was in flight.
fn graph(
    chosen: Option<&Stored>,
    parallelism: &[u32],
    epoch: CheckpointId,
    cx: &mut Context<'_>,
    report: &mut Report,
) -> Result<Graph, Interrupted> {
    let ids = subtasks_of(cx.plan, parallelism);
    let of = |vertex: u32| ids.iter().copied().filter(move |id| id.vertex == VertexId(vertex));
    let mut channels = Vec::new();
    let (mut inputs, mut outputs): (BTreeMap<SubtaskId, Vec<usize>>, BTreeMap<_, Vec<usize>>) =
        Default::default();
    for vertex in 0..cx.plan.sink().0 {
        for (from, to) in of(vertex).flat_map(|from| of(vertex + 1).map(move |to| (from, to))) {
            inputs.entry(to).or_default().push(channels.len());
            outputs.entry(from).or_default().push(channels.len());
            let is_near = cx.crew.member_of(Some(from)) == cx.crew.member_of(Some(to));
            let windows = Windows { data: cx.plan.credits as u32, control: cx.plan.control };
            channels.push(match is_near {
                true => Channel::new(from, to, cx.plan.credits),
                false => Channel::remote(from, to, windows, cx.setup.bug),
            });
        }
    }
    let in_flight = in_flight(chosen, parallelism);
    let recovers = !in_flight.is_empty();
    // As many as there are channels from a source to a sink.
    let rounds = cx.plan.sink().0;
    for (to, record) in in_flight {
        // One sender emits all of it again, and what follows may come from any other.
        let way = inputs[&to].last().expect("somebody has sent it");
        channels[*way].push(Element::Record(record));
    }
    if recovers {
        let barrier = Element::Barrier(Barrier { checkpoint: epoch });
        for channel in &mut channels {
            let at_once = if channel.from.vertex == VertexId(0) { rounds } else { 1 };
            (0..at_once).for_each(|_| channel.push(barrier));
        }
    }
    let aligns = recovers && cx.setup.bug != Some(Bug::UnalignedRecovery);
    let recovering = inputs.keys().copied().filter(|_| aligns).collect();
    let mut subtasks = Vec::new();
    for id in ids {
        let wiring = Wiring {
            inputs: inputs.remove(&id).unwrap_or_default(),
            outputs: outputs.remove(&id).unwrap_or_default(),
        };
        let lax = cx.setup.bug == Some(Bug::SkippedAlignment);
        let mode = if lax { CheckpointMode::AtLeastOnce } else { cx.plan.settings.mode };
        let rounds = if aligns { rounds } else { 0 };
        let aligner = Aligner::recovering(mode, wiring.inputs.len(), epoch, rounds);
        let role = role(id, chosen, parallelism, epoch, cx, report)?;
        subtasks.push(Subtask::new(id, role, wiring, aligner));
    }
    Ok(Graph { subtasks, channels, recovering })
}

fn role(
    id: SubtaskId,
    chosen: Option<&Stored>,
    parallelism: &[u32],
    epoch: CheckpointId,
    cx: &mut Context<'_>,
    report: &mut Report,
) -> Result<Role, Interrupted> {
    let parts = chosen.iter().flat_map(|stored| &stored.parts);
    let parts = parts.filter(|part| part.subtask.vertex == id.vertex);
    let parallelism = parallelism[id.vertex.0 as usize];
    if let Some(stage) = cx.plan.stage(id.vertex) {
        let first = CheckpointId(epoch.0 + 1);
        let mut store =
            Store::new(id, cx.crew.attempt, assignment(parallelism).range(id.subtask), first);
        let host = cx.crew.hosts[cx.crew.member_of(Some(id))];
        for segment in parts.flat_map(|part| &part.segments) {
            if !store.needs(segment) {
                continue;
            }
            let bytes = fetch(segment, host, cx, report)?;
            if store.restore(segment, &bytes, cx.plan.copies == 0).is_none() {
                let what = format!("{} was verified and cannot be read", segment.name);
                return Err(Check::Restorable.violated(what).into());
            }
        }
        return Ok(Role::Keyed { store, stage });
    }
    if id.vertex == cx.plan.sink() {
        return Ok(Role::Sink(Sink::new(id, cx.crew.attempt)));
    }
    let offsets: BTreeMap<u32, u64> = parts.flat_map(|part| part.offsets.iter().copied()).collect();
    let mine = (0..cx.plan.splits.len() as u32).filter(|at| at % parallelism == id.subtask.0);
    let splits = mine
        .map(|index| Split { index, offset: offsets.get(&index).copied().unwrap_or_default() })
        .collect();
    Ok(Role::Source { splits, stopped: false })
}

/// What was in flight, through the partitioner again: first what the receivers had of it.
fn in_flight(chosen: Option<&Stored>, parallelism: &[u32]) -> Vec<(SubtaskId, Record)> {
    let captured = |by_receiver: bool| {
        let parts = chosen.iter().flat_map(|stored| &stored.parts);
        parts.flat_map(move |part| {
            let here = move |to: &VertexId| (*to == part.subtask.vertex) == by_receiver;
            part.in_flight.iter().filter(move |(to, _)| here(to))
        })
    };
    let again = captured(true).chain(captured(false)).map(|(vertex, record)| {
        let owners = assignment(parallelism[vertex.0 as usize]);
        let subtask = owners.owner(group_of(record.key));
        (SubtaskId { vertex: *vertex, subtask }, *record)
    });
    again.collect()
}

/// At a crash, a bit of the newest checkpoint flips, in a file that no other checkpoint names. An older
/// one that verifies stays.
pub(crate) fn rot_newest(disk: &mut HostDisk, random: &mut Random) -> Option<String> {
    let (good, _) = verified(&[disk]);
    let (newest, older) = good.split_last().filter(|(_, older)| !older.is_empty())?;
    let older: BTreeSet<_> = older.iter().flat_map(Stored::paths).collect();
    let own: Vec<_> = newest.paths().into_iter().filter(|path| !older.contains(path)).collect();
    let name = own[random.index(own.len())].clone();
    disk.rot(&name, random);
    Some(name)
}
