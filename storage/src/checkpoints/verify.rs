//! Whether a checkpoint is whole.

use super::{CheckpointDirectory, CheckpointError};
use crate::{Storage, StorageError};
use crc_fast::{CrcAlgorithm, Digest};
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{FileEntry, Manifest, StateFileEntry};
use millstream_types::CheckpointId;
use std::collections::BTreeSet;
use std::error::Error;

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
    pub(super) storage: &'a dyn Storage,
    pub(super) path: &'a str,
}

impl StateFileReader<'_> {
    /// How messages call it.
    pub fn title(&self) -> String {
        self.storage.title(self.path)
    }

    /// All that the manifest says that it has.
    ///
    /// # Errors
    /// As [`Storage::read_range`].
    pub fn read_all(&self) -> Result<Vec<u8>, StorageError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < self.entry.len {
            let offset = bytes.len() as u64;
            let len = (self.entry.len - offset).min(CHUNK_BYTES);
            bytes.extend(self.read(offset, len as usize)?);
        }
        Ok(bytes)
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// As [`Storage::read_range`].
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        self.storage.read_range(self.path, offset, len)
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
        for slot in &manifest.slots {
            let path = layout::checkpoint_path(checkpoint, &slot.snapshot.name);
            self.first_good(|place| verify_snapshot(place, &path, &slot.snapshot))?;
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
        self.first_good(|place| check_copy(place, manifest, entry, &path, check))
    }
}

/// Looks into a copy of a state file.
pub(super) fn check_copy(
    storage: &dyn Storage,
    manifest: &Manifest,
    entry: &StateFileEntry,
    path: &str,
    check: StateFileCheck<'_>,
) -> Result<(), CheckpointError> {
    let file = StateFileReader { entry, backend: &manifest.backend, storage, path };
    check(&file).map_err(|source| match source.downcast::<StorageError>() {
        Ok(error) => CheckpointError::Storage(*error),
        Err(source) => CheckpointError::StateFile { path: file.title(), source },
    })
}

fn verify_snapshot(
    storage: &dyn Storage,
    path: &str,
    entry: &FileEntry,
) -> Result<(), CheckpointError> {
    let mut found = FileEntry { name: entry.name.clone(), len: storage.len(path)?, crc32c: 0 };
    let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut offset = 0;
    while offset < found.len.min(entry.len) {
        let len = (found.len - offset).min(CHUNK_BYTES);
        let bytes = storage.read_range(path, offset, len as usize)?;
        checksum.update(&bytes);
        offset += len;
    }
    // Of 32 bits.
    found.crc32c = checksum.finalize() as u32;
    compare(storage.title(path), entry, &found)
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
