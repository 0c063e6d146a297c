//! A priority queue without duplicates, from which any element can be removed.

use millstream_types::Timestamp;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Timers in memory, ordered by time and hash.
///
/// Complexity: O(log n) for every operation.
pub(super) struct Queue<K> {
    timers: BTreeMap<(Timestamp, u64), Keys<K>>,
    len: usize,
}

/// The keys with one time and one hash: one, as good as always.
enum Keys<K> {
    One(K),
    Many(Vec<K>),
}

impl<K> Keys<K> {
    fn as_slice(&self) -> &[K] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }
}

impl<K: Eq + Clone> Queue<K> {
    pub fn new() -> Self {
        Self { timers: BTreeMap::new(), len: 0 }
    }

    /// False if it is there already.
    pub fn insert(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        match self.timers.entry((time, hash)) {
            Entry::Vacant(entry) => {
                entry.insert(Keys::One(key.clone()));
            }
            Entry::Occupied(mut entry) => {
                if entry.get().as_slice().contains(key) {
                    return false;
                }
                let mut keys = entry.get().as_slice().to_vec();
                keys.push(key.clone());
                entry.insert(Keys::Many(keys));
            }
        }
        self.len += 1;
        true
    }

    /// False if it is not there.
    pub fn remove(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        let Entry::Occupied(mut entry) = self.timers.entry((time, hash)) else { return false };
        let Some(at) = entry.get().as_slice().iter().position(|k| k == key) else { return false };
        match entry.get_mut() {
            Keys::Many(keys) if keys.len() > 1 => drop(keys.remove(at)),
            _ => drop(entry.remove()),
        }
        self.len -= 1;
        true
    }

    pub fn first(&self) -> Option<Timestamp> {
        self.timers.first_key_value().map(|((time, _), _)| *time)
    }

    /// Removes the first timer, if its time is not after `now`.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, u64, K)> {
        let mut entry = self.timers.first_entry()?;
        let (time, hash) = *entry.key();
        if time > now {
            return None;
        }
        let key = match entry.get_mut() {
            Keys::Many(keys) if keys.len() > 1 => keys.remove(0),
            _ => match entry.remove() {
                Keys::One(key) => key,
                Keys::Many(mut keys) => keys.pop()?,
            },
        };
        self.len -= 1;
        Some((time, hash, key))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// All timers in order.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, u64, &K)> {
        self.timers.iter().flat_map(|((time, hash), keys)| {
            keys.as_slice().iter().map(move |key| (*time, *hash, key))
        })
    }
}
