//! Whether a checkpoint is whole.

use super::{CheckpointDirectory, CheckpointError};
use crate::{Listed, Storage, StorageError};
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{FileEntry, Manifest, StateFileEntry};
use millstream_types::CheckpointId;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;

/// How many bytes of a snapshot are in memory at once while it is verified.
const CHUNK_BYTES: u64 = 4 << 20;

/// Looks into a state file that is there and long enough: the checksums are the store's own.
pub type StateFileCheck<'a> =
    &'a dyn Fn(&StateFileReader<'_>) -> Result<(), Box<dyn Error + Send + Sync>>;

/// A state file that is verified.
pub struct StateFileReader<'a> {
    /// What the manifest says of it.
    pub entry: &'a StateFileEntry,
    /// The backend whose store wrote it.
    pub backend: &'a str,
    storage: &'a dyn Storage,
    path: String,
}

impl StateFileReader<'_> {
    /// The file, if it lies on this host.
    pub fn local_path(&self) -> Option<PathBuf> {
        self.storage.local_path(&self.path)
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// As [`Storage::read_range`].
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        self.storage.read_range(&self.path, offset, len)
    }
}

/// The checkpoint to resume from.
#[derive(Debug, Default)]
pub struct Newest {
    /// The newest that is whole; none if there is none.
    pub manifest: Option<Manifest>,
    /// Newer ones that are not, newest first, each with what is wrong: for a warning. Ones that
    /// never were complete are not among them.
    pub skipped: Vec<(CheckpointId, CheckpointError)>,
}

impl CheckpointDirectory {
    /// Checks a whole checkpoint: its manifest, that each file is there with all its bytes, the
    /// snapshots' checksums, and what `check` says of the state files.
    ///
    /// Reads all snapshots, 4 MiB at a time.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file that it is wrong with.
    pub fn verify(
        &self,
        checkpoint: CheckpointId,
        check: StateFileCheck<'_>,
    ) -> Result<Manifest, CheckpointError> {
        self.verify_in(checkpoint, &self.contents()?, check)
    }

    /// The newest checkpoint that is whole. Damaged ones are passed over, or with `strict` refused.
    ///
    /// # Errors
    /// With `strict`, what is wrong with the newest; always, what the user can put right, such as
    /// access rights or a newer format (see [`CheckpointError::is_damage`]).
    pub fn newest_verified(
        &self,
        strict: bool,
        check: StateFileCheck<'_>,
    ) -> Result<Newest, CheckpointError> {
        let contents = self.contents()?;
        let mut newest = Newest::default();
        for &checkpoint in contents.complete.keys().rev() {
            match self.verify_in(checkpoint, &contents, check) {
                Ok(manifest) => {
                    newest.manifest = Some(manifest);
                    break;
                }
                Err(error) if error.is_damage() && !strict => {
                    newest.skipped.push((checkpoint, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }

    fn verify_in(
        &self,
        checkpoint: CheckpointId,
        contents: &Contents,
        check: StateFileCheck<'_>,
    ) -> Result<Manifest, CheckpointError> {
        if !contents.checkpoints().any(|present| present == checkpoint) {
            return Err(CheckpointError::unknown(checkpoint, contents));
        }
        let manifest = self.manifest(checkpoint)?;
        let listing = self.storage.list(&layout::checkpoint_folder(checkpoint))?;
        for slot in &manifest.slots {
            self.verify_snapshot(checkpoint, &slot.snapshot, &listing)?;
        }
        // A file that several slots share is read once for each length.
        let mut seen = BTreeSet::new();
        for file in manifest.slots.iter().flat_map(|slot| &slot.state_files) {
            if seen.insert((&file.name, file.len, &file.note)) {
                self.verify_state_file(&manifest, file, contents, check)?;
            }
        }
        Ok(manifest)
    }

    fn verify_snapshot(
        &self,
        checkpoint: CheckpointId,
        entry: &FileEntry,
        listing: &[Listed],
    ) -> Result<(), CheckpointError> {
        let path = layout::checkpoint_path(checkpoint, &entry.name);
        let title = self.storage.title(&path);
        let Some(listed) = listing.iter().find(|listed| listed.path == path) else {
            return Err(StorageError::NotFound { path: title }.into());
        };
        let mut found = FileEntry { name: entry.name.clone(), len: listed.len, crc32c: 0 };
        let mut offset = 0;
        while offset < found.len.min(entry.len) {
            let len = (found.len - offset).min(CHUNK_BYTES);
            let bytes = self.storage.read_range(&path, offset, len as usize)?;
            found.crc32c = crc32c::crc32c_append(found.crc32c, &bytes);
            offset += len;
        }
        compare(title, entry, &found)
    }

    fn verify_state_file(
        &self,
        manifest: &Manifest,
        entry: &StateFileEntry,
        contents: &Contents,
        check: StateFileCheck<'_>,
    ) -> Result<(), CheckpointError> {
        let path = layout::state_path(&entry.name);
        let title = self.storage.title(&path);
        match contents.state_files.get(&entry.name) {
            None => return Err(StorageError::NotFound { path: title }.into()),
            Some(&found) if found < entry.len => {
                let expected = entry.len;
                return Err(StorageError::TooShort { path: title, expected, found }.into());
            }
            Some(_) => {}
        }
        let (storage, backend) = (&*self.storage, manifest.backend.as_str());
        check(&StateFileReader { entry, backend, storage, path })
            .map_err(|source| CheckpointError::StateFile { path: title, source })
    }
}

/// Compares a snapshot as found with what its manifest says.
pub(super) fn compare(
    path: String,
    expected: &FileEntry,
    found: &FileEntry,
) -> Result<(), CheckpointError> {
    if found.len != expected.len {
        let (expected, found) = (expected.len, found.len);
        return Err(CheckpointError::OtherLength { path, expected, found });
    }
    if found.crc32c != expected.crc32c {
        let (expected, computed) = (expected.crc32c, found.crc32c);
        return Err(CheckpointError::ChecksumMismatch { path, expected, computed });
    }
    Ok(())
}
