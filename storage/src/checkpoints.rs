//! A directory of checkpoints: what is in it, whether it is whole, and what may be deleted.
//!
//! # Invariants
//! - A manifest is written when all that it names is durable, and deleted before anything that it
//!   names: a manifest that is there and whole names files that are there.
//! - A state file is deleted only if every manifest of the directory has been read and none names
//!   it. One that cannot be read, of a newer format for example, protects all of them.
//! - What is good in one place is good, where there are several: a damaged copy counts when there is no
//!   other.
//! - The methods that write are for who holds the [`DirectoryLock`](crate::DirectoryLock).

mod delete;
mod error;
mod state_files;
mod verify;

pub use delete::{Cleaned, Orphans};
pub use error::CheckpointError;
pub use verify::{Newest, StateFileCheck, StateFileReader};

use crate::{LocalDirectory, Location, Storage};
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{CheckpointKind, FileEntry, Manifest};
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::path::Path;
use std::sync::Arc;

/// The checkpoints of one job, in a directory or an object store.
#[derive(Clone)]
pub struct CheckpointDirectory {
    storage: Arc<dyn Storage>,
}

/// A checkpoint that a directory holds, as far as its manifest tells.
#[derive(Debug)]
pub struct CheckpointInfo {
    /// Which one.
    pub checkpoint: CheckpointId,
    /// The bytes in its own folder.
    pub own_bytes: u64,
    /// What it consists of, or why that cannot be said: [`CheckpointError::Incomplete`] if it never
    /// was complete, others if its manifest is damaged.
    pub manifest: Result<Manifest, CheckpointError>,
}

impl CheckpointInfo {
    /// Why it was taken, if its manifest says so.
    pub fn kind(&self) -> Option<CheckpointKind> {
        self.manifest.as_ref().ok().map(|manifest| manifest.kind)
    }

    /// When it was triggered, if its manifest says so.
    pub fn created(&self) -> Option<Timestamp> {
        self.manifest.as_ref().ok().map(|manifest| manifest.created)
    }

    /// The bytes that it needs, those that it shares with others too; those in its own folder if
    /// its manifest cannot be read.
    pub fn bytes(&self) -> u64 {
        self.manifest.as_ref().map_or(self.own_bytes, Manifest::referenced_bytes)
    }
}

impl CheckpointDirectory {
    /// The checkpoints in a directory of this host, which must exist. It may be empty.
    ///
    /// # Errors
    /// If it does not exist, is no directory, or holds files and none of them is a checkpoint's.
    pub fn open(directory: &Path) -> Result<Self, CheckpointError> {
        Self::on(Arc::new(LocalDirectory::open(directory)?)).checked()
    }

    /// As [`open`](Self::open), for any kind of place. An object store is asked what it holds.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if an object store does not answer.
    pub fn open_at(location: &Location) -> Result<Self, CheckpointError> {
        match location.directory() {
            Some(directory) => Self::open(directory),
            None => Self::on(location.storage()?).checked(),
        }
    }

    /// Refuses a place that holds files of which none is ours.
    fn checked(self) -> Result<Self, CheckpointError> {
        let listing = self.storage.list("")?;
        let is_ours = |path: &str| layout::Place::of(path) != layout::Place::Other;
        if !listing.is_empty() && !listing.iter().any(|file| is_ours(&file.path)) {
            return Err(CheckpointError::NoCheckpoints { place: self.storage.title("") });
        }
        Ok(self)
    }

    /// The checkpoints in a storage.
    pub fn on(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// The storage that they are in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// What is there, by the names of the files alone.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn contents(&self) -> Result<Contents, CheckpointError> {
        let listing = self.storage.list("")?;
        Ok(Contents::of(listing.iter().map(|file| (file.path.as_str(), file.len))))
    }

    /// All checkpoints in their order, also incomplete and damaged ones.
    ///
    /// # Errors
    /// If the directory cannot be listed. What is wrong with a checkpoint is in its entry.
    pub fn list(&self) -> Result<Vec<CheckpointInfo>, CheckpointError> {
        Ok(self.describe(&self.contents()?))
    }

