//! Which file of a checkpoint directory is what.
//!
//! ```text
//! LOCK                        held by the job that writes here
//! chk-00000012/MANIFEST       names all parts of checkpoint 12; written last
//! chk-00000012/slot-0.snapshot
//! state/NAME                  the stores' files, which checkpoints share
//! ```
//!
//! Paths are relative to the directory, with `/` between their parts, as in an object store. Every
//! file has one name only: what is not written as this module writes it, is [`Place::Other`].

use super::Manifest;
use millstream_types::{CheckpointId, SlotIndex};
use std::collections::{BTreeMap, BTreeSet};

/// The file that the job which writes here has locked.
pub const LOCK: &str = "LOCK";
/// The folder of the stores' files.
pub const STATE_FOLDER: &str = "state";
/// The name of a manifest in its checkpoint's folder.
pub const MANIFEST: &str = "MANIFEST";

/// The folder of a checkpoint: `chk-00000012`.
pub fn checkpoint_folder(checkpoint: CheckpointId) -> String {
    format!("chk-{:08}", checkpoint.0)
}

/// The path of a checkpoint's manifest.
pub fn manifest_path(checkpoint: CheckpointId) -> String {
    checkpoint_path(checkpoint, MANIFEST)
}

/// The path of a file in a checkpoint's folder.
pub fn checkpoint_path(checkpoint: CheckpointId, name: &str) -> String {
    format!("{}/{name}", checkpoint_folder(checkpoint))
}

/// The name of a slot's snapshot in its checkpoint's folder: `slot-0.snapshot`.
pub fn snapshot_name(slot: SlotIndex) -> String {
    format!("slot-{slot}.snapshot")
}

/// The path of a state file.
pub fn state_path(name: &str) -> String {
    format!("{STATE_FOLDER}/{name}")
}

/// True for what can be the name of a file in a folder, and leads nowhere else.
pub fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']) && name.len() <= 255
}

/// What a file of a checkpoint directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file that is locked.
    Lock,
    /// A checkpoint's manifest.
    Manifest(CheckpointId),
    /// Another file in a checkpoint's folder.
    Part(CheckpointId),
    /// A state file, by its name.
    State(String),
    /// Not ours. Never deleted.
    Other,
}

impl Place {
    /// What the file at this path is.
    pub fn of(path: &str) -> Self {
        match path.split_once('/') {
            None if path == LOCK => Self::Lock,
            Some((STATE_FOLDER, name)) if is_file_name(name) => Self::State(name.to_owned()),
            Some((folder, name)) if is_file_name(name) => match checkpoint_of_folder(folder) {
                Some(checkpoint) if name == MANIFEST => Self::Manifest(checkpoint),
                Some(checkpoint) => Self::Part(checkpoint),
                None => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// The checkpoint whose folder this is.
pub fn checkpoint_of_folder(folder: &str) -> Option<CheckpointId> {
    let checkpoint = CheckpointId(folder.strip_prefix("chk-")?.parse().ok()?);
    (checkpoint_folder(checkpoint) == folder).then_some(checkpoint)
}

/// What a checkpoint directory holds, by a listing of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The checkpoints with a manifest, ascending, and the bytes in the folder of each.
    pub complete: BTreeMap<CheckpointId, u64>,
    /// The folders without one: of checkpoints that were never completed, or that are being
    /// written, or half deleted. Ascending, with the bytes in each.
    pub incomplete: BTreeMap<CheckpointId, u64>,
    /// The state files by name, with their lengths.
    pub state_files: BTreeMap<String, u64>,
}

impl Contents {
    /// Sorts out a listing: paths, and the lengths of the files there.
    pub fn of<'a>(listing: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut contents = Self::default();
        let mut with_manifest = BTreeSet::new();
        for (path, len) in listing {
            match Place::of(path) {
                Place::Manifest(checkpoint) => {
                    with_manifest.insert(checkpoint);
                    *contents.incomplete.entry(checkpoint).or_default() += len;
                }
                Place::Part(checkpoint) => {
                    *contents.incomplete.entry(checkpoint).or_default() += len;
                }
                Place::State(name) => drop(contents.state_files.insert(name, len)),
                Place::Lock | Place::Other => {}
            }
        }
        for checkpoint in with_manifest {
            contents.complete.extend(contents.incomplete.remove_entry(&checkpoint));
        }
        contents
    }

    /// The id of the checkpoint to take next: greater than all that are here, complete or not, so
    /// that no file is ever written twice.
    pub fn next_checkpoint(&self) -> CheckpointId {
        let greatest = self.checkpoints().next_back();
        CheckpointId(greatest.map_or(1, |id| id.0.saturating_add(1)))
    }

    /// All checkpoints, complete or not, ascending.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = CheckpointId> {
        let all = self.complete.keys().chain(self.incomplete.keys()).copied();
        all.collect::<BTreeSet<_>>().into_iter()
    }

    /// True if no file of a checkpoint directory is there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The state files that none of `manifests` names. They may be deleted if these are *all*
    /// manifests of the directory and no job is writing there: a job's newest files are named by
    /// none yet.
    pub fn orphaned_state_files<'a>(
        &self,
        manifests: impl IntoIterator<Item = &'a Manifest>,
    ) -> Vec<&str> {
        let named: BTreeSet<&str> = manifests.into_iter().flat_map(Manifest::state_files).collect();
        let names = self.state_files.keys().map(String::as_str);
        names.filter(|name| !named.contains(name)).collect()
    }
}

/// The state files that only `deleted` names, and none of the `retained`: they go with it.
pub fn files_only_in<'a>(
    deleted: &'a Manifest,
    retained: impl IntoIterator<Item = &'a Manifest>,
) -> BTreeSet<&'a str> {
    let mut files = deleted.state_files();
    for manifest in retained {
        for name in manifest.state_files() {
            files.remove(name);
        }
    }
    files
}
