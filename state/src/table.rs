//! One value for each key.

use crate::encoded::{Coding, EncodedTable, Sink};
use crate::error::or_raise;
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::{Data, HeapTable, Key, StateError, StoredEntry, TableSpec};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use rkyv::util::AlignedVec;

/// The namespace of tables that have none.
pub(crate) const PLAIN: Timestamp = Timestamp::MIN;

/// One value for each key, in the store that it was opened on.
///
/// Operations take the key's hash, which the caller has computed with [`hash_key`] to find the key
/// group. They raise a [`StateError`] (see [`StateError::raise`]) if the store fails, which `heap`
/// never does.
pub struct Table<K, V> {
    storage: Owner<Storage<K, V>>,
}

enum Storage<K, V> {
    Heap { table: HeapTable<K, V>, coding: Coding },
    Encoded(EncodedTable<K, V>),
}

impl<K: Key, V: Data> Table<K, V> {
    /// Opens the table.
    ///
    /// # Errors
    /// As [`StateStore::table`](crate::StateStore::table); and if a restored checkpoint has the state
    /// with other types, or damaged.
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        let spec = &spec.of::<K, V>();
        let storage = state.table(spec, |bytes| {
            Ok(match bytes {
                None => Storage::Heap { table: HeapTable::new(), coding: Coding::new(spec) },
                Some(bytes) => Storage::Encoded(EncodedTable::new(bytes, spec)),
            })
        })?;
        Ok(Self { storage })
    }

    /// The value of a key, made by `init` if there is none, is handed to `f`. The hot operation: one
    /// look-up.
    #[inline]
    pub fn modify<R>(
        &mut self,
        hash: u64,
        key: &K,
        init: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.modify(hash, key, init, f),
            Storage::Encoded(table) => table.modify(PLAIN, hash, key, init, f),
        }
    }

    /// Hands `with` to `next` together with the value of the key or, if it has none, to `first`,
    /// which makes it. As [`modify`](Self::modify) in one look-up, for callers whose first record
    /// of a key is not like the others.
    #[inline(always)]
    pub fn upsert<C, R>(
        &mut self,
        hash: u64,
        key: &K,
        with: C,
        first: impl FnOnce(C) -> (V, R),
        next: impl FnOnce(C, &mut V) -> R,
    ) -> R {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.upsert(hash, key, with, first, next),
            Storage::Encoded(table) => table.upsert(PLAIN, hash, key, with, first, next),
        }
    }

    /// The table itself, if the backend keeps it in memory as it is: for a loop over a batch that
    /// asks for the backend once and not at every key.
    #[inline]
    pub fn as_heap(&mut self) -> Option<&mut HeapTable<K, V>> {
        match &mut *self.storage {
            Storage::Heap { table, .. } => Some(table),
            Storage::Encoded(_) => None,
        }
    }

    /// [`modify`](Self::modify) for each of a batch of keys, in their order: the i-th key has the
    /// i-th hash. Much faster where the table is larger than the cache.
    #[inline]
    pub fn modify_batch<'k>(
        &mut self,
        hashes: &[u64],
        key: impl Fn(usize) -> &'k K,
        mut init: impl FnMut() -> V,
        mut f: impl FnMut(usize, &mut V),
    ) {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.modify_batch(hashes, key, init, f),
            Storage::Encoded(table) => {
                /// So many records are asked for before the first of them is read.
                const TOGETHER: usize = 32;
                table.prefetch(PLAIN, hashes);
                for (start, hashes) in (0..).step_by(TOGETHER).zip(hashes.chunks(TOGETHER)) {
                    table.prefetch_entries(PLAIN, hashes);
                    for (i, hash) in (start..).zip(hashes) {
                        let change = |value: &mut V| f(i, value);
                        table.modify(PLAIN, *hash, key(i), &mut init, change);
                    }
                }
            }
        }
    }

    /// Hands the value of a key, or `None`, to `f`. On `heap` nothing is copied.
    #[inline]
    pub fn with<R>(&self, hash: u64, key: &K, f: impl FnOnce(Option<&V>) -> R) -> R {
        match &*self.storage {
            Storage::Heap { table, .. } => f(table.get(hash, key)),
            Storage::Encoded(table) => f(or_raise(table.get(PLAIN, hash, key)).as_ref()),
        }
    }

    /// A copy of the value of a key.
    #[inline]
    pub fn get(&self, hash: u64, key: &K) -> Option<V>
    where
        V: Clone,
    {
        match &*self.storage {
            Storage::Heap { table, .. } => table.get(hash, key).cloned(),
            Storage::Encoded(table) => or_raise(table.get(PLAIN, hash, key)),
        }
    }

    /// Sets the value of a key.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) {
        match &mut *self.storage {
            Storage::Heap { table, .. } => drop(table.insert(hash, key, value)),
            Storage::Encoded(table) => or_raise(table.insert(PLAIN, hash, key, &value)),
        }
    }

    /// Removes a key and returns its value.
    #[inline]
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.remove(hash, key),
            Storage::Encoded(table) => or_raise(table.remove(PLAIN, hash, key)),
        }
    }

    /// The number of keys.
    pub fn len(&self) -> u64 {
        match &*self.storage {
            Storage::Heap { table, .. } => table.len() as u64,
            Storage::Encoded(table) => table.bytes().len(PLAIN),
        }
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits all entries, in no order.
    pub fn for_each(&self, mut f: impl FnMut(&K, &V)) {
        match &*self.storage {
            Storage::Heap { table, .. } => table.iter().for_each(|(key, value)| f(key, value)),
            Storage::Encoded(table) => {
                or_raise(table.for_each(PLAIN, |key, value| f(&key, &value)));
            }
        }
    }

    /// Removes all entries and hands them to `f`, in no order.
    pub fn drain(&mut self, mut f: impl FnMut(K, V)) {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.drain().for_each(|(key, value)| f(key, value)),
            Storage::Encoded(table) => or_raise(table.drain(PLAIN, f)),
        }
    }

    /// Removes the entries for which `keep` is false.
    pub fn retain(&mut self, keep: impl FnMut(&K, &V) -> bool) {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.retain(keep),
            Storage::Encoded(table) => or_raise(table.retain(PLAIN, keep)),
        }
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        match &mut *self.storage {
            Storage::Heap { table, .. } => table.clear(),
            Storage::Encoded(table) => or_raise(table.remove_namespace(PLAIN)),
        }
    }

    /// True if to read an entry may mean to wait for a disk, unless it was asked for ahead.
    pub fn is_partly_cold(&self) -> bool {
        matches!(&*self.storage, Storage::Encoded(table) if table.is_partly_cold())
    }

    /// Says that the keys with these hashes, a few tens, are about to be used.
    #[inline]
    pub fn prefetch(&self, hashes: &[u64]) {
        match &*self.storage {
            Storage::Heap { table, .. } => table.prefetch(hashes),
            Storage::Encoded(table) => table.prefetch(PLAIN, hashes),
        }
    }

    /// Says that the keys with these hashes are about to be used, and that
    /// [`prefetch`](Self::prefetch) said so a while ago: what that asked for leads to them. Of use for
    /// stores that look up in two steps.
    #[inline]
    pub fn prefetch_entries(&self, hashes: &[u64]) {
        match &*self.storage {
            Storage::Heap { .. } => {}
            Storage::Encoded(table) => table.prefetch_entries(PLAIN, hashes),
        }
    }
}

impl<K: Key, V: Data> Stored for Storage<K, V> {
    const IS_BY_KEY: bool = true;
    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { table, coding } => {
                let mut out = AlignedVec::new();
                for (group, key, value) in table.by_group(groups, coding.max_parallelism()) {
                    coding.encode(value, &mut out)?;
                    coding.encoded(key, |key| {
                        sink(StoredEntry { namespace: PLAIN, group, key, value: &out })
                    })?;
                }
                Ok(())
            }
            Self::Encoded(table) => table.snapshot(groups, sink),
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { table, coding } => {
                let key: K = coding.decode(entry.key)?;
                table.insert(hash_key(&key), &key, coding.decode(entry.value)?);
                Ok(())
            }
            Self::Encoded(table) => table.restore(entry),
        }
    }
}

#[cfg(test)]
mod tests;
