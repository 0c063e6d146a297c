//! One value for each key and namespace: window slices.

use crate::encoded::{Coding, EncodedTable, Sink};
use crate::error::or_raise;
use crate::heap::Slices;
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::{Data, Key, StateError, StoredEntry, TableSpec};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use rkyv::util::AlignedVec;
use std::ops::RangeBounds;

/// One value for each namespace and key. A namespace is a time, usually the end of a window slice,
/// and dies as a whole.
///
/// Made for few namespaces that live at once (tens, or thousands) with many keys in each, and for
/// runs of accesses to the same namespace, which cost one comparison more than accesses to a
/// [`Table`](crate::Table). Operations raise a [`StateError`] (see [`StateError::raise`]) if the
/// store fails, which `heap` never does.
pub struct WindowTable<K, V> {
    storage: Owner<Storage<K, V>>,
}

enum Storage<K, V> {
    Heap { slices: Slices<K, V>, coding: Coding },
    Encoded(EncodedTable<K, V>),
}

impl<K: Key, V: Data> WindowTable<K, V> {
    /// Opens the table.
    ///
    /// # Errors
    /// As [`StateStore::table`](crate::StateStore::table); and if a restored checkpoint has the state
    /// with other types, or damaged.
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        let spec = &spec.of::<K, V>();
        let storage = state.table(spec, |bytes| {
            Ok(match bytes {
                None => Storage::Heap { slices: Slices::default(), coding: Coding::new(spec) },
                Some(bytes) => Storage::Encoded(EncodedTable::new(bytes, spec)),
            })
        })?;
        Ok(Self { storage })
    }

    /// The value of a key in a namespace, made by `init` if there is none, is handed to `f`. The hot
    /// operation.
    #[inline]
    pub fn modify<R>(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        init: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => {
                slices.get_or_open(namespace).modify(hash, key, init, f)
            }
            Storage::Encoded(table) => table.modify(namespace, hash, key, init, f),
        }
    }

    /// Hands `with` to `next` together with the value of a key in a namespace or, if it has none, to
    /// `first`, which makes it.
    #[inline(always)]
    pub fn upsert<C, R>(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        with: C,
        first: impl FnOnce(C) -> (V, R),
        next: impl FnOnce(C, &mut V) -> R,
    ) -> R {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => {
                slices.get_or_open(namespace).upsert(hash, key, with, first, next)
            }
            Storage::Encoded(table) => table.upsert(namespace, hash, key, with, first, next),
        }
    }

    /// [`modify`](Self::modify) for each of a batch of keys, in their order: the i-th key is
    /// modified in the i-th namespace and has the i-th hash. Much faster where the table is larger
    /// than the cache and most of a batch is in one namespace.
    #[inline]
    pub fn modify_batch<'k>(
        &mut self,
        namespace: impl Fn(usize) -> Timestamp,
        hashes: &[u64],
        key: impl Fn(usize) -> &'k K,
        mut init: impl FnMut() -> V,
        mut f: impl FnMut(usize, &mut V),
    ) {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => slices.modify_batch(namespace, hashes, key, init, f),
            Storage::Encoded(table) => {
                let mut run_end = 0;
                for (i, hash) in hashes.iter().enumerate() {
                    let current = namespace(i);
                    if i == run_end {
                        let same = |j: &usize| namespace(*j) == current;
                        run_end += (i..hashes.len()).take_while(same).count();
                        table.prefetch(current, &hashes[i..run_end]);
                    }
                    let f = |value: &mut V| f(i, value);
                    table.modify(current, *hash, key(i), &mut init, f);
                }
            }
        }
    }

    /// Hands the value of a key in a namespace, or `None`, to `f`.
    #[inline]
    pub fn with<R>(
        &self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        f: impl FnOnce(Option<&V>) -> R,
    ) -> R {
        match &*self.storage {
            Storage::Heap { slices, .. } => {
                f(slices.get(namespace).and_then(|slice| slice.get(hash, key)))
            }
            Storage::Encoded(table) => f(or_raise(table.get(namespace, hash, key)).as_ref()),
        }
    }

    /// Sets the value of a key in a namespace.
    #[inline]
    pub fn insert(&mut self, namespace: Timestamp, hash: u64, key: &K, value: V) {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => {
                slices.get_or_open(namespace).insert(hash, key, value);
            }
            Storage::Encoded(table) => or_raise(table.insert(namespace, hash, key, &value)),
        }
    }

    /// Removes a key from a namespace and returns its value.
    pub fn remove(&mut self, namespace: Timestamp, hash: u64, key: &K) -> Option<V> {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => slices.remove(namespace, hash, key),
            Storage::Encoded(table) => or_raise(table.remove(namespace, hash, key)),
        }
    }

    /// The number of keys in a namespace.
    pub fn len(&self, namespace: Timestamp) -> u64 {
        match &*self.storage {
            Storage::Heap { slices, .. } => {
                slices.get(namespace).map_or(0, |slice| slice.len() as u64)
            }
            Storage::Encoded(table) => table.bytes().len(namespace),
        }
    }

    /// True if no namespace holds a key.
    pub fn is_empty(&self) -> bool {
        self.first_namespace().is_none()
    }

    /// The namespaces that hold a key, ascending.
    pub fn namespaces(&self) -> Vec<Timestamp> {
        match &*self.storage {
            Storage::Heap { slices, .. } => slices.iter().map(|(namespace, _)| namespace).collect(),
            Storage::Encoded(table) => table.bytes().namespaces(),
        }
    }

    /// The earliest namespace that holds a key.
    pub fn first_namespace(&self) -> Option<Timestamp> {
        match &*self.storage {
            Storage::Heap { slices, .. } => slices.iter().map(|(namespace, _)| namespace).next(),
            Storage::Encoded(table) => table.bytes().namespaces().first().copied(),
        }
    }

    /// Visits the entries of a namespace, in no order.
    pub fn for_each_in(&self, namespace: Timestamp, mut f: impl FnMut(&K, &V)) {
        match &*self.storage {
            Storage::Heap { slices, .. } => {
                if let Some(slice) = slices.get(namespace) {
                    slice.iter().for_each(|(key, value)| f(key, value));
                }
            }
            Storage::Encoded(table) => {
                or_raise(table.for_each(namespace, |key, value| f(&key, &value)));
            }
        }
    }

    /// Visits the entries of all namespaces in a range, namespace by namespace: what a window of
    /// several slices is merged from. The visitor gets each key's hash, ready for the table in which
    /// it merges.
    pub fn merge_range(
        &self,
        namespaces: impl RangeBounds<Timestamp>,
        mut f: impl FnMut(u64, &K, &V),
    ) {
        match &*self.storage {
            Storage::Heap { slices, .. } => {
                for (_, slice) in slices.iter().filter(|(n, _)| namespaces.contains(n)) {
                    slice.iter().for_each(|(key, value)| f(hash_key(key), key, value));
                }
            }
            Storage::Encoded(table) => {
                for namespace in table.bytes().namespaces() {
                    if namespaces.contains(&namespace) {
                        or_raise(table.for_each(namespace, |key, value| {
                            f(hash_key(&key), &key, &value);
                        }));
                    }
                }
            }
        }
    }

    /// Removes a namespace and hands its entries to `f`, in no order.
    pub fn take(&mut self, namespace: Timestamp, mut f: impl FnMut(K, V)) {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => {
                slices.close(namespace, |slice| {
                    slice.drain().for_each(|(key, value)| f(key, value));
                });
            }
            Storage::Encoded(table) => or_raise(table.drain(namespace, f)),
        }
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, namespace: Timestamp) {
        match &mut *self.storage {
            Storage::Heap { slices, .. } => slices.close(namespace, |_| {}),
            Storage::Encoded(table) => or_raise(table.remove_namespace(namespace)),
        }
    }

    /// Says that the keys with these hashes, a few tens, are about to be used in a namespace.
    #[inline]
    pub fn prefetch(&self, namespace: Timestamp, hashes: &[u64]) {
        match &*self.storage {
            Storage::Heap { slices, .. } => {
                if let Some(slice) = slices.get(namespace) {
                    slice.prefetch(hashes);
                }
            }
            Storage::Encoded(table) => table.prefetch(namespace, hashes),
        }
    }
}

impl<K: Key, V: Data> Stored for Storage<K, V> {
    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { slices, coding } => {
                let mut entries = Vec::new();
                for (namespace, slice) in slices.iter() {
                    let found = slice.by_group(groups, coding.max_parallelism());
                    entries.extend(found.into_iter().map(|(g, k, v)| (g, namespace, k, v)));
                }
                entries.sort_unstable_by_key(|(group, namespace, ..)| (*group, *namespace));
                let mut out = AlignedVec::new();
                for (group, namespace, key, value) in entries {
                    coding.encode(value, &mut out)?;
                    coding.encoded(key, |key| {
                        sink(StoredEntry { namespace, group, key, value: &out })
                    })?;
                }
                Ok(())
            }
            Self::Encoded(table) => table.snapshot(groups, sink),
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { slices, coding } => {
                let key: K = coding.decode(entry.key)?;
                let value = coding.decode(entry.value)?;
                slices.get_or_open(entry.namespace).insert(hash_key(&key), &key, value);
                Ok(())
            }
            Self::Encoded(table) => table.restore(entry),
        }
    }
}

#[cfg(test)]
mod tests;
