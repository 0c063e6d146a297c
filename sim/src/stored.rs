//! A checkpoint as it lies on the disk: the real manifest, in the real layout, and what it names.

use crate::disk::Disk;
use crate::message::Token;
use crate::names::epoch;
use crate::part::{Part, SegmentRef, checksum};
use crate::plan::Plan;
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{CheckpointKind, FileEntry, Manifest, OperatorEntry};
use millstream_types::{CheckpointId, Timestamp};

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
    /// Reads a checkpoint and verifies every file of it. The error says what is wrong with which.
    pub(crate) fn read(
        checkpoint: CheckpointId,
        disk: &Disk<Token>,
        view: View,
    ) -> Result<Self, String> {
        let read = |path: &str| {
            let bytes = match view {
                View::Visible => disk.read(path),
                View::Durable => disk.read_durable(path),
            };
            bytes.ok_or_else(|| format!("{path} is missing"))
        };
        let path = layout::manifest_path(checkpoint);
        let manifest =
            Manifest::decode(read(&path)?).map_err(|error| format!("{path}: {error}"))?;
        let mut parts = Vec::new();
        for entry in &manifest.slots {
            let path = layout::checkpoint_path(checkpoint, &entry.snapshot.name);
            let bytes = read(&path)?;
            let intact = FileEntry::of(entry.snapshot.name.clone(), bytes) == entry.snapshot;
            let part = Part::decode(entry, bytes).filter(|_| intact);
            let part = part.ok_or_else(|| format!("{path} is not what it was"))?;
            for segment in &part.segments {
                let path = layout::state_path(&segment.name);
                if !is_intact(segment, read(&path)?) {
                    return Err(format!("{path} is not what it was"));
                }
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

fn is_intact(segment: &SegmentRef, bytes: &[u8]) -> bool {
    usize::try_from(segment.len)
        .ok()
        .and_then(|len| bytes.get(..len))
        .is_some_and(|bytes| checksum(bytes) == segment.checksum)
}

/// What lies in the checkpoint directory.
pub(crate) fn contents(disk: &Disk<Token>) -> Contents {
    Contents::of(disk.list("").map(|path| (path, disk.read(path).map_or(0, <[u8]>::len) as u64)))
}

/// The checkpoints that verify, oldest first, and the ids of those that do not.
pub(crate) fn verified(disk: &Disk<Token>) -> (Vec<Stored>, Vec<CheckpointId>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for checkpoint in contents(disk).complete.into_keys() {
        match Stored::read(checkpoint, disk, View::Visible) {
            Ok(stored) => good.push(stored),
            Err(_) => bad.push(checkpoint),
        }
    }
    (good, bad)
}

/// The files in a checkpoint's folder, whether it is complete or not.
pub(crate) fn folder(checkpoint: CheckpointId, disk: &Disk<Token>) -> Vec<String> {
    let folder = format!("{}/", layout::checkpoint_folder(checkpoint));
    disk.list(&folder).map(str::to_owned).collect()
}

/// The newest checkpoint whose manifest is durable.
pub(crate) fn newest_durable(disk: &Disk<Token>) -> Option<CheckpointId> {
    let complete = contents(disk).complete.into_keys();
    complete.rev().find(|id| disk.read_durable(&layout::manifest_path(*id)).is_some())
}

/// The newest epoch in the name of anything that is there, state files excepted: those of a run are
/// named for the epoch that comes.
pub(crate) fn newest_used(disk: &Disk<Token>) -> CheckpointId {
    let prefix = format!("{}/", layout::STATE_FOLDER);
    disk.list("").filter(|path| !path.starts_with(&prefix)).map(epoch).max().unwrap_or_default()
}
