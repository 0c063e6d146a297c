//! A checkpoint as it lies on the disk: the real manifest, in the real layout, and what it names.

use crate::hosts::HostDisk;
use crate::names::epoch;
use crate::part::{Part, SegmentRef, checksum};
use crate::plan::Plan;
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{CheckpointKind, FileEntry, Manifest, OperatorEntry};
use millstream_types::{CheckpointId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

use crate::plan::MAX_PARALLELISM;

/// A checkpoint that was read and verified, with all that it names.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    pub(crate) parts: Vec<Part>,
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As a process reads them now.
    Visible,
    /// As they would be if the power failed now, at worst.
    Durable,
}

/// The manifest of these parts.
pub(crate) fn manifest(
    checkpoint: CheckpointId,
    kind: CheckpointKind,
    parts: &[Part],
    plan: &Plan,
    now: u64,
) -> Manifest {
    let parallelism = |vertex| parts.iter().filter(|part| part.subtask.vertex.0 == vertex).count();
    let operator = |vertex| OperatorEntry {
        uid: format!("vertex-{vertex}"),
        name: format!("vertex {vertex}"),
        parallelism: parallelism(vertex) as u32,
    };
    Manifest {
        checkpoint,
        kind,
        job: "simulated".to_owned(),
        created: Timestamp::from_nanos(now as i64 * 1_000_000),
        max_parallelism: MAX_PARALLELISM,
        backend: "simulated".to_owned(),
        operators: (0..=plan.sink().0).map(operator).collect(),
        slots: parts.iter().map(Part::entry).collect(),
    }
}

impl Stored {
    /// Reads a checkpoint and verifies every file of it, of which so many of the places have a good
    /// copy. The error says what is wrong with which.
    pub(crate) fn read(
        checkpoint: CheckpointId,
        places: &[&HostDisk],
        view: View,
        copies: usize,
    ) -> Result<Self, String> {
        let path = layout::manifest_path(checkpoint);
        let manifest =
            read_good(&path, places, view, copies, |bytes| Manifest::decode(bytes).ok())?;
        let mut parts = Vec::new();
        for entry in &manifest.slots {
            let path = layout::checkpoint_path(checkpoint, &entry.snapshot.name);
            let part = read_good(&path, places, view, copies, |bytes| {
                let intact = FileEntry::of(entry.snapshot.name.clone(), bytes) == entry.snapshot;
                Part::decode(entry, bytes).filter(|_| intact)
            })?;
            for segment in &part.segments {
                let path = layout::state_path(&segment.name);
                let intact = |bytes: &[u8]| is_intact(segment, bytes).then_some(());
                read_good(&path, places, view, copies, intact)?;
            }
            parts.push(part);
        }
        Ok(Self { manifest, parts })
    }

    /// The checkpoint's id.
    pub(crate) fn checkpoint(&self) -> CheckpointId {
        self.manifest.checkpoint
    }

    /// The paths of all files that it consists of.
    pub(crate) fn paths(&self) -> Vec<String> {
        let id = self.checkpoint();
        let slots = self.manifest.slots.iter();
        let mut paths: Vec<_> =
            slots.map(|slot| layout::checkpoint_path(id, &slot.snapshot.name)).collect();
        paths.push(layout::manifest_path(id));
        paths.extend(self.manifest.state_files().into_iter().map(layout::state_path));
        paths
    }

    /// The prepared transactions that it names.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| &part.transactions).map(String::as_str)
    }
}

/// What a file means of which so many places have a good copy; the first place's that has one.
fn read_good<'a, T>(
    path: &str,
    places: &[&'a HostDisk],
    view: View,
    copies: usize,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, String> {
    let read = |place: &&'a HostDisk| match view {
        View::Visible => place.read(path),
        View::Durable => place.read_durable(path),
    };
    let found: Vec<_> = places.iter().filter_map(read).collect();
    let mut good: Vec<_> = found.iter().filter_map(|bytes| decode(bytes)).collect();
    match good.len() {
        0 if found.is_empty() => Err(format!("{path} is missing")),
        0 => Err(format!("{path} is not what it was")),
        count if count < copies => Err(format!("{path} has {count} good copies, not {copies}")),
        _ => Ok(good.swap_remove(0)),
    }
}

pub(crate) fn is_intact(segment: &SegmentRef, bytes: &[u8]) -> bool {
    usize::try_from(segment.len)
        .ok()
        .and_then(|len| bytes.get(..len))
        .is_some_and(|bytes| checksum(bytes) == segment.checksum)
}

/// What lies in the checkpoint directories.
pub(crate) fn contents(places: &[&HostDisk]) -> Contents {
    let len = |disk: &HostDisk, path: &str| disk.read(path).map_or(0, <[u8]>::len) as u64;
    let files: BTreeMap<_, _> =
        places.iter().flat_map(|disk| disk.list("").map(|path| (path, len(disk, path)))).collect();
    Contents::of(files)
}

/// The checkpoints that verify, oldest first, and the ids of those that do not.
pub(crate) fn verified(places: &[&HostDisk]) -> (Vec<Stored>, Vec<CheckpointId>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for checkpoint in contents(places).complete.into_keys() {
        match Stored::read(checkpoint, places, View::Visible, 1) {
            Ok(stored) => good.push(stored),
            Err(_) => bad.push(checkpoint),
        }
    }
    (good, bad)
}

/// The files in a checkpoint's folder, whether it is complete or not.
pub(crate) fn folder(checkpoint: CheckpointId, places: &[&HostDisk]) -> Vec<String> {
    let folder = format!("{}/", layout::checkpoint_folder(checkpoint));
    let files: BTreeSet<_> = places.iter().flat_map(|disk| disk.list(&folder)).collect();
    files.into_iter().map(str::to_owned).collect()
}

/// The newest checkpoint whose manifest is durable.
pub(crate) fn newest_durable(places: &[&HostDisk]) -> Option<CheckpointId> {
    let durable = |id: &CheckpointId| {
        let path = layout::manifest_path(*id);
        places.iter().any(|disk| disk.read_durable(&path).is_some())
    };
    contents(places).complete.into_keys().rev().find(durable)
}

/// The newest epoch in the name of anything that is there, state files excepted: those of a run are
/// named for the epoch that comes.
pub(crate) fn newest_used(places: &[&HostDisk]) -> CheckpointId {
    let prefix = format!("{}/", layout::STATE_FOLDER);
    let paths = places.iter().flat_map(|disk| disk.list(""));
    paths.filter(|path| !path.starts_with(&prefix)).map(epoch).max().unwrap_or_default()
}
