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
