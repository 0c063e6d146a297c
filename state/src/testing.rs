//! What the tests of this crate share: keys that collide, a context, and a byte-level backend.

use crate::{
    AlignedVec, ByteTable, CurrentKey, EntryKey, HeapBackend, Key, MemberIndex, SegmentsBackend,
    StateBackend, StateError, StateStore, StoreScope, StoredEntry, SubtaskState, TableSpec,
    TableStorage, Update,
};
use millstream_types::{
    KeyGroup, KeyGroupAssignment, KeyGroupRange, SubtaskIndex, Timestamp, hash_key,
};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::path::Path;

/// A key of which many have the same hash, with an encoding that varies in length.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub(crate) struct Clash(String);

impl Clash {
    pub fn new(n: u8) -> Self {
        Self("k".repeat(usize::from(n)))
    }
}

impl Hash for Clash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.len() % 5).hash(state);
    }
}

/// A context at a key.
pub(crate) struct At<'a, K>(pub &'a K);

impl<K: Key> CurrentKey<K> for At<'_, K> {
    fn key(&self) -> &K {
        self.0
    }
    fn hash(&self) -> u64 {
        hash_key(self.0)
    }
}

pub(crate) const MAX_PARALLELISM: u16 = 16;

/// A fresh store of each kind of backend.
pub(crate) fn stores() -> [SubtaskState; 3] {
    [&HeapBackend as &dyn StateBackend, &OrderedBackend, &SegmentsBackend::new()]
        .map(|backend| SubtaskState::alone(backend).expect("nothing to fail"))
}

/// A table that holds everything.
pub(crate) fn spec() -> TableSpec {
    TableSpec::new("operator", "table", KeyGroupRange(0..MAX_PARALLELISM), MAX_PARALLELISM)
}

