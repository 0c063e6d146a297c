//! The directories of all members as one place for checkpoints.
//!
//! A member writes to the directory of its own host and, as a job asks for it, to those of the next
//! members (`replicated(k)`), of other racks if there are any: so what it has written is durable when so
//! many other hosts have it. It reads from whoever has what it needs, its own host first.
//!
//! # Invariants
//! - A write has succeeded when this host and the `copies` next ones have it.
//! - What any member has counts as there. To list it takes all of them.
//! - A deletion has succeeded when no member that can be reached has the file. What one has that cannot be
//!   reached goes when it is cleaned, as what no checkpoint needs.

use millstream_storage::{Listed, Storage, StorageError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// [`Storage`] in the directories of all members.
pub(super) struct Fleet {
    own: Arc<dyn Storage>,
    /// The other members, those first that are to have copies.
    others: Vec<Arc<dyn Storage>>,
    /// How many of them get what this one writes.
    copies: usize,
}

impl Fleet {
    /// # Panics
    /// If there are to be more copies than members.
    pub(super) fn new(own: Arc<dyn Storage>, others: Vec<Arc<dyn Storage>>, copies: usize) -> Self {
        assert!(copies <= others.len(), "as many copies as there are other members at the most");
        Self { own, others, copies }
    }

    fn replicas(&self) -> impl Iterator<Item = &dyn Storage> {
        self.others[..self.copies].iter().map(|other| &**other)
    }

    /// This host's answer or, if it has none, the first other member's that has one.
    fn read<T>(
        &self,
        read: impl Fn(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let error = match read(&*self.own) {
            Err(error) if !matches!(error, StorageError::BadPath { .. }) => error,
            result => return result,
        };
        let mut unreachable = None;
        for other in &self.others {
            match read(&**other) {
                Ok(found) => return Ok(found),
                Err(error) if error.is_not_found() => {}
                Err(error) => unreachable = unreachable.or(Some(error)),
            }
        }
        // That a file is nowhere is known only if everybody was asked.
        Err(unreachable.filter(|_| error.is_not_found()).unwrap_or(error))
    }

    /// Does it everywhere that can be reached.
    fn everywhere(
        &self,
        what: impl Fn(&dyn Storage) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        what(&*self.own)?;
        for other in &self.others {
            if let Err(error) = what(&**other) {
                tracing::debug!("it is cleaned later: {error}");
            }
        }
        Ok(())
    }
}

impl Storage for Fleet {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.own.put(path, bytes)?;
        self.replicas().try_for_each(|replica| replica.put(path, bytes))
    }

    fn put_where_missing(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.own.put_where_missing(path, bytes)?;
        self.replicas().try_for_each(|replica| replica.put_where_missing(path, bytes))
    }

    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        for other in &self.others {
            if other.len(path).is_ok() {
                return Err(StorageError::AlreadyExists { path: other.title(path) });
            }
        }
        self.own.create_if_absent(path, bytes)?;
        let copied = self.replicas().try_for_each(|replica| replica.create_if_absent(path, bytes));
        copied.inspect_err(|_| {
            // So that what has failed does not exist, as far as possible: the error that counts is
            // the first one.
            let _ = self.delete(path);
        })
    }

    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.own.copy_from_local(local, len, path)?;
        self.replicas().try_for_each(|replica| replica.copy_from_local(local, len, path))
    }

    fn follow_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.own.follow_local(local, len, path)?;
        self.replicas().try_for_each(|replica| replica.follow_local(local, len, path))
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        self.read(|storage| storage.get(path))
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        self.read(|storage| storage.read_range(path, offset, len))
    }

    fn len(&self, path: &str) -> Result<u64, StorageError> {
        // A copy of a file that grows may be behind.
        let lens = std::iter::once(&self.own).chain(&self.others).map(|one| one.len(path));
        let longest = lens.filter_map(Result::ok).max();
        longest.map_or_else(|| self.own.len(path), Ok)
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        let mut files: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |listing: Vec<Listed>| {
            for Listed { path, len } in listing {
                let longest = files.entry(path).or_default();
                *longest = (*longest).max(len);
            }
        };
        add(self.own.list(folder)?);
        for other in &self.others {
            // What nobody can look at may be just what is needed, or what needs something that is taken for
            // left over then.
            add(other.list(folder)?);
        }
        Ok(files.into_iter().map(|(path, len)| Listed { path, len }).collect())
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.everywhere(|storage| storage.delete(path))
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        self.everywhere(|storage| storage.delete_folder(folder))
    }

    fn delete_unfinished(&self) -> Result<usize, StorageError> {
        // Each member does so when it opens its own.
        self.own.delete_unfinished()
    }

    fn copies(&self) -> Vec<&dyn Storage> {
        std::iter::once(&self.own).chain(&self.others).map(|one| &**one).collect()
    }

    fn local_path(&self, path: &str) -> Option<PathBuf> {
        self.own.local_path(path).filter(|path| path.exists())
    }

    fn title(&self, path: &str) -> String {
        self.own.title(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Damaged, RestoreInto, exactly};
    use millstream_protocol::{CheckpointKind, Manifest, SlotEntry};
    use millstream_state::{HeapBackend, SnapshotWriter, StateBackend};
    use millstream_storage::{CheckpointDirectory, LocalDirectory};
    use millstream_types::{CheckpointId, SlotIndex, Timestamp};
    use tempfile::TempDir;

    /// So many members, and one that is gone.
    fn fleet(copies: usize) -> (Vec<TempDir>, Fleet) {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let storage = |folder: &TempDir| {
            Arc::new(LocalDirectory::open(folder.path()).unwrap()) as Arc<dyn Storage>
        };
        let mut all: Vec<_> = folders.iter().map(storage).collect();
        let own = all.remove(0);
        (folders, Fleet::new(own, all, copies))
    }

    fn holders(folders: &[TempDir], path: &str) -> Vec<bool> {
        folders.iter().map(|folder| folder.path().join(path).exists()).collect()
    }

    #[test]
    fn what_is_written_is_here_and_with_as_many_others_as_wanted() {
        for (copies, expected) in
            [(0, [true, false, false]), (1, [true, true, false]), (2, [true, true, true])]
        {
            let (folders, fleet) = fleet(copies);
            fleet.put("chk-1/slot-0", b"state").unwrap();
            fleet.create_if_absent("chk-1/manifest", b"all").unwrap();
            let local = folders[0].path().join("log");
            std::fs::write(&local, b"0123456789").unwrap();
            fleet.follow_local(&local, 4, "state/log").unwrap();
            fleet.follow_local(&local, 10, "state/log").unwrap();
            for path in ["chk-1/slot-0", "chk-1/manifest", "state/log"] {
                assert_eq!(holders(&folders, path), expected, "{copies} {path}");
            }
            assert_eq!(fleet.get("state/log").unwrap(), b"0123456789");
            // Who has written it was lost before all had it.
            std::fs::remove_file(folders[copies].path().join("chk-1/manifest")).unwrap();
            fleet.put_where_missing("chk-1/manifest", b"all").unwrap();
            assert_eq!(holders(&folders, "chk-1/manifest"), expected, "{copies}");
            fleet.delete_folder("chk-1").unwrap();
            fleet.delete("state/log").unwrap();
            assert_eq!(holders(&folders, "chk-1/manifest"), [false; 3]);
            assert_eq!(holders(&folders, "state/log"), [false; 3]);
        }
    }

    #[test]
    fn what_this_host_has_lost_is_read_from_who_has_it() {
        let (folders, fleet) = fleet(1);
        fleet.put("chk-1/slot-0", b"state").unwrap();
        std::fs::remove_file(folders[0].path().join("chk-1/slot-0")).unwrap();
        assert_eq!(fleet.get("chk-1/slot-0").unwrap(), b"state");
        assert_eq!(fleet.len("chk-1/slot-0").unwrap(), 5);
        assert_eq!(fleet.read_range("chk-1/slot-0", 1, 3).unwrap(), b"tat");
        assert_eq!(fleet.list("").unwrap().len(), 1);
        assert!(fleet.get("chk-1/slot-1").unwrap_err().is_not_found());
        // A manifest that any of them has is not written again.
        std::fs::write(folders[2].path().join("manifest"), b"of another life").unwrap();
        let error = fleet.create_if_absent("manifest", b"new").unwrap_err();
        assert!(matches!(error, StorageError::AlreadyExists { .. }), "{error}");
    }

    #[test]
    fn a_host_that_was_away_goes_on_from_the_checkpoint_of_the_others() {
        let checkpoint = CheckpointId(7);
        let write = |storage: Arc<dyn Storage>, job: &str, snapshot: &[u8]| {
            let directory = CheckpointDirectory::on(storage);
            let snapshot = directory.write_snapshot(checkpoint, SlotIndex(0), snapshot).unwrap();
            let slot = SlotEntry { slot: SlotIndex(0), snapshot, state_files: Vec::new() };
            let manifest = Manifest {
                checkpoint,
                kind: CheckpointKind::Checkpoint,
                job: job.into(),
                created: Timestamp::from_nanos(0),
                max_parallelism: 1,
                backend: HeapBackend.name().into(),
                operators: Vec::new(),
                slots: vec![slot],
            };
            directory.complete(&manifest).unwrap();
            manifest
        };
        let (_folders, fleet) = fleet(1);
        let stale = write(Arc::clone(&fleet.own), "of another life", b"of no use");
        let chosen = write(Arc::clone(&fleet.others[0]), "job", &SnapshotWriter::new().finish());
        let directory = CheckpointDirectory::on(Arc::new(fleet));
        assert_eq!(directory.manifest(checkpoint).unwrap(), stale);
        let into = RestoreInto { uids: &[], max_parallelism: 1, backend: &HeapBackend, owned: &[] };
        let stores = tempfile::tempdir().unwrap();
        let restored = exactly(&directory, chosen.clone(), &into, &Damaged::new(), stores.path());
        assert_eq!(restored.unwrap().manifest, chosen);
    }
}
