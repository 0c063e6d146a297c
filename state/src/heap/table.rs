//! A hash table whose callers bring the hash.

use super::memory::TableMemory;
use super::prefetch::{self, Layout};
use crate::Key;
use hashbrown::HashTable;
use millstream_types::{KeyGroup, KeyGroupRange, hash_key};
use std::borrow::Borrow;

/// A hash table from keys to values in memory, for callers that have hashed the key already: with
/// [`hash_key`], and nothing else will do.
///
/// The hash is not stored. It is computed again when the table grows, and for the visitors that
/// want it, which is cheaper than the eight bytes per entry for all but long keys.
#[derive(Debug)]
pub struct HeapTable<K, V> {
    entries: HashTable<(K, V), TableMemory>,
    /// Where the entries lie, if they are worth a prefetch.
    layout: Option<Layout>,
}

/// Up to this size a table grows when it is three quarters full, and not, as hashbrown would have
/// it, seven eighths. Where memory is not what one waits for, mispredicted branches are, and a
/// fuller table has more of them: 14,200 keys of 8 bytes take 2.4 ns each when three quarters would
/// have been exceeded and 3.2 ns when not.
const SPARSE_SIZE_BYTES_MAX: usize = 4 << 20;

/// What the hash table gets to see. It takes its tags from the seven highest bits, and those are
/// nearly the same for all keys of one subtask, because the key group is made of them.
#[inline]
fn spread(hash: u64) -> u64 {
    hash.rotate_left(26)
}

#[inline]
fn rehash<K: Key, V>(entry: &(K, V)) -> u64 {
    spread(hash_key(&entry.0))
}

impl<K, V> Default for HeapTable<K, V> {
    fn default() -> Self {
        Self { entries: HashTable::new_in(TableMemory), layout: None }
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
        match self.entries.find_mut(spread(hash), |e| e.0 == *key) {
            Some(entry) => f(&mut entry.1),
            // Changed before it is added, lest it be read back from memory that is just on its way.
            None => {
                let mut value = init();
                let result = f(&mut value);
                self.add(hash, key.clone(), value);
                result
            }
        }
    }

    /// [`modify`](Self::modify) for each of a batch of keys, in their order: the i-th key has the
    /// i-th hash. Where the table is larger than the cache, this is about twice as fast.
    #[inline]
    pub fn modify_batch<'k>(
        &mut self,
        hashes: &[u64],
        key: impl Fn(usize) -> &'k K,
        mut init: impl FnMut() -> V,
        mut f: impl FnMut(usize, &mut V),
    ) {
        for block in prefetch::blocks(hashes.len()) {
            self.prefetch(&hashes[block.ahead]);
            for i in block.now {
                self.modify(hashes[i], key(i), &mut init, |value| f(i, value));
            }
        }
    }

    /// Brings what the keys with these hashes need into the cache. Worth it for keys that are used
    /// some tens of look-ups later, in a table larger than the cache; in a smaller one it does nothing.
    #[inline]
    pub fn prefetch(&self, hashes: &[u64]) {
        if let Some(layout) = self.layout {
            hashes.iter().for_each(|hash| layout.prefetch::<(K, V)>(spread(*hash)));
        }
    }

    /// Adds a key that is not there. Not inlined, so that the way of a key that is there stays short.
    #[inline(never)]
    fn add(&mut self, hash: u64, key: K, value: V) {
        let bucket_count = self.entries.num_buckets();
        if self.entries.len() == self.entries.capacity()
            || self.entries.len() >= bucket_count / 4 * 3
                && bucket_count * size_of::<(K, V)>() < SPARSE_SIZE_BYTES_MAX
        {
            self.grow();
        }
        self.entries.insert_unique(spread(hash), (key, value), rehash);
    }

    /// Doubles the table, or clears it of the traces of removed keys where that is enough.
    #[cold]
    fn grow(&mut self) {
        self.entries.reserve(self.entries.capacity() - self.entries.len() + 1, rehash);
        self.layout = Layout::of(&self.entries);
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
                self.add(hash, key.clone(), value);
                result
            }
        }
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
        match self.entries.find_mut(spread(hash), |e| e.0 == *key) {
            Some(entry) => Some(std::mem::replace(&mut entry.1, value)),
            None => {
                self.add(hash, key.clone(), value);
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

    /// The number of places in which entries may lie: for who visits them a few at a time.
    pub(crate) fn places(&self) -> usize {
        self.entries.num_buckets()
    }

    /// Hands the value at a place to `keep`, if there is one, and removes its entry if that is false.
    /// Entries change their places when the table grows.
    pub(crate) fn visit_place(&mut self, place: usize, keep: impl FnOnce(&mut V) -> bool) {
        if let Ok(mut entry) = self.entries.get_bucket_entry(place)
            && !keep(&mut entry.get_mut().1)
        {
            entry.remove();
        }
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
