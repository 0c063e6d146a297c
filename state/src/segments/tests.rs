//! Whole stores against a map.

mod damage;
mod expiry;
mod model;
mod rollback;
mod seeds;

use crate::{
    ByteTable, EntryKey, FileChange, FileWatcher, MemberIndex, RestoredFiles, SegmentsBackend,
    StateError, StateStore, StoreScope, TableSpec, Update,
};
use millstream_tuning::BackgroundCores;
use millstream_types::{CheckpointId, KeyGroup, KeyGroupRange, SlotIndex, Timestamp};
use std::time::Duration;

const SPEC_GROUPS: u16 = 16;

fn spec() -> TableSpec {
    TableSpec::new("operator", "table", KeyGroupRange(0..SPEC_GROUPS), SPEC_GROUPS)
}

fn key(bytes: &[u8]) -> EntryKey<'_> {
    let hash = millstream_types::hash_key(bytes);
    EntryKey { namespace: Timestamp::MIN, group: KeyGroup::of(hash, SPEC_GROUPS), hash, bytes }
}

/// The message of an error and of all its causes.
fn words(error: &StateError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[test]
fn a_value_is_updated_in_place_until_the_epoch_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    let mut store = SegmentsBackend::new().open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    table.insert(key(b"k"), &7u64.to_le_bytes()).unwrap();
    let before = store.stats().appended_bytes;
    for _ in 0..9 {
        table.insert(key(b"k"), &8u64.to_le_bytes()).unwrap();
    }
    assert_eq!(store.stats().appended_bytes, before);
    store.cut(MemberIndex(0), CheckpointId(1));
    table.insert(key(b"k"), &9u64.to_le_bytes()).unwrap();
    assert_eq!(store.stats().appended_bytes, 2 * before, "the cut needs the old value");
    let found = table.read(key(b"k"), |value| value.map(<[u8]>::to_vec)).unwrap();
    assert_eq!(found, Some(9u64.to_le_bytes().to_vec()));
}

/// A store in a directory, that begins with what a checkpoint has.
fn durable(directory: &std::path::Path, restored: Option<RestoredFiles>) -> crate::SegmentStore {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.to_owned());
    scope.owned = vec![("operator".into(), KeyGroupRange(0..SPEC_GROUPS))];
    scope.restored = restored;
    let backend =
        SegmentsBackend::new().with_segment_bytes(SEGMENT_BYTES).with_mutable_bytes(64 << 10);
    backend.open_store(scope).unwrap()
}

const SEGMENT_BYTES: usize = 16 << 10;

#[test]
fn a_value_is_not_sealed_while_it_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = durable(directory.path(), None);
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let mut other = store.segment_table(MemberIndex(0), &spec().with_name("other")).unwrap();
    table.insert(key(b"k"), &[1; 64]).unwrap();
    let sealed = || store.shared.log.borrow().sealed().count();
    table
        .modify(key(b"k"), |found, _| {
            let crate::Found::Mutable(value) = found else { panic!("nothing is sealed yet") };
            // Far more than is kept mutable, in the midst of a change.
            for n in 0..4_000u32 {
                other.insert(key(&n.to_le_bytes()), &[7; 64]).unwrap();
            }
            assert_eq!(sealed(), 0, "the writer has none of it");
            value.fill(2);
            (Update::Keep, ())
        })
        .unwrap();
    other.insert(key(b"after"), &[7; 64]).unwrap();
    assert!(sealed() > 9);
    store.cut(MemberIndex(0), CheckpointId(1));
    let files = checkpoint(&mut store, 1);
    let restored = RestoredFiles { checkpoint: CheckpointId(1), files };
    let mut store = durable(directory.path(), Some(restored));
    let table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    assert!(table.read(key(b"k"), |value| value == Some(&[2; 64][..])).unwrap());
}

#[test]
fn what_is_written_within_changes_stays_within_the_budget() {
    const MEMORY: u64 = 512 << 10;
    let directory = tempfile::tempdir().unwrap();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    scope.memory_bytes = MEMORY;
    let backend = SegmentsBackend::new().with_segment_bytes(SEGMENT_BYTES);
    let mut store = backend.open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let mut other = store.segment_table(MemberIndex(0), &spec().with_name("other")).unwrap();
    table.insert(key(b"k"), &0u64.to_le_bytes()).unwrap();
    for round in 0..400u32 {
        // As a job does whose one state is changed with another one's in hand.
        let change = |found: crate::Found<'_>, new: &mut crate::AlignedVec| {
            for n in 0..10 {
                other.insert(key(&(round * 10 + n).to_le_bytes()), &[7; 200]).unwrap();
            }
            match found {
                crate::Found::Mutable(value) => {
                    value[..4].copy_from_slice(&round.to_le_bytes());
                    (Update::Keep, ())
                }
                _ => {
                    new.extend_from_slice(&u64::from(round).to_le_bytes());
                    (Update::Write, ())
                }
            }
        };
        table.modify(key(b"k"), change).unwrap();
        let stats = store.stats();
        // But for what one change has just added.
        assert!(stats.resident_bytes + stats.index_bytes <= MEMORY + SEGMENT_BYTES as u64);
    }
    assert!(store.stats().cold_bytes > 400 << 10);
}

