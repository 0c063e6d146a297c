//! A directory of checkpoints: every damage is found and named, and nothing is deleted that some
//! checkpoint needs.

use millstream_protocol::manifest::layout;
use millstream_protocol::{
    CheckpointKind, Manifest, ManifestError, OperatorEntry, SlotEntry, StateFileEntry,
};
use millstream_storage::{
    CheckpointDirectory, CheckpointError, LocalDirectory, Replicated, StateFileReader, StorageError,
};
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Checkpoints {
    folder: tempfile::TempDir,
    directory: CheckpointDirectory,
}

const SLOTS: u32 = 2;

impl Checkpoints {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalDirectory::create(folder.path()).unwrap();
        Self { folder, directory: CheckpointDirectory::on(Arc::new(storage)) }
    }

    /// Takes a checkpoint that needs these state files, of which those that are not there are made.
    fn take(&self, id: u64, state_files: &[&str]) -> Manifest {
        let checkpoint = CheckpointId(id);
        let slots = (0..SLOTS).map(SlotIndex).map(|slot| {
            let bytes = vec![slot.0 as u8 + id as u8; 5_000_000];
            let state_files = state_files.iter().map(|name| {
                let path = layout::state_path(name);
                if !self.path(&path).exists() {
                    self.directory.storage().put(&path, name.as_bytes()).unwrap();
                }
                StateFileEntry { name: (*name).to_owned(), len: name.len() as u64, note: vec![] }
            });
            SlotEntry {
                slot,
                state_files: state_files.collect(),
                snapshot: self.directory.write_snapshot(checkpoint, slot, &bytes).unwrap(),
            }
        });
        let manifest = Manifest {
            checkpoint,
            kind: CheckpointKind::Checkpoint,
            job: "test".to_owned(),
            created: Timestamp::from_millis(id as i64),
            max_parallelism: 128,
            backend: "segments".to_owned(),
            operators: vec![OperatorEntry {
                uid: "count".to_owned(),
                name: "count".to_owned(),
                parallelism: SLOTS,
            }],
            slots: slots.collect(),
        };
        self.directory.complete(&manifest).unwrap();
        manifest
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn files(&self) -> Vec<String> {
        let listing = self.directory.storage().list("").unwrap();
        listing.into_iter().map(|file| file.path).collect()
    }

    fn state_files(&self) -> Vec<String> {
        self.files().into_iter().filter(|path| path.starts_with("state/")).collect()
    }

    fn verify(&self, id: u64) -> Result<Manifest, CheckpointError> {
        self.directory.verify(CheckpointId(id), &holds_its_name)
    }
}

/// The state files of these tests hold their own names.
fn holds_its_name(file: &StateFileReader<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
    assert_eq!(file.backend, "segments");
    let bytes = file.read(0, file.entry.len as usize)?;
    assert_eq!(bytes, fs::read(file.title())?[..bytes.len()]);
    match bytes == file.entry.name.as_bytes() {
        true => Ok(()),
        false => Err("block 0 does not hold what was written".into()),
    }
}

