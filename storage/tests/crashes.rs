//! A process that dies between any two steps of taking and deleting checkpoints.
//!
//! Promised at every moment: a checkpoint with a manifest is whole, and what was complete before
//! stays so unless it is the one that is being deleted.

use millstream_protocol::manifest::layout;
use millstream_protocol::{CheckpointKind, Manifest, SlotEntry, StateFileEntry};
use millstream_storage::{
    CheckpointDirectory, CheckpointError, Listed, LocalDirectory, Replicated, Storage, StorageError,
};
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Storage of a process that dies: after so many steps none has an effect any more.
struct Mortal {
    inner: LocalDirectory,
    steps_left: Arc<AtomicUsize>,
}

impl Mortal {
    fn step(&self) -> Result<(), StorageError> {
        let alive = |left: usize| left.checked_sub(1);
        match self.steps_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, alive) {
            Ok(_) => Ok(()),
            Err(_) => Err(StorageError::Io {
                path: "anywhere".to_owned(),
                action: "go on",
                source: std::io::Error::other("the process has died"),
            }),
        }
    }
}

impl Storage for Mortal {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.step()?;
        self.inner.put(path, bytes)
    }
    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.step()?;
        self.inner.create_if_absent(path, bytes)
    }
    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.step()?;
        self.inner.copy_from_local(local, len, path)
    }
    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        self.inner.get(path)
    }
    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        self.inner.read_range(path, offset, len)
    }
    fn len(&self, path: &str) -> Result<u64, StorageError> {
        self.inner.len(path)
    }
    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        self.inner.list(folder)
    }
    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.step()?;
        self.inner.delete(path)
    }
    /// File by file, as in an object store, and the manifest last: the order is anybody's guess.
    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        for file in self.list(folder)?.into_iter().rev() {
            self.delete(&file.path)?;
        }
        self.step()?;
        self.inner.delete_folder(folder)
    }
    fn title(&self, path: &str) -> String {
        self.inner.title(path)
    }
}

/// One place or two, and a store's folder with the files a, b and c.
struct World {
    folder: tempfile::TempDir,
    places: Vec<PathBuf>,
}

impl World {
    fn new(places: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(store.join(name), name.repeat(100)).unwrap();
        }
        let places = (0..places).map(|place| folder.path().join(place.to_string())).collect();
        Self { folder, places }
    }

    /// The checkpoints as seen by a process that dies after so many steps.
    fn open(&self, steps: usize) -> CheckpointDirectory {
        let steps_left = Arc::new(AtomicUsize::new(steps));
        self.open_with(|_| steps_left.clone())
    }

    /// The checkpoints, with the steps that are left in each place.
    fn open_with(&self, steps_left: impl Fn(&PathBuf) -> Arc<AtomicUsize>) -> CheckpointDirectory {
        let storage = |place: &PathBuf| -> Arc<dyn Storage> {
            let inner = LocalDirectory::create(place).unwrap();
            Arc::new(Mortal { inner, steps_left: steps_left(place) })
        };
        CheckpointDirectory::on(match &self.places[..] {
            [place] => storage(place),
            [primary, replica] => Arc::new(Replicated::new(storage(primary), storage(replica))),
            _ => unreachable!("one place or two"),
        })
    }

    fn take(
        &self,
        directory: &CheckpointDirectory,
        id: u64,
        files: &[&str],
    ) -> Result<(), CheckpointError> {
        let (checkpoint, slot) = (CheckpointId(id), SlotIndex(0));
        let entry =
            |name: &&str| StateFileEntry { name: (*name).to_owned(), len: 100, note: vec![] };
        let state_files: Vec<_> = files.iter().map(entry).collect();
        directory.put_state_files(&self.folder.path().join("store"), &state_files)?;
        let snapshot = directory.write_snapshot(checkpoint, slot, &[id as u8; 1_000])?;
        directory.complete(&Manifest {
            checkpoint,
            kind: CheckpointKind::Checkpoint,
            job: "job".to_owned(),
            created: Timestamp::from_millis(0),
            max_parallelism: 128,
            backend: "segments".to_owned(),
            operators: vec![],
            slots: vec![SlotEntry { slot, snapshot, state_files }],
        })
    }

    /// Checks the promise in every place by itself and in all together; returns the complete
    /// checkpoints.
    fn complete(&self) -> Vec<u64> {
        let together = self.open(usize::MAX);
        let complete: Vec<u64> =
            together.contents().unwrap().complete.keys().map(|id| id.0).collect();
        let alone = self
            .places
            .iter()
            .map(|place| CheckpointDirectory::on(Arc::new(LocalDirectory::create(place).unwrap())));
        for directory in alone.chain([together]) {
            for id in directory.contents().unwrap().complete.keys() {
                directory.verify(*id, &|_| Ok(())).unwrap();
            }
        }
        complete
    }

    fn state_files(&self) -> Vec<String> {
        self.open(usize::MAX).contents().unwrap().state_files.into_keys().collect()
    }
}

