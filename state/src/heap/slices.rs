//! Hash tables by time.

use super::{HeapTable, prefetch};
use crate::Key;
use millstream_types::Timestamp;

/// How many tables are kept for the slices to come.
const SPARE_COUNT_MAX: usize = 4;

/// A hash table for each of a few times, in the order of the times.
///
/// A slice that is closed leaves its memory to one that is opened later, so that a steady stream of
/// slices does not allocate.
///
/// # Invariants
/// - `tables` ascends strictly by time, and no table in it is empty once an operation has ended,
///   except that [`Slices::get_or_open`] leaves it to its caller to fill what it opens.
/// - `recent` is an index of `tables`, or anything if there are none.
#[derive(Debug)]
pub(crate) struct Slices<K, V> {
    tables: Vec<(Timestamp, HeapTable<K, V>)>,
    recent: usize,
    spare: Vec<HeapTable<K, V>>,
}

impl<K, V> Default for Slices<K, V> {
    fn default() -> Self {
        Self { tables: Vec::new(), recent: 0, spare: Vec::new() }
    }
}

impl<K: Key, V> Slices<K, V> {
    /// The table of a time, which the caller is about to put something into.
    ///
    /// Complexity: one comparison if the last call was for the same time, else a binary search.
    #[inline]
    pub fn get_or_open(&mut self, time: Timestamp) -> &mut HeapTable<K, V> {
        if self.tables.get(self.recent).is_none_or(|(recent, _)| *recent != time) {
            self.seek(time);
        }
        &mut self.tables[self.recent].1
    }

    /// [`HeapTable::modify_batch`], each key in the table of its own time.
    #[inline]
    pub fn modify_batch<'k>(
        &mut self,
        time: impl Fn(usize) -> Timestamp,
        hashes: &[u64],
        key: impl Fn(usize) -> &'k K,
        mut init: impl FnMut() -> V,
        mut f: impl FnMut(usize, &mut V),
    ) {
        for block in prefetch::blocks(hashes.len()) {
            let mut i = block.now.start;
            // The keys ahead are likely in the same slice.
            self.get_or_open(time(i)).prefetch(&hashes[block.ahead]);
            while i < block.now.end {
                let run = time(i);
                let table = self.get_or_open(run);
                while i < block.now.end && time(i) == run {
                    table.modify(hashes[i], key(i), &mut init, |value| f(i, value));
                    i += 1;
                }
            }
        }
    }

    #[cold]
    fn seek(&mut self, time: Timestamp) {
        self.recent = self.find(time).unwrap_or_else(|at| {
            let table = self.spare.pop().unwrap_or_default();
            self.tables.insert(at, (time, table));
            at
        });
    }

    fn find(&self, time: Timestamp) -> Result<usize, usize> {
        self.tables.binary_search_by_key(&time, |(t, _)| *t)
    }

    /// The table of a time.
    pub fn get(&self, time: Timestamp) -> Option<&HeapTable<K, V>> {
        self.find(time).ok().map(|at| &self.tables[at].1)
    }

    /// All tables by time.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, &HeapTable<K, V>)> {
        self.tables.iter().map(|(time, table)| (*time, table))
    }

    /// Removes a key from the table of a time, and the table with its last key.
    pub fn remove(&mut self, time: Timestamp, hash: u64, key: &K) -> Option<V> {
        let at = self.find(time).ok()?;
        let value = self.tables[at].1.remove(hash, key);
        if self.tables[at].1.is_empty() {
            self.close(time, |_| {});
        }
        value
    }

    /// Hands the table of a time to `f` for the last time, if there is one.
    pub fn close(&mut self, time: Timestamp, f: impl FnOnce(&mut HeapTable<K, V>)) {
        let Ok(at) = self.find(time) else { return };
        let (_, mut table) = self.tables.remove(at);
        // The next access is likely for the same table as the last one.
        if self.recent > at {
            self.recent -= 1;
        }
        let len = table.len();
        f(&mut table);
        // A table much larger than its content would make the next ones slow to visit and to clear.
        if self.spare.len() < SPARE_COUNT_MAX && len >= table.capacity() / 8 {
            table.clear();
            self.spare.push(table);
        }
    }
}
