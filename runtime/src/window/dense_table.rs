//! A hash table that is filled, visited as a whole and cleared: partial aggregates of one slice,
//! windows being merged.

/// A free slot of the index, as long as nothing is inserted.
pub(super) struct Slot(usize);

/// Keys and values in the order in which they were inserted, and an index by hash, which callers
/// bring.
///
/// Entries lie densely in a vector and the index holds eight bytes per slot, so that to visit and
/// to clear costs what the content is and not what the capacity is, and a table of a few thousand
/// keys has its index in the first-level cache. Nothing is removed singly.
///
/// If the key type holds no data there can only be one key: then nothing is hashed or compared.
///
/// # Invariants
/// - `index` has a power of two of slots, or none. A slot is zero (free), or has the low half of a
///   key's hash above the position of its entry plus one.
/// - At most three quarters of the slots are taken, and probing is linear.
pub(super) struct DenseTable<K, V> {
    index: Vec<u64>,
    entries: Vec<(K, V)>,
}

impl<K, V> Default for DenseTable<K, V> {
    fn default() -> Self {
        Self { index: Vec::new(), entries: Vec::new() }
    }
}

const SLOTS_MIN: usize = 64;

impl<K: Eq, V> DenseTable<K, V> {
    /// The value of a key, made by `create` if there is none.
    #[inline(always)]
    pub fn get_or_insert_with(&mut self, hash: u64, key: K, create: impl FnOnce() -> V) -> &mut V {
        let at = match self.find(hash, &key) {
            Ok(at) => at,
            Err(slot) => self.insert(slot, hash, key, create()),
        };
        &mut self.entries[at].1
    }

    /// The position of a key's entry, or the slot that it would take.
    #[inline(always)]
    pub fn find(&self, hash: u64, key: &K) -> Result<usize, Slot> {
        if const { size_of::<K>() == 0 } {
            return if self.entries.is_empty() { Err(Slot(0)) } else { Ok(0) };
        }
        if self.index.is_empty() {
            return Err(Slot(0));
        }
        let mask = self.index.len() - 1;
        let mut slot = hash as u32 as usize & mask;
        loop {
            let word = self.index[slot];
            if word == 0 {
                return Err(Slot(slot));
            }
            if (word >> 32) as u32 == hash as u32 {
                let at = (word as u32 - 1) as usize;
                if self.entries[at].0 == *key {
                    return Ok(at);
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The value of the entry at a position.
    #[inline(always)]
    pub fn value_mut(&mut self, at: usize) -> &mut V {
        &mut self.entries[at].1
    }

    /// Inserts a key that is not there into the slot that [`DenseTable::find`] gave, and returns
    /// its position.
    pub fn insert(&mut self, Slot(mut slot): Slot, hash: u64, key: K, value: V) -> usize {
        let at = self.entries.len();
        if const { size_of::<K>() > 0 } {
            if at >= self.index.len() / 4 * 3 {
                self.grow();
                slot = self.free_slot(hash);
            }
            let position = u32::try_from(at + 1).expect("fewer than 2^32 keys in one table");
            self.index[slot] = hash << 32 | u64::from(position);
        }
        self.entries.push((key, value));
        at
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.index.len() * 2).max(SLOTS_MIN);
        let taken = std::mem::replace(&mut self.index, vec![0; slots]);
        for word in taken.into_iter().filter(|word| *word != 0) {
            let slot = self.free_slot(word >> 32);
            self.index[slot] = word;
        }
    }

    /// The first free slot for a hash, of which only the low half counts.
    fn free_slot(&self, hash: u64) -> usize {
        let mask = self.index.len() - 1;
        let mut slot = hash as u32 as usize & mask;
        while self.index[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        slot
    }
}

impl<K, V> DenseTable<K, V> {
    /// The number of keys.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes all entries and hands them out in the order of their insertion. Keeps the memory for
    /// as many.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, V)> + '_ {
        if self.entries.len() < self.index.len() / 16 {
            // Else a table that was large once would take long to clear for ever.
            self.index.truncate((self.index.len() / 4).max(SLOTS_MIN));
        }
        self.index.fill(0);
        self.entries.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::hash_key;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_is_a_map_that_remembers_the_order(
            rounds in prop::collection::vec(prop::collection::vec(0u16..600, 0..900), 1..4),
            // Hashes of few bits collide.
            bits in prop_oneof![Just(1), Just(u64::from(u32::MAX) << 32 | 3), Just(u64::MAX)],
        ) {
            let mut table = DenseTable::default();
            for keys in rounds {
                let (mut model, mut order) = (HashMap::new(), Vec::new());
                for key in keys {
                    *table.get_or_insert_with(hash_key(&key) & bits, key, || 0u32) += 1;
                    *model.entry(key).or_insert_with(|| { order.push(key); 0u32 }) += 1;
                }
                prop_assert_eq!(table.len(), model.len());
                let expected: Vec<_> = order.into_iter().map(|key| (key, model[&key])).collect();
                prop_assert_eq!(table.drain().collect::<Vec<_>>(), expected);
                prop_assert_eq!(table.len(), 0);
            }
        }
    }

    #[test]
    fn an_empty_key_needs_no_index() {
        let mut table = DenseTable::default();
        for n in 1..=3u64 {
            *table.get_or_insert_with(0, (), || 0) += n;
        }
        assert!(table.index.is_empty());
        assert_eq!(table.drain().collect::<Vec<_>>(), [((), 6)]);
    }
}