    /// A checkpoint's manifest.
    ///
    /// # Errors
    /// [`CheckpointError::Incomplete`] if there is none; or if it is damaged, of a newer format, or
    /// cannot be read.
    pub fn manifest(&self, checkpoint: CheckpointId) -> Result<Manifest, CheckpointError> {
        let path = layout::manifest_path(checkpoint);
        let manifest = self.first_good(|place| {
            let bytes = place.get(&path)?;
            let path = place.title(&path);
            match Manifest::decode(&bytes) {
                Ok(manifest) if manifest.checkpoint != checkpoint => {
                    Err(CheckpointError::Misplaced { path, found: manifest.checkpoint })
                }
                Ok(manifest) => Ok(manifest),
                Err(source) => Err(CheckpointError::Manifest { path, source }),
            }
        });
        manifest.map_err(|error| match error {
            CheckpointError::Storage(error) if error.is_not_found() => {
                let folder = self.storage.title(&layout::checkpoint_folder(checkpoint));
                CheckpointError::Incomplete { folder }
            }
            error => error,
        })
    }

    /// A slot's snapshot, compared with what the manifest says of it.
    ///
    /// # Errors
    /// If it is missing, damaged, or cannot be read.
    pub fn read_snapshot(
        &self,
        checkpoint: CheckpointId,
        entry: &FileEntry,
    ) -> Result<Vec<u8>, CheckpointError> {
        let path = layout::checkpoint_path(checkpoint, &entry.name);
        self.first_good(|place| {
            let bytes = place.get(&path)?;
            let found = FileEntry::of(entry.name.clone(), &bytes);
            verify::compare(place.title(&path), entry, &found)?;
            Ok(bytes)
        })
    }

    /// Writes the snapshot of a slot, over what a checkpoint that never was completed may have left
    /// there. Its entry is for the manifest.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_snapshot(
        &self,
        checkpoint: CheckpointId,
        slot: SlotIndex,
        bytes: &[u8],
    ) -> Result<FileEntry, CheckpointError> {
        let name = layout::snapshot_name(slot);
        self.storage.put(&layout::checkpoint_path(checkpoint, &name), bytes)?;
        Ok(FileEntry::of(name, bytes))
    }

    /// Completes a checkpoint: writes its manifest. All that it names must be durable.
    ///
    /// # Errors
    /// If it cannot be written, and if there is one already: two jobs may be writing to one place.
    ///
    /// # Panics
    /// As [`Manifest::encode`].
    pub fn complete(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let path = layout::manifest_path(manifest.checkpoint);
        Ok(self.storage.create_if_absent(&path, &manifest.encode())?)
    }

    /// Writes the manifest of a complete checkpoint to every place that is to have it and has not.
    /// Who took the checkpoint may have been killed before all of them had it: nobody may count on it
    /// before they do.
    ///
    /// # Errors
    /// If it cannot be read or written.
    ///
    /// # Panics
    /// As [`Manifest::encode`].
    pub fn copy_manifest(&self, checkpoint: CheckpointId) -> Result<(), CheckpointError> {
        let bytes = self.manifest(checkpoint)?.encode();
        Ok(self.storage.put_where_missing(&layout::manifest_path(checkpoint), &bytes)?)
    }

    /// Looks at each place that may have a copy of a file, until one of them is good.
    ///
    /// # Errors
    /// If none is: that which says most. A copy that is damaged says more than one that is missing, and
    /// one that cannot be looked at may be good.
    fn first_good<T>(
        &self,
        look: impl Fn(&dyn Storage) -> Result<T, CheckpointError>,
    ) -> Result<T, CheckpointError> {
        let says = |error: &CheckpointError| match error {
            CheckpointError::Storage(error) if error.is_not_found() => 0,
            error if error.is_damage() => 1,
            _ => 2,
        };
        let mut copies = self.storage.copies().into_iter();
        let mut most = match look(copies.next().unwrap_or(&*self.storage)) {
            Ok(good) => return Ok(good),
            Err(error) => error,
        };
        for copy in copies {
            match look(copy) {
                Ok(good) => return Ok(good),
                Err(error) if says(&error) > says(&most) => most = error,
                Err(_) => {}
            }
        }
        Err(most)
    }

    fn describe(&self, contents: &Contents) -> Vec<CheckpointInfo> {
        let mut all: Vec<_> = contents
            .complete
            .iter()
            .chain(&contents.incomplete)
            .map(|(&checkpoint, &own_bytes)| CheckpointInfo {
                checkpoint,
                own_bytes,
                manifest: self.manifest(checkpoint),
            })
            .collect();
        all.sort_by_key(|info| info.checkpoint);
        all
    }
}
