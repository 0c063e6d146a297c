//! Random operations, cuts, checkpoints and restarts, compared with a map.

use crate::segments::SegmentTable;
use crate::{
    ByteTable, EntryKey, MemberIndex, RestoredFiles, SegmentStore, SegmentsBackend, StateFile,
    StateStore, StoreScope, TableSpec, Update,
};
use millstream_types::{
    CheckpointId, KeyGroup, KeyGroupAssignment, KeyGroupRange, SlotIndex, SubtaskIndex, Timestamp,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

const GROUPS: u16 = 8;
const TABLES: u8 = 2;

type Model = BTreeMap<(u8, Timestamp, u8), Vec<u8>>;

#[derive(Clone, Debug)]
enum Operation {
    Put {
        table: u8,
        namespace: u8,
        key: u8,
        len: usize,
        fill: u8,
    },
    /// Changes a value in place where that is allowed.
    Modify {
        table: u8,
        namespace: u8,
        key: u8,
        fill: u8,
    },
    Append {
        table: u8,
        namespace: u8,
        key: u8,
        len: usize,
        fill: u8,
    },
    Remove {
        table: u8,
        namespace: u8,
        key: u8,
    },
    RemoveNamespace {
        table: u8,
        namespace: u8,
    },
    /// The next member cuts; with the last one the checkpoint is made durable.
    Cut,
    Maintain,
    /// Restores one of the checkpoints aside and compares it.
    Verify {
        which: usize,
        slots: u16,
        members: u16,
    },
    /// Goes on from the newest checkpoint, with so many slots and members in each.
    Restart {
        slots: u16,
        members: u16,
    },
    /// Gives up the checkpoint that some members have cut.
    Abort,
    /// Says to the slots that the newest checkpoint is complete.
    Complete,
    /// Goes on from the newest checkpoint, in place where that can be; the number of one that was under way may
    /// be given again.
    RollBack {
        again: bool,
    },
}

impl Operation {
    /// Does about the same to one of two entries, whose values are in pieces most of the time.
    fn crowd(&mut self) {
        use Operation::*;
        let (table, namespace) = (0, 1);
        *self = match *self {
            Put { key, len, fill, .. } if len >= 500 => {
                Put { table, namespace, key: key % 2, len, fill }
            }
            Put { key, len, fill, .. } | Append { key, len, fill, .. } => {
                Append { table, namespace, key: key % 2, len, fill }
            }
            Modify { key, fill, .. } if fill > 200 => {
                Modify { table, namespace, key: key % 2, fill }
            }
            Modify { key, fill, .. } => {
                Append { table, namespace, key: key % 2, len: fill.into(), fill }
            }
            Remove { key, .. } if key < 4 => Remove { table, namespace, key: key % 2 },
            Remove { key, .. } => Append { table, namespace, key: key % 2, len: 16, fill: key },
            ref other => other.clone(),
        };
    }
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::*;
    let (table, namespace, key) = (0..TABLES, 0u8..3, 0u8..24);
    let len =
        prop_oneof![4 => 0usize..40, 2 => Just(16), 2 => 500usize..3000, 1 => 9000usize..20_000];
    let entry = (table.clone(), namespace.clone(), key.clone());
    let operation = prop_oneof![
        20 => (entry.clone(), len.clone(), any::<u8>())
            .prop_map(|((table, namespace, key), len, fill)| Put { table, namespace, key, len, fill }),
        10 => (entry.clone(), any::<u8>())
            .prop_map(|((table, namespace, key), fill)| Modify { table, namespace, key, fill }),
        10 => (entry.clone(), 0usize..200, any::<u8>())
            .prop_map(|((table, namespace, key), len, fill)| Append { table, namespace, key, len, fill }),
        10 => entry.prop_map(|(table, namespace, key)| Remove { table, namespace, key }),
        2 => (table, namespace).prop_map(|(table, namespace)| RemoveNamespace { table, namespace }),
        8 => Just(Cut),
        6 => Just(Maintain),
        2 => (any::<usize>(), 1u16..4, 1u16..3).prop_map(|(which, slots, members)| Verify { which, slots, members }),
        1 => (1u16..4, 1u16..3).prop_map(|(slots, members)| Restart { slots, members }),
        1 => Just(Abort),
        3 => Just(Complete),
        4 => any::<bool>().prop_map(|again| RollBack { again }),
    ];
    prop::collection::vec(operation, 1..200)
}

fn namespace_of(namespace: u8) -> Timestamp {
    if namespace == 0 { Timestamp::MIN } else { Timestamp::from_nanos(i64::from(namespace)) }
}

fn group_of(key: u8) -> KeyGroup {
    KeyGroup(u16::from(key) % GROUPS)
}

/// Keys of several lengths, with hashes of which several are equal.
fn with_key<R>(namespace: Timestamp, key: u8, f: impl FnOnce(EntryKey<'_>) -> R) -> R {
    let bytes = vec![key; if key.is_multiple_of(3) { 8 } else { usize::from(key) + 1 }];
    let hash = u64::from(key % 11).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f(EntryKey { namespace, group: group_of(key), hash, bytes: &bytes })
}

struct Member {
    index: MemberIndex,
    groups: KeyGroupRange,
    tables: Vec<SegmentTable>,
    /// What it held when it cut for the checkpoint that is under way.
    cut: Option<Model>,
}

struct Slot {
    scope: StoreScope,
    store: SegmentStore,
    members: Vec<Member>,
}

struct Checkpoint {
    restored: RestoredFiles,
    model: Model,
}

struct World<'a> {
    /// Without one there are no checkpoints.
    directory: Option<&'a Path>,
    memory_bytes: u64,
    slots: Vec<Slot>,
    model: Model,
    next: u64,
    checkpoints: Vec<Checkpoint>,
    /// Why slots did not get back to a checkpoint in place, or nothing if they did.
    rollbacks: Vec<Result<(), String>>,
}

/// The members of a slot, which open their tables.
fn members_of(store: &mut SegmentStore, scope: &StoreScope) -> Vec<Member> {
    let mut members = Vec::new();
    for (index, (_, groups)) in (0..).zip(&scope.owned) {
        let index = MemberIndex(index);
        let mut table = |name: u8| {
            let spec = TableSpec::new("op", format!("table {name}"), groups.clone(), GROUPS);
            store.segment_table(index, &spec).unwrap()
        };
        let tables = (0..TABLES).map(&mut table).collect();
        members.push(Member { index, tables, groups: groups.clone(), cut: None });
    }
    members
}

fn backend() -> SegmentsBackend {
    SegmentsBackend::new().with_segment_bytes(16 << 10).with_mutable_bytes(40 << 10)
}

fn open(
    directory: Option<&Path>,
    memory_bytes: u64,
    slots: u16,
    members: u16,
    restored: Option<&RestoredFiles>,
) -> Vec<Slot> {
    let assignment = KeyGroupAssignment::new(slots * members, GROUPS).unwrap();
    (0..slots)
        .map(|slot| {
            let ranges: Vec<_> = (0..members)
                .map(|m| assignment.range(SubtaskIndex(u32::from(slot * members + m))))
                .collect();
            let mut scope = StoreScope::new(SlotIndex(u32::from(slot)));
            scope.directory = directory.map(Path::to_owned);
            scope.memory_bytes = memory_bytes;
            scope.owned = ranges.iter().map(|groups| ("op".to_owned(), groups.clone())).collect();
            scope.restored = restored.cloned();
            let mut store = backend().open_store(scope.clone()).unwrap();
            let members = members_of(&mut store, &scope);
            Slot { scope, store, members }
        })
        .collect()
}

/// That both hold the same, said in few words if not.
fn assert_same(found: &Model, expected: &Model) {
    let differ = |name: &&(u8, Timestamp, u8)| found.get(name) != expected.get(name);
    let names: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing: Vec<_> = names.into_iter().filter(differ).collect();
    assert!(differing.is_empty(), "not as expected: {differing:?}");
}

/// Everything that the slots hold, checked for consistency.
fn content(slots: &[Slot]) -> Model {
    let mut content = Model::new();
    for member in slots.iter().flat_map(|slot| &slot.members) {
        for (table, bytes) in member.tables.iter().enumerate() {
            let mut namespaces = BTreeSet::new();
            let mut last = 0;
            bytes
                .snapshot(&KeyGroupRange(0..GROUPS), &mut |entry| {
                    assert!(member.groups.contains(entry.group));
                    assert!(last <= entry.group.0, "not in the order of key groups");
                    last = entry.group.0;
                    namespaces.insert(entry.namespace);
                    let key = entry.key[0];
                    let before =
                        content.insert((table as u8, entry.namespace, key), entry.value.to_vec());
                    assert!(before.is_none(), "an entry twice");
                    Ok(())
                })
                .unwrap();
            assert_eq!(bytes.namespaces(), namespaces.iter().copied().collect::<Vec<_>>());
            for namespace in namespaces {
                let mut count = 0;
                bytes
                    .for_each(namespace, &mut |entry| {
                        assert_eq!(entry.namespace, namespace);
                        count += 1;
                        with_key(namespace, entry.key[0], |key| {
                            assert_eq!(key.bytes, entry.key);
                            bytes.read(key, |value| assert_eq!(value, Some(entry.value)))
                        })
                    })
                    .unwrap();
                assert_eq!(bytes.len(namespace), count);
            }
        }
    }
    content
}

impl World<'_> {
    fn table(&mut self, table: u8, key: u8) -> &mut SegmentTable {
        let group = group_of(key);
        let member = self
            .slots
            .iter_mut()
            .flat_map(|slot| &mut slot.members)
            .find(|member| member.groups.contains(group))
            .unwrap();
        &mut member.tables[usize::from(table)]
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Put { table, namespace, key, len, fill } => {
                let namespace = namespace_of(namespace);
                with_key(namespace, key, |k| self.table(table, key).insert(k, &vec![fill; len]))
                    .unwrap();
                self.model.insert((table, namespace, key), vec![fill; len]);
            }
            Operation::Modify { table, namespace, key, fill } => {
                let namespace = namespace_of(namespace);
                with_key(namespace, key, |k| {
                    self.table(table, key).modify(k, |found, new| match found {
                        crate::Found::Nothing => (Update::Keep, ()),
                        crate::Found::Sealed(value) => {
                            new.extend_from_slice(value);
                            new.fill(fill);
                            (Update::Write, ())
                        }
                        crate::Found::Mutable(value) => {
                            value.fill(fill);
                            (Update::Keep, ())
                        }
                    })
                })
                .unwrap();
                if let Some(value) = self.model.get_mut(&(table, namespace, key)) {
                    value.fill(fill);
                }
            }
            Operation::Append { table, namespace, key, len, fill } => {
                let namespace = namespace_of(namespace);
                with_key(namespace, key, |k| self.table(table, key).append(k, &vec![fill; len]))
                    .unwrap();
                self.model.entry((table, namespace, key)).or_default().extend(vec![fill; len]);
            }
            Operation::Remove { table, namespace, key } => {
                let namespace = namespace_of(namespace);
                with_key(namespace, key, |k| self.table(table, key).remove(k)).unwrap();
                self.model.remove(&(table, namespace, key));
            }
            Operation::RemoveNamespace { table, namespace } => {
                let namespace = namespace_of(namespace);
                for member in self.slots.iter_mut().flat_map(|slot| &mut slot.members) {
                    member.tables[usize::from(table)].remove_namespace(namespace).unwrap();
                }
                self.model.retain(|(t, n, _), _| (*t, *n) != (table, namespace));
            }
            Operation::Cut => self.cut(),
            Operation::Maintain => {
                for slot in &mut self.slots {
                    // One step at a time, and it must come to an end.
                    let mut steps = 0;
                    while slot.store.maintain(Duration::ZERO) {
                        steps += 1;
                        assert!(steps < 10_000, "compaction without end");
                    }
                }
            }
            Operation::Verify { which, slots, members } => {
                if !self.checkpoints.is_empty() {
                    let checkpoint = &self.checkpoints[which % self.checkpoints.len()];
                    let restored = open(
                        self.directory,
                        self.memory_bytes,
                        slots,
                        members,
                        Some(&checkpoint.restored),
                    );
                    assert_same(&content(&restored), &checkpoint.model);
                }
            }
            Operation::Restart { slots, members } => {
                self.slots.clear();
                let newest = self.checkpoints.last();
                let restored = newest.map(|checkpoint| &checkpoint.restored);
                self.slots = open(self.directory, self.memory_bytes, slots, members, restored);
                self.model = newest.map_or_else(Model::new, |checkpoint| checkpoint.model.clone());
                self.next = restored.map_or(0, |restored| restored.checkpoint.0 + 1);
            }
            Operation::Abort => {
                for slot in &mut self.slots {
                    slot.store.aborted(CheckpointId(self.next));
                    slot.members.iter_mut().for_each(|member| member.cut = None);
                }
                self.next += 1;
            }
            Operation::Complete => {
                if let Some(newest) = self.checkpoints.last() {
                    let newest = newest.restored.checkpoint;
                    self.slots.iter_mut().for_each(|slot| slot.store.completed(newest, newest));
                }
            }
            Operation::RollBack { again } => self.roll_back(again),
        }
    }

    fn roll_back(&mut self, again: bool) {
        let Some(newest) = self.checkpoints.last() else { return };
        let slots = std::mem::take(&mut self.slots).into_iter().map(|slot| {
            let Slot { mut scope, store, members } = slot;
            drop(members);
            scope.restored = Some(newest.restored.clone());
            let frozen = store.freeze().unwrap();
            // Slots have other threads in the next attempt.
            let frozen = std::thread::spawn(move || frozen).join().unwrap();
            let in_place = frozen.thaw(&scope);
            self.rollbacks.push(in_place.as_ref().map(drop).map_err(Clone::clone));
            let mut store =
                in_place.unwrap_or_else(|_| backend().open_store(scope.clone()).unwrap());
            let members = members_of(&mut store, &scope);
            Slot { scope, store, members }
        });
        self.slots = slots.collect();
        self.model = newest.model.clone();
        self.next += u64::from(!again);
        assert_same(&content(&self.slots), &self.model);
    }

    fn cut(&mut self) {
        if self.directory.is_none() {
            return;
        }
        let id = CheckpointId(self.next);
        let next = self.slots.iter_mut().find_map(|slot| {
            let member = slot.members.iter_mut().find(|member| member.cut.is_none())?;
            Some((&mut slot.store, member))
        });
        let Some((store, member)) = next else { return };
        store.cut(member.index, id);
        let held = |key: u8| member.groups.contains(group_of(key));
        let model = self.model.iter().filter(|((.., key), _)| held(*key));
        member.cut = Some(model.map(|(name, value)| (*name, value.clone())).collect());
        self.persist_if_all_have_cut();
    }

    fn persist_if_all_have_cut(&mut self) {
        if self.slots.iter().flat_map(|slot| &slot.members).any(|member| member.cut.is_none()) {
            return;
        }
        let checkpoint = CheckpointId(self.next);
        let (mut files, mut model): (Vec<StateFile>, _) = (Vec::new(), Model::new());
        for slot in &mut self.slots {
            let (sender, receiver) = channel();
            slot.store.persist(checkpoint, Box::new(move |files| sender.send(files).unwrap()));
            files.extend(receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap());
            model.extend(slot.members.iter_mut().filter_map(|member| member.cut.take()).flatten());
        }
        self.next += 1;
        self.checkpoints.push(Checkpoint { restored: RestoredFiles { checkpoint, files }, model });
    }
}