#[test]
fn appended_bytes_grow_by_the_logarithm() {
    let mut store = SegmentsBackend::new().open_store(StoreScope::new(SlotIndex(0))).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let count = 4096u64;
    for n in 0..count {
        table.append(key(b"list"), &n.to_le_bytes()).unwrap();
    }
    let appended = store.stats().appended_bytes;
    assert!(appended < count * (64 + 8 * 13), "{appended} bytes for {count} appends");
    let all: Vec<u8> = (0..count).flat_map(u64::to_le_bytes).collect();
    assert!(table.read(key(b"list"), |value| value == Some(&all[..])).unwrap());
}

#[test]
fn values_larger_than_a_segment_have_one_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    for directory in [None, Some(directory.path().to_owned())] {
        let mut scope = StoreScope::new(SlotIndex(0));
        scope.directory = directory;
        let backend = SegmentsBackend::new().with_segment_bytes(16 << 10);
        let mut store = backend.open_store(scope).unwrap();
        let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
        for n in 0..20u8 {
            let len = if n % 3 == 0 { 100_000 } else { 900 };
            table.insert(key(&[n]), &vec![n; len]).unwrap();
        }
        for n in 0..20u8 {
            let len = if n % 3 == 0 { 100_000 } else { 900 };
            assert!(table.read(key(&[n]), |value| value == Some(&vec![n; len][..])).unwrap());
        }
    }
}

#[test]
fn a_batch_does_what_single_updates_do() {
    let mut store = SegmentsBackend::new().open_store(StoreScope::new(SlotIndex(0))).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let names: Vec<[u8; 8]> = (0..1000u64).map(|n| (n % 300).to_le_bytes()).collect();
    let hashes: Vec<_> = names.iter().map(|name| key(name).hash).collect();
    let named = |i: usize| (key(&names[i]).group, &names[i][..]);
    for len in [0, 1, 31, 32, 33, 64, 1000] {
        table
            .modify_batch(Timestamp::MIN, &hashes[..len], named, |_, found, new| match found {
                crate::Found::Mutable(value) => {
                    value[0] += 1;
                    Update::Keep
                }
                found => {
                    assert!(found.value().is_none());
                    new.extend_from_slice(&[1]);
                    Update::Write
                }
            })
            .unwrap();
    }
    let expected = |n: usize| {
        [0, 1, 31, 32, 33, 64, 1000]
            .iter()
            .map(|len| (0..*len).filter(|i| i % 300 == n).count())
            .sum::<usize>()
    };
    let mut seen = 0;
    table
        .read_batch(Timestamp::MIN, &hashes[..300], named, |i, value| {
            assert_eq!(value, Some(&[expected(i) as u8][..]));
            seen += 1;
        })
        .unwrap();
    assert_eq!((seen, table.len(Timestamp::MIN)), (300, 300));
}

#[test]
fn memory_that_is_used_up_without_a_directory_is_an_error_that_says_what_to_set() {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.memory_bytes = 1 << 20;
    let mut store = SegmentsBackend::new().open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let error = (0..u32::MAX)
        .find_map(|n| table.insert(key(&n.to_le_bytes()), &[1; 100]).err())
        .expect("the budget ends");
    let words = words(&error);
    assert!(words.contains("state_memory") && words.contains("checkpoint directory"), "{words}");
}

#[test]
fn memory_is_never_exceeded_and_an_index_beyond_it_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    scope.memory_bytes = 3 << 20;
    let backend = SegmentsBackend::new().with_segment_bytes(32 << 10);
    let mut store = backend.open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let mut most = 0;
    let error = (0..u32::MAX).find_map(|n| {
        let stats = store.stats();
        most = most.max(stats.resident_bytes + stats.index_bytes);
        table.insert(key(&n.to_le_bytes()), &[1; 40]).err()
    });
    // A doubling of the index is announced, so that memory is there when it comes.
    assert!((2 << 20..=3 << 20).contains(&most), "{most} bytes of memory were in use");
    let words = words(&error.expect("the budget ends"));
    assert!(words.contains("index") && words.contains("state_memory"), "{words}");
    let entries = table.len(Timestamp::MIN);
    assert!(entries > 150_000, "{entries} entries of 8 to 21 bytes fit");
}