fn flip_a_bit(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut_off(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_whole_checkpoint_verifies() {
    let checkpoints = Checkpoints::new();
    let first = checkpoints.take(1, &["a.seg"]);
    let second = checkpoints.take(2, &["a.seg", "b.seg"]);
    assert_eq!(checkpoints.verify(1).unwrap(), first);
    assert_eq!(checkpoints.verify(2).unwrap(), second);
    let newest = checkpoints.directory.newest_verified(true, &holds_its_name).unwrap();
    assert_eq!(newest.manifest, Some(second.clone()));
    assert!(newest.skipped.is_empty());
    for slot in &second.slots {
        let bytes = checkpoints.directory.read_snapshot(CheckpointId(2), &slot.snapshot).unwrap();
        assert!(bytes == vec![slot.slot.0 as u8 + 2; 5_000_000]);
    }
    // A later checkpoint may refer to more of the same file.
    fs::write(checkpoints.path("state/a.seg"), "a.seg and more").unwrap();
    assert_eq!(checkpoints.verify(1).unwrap(), first);
}

#[test]
fn every_damage_is_found_named_and_passed_over() {
    type Damage = fn(&Checkpoints);
    let damages: &[(Damage, &str, &str)] = &[
        (|c| flip_a_bit(&c.path("chk-00000002/MANIFEST"), 30), "chk-00000002/MANIFEST", "checksum"),
        (|c| cut_off(&c.path("chk-00000002/MANIFEST"), 30), "chk-00000002/MANIFEST", "truncated"),
        (|c| cut_off(&c.path("chk-00000002/MANIFEST"), 0), "chk-00000002/MANIFEST", "truncated"),
        (
            |c| drop(fs::copy(c.path("chk-00000001/MANIFEST"), c.path("chk-00000002/MANIFEST"))),
            "chk-00000002/MANIFEST",
            "of checkpoint 1",
        ),
        (
            |c| flip_a_bit(&c.path("chk-00000002/slot-1.snapshot"), 4_999_999),
            "chk-00000002/slot-1.snapshot",
            "damaged",
        ),
        (
            |c| cut_off(&c.path("chk-00000002/slot-1.snapshot"), 4_500_000),
            "chk-00000002/slot-1.snapshot",
            "4500000 bytes, and 5000000",
        ),
        (
            |c| fs::write(c.path("chk-00000002/slot-0.snapshot"), vec![2; 5_000_001]).unwrap(),
            "chk-00000002/slot-0.snapshot",
            "5000001 bytes, and 5000000",
        ),
        (
            |c| fs::remove_file(c.path("chk-00000002/slot-0.snapshot")).unwrap(),
            "chk-00000002/slot-0.snapshot",
            "does not exist",
        ),
        (|c| flip_a_bit(&c.path("state/b.seg"), 2), "state/b.seg", "block 0"),
        (|c| cut_off(&c.path("state/b.seg"), 4), "state/b.seg", "4 bytes of at least 5"),
        (|c| fs::remove_file(c.path("state/b.seg")).unwrap(), "state/b.seg", "does not exist"),
    ];
    for (damage, file, words) in damages {
        let checkpoints = Checkpoints::new();
        let first = checkpoints.take(1, &["a.seg"]);
        checkpoints.take(2, &["a.seg", "b.seg"]);
        damage(&checkpoints);

        let error = checkpoints.verify(2).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(file) && text.contains(words), "{file}, {words}: {text}");
        assert!(error.is_damage(), "{text}");

        let newest = checkpoints.directory.newest_verified(false, &holds_its_name).unwrap();
        assert_eq!(newest.manifest, Some(first));
        let skipped: Vec<_> =
            newest.skipped.iter().map(|(id, error)| (id.0, error.to_string())).collect();
        assert_eq!(skipped, [(2, text.clone())]);

        let refused = checkpoints.directory.newest_verified(true, &holds_its_name).unwrap_err();
        assert_eq!(refused.to_string(), text);
    }
}

#[test]
fn what_is_damaged_in_one_place_is_taken_from_another() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = |folder: &Path| Arc::new(LocalDirectory::create(folder).unwrap());
    let storage = Replicated::new(place(here.path()), place(there.path()));
    let directory = CheckpointDirectory::on(Arc::new(storage));
    let checkpoints = Checkpoints { folder: here, directory };
    let manifest = checkpoints.take(1, &["a.seg"]);
    let snapshot = layout::checkpoint_path(CheckpointId(1), &manifest.slots[0].snapshot.name);
    for path in [layout::manifest_path(CheckpointId(1)), snapshot, layout::state_path("a.seg")] {
        flip_a_bit(&checkpoints.path(&path), 1);
        assert_eq!(checkpoints.verify(1).unwrap(), manifest, "{path}");
    }
    let snapshot = &manifest.slots[0].snapshot;
    let bytes = checkpoints.directory.read_snapshot(CheckpointId(1), snapshot).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 1));
    // The store's own file is one of the copies.
    let own = checkpoints.path("state");
    let fetch =
        || checkpoints.directory.fetch_state_files(&manifest, &own, &|_| true, &holds_its_name);
    assert_eq!(fetch().unwrap(), 1);
    assert_eq!(fs::read(own.join("a.seg")).unwrap(), b"a.seg");
    assert_eq!(fetch().unwrap(), 0);
    // A newer checkpoint may need more of the file than the copy has.
    fs::write(own.join("a.seg"), b"?.seg and more").unwrap();
    assert_eq!(fetch().unwrap(), 1);
    assert_eq!(fs::read(own.join("a.seg")).unwrap(), b"a.seg and more");
    // What is damaged everywhere is.
    for folder in [checkpoints.folder.path(), there.path()] {
        flip_a_bit(&folder.join("state/a.seg"), 1);
    }
    let error = checkpoints.verify(1).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("a.seg"), "{error}");
    assert!(fetch().unwrap_err().is_damage());
}

