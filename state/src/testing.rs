//! A byte-level backend for tests, as plain as can be.

use crate::{
    AlignedVec, ByteTable, EntryKey, StateBackend, StateError, StateStore, StoreScope, StoredEntry,
    TableSpec, TableStorage, Update,
};
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    fn table(&mut self, spec: &TableSpec) -> Result<TableStorage, StateError> {
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
