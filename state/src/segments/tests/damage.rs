//! Damaged files, failing disks, changed types.

use super::{checkpoint, key, spec, words};
use crate::{
    ByteTable, MemberIndex, RestoredFiles, SegmentStore, SegmentsBackend, StateBackend, StateError,
    StateFile, StateStore, StoreScope, TableSpec, check_segment,
};
use millstream_types::{CheckpointId, KeyGroupRange, SlotIndex, Timestamp};
use std::path::Path;

fn scope(directory: &Path) -> StoreScope {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.to_owned());
    scope.owned = vec![("operator".into(), KeyGroupRange(0..16))];
    scope
}

fn restore(directory: &Path, files: &[StateFile]) -> Result<SegmentStore, StateError> {
    let mut scope = scope(directory);
    scope.restored = Some(RestoredFiles { checkpoint: CheckpointId(1), files: files.to_vec() });
    SegmentsBackend::new().open_store(scope)
}

/// Two checkpoints of a table with a few kinds of records, in one file of several blocks.
fn written(directory: &Path) -> Vec<StateFile> {
    let mut store = SegmentsBackend::new().open_store(scope(directory)).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    for n in 0..3000u32 {
        table.insert(key(&n.to_le_bytes()), &[7; 40]).unwrap();
    }
    table.append(key(b"list"), b"one").unwrap();
    checkpoint(&mut store, 0);
    table.append(key(b"list"), b"2").unwrap();
    for n in 0..10u32 {
        table.remove(key(&n.to_le_bytes())).unwrap();
    }
    checkpoint(&mut store, 1)
}

#[test]
fn every_damaged_byte_is_noticed_and_its_file_named() {
    let directory = tempfile::tempdir().unwrap();
    let files = written(directory.path());
    let [file] = &files[..] else { panic!("{files:?}") };
    let path = directory.path().join(&file.name);
    let intact = std::fs::read(&path).unwrap();
    assert_eq!(intact.len() as u64, file.len);
    assert_eq!(check_segment(&file.name, &intact).unwrap(), 3000 + 1 + 1 + 10);
    let mut unnoticed = Vec::new();
    // Every byte of headers and trailers, and some of the data.
    let last = intact.len() - 3 * 4096;
    let places = (0..64).chain((64..last).step_by(211)).chain(last..intact.len());
    for at in places {
        let mut bytes = intact.clone();
        bytes[at] ^= 0x10;
        match check_segment(&file.name, &bytes) {
            Err(error) => assert!(words(&error).contains(&file.name), "{error}"),
            Ok(_) => unnoticed.push(at),
        }
    }
    // All but the padding of the header has a checksum.
    assert!(unnoticed.iter().all(|at| (32..4096).contains(at)), "{unnoticed:?}");
    // And the same through a store.
    for at in [0, 9, 30, 5000, intact.len() - 2] {
        let mut bytes = intact.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let error = restore(directory.path(), &files).expect_err("damaged");
        assert!(words(&error).contains(&file.name), "{}", words(&error));
    }
}

#[test]
fn a_file_that_is_cut_off_or_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let files = written(directory.path());
    let path = directory.path().join(&files[0].name);
    let intact = std::fs::read(&path).unwrap();
    for len in (0..intact.len()).step_by(1021) {
        assert!(check_segment("file", &intact[..len]).is_err() || is_end_of_extent(&intact, len));
    }
    std::fs::write(&path, &intact[..intact.len() - 1]).unwrap();
    let error = restore(directory.path(), &files).expect_err("cut off");
    assert!(words(&error).contains("shorter than the checkpoint says"), "{}", words(&error));
    std::fs::remove_file(&path).unwrap();
    let error = restore(directory.path(), &files).expect_err("missing");
    assert!(words(&error).contains(&files[0].name), "{}", words(&error));
}

/// A header alone is a segment without extents.
fn is_end_of_extent(bytes: &[u8], len: usize) -> bool {
    len == 4096 || bytes[..len].ends_with(&bytes[bytes.len() - 4..])
}

#[test]
fn what_follows_the_checkpoint_in_a_file_does_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    let files = written(directory.path());
    let path = directory.path().join(&files[0].name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0x5a; 10_000]);
    std::fs::write(&path, bytes).unwrap();
    let mut store = restore(directory.path(), &files).unwrap();
    let table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    assert_eq!(table.len(Timestamp::MIN), 2991);
    assert!(table.read(key(b"list"), |value| value == Some(b"one2")).unwrap());
}

#[test]
fn a_newer_format_is_said_to_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let files = written(directory.path());
    let path = directory.path().join(&files[0].name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 3;
    std::fs::write(&path, bytes).unwrap();
    let error = words(&restore(directory.path(), &files).expect_err("newer"));
    assert!(error.contains("format version 3") && error.contains(&files[0].name), "{error}");
}

#[test]
fn other_types_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SegmentsBackend::new().open_store(scope(directory.path())).unwrap();
    let spec = TableSpec { schema: "u64 -> u64".into(), ..spec() };
    let mut table = store.segment_table(MemberIndex(0), &spec).unwrap();
    table.insert(key(b"k"), b"v").unwrap();
    let files = checkpoint(&mut store, 1);
    let mut store = restore(directory.path(), &files).unwrap();
    let other = TableSpec { schema: "u64 -> String".into(), ..spec };
    let error = words(&store.segment_table(MemberIndex(0), &other).err().expect("other types"));
    assert!(error.contains("\"u64 -> u64\"") && error.contains("operator/table"), "{error}");
}

#[test]
fn after_a_failed_write_nothing_is_called_durable() {
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let mut store = SegmentsBackend::new().open_store(scope(&gone)).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    table.insert(key(b"k"), b"v").unwrap();
    std::fs::remove_dir(&gone).unwrap();
    for id in 1..3 {
        let (sender, receiver) = std::sync::mpsc::channel();
        store.cut(MemberIndex(0), CheckpointId(id));
        store.persist(CheckpointId(id), Box::new(move |files| sender.send(files).unwrap()));
        let error = words(&receiver.recv().unwrap().expect_err("no directory to write to"));
        assert!(error.contains(".segment"), "{error}");
        std::fs::create_dir_all(&gone).unwrap();
    }
    let error = words(&table.insert(key(b"k"), b"w").expect_err("poisoned"));
    assert!(error.contains(".segment"), "{error}");
}

#[test]
fn a_checkpoint_without_a_directory_is_refused_in_words() {
    let mut store = SegmentsBackend::new().open(StoreScope::new(SlotIndex(0))).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    store.persist(CheckpointId(1), Box::new(move |files| sender.send(files).unwrap()));
    assert!(words(&receiver.recv().unwrap().unwrap_err()).contains("set the checkpoint directory"));
}

#[test]
fn files_that_no_checkpoint_refers_to_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let backend = SegmentsBackend::new().with_segment_bytes(64 << 10).with_mutable_bytes(128 << 10);
    let mut store = backend.open_store(scope(directory.path())).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    for n in 0..3000u32 {
        table.insert(key(&n.to_le_bytes()), &[7; 100]).unwrap();
    }
    let files = checkpoint(&mut store, 1);
    let mut listed: Vec<_> = files.into_iter().map(|file| file.name).collect();
    listed.sort();
    for n in 0..3000u32 {
        table.insert(key(&n.to_le_bytes()), &[8; 100]).unwrap();
    }
    drop((store, table));
    assert_eq!(names(), listed);
}