#[test]
fn a_manifest_that_one_place_has_is_copied_to_the_others() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = |folder: &Path| Arc::new(LocalDirectory::create(folder).unwrap());
    let storage = Replicated::new(place(here.path()), place(there.path()));
    let directory = CheckpointDirectory::on(Arc::new(storage));
    let checkpoints = Checkpoints { folder: here, directory };
    checkpoints.take(1, &["a.seg"]);
    let id = CheckpointId(1);
    let both = [there.path(), checkpoints.folder.path()]
        .map(|folder| folder.join(layout::manifest_path(id)));
    let whole = fs::read(&both[0]).unwrap();
    for lost in &both {
        fs::remove_file(lost).unwrap();
        checkpoints.directory.copy_manifest(id).unwrap();
        assert!(both.iter().all(|path| fs::read(path).unwrap() == whole));
    }
    assert!(checkpoints.directory.copy_manifest(CheckpointId(2)).is_err());
}

#[test]
fn lengths_are_compared_whatever_the_store_looks_at() {
    let checkpoints = Checkpoints::new();
    checkpoints.take(1, &["a.seg"]);
    cut_off(&checkpoints.path("state/a.seg"), 4);
    let error = checkpoints.directory.verify(CheckpointId(1), &|_| Ok(())).unwrap_err();
    let too_short = StorageError::TooShort {
        path: checkpoints.path("state/a.seg").display().to_string(),
        expected: 5,
        found: 4,
    };
    assert_eq!(error.to_string(), too_short.to_string());
}

#[test]
fn without_a_whole_checkpoint_there_is_none_to_resume_from() {
    let checkpoints = Checkpoints::new();
    let newest = || checkpoints.directory.newest_verified(false, &holds_its_name).unwrap();
    assert_eq!(newest().manifest, None);
    checkpoints.take(1, &[]);
    checkpoints.directory.storage().put("chk-00000002/slot-0.snapshot", b"x").unwrap();
    // One that never was complete is nothing to warn of.
    assert_eq!(newest().manifest.unwrap().checkpoint, CheckpointId(1));
    assert!(newest().skipped.is_empty());
    assert_eq!(checkpoints.directory.contents().unwrap().next_checkpoint(), CheckpointId(3));
    flip_a_bit(&checkpoints.path("chk-00000001/MANIFEST"), 10);
    assert_eq!(newest().manifest, None);
    assert_eq!(newest().skipped.len(), 1);
}

