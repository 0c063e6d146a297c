//! Going back to a checkpoint in place, where memory is short or checkpoints are given up.

use crate::segments::address::Address;
use crate::segments::record::{Header, Kind};
use crate::{
    ByteTable, EntryKey, MemberIndex, RestoredFiles, SegmentStore, SegmentTable, SegmentsBackend,
    StateStore, StoreScope, TableSpec,
};
use millstream_types::{CheckpointId, KeyGroup, KeyGroupRange, SlotIndex, Timestamp, hash_key};
use std::sync::mpsc::channel;
use std::time::Duration;

const GROUPS: u16 = 2;
/// An index of so many keys has 512 KiB.
const KEYS: u64 = 40_000;

/// A store of two members, each of one key group, and their tables.
struct Two {
    scope: StoreScope,
    store: SegmentStore,
    tables: Vec<SegmentTable>,
    _directory: tempfile::TempDir,
}

fn spec(member: u16) -> TableSpec {
    TableSpec::new("op", "table", KeyGroupRange(member..member + 1), GROUPS)
}

fn insert(table: &mut SegmentTable, group: u16, namespace: Timestamp, key: u64, value: u64) {
    let bytes = key.to_le_bytes();
    let key = EntryKey { namespace, group: KeyGroup(group), hash: hash_key(&key), bytes: &bytes };
    table.insert(key, &value.to_le_bytes()).unwrap();
}

impl Two {
    fn open(memory_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut scope = StoreScope::new(SlotIndex(0));
        scope.directory = Some(directory.path().to_owned());
        scope.memory_bytes = memory_bytes;
        scope.owned = (0..GROUPS).map(|m| ("op".to_owned(), spec(m).key_groups)).collect();
        let backend = SegmentsBackend::new().with_segment_bytes(16 << 10);
        let mut store = backend.open_store(scope.clone()).unwrap();
        let open = |m: u16| store.segment_table(MemberIndex(m.into()), &spec(m)).unwrap();
        let tables = (0..GROUPS).map(open).collect();
        Self { scope, store, tables, _directory: directory }
    }

    fn cut(&mut self, member: u32, checkpoint: u64) {
        self.store.cut(MemberIndex(member), CheckpointId(checkpoint));
    }

    fn persist(&mut self, checkpoint: u64) -> RestoredFiles {
        let (sender, receiver) = channel();
        let checkpoint = CheckpointId(checkpoint);
        self.store.persist(checkpoint, Box::new(move |files| sender.send(files).unwrap()));
        let files = receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        RestoredFiles { checkpoint, files }
    }

    /// Why the store does not get back to a checkpoint in place.
    fn stuck_before(self, checkpoint: RestoredFiles) -> Option<String> {
        let Self { mut scope, store, tables, _directory } = self;
        drop(tables);
        scope.restored = Some(checkpoint);
        let Some(frozen) = store.freeze() else { return Some("nothing is left".to_owned()) };
        frozen.thaw(&scope).err()
    }
}

/// The keys of a slice, whose index has some hundred KiB.
fn fill_slice(two: &mut Two, namespace: Timestamp) {
    (0..20_000).for_each(|key| insert(&mut two.tables[0], 0, namespace, key, key));
}

#[test]
fn a_cut_that_was_forgotten_for_want_of_memory_does_not_come_back_with_the_next_member() {
    let slice = Timestamp::from_nanos(1);
    for (memory_bytes, stuck) in [(u64::MAX, None), (1_000_000, Some("memory was short"))] {
        let mut two = Two::open(memory_bytes);
        (0..KEYS).for_each(|key| insert(&mut two.tables[0], 0, Timestamp::MIN, key, key));
        insert(&mut two.tables[0], 0, slice, 1, 1);
        two.cut(0, 1);
        insert(&mut two.tables[0], 0, Timestamp::MIN, 7, 8);
        two.tables[0].remove_namespace(slice).unwrap();
        two.cut(1, 1);
        let checkpoint = two.persist(1);
        assert_eq!(two.stuck_before(checkpoint).as_deref(), stuck, "{memory_bytes}");
    }
}