#[test]
fn state_larger_than_memory_lies_in_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    scope.memory_bytes = 2 << 20;
    let mut store = SegmentsBackend::new().open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let names: Vec<[u8; 8]> = (0..20_000u64).map(u64::to_le_bytes).collect();
    let hashes: Vec<_> = names.iter().map(|name| key(name).hash).collect();
    let named = |i: usize| (key(&names[i]).group, &names[i][..]);
    for round in 0..3u8 {
        table
            .modify_batch(Timestamp::MIN, &hashes, named, |_, found, new| {
                assert_eq!(found.value().map(|value| value[0]), round.checked_sub(1));
                new.resize(400, round);
                Update::Write
            })
            .unwrap();
        let stats = store.stats();
        assert!(stats.resident_bytes + stats.index_bytes <= 2 << 20, "{stats:?}");
        assert!(stats.cold_bytes > 6 << 20, "{stats:?}");
        assert!(stats.live_bytes + stats.dead_bytes < 3 * stats.live_bytes, "{stats:?}");
    }
    table
        .read_batch(Timestamp::MIN, &hashes, named, |_, value| {
            assert_eq!(value, Some(&[2; 400][..]))
        })
        .unwrap();
    assert!(store.stats().cold_reads > 10_000, "{:?}", store.stats());
}

fn bytes_in(directory: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// A checkpoint, and what it refers to.
fn checkpoint(store: &mut crate::SegmentStore, id: u64) -> Vec<crate::StateFile> {
    let (sender, receiver) = std::sync::mpsc::channel();
    store.cut(MemberIndex(0), CheckpointId(id));
    store.persist(CheckpointId(id), Box::new(move |files| sender.send(files).unwrap()));
    receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap()
}

#[test]
fn who_watches_hears_of_files_before_a_checkpoint_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, changes) = std::sync::mpsc::channel();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    // The last are told while the store is dropped.
    scope.watcher = Some(FileWatcher::new(move |change| drop(sender.send(change))));
    let backend = SegmentsBackend::new().with_segment_bytes(SEGMENT_BYTES);
    let mut store = backend.with_mutable_bytes(64 << 10).open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    for n in 0..4_000u32 {
        table.insert(key(&n.to_le_bytes()), &[7; 64]).unwrap();
    }
    let first = changes.recv_timeout(Duration::from_secs(60)).unwrap();
    let files = checkpoint(&mut store, 1);
    let mut told = std::collections::HashMap::new();
    for change in std::iter::once(first).chain(changes.try_iter()) {
        let FileChange::Grown { name, len } = change else { panic!("all of it is needed") };
        assert!(told.insert(name, len) < Some(len), "files only grow");
    }
    for file in &files {
        assert_eq!(told.get(&file.name), Some(&file.len), "{}", file.name);
    }
}

#[test]
fn who_watches_hears_of_what_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a");
    std::fs::write(&file, b"1").unwrap();
    let (sender, changes) = std::sync::mpsc::channel();
    let watcher = FileWatcher::new(move |change| sender.send(change).unwrap());
    let writer = super::writer::Writer::start(
        directory.path().to_owned(),
        BackgroundCores::default(),
        Some(watcher),
    );
    writer.unwrap().delete(0, "a".into());
    let change = changes.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(change, FileChange::Deleted { name: "a".into() });
    assert!(!file.exists());
}