/// Gives a manifest the version of a later program, and the right checksum.
fn make_newer(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes[8] += 1;
    bytes.extend_from_slice(&crc_fast::crc32_iscsi(&bytes).to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_protects_what_it_may_need() {
    let checkpoints = Checkpoints::new();
    checkpoints.take(1, &["a.seg"]);
    checkpoints.take(2, &["b.seg"]);
    make_newer(&checkpoints.path("chk-00000002/MANIFEST"));
    // To go back to the older one would lose work for no reason.
    let error = checkpoints.directory.newest_verified(false, &holds_its_name).unwrap_err();
    let is_newer = matches!(
        error,
        CheckpointError::Manifest { source: ManifestError::Newer { version: 2 }, .. }
    );
    assert!(is_newer && error.to_string().contains("upgrade"), "{error}");

    let cleaned = checkpoints.directory.clean_orphans().unwrap();
    assert!(cleaned.state_files.is_empty() && cleaned.protected_by.is_some(), "{cleaned:?}");
    let cleaned = checkpoints.directory.delete(CheckpointId(1)).unwrap();
    assert!(cleaned.state_files.is_empty() && cleaned.protected_by.is_some(), "{cleaned:?}");
    assert_eq!(checkpoints.state_files(), ["state/a.seg", "state/b.seg"]);

    checkpoints.directory.delete(CheckpointId(2)).unwrap();
    let cleaned = checkpoints.directory.clean_orphans().unwrap();
    assert_eq!(cleaned.state_files, ["a.seg", "b.seg"]);
    assert_eq!(checkpoints.files(), Vec::<String>::new());
}

#[test]
fn a_deleted_checkpoint_takes_only_what_is_its_own() {
    let checkpoints = Checkpoints::new();
    checkpoints.take(1, &["a.seg", "b.seg"]);
    let second = checkpoints.take(2, &["b.seg", "c.seg"]);
    checkpoints.take(3, &["c.seg", "d.seg"]);
    assert_eq!(checkpoints.directory.delete(CheckpointId(1)).unwrap().state_files, ["a.seg"]);
    assert_eq!(checkpoints.verify(2).unwrap(), second);
    // A checkpoint that is being taken needs d.seg.
    let cleaned =
        checkpoints.directory.delete_except(CheckpointId(3), &|name| name == "d.seg").unwrap();
    assert!(cleaned.state_files.is_empty(), "{cleaned:?}");
    assert_eq!(checkpoints.state_files(), ["state/b.seg", "state/c.seg", "state/d.seg"]);
    assert_eq!(checkpoints.verify(2).unwrap(), second);
    checkpoints.directory.delete(CheckpointId(3)).unwrap();
    let folders: Vec<_> = checkpoints.directory.list().unwrap();
    assert_eq!(folders.len(), 1);
    assert!(!checkpoints.path("chk-00000003").exists());
}

#[test]
fn orphans_are_what_no_checkpoint_needs() {
    let checkpoints = Checkpoints::new();
    let first = checkpoints.take(1, &["a.seg"]);
    let storage = checkpoints.directory.storage();
    storage.put("state/orphan.seg", b"x").unwrap();
    storage.put("chk-00000002/slot-0.snapshot", b"x").unwrap();
    storage.put("notes.txt", b"of the user").unwrap();
    storage.put("chk-old/MANIFEST", b"of the user").unwrap();
    fs::write(checkpoints.path("state/.partial-1-1"), "x").unwrap();

    let cleaned = checkpoints.directory.clean_orphans().unwrap();
    assert_eq!(cleaned.folders, [CheckpointId(2)]);
    assert_eq!(cleaned.state_files, ["orphan.seg"]);
    assert_eq!(cleaned.unfinished, 1);
    assert!(cleaned.protected_by.is_none());
    assert_eq!(checkpoints.verify(1).unwrap(), first);
    assert!(checkpoints.path("notes.txt").exists() && checkpoints.path("chk-old").exists());
    let nothing = checkpoints.directory.clean_orphans().unwrap();
    assert!(nothing.folders.is_empty() && nothing.state_files.is_empty());
}

#[test]
fn a_checkpoint_is_completed_once() {
    let checkpoints = Checkpoints::new();
    let mut manifest = checkpoints.take(1, &[]);
    manifest.job = "another".to_owned();
    let error = checkpoints.directory.complete(&manifest).unwrap_err();
    let exists = matches!(error, CheckpointError::Storage(StorageError::AlreadyExists { .. }));
    assert!(exists && error.to_string().contains("chk-00000001/MANIFEST"), "{error}");
    assert!(!error.is_damage());
    assert_eq!(checkpoints.verify(1).unwrap().job, "test");
}

#[test]
fn a_list_says_of_each_what_it_is() {
    let checkpoints = Checkpoints::new();
    checkpoints.take(1, &["a.seg"]);
    checkpoints.take(3, &["a.seg", "b.seg"]);
    checkpoints.directory.storage().put("chk-00000002/slot-0.snapshot", b"xyz").unwrap();
    flip_a_bit(&checkpoints.path("chk-00000003/MANIFEST"), 30);
    let list = checkpoints.directory.list().unwrap();
    let ids: Vec<_> = list.iter().map(|info| info.checkpoint.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(list[0].kind(), Some(CheckpointKind::Checkpoint));
    assert_eq!(list[0].created(), Some(Timestamp::from_millis(1)));
    assert_eq!(list[0].bytes(), 10_000_005);
    assert!(matches!(list[1].manifest, Err(CheckpointError::Incomplete { .. })));
    assert_eq!(list[1].bytes(), 3);
    assert!(matches!(list[2].manifest, Err(CheckpointError::Manifest { .. })));
    assert_eq!((list[2].kind(), list[2].created()), (None, None));

    let unknown = checkpoints.verify(9).unwrap_err().to_string();
    assert_eq!(unknown, "there is no checkpoint 9; there are 1, 2, 3");
    let incomplete = checkpoints.verify(2).unwrap_err().to_string();
    assert!(incomplete.ends_with("chk-00000002: never completed: it has no manifest"));
}

#[test]
fn a_directory_of_other_things_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = || CheckpointDirectory::open(folder.path());
    assert!(open().is_ok(), "an empty one is where a job may begin");
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let error = open().err().expect("it holds no checkpoints");
    assert!(matches!(error, CheckpointError::NoCheckpoints { .. }), "{error}");
    fs::write(folder.path().join("LOCK"), "").unwrap();
    assert!(open().is_ok(), "a job has begun here");
    let missing = CheckpointDirectory::open(&folder.path().join("no")).err().unwrap();
    assert!(missing.to_string().contains("no: it does not exist"), "{missing}");
}

#[test]
fn state_files_are_shipped_once_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("a.seg"), "a.seg").unwrap();
    fs::write(store.join("b.seg"), "b.seg and what is not in the checkpoint").unwrap();
    let entry = |name: &str, len| StateFileEntry { name: name.to_owned(), len, note: vec![] };
    let entries = [entry("a.seg", 5), entry("b.seg", 5)];

    let checkpoints = Checkpoints::new();
    checkpoints.directory.put_state_files(&store, &entries).unwrap();
    assert_eq!(fs::read(checkpoints.path("state/b.seg")).unwrap(), b"b.seg");
    let manifest = checkpoints.take(1, &["a.seg", "b.seg"]);
    assert_eq!(checkpoints.verify(1).unwrap(), manifest);

    // What is there is not written again; what has grown is.
    let inode = |name: &str| fs::metadata(checkpoints.path(name)).unwrap().ino();
    let before = (inode("state/a.seg"), inode("state/b.seg"));
    let grown = [entry("a.seg", 5), entry("b.seg", 9)];
    checkpoints.directory.put_state_files(&store, &grown).unwrap();
    assert_eq!(inode("state/a.seg"), before.0);
    assert_eq!(fs::read(checkpoints.path("state/b.seg")).unwrap(), b"b.seg and");
    assert_eq!(checkpoints.verify(1).unwrap(), manifest);

    fs::remove_file(store.join("a.seg")).unwrap();
    let missing = checkpoints.directory.put_state_files(&store, &[entry("a.seg", 6)]).unwrap_err();
    assert!(missing.to_string().contains("store/a.seg: it does not exist"), "{missing}");

    // Another host, or the same one with what is left.
    assert_eq!(
        checkpoints
            .directory
            .fetch_state_files(&manifest, &store, &|_| true, &holds_its_name)
            .unwrap(),
        1
    );
    assert_eq!(fs::read(store.join("a.seg")).unwrap(), b"a.seg");
    assert_eq!(fs::metadata(store.join("b.seg")).unwrap().len(), 39, "it was there");
    let new = folder.path().join("new/host");
    assert_eq!(
        checkpoints
            .directory
            .fetch_state_files(&manifest, &new, &|_| true, &holds_its_name)
            .unwrap(),
        2
    );
    assert_eq!(fs::read(new.join("b.seg")).unwrap(), b"b.seg");
    cut_off(&new.join("a.seg"), 4);
    assert_eq!(
        checkpoints
            .directory
            .fetch_state_files(&manifest, &new, &|_| true, &holds_its_name)
            .unwrap(),
        1
    );
    assert_eq!(fs::read(new.join("a.seg")).unwrap(), b"a.seg");
    cut_off(&checkpoints.path("state/b.seg"), 4);
    fs::remove_file(new.join("b.seg")).unwrap();
    let short = checkpoints
        .directory
        .fetch_state_files(&manifest, &new, &|_| true, &holds_its_name)
        .unwrap_err();
    assert!(short.to_string().contains("state/b.seg: it is truncated"), "{short}");
    assert!(!new.join("b.seg").exists(), "no half of a file");

    // A store that keeps its files in the checkpoint directory itself has nothing to ship.
    let own = checkpoints.path("state");
    let before = inode("state/a.seg");
    checkpoints.directory.put_state_files(&own, &[entry("a.seg", 5)]).unwrap();
    assert_eq!(inode("state/a.seg"), before);
    assert_eq!(
        checkpoints
            .directory
            .fetch_state_files(&checkpoints.take(2, &["a.seg"]), &own, &|_| true, &holds_its_name)
            .unwrap(),
        0
    );
}