/// What [`rescale`] needs to know about a kind of state.
pub(crate) trait Rescaled: Sized {
    fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError>;
    fn snapshot(
        &self,
        groups: &KeyGroupRange,
        sink: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError>;
    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError>;
}

/// Moves state from `before` subtasks to `after` subtasks through snapshots, and from each kind of
/// backend to each. `fill` fills a subtask that owns the given key groups; `check` is given all
/// subtasks after the move.
pub(crate) fn rescale<S: Rescaled>(
    before: u16,
    after: u16,
    fill: impl Fn(&mut S, &dyn Fn(u64) -> bool),
    check: impl Fn(&[(KeyGroupRange, S)]),
) {
    let ranges = |parallelism| {
        let a = KeyGroupAssignment::new(parallelism, MAX_PARALLELISM).expect("in bounds");
        (0..parallelism).map(move |s| a.range(SubtaskIndex(u32::from(s)))).collect::<Vec<_>>()
    };
    let open = |backend: usize, groups: &KeyGroupRange| {
        let spec = TableSpec { key_groups: groups.clone(), ..spec() };
        S::open(&stores()[backend], &spec).expect("nothing to fail")
    };
    for (from, to) in
        (0..stores().len()).flat_map(|from| (0..stores().len()).map(move |to| (from, to)))
    {
        let mut moved: Vec<(KeyGroupRange, S)> =
            ranges(after).into_iter().map(|r| (r.clone(), open(to, &r))).collect();
        for owned in ranges(before) {
            let mut state: S = open(from, &owned);
            fill(&mut state, &|hash| owned.contains(KeyGroup::of(hash, MAX_PARALLELISM)));
            for (wanted, target) in &mut moved {
                let mut last = 0;
                let result = state.snapshot(wanted, &mut |entry| {
                    assert!(wanted.contains(entry.group) && owned.contains(entry.group));
                    assert!(last <= entry.group.0, "not in the order of key groups");
                    last = entry.group.0;
                    target.restore(entry)
                });
                result.expect("what was written can be read");
            }
        }
        check(&moved);
    }
}

macro_rules! rescaled {
    ($content:ident: $($state:ty),*) => { $(
        impl $crate::testing::Rescaled for $state {
            fn open(
                state: &$crate::SubtaskState,
                spec: &$crate::TableSpec,
            ) -> Result<Self, $crate::StateError> {
                Self::open(state, spec)
            }
            fn snapshot(
                &self,
                groups: &millstream_types::KeyGroupRange,
                sink: &mut dyn FnMut($crate::StoredEntry<'_>) -> Result<(), $crate::StateError>,
            ) -> Result<(), $crate::StateError> {
                $crate::subtask::Stored::snapshot(&*self.$content, groups, sink)
            }
            fn restore(
                &mut self,
                entry: $crate::StoredEntry<'_>,
            ) -> Result<(), $crate::StateError> {
                $crate::subtask::Stored::restore(&mut *self.$content, entry)
            }
        }
    )* };
}
pub(crate) use rescaled;

/// Keeps bytes, and checks what the typed tables promise to a backend.
pub(crate) struct OrderedBackend;

impl StateBackend for OrderedBackend {
    fn name(&self) -> &str {
        "ordered"
    }

    fn open(&self, _scope: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
        Ok(Box::new(OrderedStore))
    }
}

struct OrderedStore;

impl StateStore for OrderedStore {
    fn table(&mut self, _: MemberIndex, spec: &TableSpec) -> Result<TableStorage, StateError> {
        Ok(TableStorage::Bytes(Box::new(OrderedTable {
            max_parallelism: spec.max_parallelism,
            ..Default::default()
        })))
    }
}

type Address = (u16, Timestamp, Vec<u8>);

#[derive(Default)]
struct OrderedTable {
    entries: BTreeMap<Address, Vec<u8>>,
    /// The hash under which each key first came.
    hashes: HashMap<Vec<u8>, (u16, u64)>,
    max_parallelism: u16,
    /// Set while a visitor runs.
    busy: Cell<bool>,
}

impl OrderedTable {
    fn check(&self, key: EntryKey<'_>) -> Address {
        assert!(!self.busy.get(), "an operation began inside another");
        assert!(key.group.0 < self.max_parallelism);
        if let Some(first) = self.hashes.get(key.bytes) {
            assert_eq!(*first, (key.group.0, key.hash), "group and hash follow from the key");
        }
        (key.group.0, key.namespace, key.bytes.to_vec())
    }
}

impl ByteTable for OrderedTable {
    fn get(
        &self,
        key: EntryKey<'_>,
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        let value = self.entries.get(&self.check(key));
        self.busy.set(true);
        read(value.map(Vec::as_slice));
        self.busy.set(false);
        Ok(())
    }

    fn update(
        &mut self,
        key: EntryKey<'_>,
        f: &mut dyn FnMut(Option<&[u8]>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        let (address, mut new) = (self.check(key), AlignedVec::new());
        self.hashes.entry(key.bytes.to_vec()).or_insert((key.group.0, key.hash));
        match f(self.entries.get(&address).map(Vec::as_slice), &mut new) {
            Update::Keep => {}
            Update::Write => drop(self.entries.insert(address, new.to_vec())),
            Update::Remove => drop(self.entries.remove(&address)),
        }
        Ok(())
    }

    fn len(&self, namespace: Timestamp) -> u64 {
        self.entries.keys().filter(|(_, n, _)| *n == namespace).count() as u64
    }

    fn namespaces(&self) -> Vec<Timestamp> {
        self.entries.keys().map(|(_, n, _)| *n).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn for_each(
        &self,
        namespace: Timestamp,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        self.snapshot(&KeyGroupRange(0..self.max_parallelism), &mut |entry| {
            if entry.namespace == namespace { visit(entry) } else { Ok(()) }
        })
    }

    fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError> {
        self.entries.retain(|(_, n, _), _| *n != namespace);
        Ok(())
    }

    fn snapshot(
        &self,
        groups: &KeyGroupRange,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        self.busy.set(true);
        let result = self
            .entries
            .iter()
            .filter(|((group, ..), _)| groups.contains(KeyGroup(*group)))
            .try_for_each(|((group, namespace, key), value)| {
                visit(StoredEntry { namespace: *namespace, group: KeyGroup(*group), key, value })
            });
        self.busy.set(false);
        result
    }
}

/// Checks that a fuzz target's seed is checked in as this program writes it. With
/// `MILLSTREAM_WRITE_SEEDS` set, writes it.
///
/// # Panics
/// If it is not there, or other bytes.
pub(crate) fn check_seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    if std::env::var_os("MILLSTREAM_WRITE_SEEDS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let seed = std::fs::read(folder.join(name)).unwrap();
    assert!(seed == bytes, "{target}/{name}: this program writes something else");
}