#[test]
fn space_stays_below_three_times_what_is_live() {
    let directory = tempfile::tempdir().unwrap();
    for (directory, idle) in
        [(None, false), (Some(directory.path()), false), (Some(directory.path()), true)]
    {
        let mut scope = StoreScope::new(SlotIndex(0));
        scope.directory = directory.map(std::path::Path::to_owned);
        let backend =
            SegmentsBackend::new().with_segment_bytes(64 << 10).with_mutable_bytes(128 << 10);
        let mut store = backend.open_store(scope).unwrap();
        let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
        let slack = 8 * (64 << 10);
        for round in 0..60u64 {
            for n in 0..3000u64 {
                // Some keys live for ever, some change, some come and go, under new names.
                let name = match n % 4 {
                    0 => n,
                    1 | 2 => n + 10_000,
                    _ => n + 10_000 * (round + 2),
                };
                if n % 4 != 0 || round == 0 {
                    table.insert(key(&name.to_le_bytes()), &[round as u8; 100]).unwrap();
                }
                if n % 4 == 3 && round > 0 {
                    table.remove(key(&(n + 10_000 * (round + 1)).to_le_bytes())).unwrap();
                }
            }
            let files =
                if directory.is_some() { checkpoint(&mut store, round) } else { Vec::new() };
            if idle {
                while store.maintain(Duration::from_millis(1)) {}
            }
            let stats = store.stats();
            let data = stats.live_bytes - stats.removal_bytes;
            assert!((420_000..520_000).contains(&data), "{stats:?}");
            let total = stats.live_bytes + stats.dead_bytes;
            assert!(total <= 3 * data + slack, "round {round}: {stats:?}");
            let listed: u64 = files.iter().map(|file| file.len).sum();
            assert!(listed <= 3 * data + 2 * slack, "round {round}: {listed} {stats:?}");
        }
        assert_eq!(table.len(Timestamp::MIN), 3000);
    }
    assert!(bytes_in(directory.path()) > 0);
}

#[test]
fn a_log_shrinks_soon_after_its_state() {
    let backend = SegmentsBackend::new().with_segment_bytes(1 << 20);
    let mut store = backend.open_store(StoreScope::new(SlotIndex(0))).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let value = |n: u64| vec![n as u8; 90 + n as usize % 20];
    for n in 0..200_000u64 {
        table.insert(key(&n.to_le_bytes()), &value(n)).unwrap();
    }
    // Here and there, so that no segment is dead as a whole.
    for n in (0..200_000u64).filter(|n| n % 10 != 0) {
        table.remove(key(&n.to_le_bytes())).unwrap();
    }
    let total = |store: &crate::SegmentStore| {
        let stats = store.stats();
        stats.live_bytes + stats.dead_bytes
    };
    let (live, before) = (store.stats().live_bytes, total(&store));
    let written_before = store.stats().appended_bytes;
    let most = 3 * live + 8 * (1 << 20);
    assert!(before > 3 * most / 2, "{before} {most}");
    let mut n = 0u64;
    while total(&store) > most {
        // Of another length, so that it is written anew.
        table.insert(key(&(n % 200_000).to_le_bytes()), &value(n / 200_000 + n)).unwrap();
        n += 10;
        let written = store.stats().appended_bytes - written_before;
        assert!(
            2 * written < before - most,
            "{written} written, {} of {before} left",
            total(&store)
        );
    }
}

#[test]
fn what_is_deleted_gives_its_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = durable(directory.path(), None);
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let folder = directory.path().canonicalize().unwrap();
    // Mappings of files that are there, and of others.
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of_store = |line: &&str| line.contains(folder.to_str().unwrap());
        let (gone, there): (Vec<&str>, Vec<&str>) =
            maps.lines().filter(of_store).partition(|line| line.ends_with("(deleted)"));
        (there.len(), gone.len())
    };
    let (mut files, mut deleted) = (Vec::new(), 0);
    for round in 1..=50u64 {
        for n in 0..3000u64 {
            table.insert(key(&n.to_le_bytes()), &[round as u8; 40]).unwrap();
        }
        let newer = checkpoint(&mut store, round);
        for file in &files {
            if !newer.contains(file) {
                deleted += 1;
                std::fs::remove_file(directory.path().join(&file.name)).unwrap();
            }
        }
        files = newer;
    }
    assert!(deleted > 100, "{deleted} files were deleted");
    let (there, gone) = mapped();
    assert!(there > 0, "some are mapped");
    assert!(gone <= 8, "{gone} deleted files keep their space, of {deleted}");
}

#[test]
fn a_table_of_one_store_can_be_used_while_another_is_visited() {
    let mut store = SegmentsBackend::new()
        .with_segment_bytes(16 << 10)
        .open_store(StoreScope::new(SlotIndex(0)))
        .unwrap();
    let mut from = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let mut to = store.segment_table(MemberIndex(0), &spec().with_name("other")).unwrap();
    for n in 0..100u8 {
        from.insert(key(&[n]), &[n; 500]).unwrap();
    }
    from.for_each(Timestamp::MIN, &mut |entry| to.insert(key(entry.key), entry.value)).unwrap();
    assert_eq!(to.len(Timestamp::MIN), 100);
    assert!(to.read(key(&[42]), |value| value == Some(&[42; 500][..])).unwrap());
}
