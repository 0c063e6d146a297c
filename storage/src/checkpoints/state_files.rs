//! State files on their way between the folder in which a store keeps them and the storage in which
//! the checkpoint lies, where these are two places.

use super::verify::check_copy;
use super::{CheckpointDirectory, CheckpointError, StateFileCheck};
use crate::local::failed;
use crate::{LocalDirectory, Storage, StorageError};
use millstream_protocol::manifest::layout;
use millstream_protocol::{Manifest, StateFileEntry};
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// How many bytes of a file are in memory at once.
const CHUNK_BYTES: u64 = 4 << 20;

impl CheckpointDirectory {
    /// Makes state files durable here that a store keeps in `folder`, before a manifest names them.
    /// Only those are copied that are not here, or have grown: nothing at all if `folder` is the
    /// folder of state files of this very directory.
    ///
    /// # Errors
    /// If one is missing in `folder` or shorter than its entry says, or cannot be written.
    pub fn put_state_files<'a>(
        &self,
        folder: &Path,
        files: impl IntoIterator<Item = &'a StateFileEntry>,
    ) -> Result<(), CheckpointError> {
        for file in files {
            let (local, path) = (folder.join(&file.name), layout::state_path(&file.name));
            self.storage.follow_local(&local, file.len, &path)?;
        }
        Ok(())
    }

    /// Brings the state files of a checkpoint that are `needed` into `folder`, where stores can open them,
    /// durably. Those that are there with all their bytes stay as they are, unless `check` finds something
    /// wrong with them: then they are replaced by a copy that is good, followed by what they have beyond it,
    /// since a newer checkpoint may need that. Returns how many were brought.
    ///
    /// # Errors
    /// If there is no good copy of one here, or it cannot be written there.
    pub fn fetch_state_files(
        &self,
        manifest: &Manifest,
        folder: &Path,
        needed: &dyn Fn(&StateFileEntry) -> bool,
        check: StateFileCheck<'_>,
    ) -> Result<usize, CheckpointError> {
        let local = LocalDirectory::create(folder)?;
        let mut fetched = 0;
        let files = manifest.slots.iter().flat_map(|slot| &slot.state_files);
        for file in files.filter(|file| needed(file)) {
            let here = fs::metadata(folder.join(&file.name)).ok().map(|here| here.len());
            if here.is_some_and(|here| here >= file.len)
                && check_copy(&local, manifest, file, &file.name, check).is_ok()
            {
                continue;
            }
            let path = layout::state_path(&file.name);
            self.first_good(|place| {
                check_copy(place, manifest, file, &path, check)?;
                let fill = |target: &mut fs::File, title: &Path| {
                    let mut copy = |from: &dyn Storage, path: &str, range: Range<u64>| {
                        let mut offset = range.start;
                        while offset < range.end {
                            let len = (range.end - offset).min(CHUNK_BYTES);
                            let bytes = from.read_range(path, offset, len as usize)?;
                            let written = target.write_all(&bytes);
                            written.map_err(|error| failed(title, "write it", error))?;
                            offset += len;
                        }
                        Ok::<(), StorageError>(())
                    };
                    copy(place, &path, 0..file.len)?;
                    // As far as it can be: this checkpoint does without.
                    let _ = copy(&local, &file.name, file.len..here.unwrap_or(0));
                    Ok::<(), StorageError>(())
                };
                Ok(local.write(&file.name, fill, |from, to| fs::rename(from, to))?)
            })?;
            fetched += 1;
        }
        Ok(fetched)
    }
}
