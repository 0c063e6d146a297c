//! The segments that fuzzing begins with, in `fuzz/corpus`: whole files (`segment`), and extents as
//! `fuzz/src/segment.rs` wants them described (`segment_extent`).

use super::{checkpoint, key, spec};
use crate::segments::format;
use crate::testing::check_seed;
use crate::{
    ByteTable, MemberIndex, SegmentStore, SegmentTable, SegmentsBackend, StoreScope, Ttl,
    check_segment,
};
use millstream_types::{KeyGroupRange, SlotIndex, Timestamp};
use std::time::Duration;

type Step = fn(&mut SegmentStore, &mut SegmentTable);

fn insert(table: &mut SegmentTable, keys: std::ops::Range<u32>, value: &[u8]) {
    for n in keys {
        table.insert(key(&n.to_le_bytes()), value).unwrap();
    }
}

/// In windows, of which the first one ends.
fn windows(_: &mut SegmentStore, table: &mut SegmentTable) {
    for n in 0..6u32 {
        let bytes = n.to_le_bytes();
        let namespace = Timestamp::from_nanos(i64::from(n % 3));
        let key = crate::EntryKey { namespace, ..key(&bytes) };
        table.insert(key, &[n as u8; 24]).unwrap();
    }
}

/// A table whose values end with their expiry.
fn expiring_table(store: &mut SegmentStore) -> SegmentTable {
    let spec = spec().with_name("expiring").with_ttl(Ttl::new(Duration::from_secs(1)));
    store.segment_table(MemberIndex(0), &spec).unwrap()
}

fn expiring(store: &mut SegmentStore, _: &mut SegmentTable) {
    let mut table = expiring_table(store);
    insert(&mut table, 0..4, &[&b"value"[..], &77_000i64.to_le_bytes()].concat());
    table.append(key(b"list"), &[&b"item"[..], &78_000i64.to_le_bytes()].concat()).unwrap();
}

fn expiring_removed(store: &mut SegmentStore, _: &mut SegmentTable) {
    let mut table = expiring_table(store);
    table.remove(key(&1u32.to_le_bytes())).unwrap();
    table.append(key(b"list"), &[&b"2"[..], &79_000i64.to_le_bytes()].concat()).unwrap();
}

/// What a table goes through, with a checkpoint after each step.
const STORIES: &[(&str, u64, &[Step])] = &[
    ("value", 1, &[|_, table| insert(table, 0..1, &[1; 16])]),
    (
        "updates",
        6 + 6 + 2,
        &[
            |_, table| insert(table, 0..6, b"before"),
            |_, table| insert(table, 0..6, b"after the checkpoint"),
            |_, table| insert(table, 9..11, &[]),
        ],
    ),
    (
        "pieces",
        3,
        &[
            |_, table| table.append(key(b"list"), b"one").unwrap(),
            |_, table| table.append(key(b"list"), b"two").unwrap(),
            |_, table| table.append(key(b"list"), &[3; 40]).unwrap(),
        ],
    ),
    (
        "removed",
        4 + 2,
        &[
            |_, table| insert(table, 0..4, b"here"),
            |_, table| (0..2u32).for_each(|n| table.remove(key(&n.to_le_bytes())).unwrap()),
        ],
    ),
    (
        "windows",
        6 + 1 + 1,
        &[
            windows,
            |_, table| table.remove_namespace(Timestamp::from_nanos(0)).unwrap(),
            |_, table| insert(table, 0..1, &[9]),
        ],
    ),
    (
        "tables",
        2 + 1,
        &[
            |_, table| insert(table, 0..2, b"of one"),
            |store, _| {
                let other = spec().with_name("another table");
                let mut table = store.segment_table(MemberIndex(0), &other).unwrap();
                insert(&mut table, 0..1, b"of the other");
            },
        ],
    ),
    ("expiring", 4 + 1 + 2, &[expiring, expiring_removed]),
];

/// The only segment of a store that went through the steps.
fn segment(steps: &[Step]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.path().to_owned());
    scope.owned = vec![("operator".into(), KeyGroupRange(0..16))];
    let mut store = SegmentsBackend::new().open_store(scope).unwrap();
    let mut table = store.segment_table(MemberIndex(0), &spec()).unwrap();
    let mut files = Vec::new();
    for (id, step) in (1..).zip(steps) {
        step(&mut store, &mut table);
        files = checkpoint(&mut store, id);
    }
    let [file] = &files[..] else { panic!("{files:?}") };
    let mut bytes = std::fs::read(directory.path().join(&file.name)).unwrap();
    // The name of the store is random.
    let header = format::FileHeader { run: 0x5eed, number: 1 };
    header.encode(&mut bytes[..format::PAGE]);
    bytes
}

/// The extents of a segment, described: the lengths of data and tables, the last fields of the
/// trailer, the data, the tables.
fn described(segment: &[u8]) -> Vec<u8> {
    let (_, extents) = format::decode("seed", segment).unwrap();
    let mut out = Vec::new();
    for extent in extents {
        let data = &segment[extent.start..extent.end];
        let used = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last / 16 + 1);
        let tables = format::encode_tables(&extent.tables);
        out.extend_from_slice(&u16::try_from(used).unwrap().to_le_bytes());
        out.extend_from_slice(&u16::try_from(tables.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&extent.records.to_le_bytes());
        out.extend_from_slice(&extent.epoch_max.to_le_bytes());
        out.extend_from_slice(&data[..used * 16]);
        out.extend_from_slice(&tables);
    }
    out
}

#[test]
fn the_seeds_are_what_is_written_and_are_read() {
    for (name, records, steps) in STORIES {
        let bytes = segment(steps);
        assert_eq!(check_segment(name, &bytes).unwrap(), *records, "{name}");
        check_seed("segment_extent", name, &described(&bytes));
        check_seed("segment", name, &bytes);
    }
}