/// Does `action` in worlds that `prepare` has made, each time with one more step before the process
/// dies, until it gets through.
fn die_at_each_step(
    places: usize,
    prepare: impl Fn(&World),
    action: impl Fn(&World, &CheckpointDirectory) -> Result<(), CheckpointError>,
    mut promised: impl FnMut(&World, bool),
) {
    for steps in 0..100 {
        let world = World::new(places);
        prepare(&world);
        let done = action(&world, &world.open(steps)).is_ok();
        promised(&world, done);
        if done {
            assert!(steps >= 3, "it has several steps");
            return;
        }
    }
    panic!("it does not end");
}

#[test]
fn a_checkpoint_is_whole_or_none() {
    for places in [1, 2] {
        die_at_each_step(
            places,
            |world| world.take(&world.open(usize::MAX), 1, &["a", "b"]).unwrap(),
            |world, directory| world.take(directory, 2, &["b", "c"]),
            |world, done| {
                let complete = world.complete();
                assert!(complete == [1, 2] || complete == [1] && !done, "{complete:?}");
                // The next process tidies up and goes on.
                let directory = world.open(usize::MAX);
                directory.clean_orphans().unwrap();
                assert_eq!(world.complete(), complete);
                let expected = if complete.len() == 2 { &["a", "b", "c"][..] } else { &["a", "b"] };
                assert_eq!(world.state_files(), expected);
                let next = directory.contents().unwrap().next_checkpoint().0;
                world.take(&directory, next, &["c"]).unwrap();
                assert!(world.complete().ends_with(&[next]));
            },
        );
    }
}

#[test]
fn a_deletion_never_leaves_half_a_checkpoint() {
    for places in [1, 2] {
        die_at_each_step(
            places,
            |world| {
                let directory = world.open(usize::MAX);
                world.take(&directory, 1, &["a", "b"]).unwrap();
                world.take(&directory, 2, &["b", "c"]).unwrap();
            },
            |_, directory| directory.delete(CheckpointId(1)).map(drop),
            |world, done| {
                let complete = world.complete();
                assert!(complete == [2] || complete == [1, 2] && !done, "{complete:?}");
                let directory = world.open(usize::MAX);
                directory.clean_orphans().unwrap();
                assert_eq!(world.complete(), complete);
                let expected = if complete.len() == 2 { &["a", "b", "c"][..] } else { &["b", "c"] };
                assert_eq!(world.state_files(), expected);
                // Again, it gets through.
                directory.delete(CheckpointId(1)).unwrap();
                assert_eq!(world.complete(), [2]);
                assert_eq!(world.state_files(), ["b", "c"]);
            },
        );
    }
}

#[test]
fn tidying_up_can_be_cut_off_anywhere() {
    for places in [1, 2] {
        die_at_each_step(
            places,
            |world| {
                let directory = world.open(usize::MAX);
                world.take(&directory, 1, &["a"]).unwrap();
                // One that was not completed, and one that was half deleted.
                world.take(&directory, 2, &["b"]).unwrap();
                directory.storage().delete(&layout::manifest_path(CheckpointId(2))).unwrap();
                directory.storage().put("chk-00000003/slot-0.snapshot", b"x").unwrap();
                directory.storage().put("chk-00000003/slot-1.snapshot", b"x").unwrap();
            },
            |_, directory| directory.clean_orphans().map(drop),
            |world, _| {
                assert_eq!(world.complete(), [1]);
                world.open(usize::MAX).clean_orphans().unwrap();
                assert_eq!(world.complete(), [1]);
                assert_eq!(world.state_files(), ["a"]);
                assert!(world.open(usize::MAX).contents().unwrap().incomplete.is_empty());
            },
        );
    }
}

#[test]
fn what_the_replica_does_not_take_is_no_checkpoint() {
    for replica_steps in 0..3 {
        let world = World::new(2);
        let directory = world.open_with(|place| {
            let steps = if *place == world.places[0] { usize::MAX } else { replica_steps };
            Arc::new(AtomicUsize::new(steps))
        });
        // A state file, a snapshot, and then the manifest.
        world.take(&directory, 1, &["a"]).unwrap_err();
        assert_eq!(world.complete(), [0; 0], "after {replica_steps} steps of the replica");
    }
}

#[test]
fn what_the_primary_has_lost_is_not_created_anew() {
    let world = World::new(2);
    world.take(&world.open(usize::MAX), 1, &[]).unwrap();
    let lost = world.places[0].join("chk-00000001/MANIFEST");
    std::fs::remove_file(&lost).unwrap();
    // It could write, and would die before it could take that back.
    let storage = world.open(1).storage().clone();
    let path = layout::manifest_path(CheckpointId(1));
    let error = storage.create_if_absent(&path, b"another").unwrap_err();
    assert!(matches!(error, StorageError::AlreadyExists { .. }), "{error}");
    assert!(!lost.exists());
    assert_eq!(world.complete(), [1]);
}