#[test]
fn slices_are_kept_for_a_checkpoint_until_it_is_given_up() {
    let mut two = Two::open(u64::MAX);
    let (first, second) = (Timestamp::from_nanos(1), Timestamp::from_nanos(2));
    let index_bytes = |two: &Two| two.store.stats().index_bytes;
    let before = index_bytes(&two);
    fill_slice(&mut two, first);
    two.cut(0, 1);
    two.tables[0].remove_namespace(first).unwrap();
    fill_slice(&mut two, second);
    two.tables[0].remove_namespace(second).unwrap();
    let kept = index_bytes(&two);
    assert!(kept > before + (300 << 10), "{kept}");
    two.store.aborted(CheckpointId(1));
    // Some of it is spare memory for the next ones.
    let spare = index_bytes(&two);
    fill_slice(&mut two, first);
    two.tables[0].remove_namespace(first).unwrap();
    assert_eq!(index_bytes(&two), spare, "nobody goes back to a checkpoint that was given up");
    assert!(spare <= kept);
}

#[test]
fn slices_that_began_after_the_checkpoint_are_not_kept() {
    let mut two = Two::open(u64::MAX);
    let slice = Timestamp::from_nanos(1);
    insert(&mut two.tables[1], 1, Timestamp::MIN, 1, 1);
    (0..2).for_each(|member| two.cut(member, 1));
    two.persist(1);
    two.store.completed(CheckpointId(1), CheckpointId(1));
    let mut bytes = Vec::new();
    for _ in 0..4 {
        fill_slice(&mut two, slice);
        two.tables[0].remove_namespace(slice).unwrap();
        bytes.push(two.store.stats().index_bytes);
    }
    assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "{bytes:?}");
}

/// An index of 256 KiB is kept for the checkpoint, and then another takes 512.
#[test]
fn slices_that_are_kept_make_way_for_those_in_use() {
    let mut two = Two::open(700_000);
    let (first, second) = (Timestamp::from_nanos(1), Timestamp::from_nanos(2));
    fill_slice(&mut two, first);
    (0..2).for_each(|member| two.cut(member, 1));
    let checkpoint = two.persist(1);
    two.tables[0].remove_namespace(first).unwrap();
    assert!(two.store.stats().index_bytes >= 256 << 10, "it is kept");
    (0..30_000).for_each(|key| insert(&mut two.tables[0], 0, second, key, key));
    assert_eq!(two.stuck_before(checkpoint).as_deref(), Some("memory was short"));
}

#[test]
fn what_more_pieces_were_merged_of_than_memory_allows_is_not_known() {
    for (pieces, stuck) in [(200, None), (1_000, Some("a merge that is not kept"))] {
        let mut two = Two::open(100_000);
        (0..2).for_each(|member| two.cut(member, 1));
        let checkpoint = two.persist(1);
        for piece in 0..pieces {
            let (bytes, namespace) = (piece % 2_u64, Timestamp::MIN);
            let bytes = bytes.to_le_bytes();
            let hash = hash_key(&bytes);
            let key = EntryKey { namespace, group: KeyGroup(0), hash, bytes: &bytes };
            two.tables[0].append(key, &piece.to_le_bytes()).unwrap();
        }
        assert_eq!(two.stuck_before(checkpoint).as_deref(), stuck, "{pieces}");
    }
}

#[test]
fn a_store_that_could_not_append_leaves_nothing() {
    let mut two = Two::open(u64::MAX);
    (0..2).for_each(|member| two.cut(member, 1));
    let checkpoint = two.persist(1);
    let too_long = Header {
        hash: 0,
        previous: Address::NONE,
        table: 0,
        epoch: 2,
        key_len: u32::MAX,
        value_len: u32::MAX,
        group: KeyGroup(0),
        kind: Kind::Whole,
        namespaced: false,
        expires: false,
    };
    two.store.shared.log.borrow_mut().append(&too_long, Timestamp::MIN, &[], &[]).unwrap_err();
    assert_eq!(two.stuck_before(checkpoint).as_deref(), Some("nothing is left"));
}
