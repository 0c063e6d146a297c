//! A hash table whose callers bring the hash.

use crate::Key;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use millstream_types::{KeyGroup, KeyGroupRange, hash_key};
use std::borrow::Borrow;

/// A hash table from keys to values in memory, for callers that have hashed the key already: with
/// [`hash_key`], and nothing else will do.
///
/// The hash is not stored. It is computed again when the table grows, and for the visitors that
/// want it, which is cheaper than the eight bytes per entry for all but long keys.
#[derive(Debug)]
pub struct HeapTable<K, V> {
    entries: HashTable<(K, V)>,
}

/// What the hash table gets to see. It takes its tags from the seven highest bits, and those are
/// nearly the same for all keys of one subtask, because the key group is made of them.
#[inline]
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[inline]
fn rehash<K: Key, V>(entry: &(K, V)) -> u64 {
    spread(hash_key(&entry.0))
}

impl<K, V> Default for HeapTable<K, V> {
    fn default() -> Self {
        Self { entries: HashTable::new() }
    }
}

impl<K: Key, V> HeapTable<K, V> {
    /// An empty table; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a key, made by `init` if there is none, is handed to `f`.
    #[inline]
    pub fn modify<R>(
        &mut self,
        hash: u64,
        key: &K,
        init: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        debug_assert_eq!(hash, hash_key(key), "not the hash of this key");
        let value = match self.entries.entry(spread(hash), |e| e.0 == *key, rehash) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((key.clone(), init())).into_mut(),
        };
        f(&mut value.1)
    }

    /// Hands `with` to `next` together with the value of the key or, if it has none, to `first`,
    /// which makes it.
    #[inline(always)]
    pub fn upsert<C, R>(
        &mut self,
        hash: u64,
        key: &K,
        with: C,
        first: impl FnOnce(C) -> (V, R),
        next: impl FnOnce(C, &mut V) -> R,
    ) -> R {
        debug_assert_eq!(hash, hash_key(key), "not the hash of this key");
        match self.entries.find_mut(spread(hash), |e| e.0 == *key) {
            Some((_, value)) => next(with, value),
            None => {
                let (value, result) = first(with);
                self.insert_new(hash, key, value);
                result
            }
        }
    }

    /// Out of line: keys are new seldom, and the growth of a table is long code.
    #[inline(never)]
    fn insert_new(&mut self, hash: u64, key: &K, value: V) {
        self.entries.insert_unique(spread(hash), (key.clone(), value), rehash);
    }

    /// The value of a key. The key may be borrowed (`str` for `String`), as long as it hashes and
    /// compares alike.
    #[inline]
    pub fn get<Q>(&self, hash: u64, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.entries.find(spread(hash), |e| e.0.borrow() == key).map(|e| &e.1)
    }

    /// The value of a key, to be changed. The key may be borrowed.
    #[inline]
    pub fn get_mut<Q>(&mut self, hash: u64, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.entries.find_mut(spread(hash), |e| e.0.borrow() == key).map(|e| &mut e.1)
    }

    /// Sets the value of a key and returns the one before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) -> Option<V> {
        debug_assert_eq!(hash, hash_key(key), "not the hash of this key");
        match self.entries.entry(spread(hash), |e| e.0 == *key, rehash) {
            Entry::Occupied(entry) => Some(std::mem::replace(&mut entry.into_mut().1, value)),
            Entry::Vacant(entry) => {
                entry.insert((key.clone(), value));
                None
            }
        }
    }

    /// Removes a key and returns its value.
    #[inline]
    pub fn remove<Q>(&mut self, hash: u64, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let entry = self.entries.find_entry(spread(hash), |e| e.0.borrow() == key).ok()?;
        Some(entry.remove().0.1)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many keys the table holds without allocating.
    pub fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// Removes all entries and hands them out, in no order. Keeps the memory.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = (K, V)> + '_ {
        self.entries.drain()
    }

    /// Removes the entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
    }

    /// Removes all entries. Keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entries whose key group lies in `groups`, in the order of their groups.
    ///
    /// Complexity: a sort of references to them.
    pub(crate) fn by_group(
        &self,
        groups: &KeyGroupRange,
        max_parallelism: u16,
    ) -> Vec<(KeyGroup, &K, &V)> {
        let mut entries: Vec<_> = self
            .iter()
            .map(|(key, value)| (KeyGroup::of(hash_key(key), max_parallelism), key, value))
            .filter(|(group, ..)| groups.contains(*group))
            .collect();
        entries.sort_unstable_by_key(|(group, ..)| *group);
        entries
    }
}