fn run(operations: &[Operation], memory_bytes: u64, is_durable: bool) -> Vec<Result<(), String>> {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let directory = is_durable.then_some(directory.path());
    let slots = open(directory, memory_bytes, 1, 2, None);
    let mut world = World {
        directory,
        memory_bytes,
        slots,
        model: Model::new(),
        next: 0,
        checkpoints: Vec::new(),
        rollbacks: Vec::new(),
    };
    for operation in operations {
        world.apply(operation);
    }
    assert_same(&content(&world.slots), &world.model);
    for (n, members) in [(1, 1), (2, 1), (3, 2)].into_iter().enumerate() {
        world.apply(&Operation::Verify { which: n, slots: members.0, members: members.1 });
    }
    world.apply(&Operation::Verify { which: usize::MAX, slots: 2, members: 2 });
    // What accounts are kept of is not seen in the content, but without end if it is wrong.
    world.apply(&Operation::Maintain);
    assert_same(&content(&world.slots), &world.model);
    world.rollbacks
}

proptest! {
    #[test]
    fn a_store_is_a_map_and_every_checkpoint_of_it_restores(operations in operations()) {
        run(&operations, u64::MAX, true);
    }

    #[test]
    fn a_store_without_a_directory_is_a_map(operations in operations()) {
        run(&operations, u64::MAX, false);
    }

    #[test]
    fn a_store_larger_than_its_memory_is_the_same(operations in operations()) {
        run(&operations, 200 << 10, true);
    }
}

proptest! {
    // What was wrong at first took hundreds of cases to be found.
    #![proptest_config(ProptestConfig::with_cases(4 * ProptestConfig::default().cases))]
    #[test]
    fn a_store_goes_back_in_place_but_for_what_is_not_kept(
        mut operations in operations(),
        crowd in any::<bool>(),
    ) {
        operations.retain(|operation| {
            !matches!(operation, Operation::RemoveNamespace { namespace: 0, .. })
        });
        if crowd {
            // Much happens to each entry, so that pieces are merged.
            operations.iter_mut().for_each(Operation::crowd);
        }
        for rollback in run(&operations, u64::MAX, true) {
            if let Err(reason) = rollback {
                prop_assert_eq!(reason, "segments that came and went");
            }
        }
    }
}
