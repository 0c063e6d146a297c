use super::*;
use proptest::prelude::*;

type Entries = Vec<(u16, i64, Vec<u8>, Vec<u8>)>;

fn spec() -> TableSpec {
    let mut spec = TableSpec::new("operator", "table", KeyGroupRange(0..16), 16);
    spec.schema = "k -> v".to_owned();
    spec
}

fn written(entries: &Entries, items: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = SnapshotWriter::new();
    writer.list("source", "positions", SubtaskIndex(3), items);
    let visited = writer.table(&spec(), SubtaskIndex(1), |sink| {
        entries.iter().try_for_each(|(group, namespace, key, value)| {
            let namespace = Timestamp::from_nanos(*namespace);
            sink(StoredEntry { namespace, group: KeyGroup(*group), key, value })
        })
    });
    visited.expect("nothing to fail");
    writer.finish()
}

fn entries() -> impl Strategy<Value = Entries> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    prop::collection::vec((0u16..16, any::<i64>(), bytes(), bytes()), 0..30).prop_map(|mut e| {
        e.sort_by_key(|(group, ..)| *group);
        e
    })
}

proptest! {
    #[test]
    fn any_range_of_key_groups_is_read_back_as_it_was(
        entries in entries(),
        items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..5),
        from in 0u16..17,
        to in 0u16..17,
    ) {
        let snapshot = Snapshot::read(written(&entries, &items)).unwrap();
        let [list] = snapshot.lists() else { panic!("one list") };
        prop_assert_eq!(&list.items, &items);
        prop_assert_eq!((&*list.operator, &*list.name, list.subtask), ("source", "positions", SubtaskIndex(3)));
        let [section] = snapshot.tables() else { panic!("one table") };
        prop_assert_eq!((&*section.operator, &*section.name, &*section.schema), ("operator", "table", "k -> v"));
        prop_assert_eq!(section.max_parallelism, 16);
        let mut found = Entries::new();
        let visited = snapshot.visit(section, &KeyGroupRange(from..to), &mut |e| {
            found.push((e.group.0, e.namespace.as_nanos(), e.key.to_vec(), e.value.to_vec()));
            Ok(())
        });
        prop_assert!(visited.is_ok());
        let expected: Entries =
            entries.into_iter().filter(|(group, ..)| (from..to).contains(group)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_changed_or_missing_byte_goes_unnoticed(
        entries in entries(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let bytes = written(&entries, &[vec![1, 2]]);
        let at = at.index(bytes.len());
        prop_assert!(Snapshot::read(&bytes[..at]).is_err(), "cut off at {at}");
        let mut flipped = bytes;
        flipped[at] ^= 1 << bit;
        prop_assert!(Snapshot::read(flipped).is_err(), "bit {bit} of byte {at}");
    }

    #[test]
    fn bytes_from_anywhere_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut all = MAGIC.to_vec();
        all.extend_from_slice(&VERSION.to_le_bytes());
        all.extend_from_slice(&bytes);
        // The empty snapshot is the only one that is found by chance.
        prop_assert_eq!(Snapshot::read(all).is_ok(), bytes == [END]);
    }
}

#[test]
fn a_snapshot_of_a_newer_format_says_so() {
    let mut bytes = SnapshotWriter::new().finish();
    bytes[8] = 2;
    assert_eq!(Snapshot::read(bytes).unwrap_err(), SnapshotError::Newer { found: 2 });
}

/// The snapshots that fuzzing begins with, in `fuzz/corpus/snapshot`.
#[test]
fn the_seeds_are_what_is_written_and_are_read() {
    let entry = |group, namespace, key: &[u8], value: &[u8]| {
        (group, namespace, key.to_vec(), value.to_vec())
    };
    let groups: Entries =
        (0..16).map(|g| entry(g, i64::MIN, &u64::from(g).to_le_bytes(), &[7; 8])).collect();
    let windows = [(2, 0), (2, 1_000_000_000), (9, 0)].map(|(g, n)| entry(g, n, b"key", b"sum"));
    let timers = [(0, -1), (5, 60)].map(|(g, n)| entry(g, i64::MIN, &i64::to_le_bytes(n), &[]));
    let long = vec![entry(3, i64::MIN, &[1; 99], &[2; 999])];
    let items = [b"position".to_vec(), Vec::new(), vec![4; 40]];
    let table: [(&str, Entries, &[Vec<u8>]); 6] = [
        ("empty", Vec::new(), &[]),
        ("list", Vec::new(), &items),
        ("groups", groups, &[]),
        ("windows", windows.to_vec(), &items[..1]),
        ("timers", timers.to_vec(), &[]),
        ("long", long, &items),
    ];
    for (name, entries, items) in table {
        let bytes = written(&entries, items);
        let snapshot = Snapshot::read(bytes.clone()).unwrap();
        assert_eq!(snapshot.check_entries().unwrap(), entries.len() as u64, "{name}");
        crate::testing::check_seed("snapshot", name, &bytes);
    }
    crate::testing::check_seed("snapshot", "bare", &SnapshotWriter::new().finish());
}

#[test]
fn an_entry_that_is_cut_off_is_found() {
    let whole = written(&vec![(3, 0, b"key".to_vec(), b"value".to_vec())], &[]);
    // The length of the value: behind it are the key, the value, one group, the checksum, the end.
    let at = whole.len() - (8 + 3 + 5 + 10 + 4 + 1);
    let mut bytes = whole;
    assert_eq!(bytes[at], 5);
    bytes[at] = 6;
    let start = bytes.len() - 5;
    let list_end = HEADER_BYTES + SECTION_HEAD_BYTES + list_body_len(&bytes) + 4;
    let checksum = crc_fast::crc32_iscsi(&bytes[list_end..start]);
    bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    let error = Snapshot::read(bytes).unwrap().check_entries().expect_err("cut off");
    assert!(error.to_string().contains("operator/table"), "{error}");
}

/// The length of the first section's body.
fn list_body_len(bytes: &[u8]) -> usize {
    usize::from(bytes[HEADER_BYTES + 1])
}
