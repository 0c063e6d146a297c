use super::layout::*;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn file_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._-]{1,20}".prop_filter("a file name", |name| is_file_name(name))
}

fn state_file() -> impl Strategy<Value = StateFileEntry> {
    (file_name(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(name, len, note)| StateFileEntry { name, len, note })
}

fn slot() -> impl Strategy<Value = SlotEntry> {
    let snapshot = (file_name(), any::<u64>(), any::<u32>())
        .prop_map(|(name, len, crc32c)| FileEntry { name, len, crc32c });
    (any::<u32>(), snapshot, proptest::collection::vec(state_file(), 0..4)).prop_map(
        |(slot, snapshot, state_files)| SlotEntry { slot: SlotIndex(slot), snapshot, state_files },
    )
}

fn operator() -> impl Strategy<Value = OperatorEntry> {
    (".{0,10}", ".{0,10}", any::<u32>()).prop_map(|(uid, name, parallelism)| OperatorEntry {
        uid,
        name,
        parallelism,
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let kind = prop_oneof![
        Just(CheckpointKind::Checkpoint),
        Just(CheckpointKind::Savepoint),
        Just(CheckpointKind::Final),
        Just(CheckpointKind::Stop)
    ];
    (
        (any::<u64>(), kind, ".{0,20}", any::<i64>(), 1..=millstream_types::MAX_PARALLELISM_LIMIT),
        ".{0,10}",
        proptest::collection::vec(operator(), 0..4),
        proptest::collection::vec(slot(), 0..4),
    )
        .prop_map(
            |((checkpoint, kind, job, created, groups), backend, mut operators, mut slots)| {
                operators.sort_by(|a, b| a.uid.cmp(&b.uid));
                operators.dedup_by(|a, b| a.uid == b.uid);
                slots.sort_by_key(|slot| slot.slot);
                slots.dedup_by_key(|slot| slot.slot);
                Manifest {
                    checkpoint: CheckpointId(checkpoint),
                    kind,
                    job,
                    created: Timestamp::from_nanos(created),
                    max_parallelism: groups,
                    backend,
                    operators,
                    slots,
                }
            },
        )
}

fn example() -> Manifest {
    let state_file = |name: &str, len| StateFileEntry { name: name.to_owned(), len, note: vec![7] };
    Manifest {
        checkpoint: CheckpointId(12),
        kind: CheckpointKind::Checkpoint,
        job: "word count".to_owned(),
        created: Timestamp::from_millis(1_000),
        max_parallelism: 128,
        backend: "segments".to_owned(),
        operators: vec![
            OperatorEntry { uid: "count".to_owned(), name: "Count".to_owned(), parallelism: 2 },
            OperatorEntry { uid: "read".to_owned(), name: "read".to_owned(), parallelism: 1 },
        ],
        slots: vec![
            SlotEntry {
                slot: SlotIndex(0),
                snapshot: FileEntry::of("slot-0.snapshot", b"abc"),
                state_files: vec![state_file("a.seg", 100), state_file("b.seg", 10)],
            },
            SlotEntry {
                slot: SlotIndex(1),
                snapshot: FileEntry::of("slot-1.snapshot", b""),
                state_files: vec![state_file("a.seg", 300)],
            },
        ],
    }
}

/// The bytes with another version in them, and a checksum to match.
fn reframed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    let body_len = (bytes.len() - 20) as u64;
    bytes[12..20].copy_from_slice(&body_len.to_le_bytes());
    let checksum = crc_fast::crc32_iscsi(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(manifest in manifest()) {
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn bytes_of_any_kind_are_no_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn bodies_of_any_kind_are_read_without_a_panic(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<proptest::sample::Index>(),
        patch in any::<[u8; 4]>(),
    ) {
        let bytes = reframed(example().encode(), |bytes| {
            bytes.truncate(20);
            bytes.extend_from_slice(&body);
        });
        let _ = Manifest::decode(&bytes);
        // Mostly right, with one wrong length or count.
        let bytes = reframed(example().encode(), |bytes| {
            let at = 20 + at.index(bytes.len() - 24);
            bytes[at..at + 4].copy_from_slice(&patch);
        });
        let _ = Manifest::decode(&bytes);
    }

    #[test]
    fn what_is_decoded_encodes_to_the_same_bytes(
        at in any::<proptest::sample::Index>(),
        patch in any::<u8>(),
    ) {
        let bytes = reframed(example().encode(), |bytes| {
            let at = 20 + at.index(bytes.len() - 20);
            bytes[at] = patch;
        });
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert_eq!(manifest.encode(), bytes);
        }
    }

    #[test]
    fn paths_of_any_kind_have_one_meaning(path in "(chk-|state/|LOCK)?[0-9]{0,12}(/|/MANIFEST|/s)?.{0,3}") {
        let written = match Place::of(&path) {
            Place::Lock => LOCK.to_owned(),
            Place::Manifest(checkpoint) => manifest_path(checkpoint),
            Place::Part(checkpoint) => {
                let (folder, name) = path.split_once('/').unwrap();
                prop_assert_eq!(folder, checkpoint_folder(checkpoint));
                prop_assert_ne!(name, MANIFEST);
                checkpoint_path(checkpoint, name)
            }
            Place::State(name) => state_path(&name),
            Place::Other => path.clone(),
        };
        prop_assert_eq!(written, path);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = example().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = Manifest::decode(&flipped).expect_err("a bit is wrong");
        // A flipped bit in the version is damage, and not a newer version.
        assert!(!error.is_newer_format(), "bit {bit}: {error}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = example().encode();
    for len in 0..bytes.len() {
        let error = Manifest::decode(&bytes[..len]).expect_err("the end is missing");
        assert!(matches!(error, ManifestError::Truncated { .. }), "{len}: {error}");
    }
    let mut longer = bytes;
    longer.extend_from_slice(b"xyz");
    assert_eq!(Manifest::decode(&longer), Err(ManifestError::TrailingBytes { count: 3 }));
}

#[test]
fn versions_are_told_apart() {
    let with_version = |version: u32| {
        let bytes = reframed(example().encode(), |bytes| {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            bytes.extend_from_slice(b"a field of the future");
        });
        Manifest::decode(&bytes).unwrap_err()
    };
    assert_eq!(
        with_version(2).to_string(),
        "its format has version 2, newer than this program's 1: upgrade the program that reads it"
    );
    assert_eq!(with_version(0), ManifestError::UnknownVersion { version: 0 });
    let malformed = with_version(1);
    assert!(matches!(malformed, ManifestError::Malformed { field: "body", .. }), "{malformed}");
    assert_eq!(Manifest::decode(b"{\"json\": true}"), Err(ManifestError::NotAManifest));
}

#[test]
fn huge_counts_take_no_memory() {
    // The count of operators stands after the checkpoint, kind, job, time, groups and backend.
    let at = 20 + 8 + 1 + (4 + 10) + 8 + 2 + (4 + 8);
    let bytes = reframed(example().encode(), |bytes| {
        assert_eq!(bytes[at..at + 4], 2u32.to_le_bytes());
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    });
    let problem = "is longer than the manifest";
    assert_eq!(
        Manifest::decode(&bytes),
        Err(ManifestError::Malformed { field: "list of operators", problem })
    );
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let bytes = reframed(example().encode(), |bytes| {
        let at = bytes.windows(5).position(|window| window == b"a.seg").unwrap();
        bytes[at..at + 5].copy_from_slice(b"../..");
    });
    let error = Manifest::decode(&bytes).unwrap_err();
    assert!(matches!(error, ManifestError::Malformed { field: "list of files", .. }), "{error}");
}

#[test]
#[should_panic(expected = "names one twice")]
fn a_manifest_that_could_not_be_read_is_not_written() {
    let mut manifest = example();
    manifest.slots[1].slot = SlotIndex(0);
    manifest.encode();
}

#[test]
fn files_of_several_slots_count_once() {
    let manifest = example();
    assert_eq!(manifest.state_files().into_iter().collect::<Vec<_>>(), ["a.seg", "b.seg"]);
    assert_eq!(manifest.referenced_bytes(), 3 + 300 + 10);
    assert_eq!(FileEntry::of("x", b"123456789").crc32c, 0xe306_9283, "the check value of crc32c");
}

#[test]
fn a_job_needs_a_place_for_all_state() {
    let manifest = example();
    let check = |operators: &[&str], groups, backend| {
        manifest.check_job(operators.iter().copied(), groups, backend).map_err(|e| e.to_string())
    };
    assert_eq!(check(&["read", "count"], 128, "segments"), Ok(()));
    assert_eq!(check(&["read", "new", "count"], 128, "segments"), Ok(()));
    let refused = |result: Result<(), String>, words: &[&str]| {
        let error = result.expect_err("it does not fit");
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    };
    refused(
        check(&["read", "total"], 128, "segments"),
        &["job \"word count\"", "\"count\" (Count)", "former uid"],
    );
    refused(check(&[], 128, "segments"), &["\"count\" (Count), \"read\","]);
    refused(check(&["read", "count"], 64, "segments"), &["128", "has 64", "set the max parallel"]);
    refused(check(&["read", "count"], 128, "heap"), &["segments", "has heap", "choose segments"]);
}

#[test]
fn a_listing_is_sorted_out() {
    let contents = Contents::of([
        ("LOCK", 40),
        ("chk-00000002/MANIFEST", 10),
        ("chk-00000002/slot-0.snapshot", 5),
        ("chk-00000001/slot-0.snapshot", 6),
        ("chk-00000003/slot-0.snapshot", 7),
        ("chk-00000003/MANIFEST", 1),
        ("chk-4/MANIFEST", 1),
        ("chk-00000005", 1),
        ("chk-00000006/deeper/MANIFEST", 1),
        ("state/a.seg", 300),
        ("state/old.seg", 9),
        ("notes.txt", 1),
    ]);
    let ids = |map: &BTreeMap<CheckpointId, u64>| map.iter().map(|(k, v)| (k.0, *v)).collect();
    let (complete, incomplete): (Vec<_>, Vec<_>) =
        (ids(&contents.complete), ids(&contents.incomplete));
    assert_eq!(complete, [(2, 15), (3, 8)]);
    assert_eq!(incomplete, [(1, 6)]);
    assert_eq!(contents.orphaned_state_files([&example()]), ["old.seg"]);
    assert_eq!(contents.orphaned_state_files([]), ["a.seg", "old.seg"]);
    assert_eq!(contents.next_checkpoint(), CheckpointId(4));
    assert_eq!(Contents::default().next_checkpoint(), CheckpointId(1));
    let incomplete =
        Contents::of([("chk-00000007/slot-0.snapshot", 1), ("chk-00000003/MANIFEST", 1)]);
    assert_eq!(incomplete.next_checkpoint(), CheckpointId(8));
    assert!(!contents.is_empty());
    assert!(Contents::of([("LOCK", 1), ("notes.txt", 1)]).is_empty());
}

#[test]
fn a_deleted_checkpoint_takes_its_own_files_alone() {
    let mut other = example();
    other.slots.truncate(1);
    other.slots[0].state_files.truncate(1);
    let deleted = example();
    assert_eq!(files_only_in(&deleted, [&other]).into_iter().collect::<Vec<_>>(), ["b.seg"]);
    assert!(files_only_in(&other, [&deleted]).is_empty());
    assert_eq!(files_only_in(&deleted, []).len(), 2);
}

#[test]
fn names_are_written_as_documented() {
    assert_eq!(manifest_path(CheckpointId(12)), "chk-00000012/MANIFEST");
    assert_eq!(checkpoint_folder(CheckpointId(123_456_789)), "chk-123456789");
    assert_eq!(snapshot_name(SlotIndex(3)), "slot-3.snapshot");
    assert_eq!(state_path("a"), "state/a");
    assert_eq!(checkpoint_of_folder("chk-00000012"), Some(CheckpointId(12)));
    assert_eq!(checkpoint_of_folder("chk-12"), None);
    assert_eq!(checkpoint_of_folder("chk-+0000012"), None);
}

#[test]
fn the_documented_example_is_a_manifest() {
    let document = include_str!("../../../docs/formats/checkpoints.md");
    let (_, example) = document.split_once("### An example").unwrap();
    let lines = example.split("```").nth(1).unwrap().trim().lines();
    let mut bytes = Vec::new();
    for line in lines {
        let (offset, rest) = line.split_once("  ").unwrap();
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let hex = rest.split("  ").next().unwrap().split(' ');
        bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    let documented = Manifest::decode(&bytes).unwrap();
    let expected = Manifest {
        checkpoint: CheckpointId(1),
        kind: CheckpointKind::Checkpoint,
        job: "j".to_owned(),
        created: Timestamp::from_nanos(0),
        max_parallelism: 128,
        backend: "heap".to_owned(),
        operators: vec![OperatorEntry {
            uid: "count".to_owned(),
            name: "C".to_owned(),
            parallelism: 2,
        }],
        slots: vec![SlotEntry {
            slot: SlotIndex(0),
            snapshot: FileEntry::of("slot-0.snapshot", b"abc"),
            state_files: vec![StateFileEntry {
                name: "a.seg".to_owned(),
                len: 4096,
                note: vec![42],
            }],
        }],
    };
    assert_eq!(documented, expected);
}
