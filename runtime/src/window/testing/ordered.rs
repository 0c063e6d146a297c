//! A backend of bytes, so that the windows are tested over encoded state too.

use millstream_state::{
    AlignedVec, ByteTable, EntryKey, MemberIndex, StateBackend, StateError, StateStore, StoreScope,
    StoredEntry, TableSpec, TableStorage, Update,
};
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp};
use std::collections::BTreeMap;

pub struct OrderedBackend;

impl StateBackend for OrderedBackend {
    fn name(&self) -> &str {
        "ordered"
    }

    fn open(&self, _: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
        Ok(Box::new(OrderedStore))
    }
}

struct OrderedStore;

impl StateStore for OrderedStore {
    fn table(&mut self, _: MemberIndex, _: &TableSpec) -> Result<TableStorage, StateError> {
        Ok(TableStorage::Bytes(Box::new(Ordered::default())))
    }
}

type Address = (Timestamp, KeyGroup, Vec<u8>);

/// Everything in one map: (namespace, key group, key) → value.
#[derive(Default)]
struct Ordered(BTreeMap<Address, Vec<u8>>);

fn address(key: EntryKey<'_>) -> Address {
    (key.namespace, key.group, key.bytes.to_vec())
}

fn entry<'a>((address, value): (&'a Address, &'a Vec<u8>)) -> StoredEntry<'a> {
    StoredEntry { namespace: address.0, group: address.1, key: &address.2, value }
}

impl ByteTable for Ordered {
    fn get(
        &self,
        key: EntryKey<'_>,
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        read(self.0.get(&address(key)).map(Vec::as_slice));
        Ok(())
    }

    fn update(
        &mut self,
        key: EntryKey<'_>,
        f: &mut dyn FnMut(Option<&[u8]>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        let (address, mut new) = (address(key), AlignedVec::new());
        match f(self.0.get(&address).map(Vec::as_slice), &mut new) {
            Update::Keep => {}
            Update::Write => drop(self.0.insert(address, new.to_vec())),
            Update::Remove => drop(self.0.remove(&address)),
        }
        Ok(())
    }

    fn len(&self, namespace: Timestamp) -> u64 {
        self.0.keys().filter(|(n, ..)| *n == namespace).count() as u64
    }

    fn namespaces(&self) -> Vec<Timestamp> {
        let mut all: Vec<_> = self.0.keys().map(|(n, ..)| *n).collect();
        all.dedup();
        all
    }

    fn for_each(
        &self,
        namespace: Timestamp,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        self.0.iter().map(entry).filter(|e| e.namespace == namespace).try_for_each(visit)
    }

    fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError> {
        self.0.retain(|(n, ..), _| *n != namespace);
        Ok(())
    }

    fn snapshot(
        &self,
        groups: &KeyGroupRange,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut found: Vec<_> =
            self.0.iter().map(entry).filter(|e| groups.contains(e.group)).collect();
        found.sort_by_key(|e| e.group);
        found.into_iter().try_for_each(visit)
    }
}
