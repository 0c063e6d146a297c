//! A map for the current key.

use crate::encoded::Coding;
use crate::encoded::Sink;
use crate::error::or_raise;
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::table::PLAIN;
use crate::{CurrentKey, Data, HeapTable, Key, StateError, StoredEntry, TableSpec};
use encoded_map::EncodedMap;
use expiring::ExpiringMaps;
use millstream_types::{KeyGroupRange, hash_key};
use rkyv::util::AlignedVec;

mod encoded_map;
mod expiring;
mod expiring_encoded;

/// A map for each key, of which entries are read and written one by one. An empty map and no map
/// are the same.
///
/// On `heap` a hash table for each key. Elsewhere one byte entry for each entry of the map, plus
/// what it takes to visit a map: see the costs at each operation.
///
/// With a time to live ([`TableSpec::with_ttl`]) each entry is gone when it expires. To write it makes
/// it live on, and so does every read, in visits too, if the [`Ttl`](crate::Ttl) says so. Then the costs
/// are a few look-ups more, and to count the entries is to visit them.
pub struct MapState<K, MK, MV> {
    maps: Maps<K, MK, MV>,
}

enum Maps<K, MK, MV> {
    Lasting(Owner<Storage<K, MK, MV>>),
    Expiring(ExpiringMaps<K, MK, MV>),
}

enum Storage<K, MK, MV> {
    Heap { maps: HeapTable<K, HeapTable<MK, MV>>, coding: Coding },
    Encoded(EncodedMap<K, MK, MV>),
}

impl<K: Key, MK: Key, MV: Data> MapState<K, MK, MV> {
    /// Opens the state.
    ///
    /// # Errors
    /// As [`StateStore::table`](crate::StateStore::table); and if a restored checkpoint has the state
    /// with other types, or damaged.
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        let spec = &spec.of_map::<K, MK, MV>();
        if let Some(ttl) = spec.ttl {
            return Ok(Self { maps: Maps::Expiring(ExpiringMaps::open(state, spec, ttl)?) });
        }
        let storage = state.table(spec, |bytes| {
            Ok(match bytes {
                None => Storage::Heap { maps: HeapTable::new(), coding: Coding::new(spec) },
                Some(bytes) => Storage::Encoded(EncodedMap::new(bytes.into_boxed(), spec)),
            })
        })?;
        Ok(Self { maps: Maps::Lasting(storage) })
    }

    /// Hands the value of a map's key, or `None`, to `f`. Bytes: one look-up.
    #[inline]
    pub fn with<R>(
        &self,
        cx: &impl CurrentKey<K>,
        map_key: &MK,
        f: impl FnOnce(Option<&MV>) -> R,
    ) -> R {
        let storage = match &self.maps {
            Maps::Lasting(storage) => &**storage,
            Maps::Expiring(maps) => return maps.with(cx, map_key, f),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                f(maps.get(cx.hash(), cx.key()).and_then(|map| map.get(hash_key(map_key), map_key)))
            }
            Storage::Encoded(map) => f(or_raise(map.get(cx.hash(), cx.key(), map_key)).as_ref()),
        }
    }

    /// A copy of the value of a map's key. Bytes: one look-up.
    pub fn get(&self, cx: &impl CurrentKey<K>, map_key: &MK) -> Option<MV>
    where
        MV: Clone,
    {
        self.with(cx, map_key, |value| value.cloned())
    }

    /// True if the map has the key. Bytes: one look-up.
    pub fn contains(&self, cx: &impl CurrentKey<K>, map_key: &MK) -> bool {
        self.with(cx, map_key, |value| value.is_some())
    }

    /// Sets the value of a map's key. Bytes: one look-up, and four more if the key is new.
    pub fn put(&mut self, cx: &impl CurrentKey<K>, map_key: &MK, value: MV) {
        let storage = match &mut self.maps {
            Maps::Lasting(storage) => &mut **storage,
            Maps::Expiring(maps) => return maps.put(cx, map_key, value),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                maps.modify(cx.hash(), cx.key(), HeapTable::new, |map| {
                    map.insert(hash_key(map_key), map_key, value);
                });
            }
            Storage::Encoded(map) => {
                // What is there is not decoded, only replaced.
                or_raise(map.put(cx.hash(), cx.key(), map_key, &value));
            }
        }
    }

    /// The value of a map's key, made by `init` if there is none, is handed to `f`. Bytes: as
    /// [`MapState::put`].
    pub fn modify<R>(
        &mut self,
        cx: &impl CurrentKey<K>,
        map_key: &MK,
        init: impl FnOnce() -> MV,
        f: impl FnOnce(&mut MV) -> R,
    ) -> R {
        let storage = match &mut self.maps {
            Maps::Lasting(storage) => &mut **storage,
            Maps::Expiring(maps) => return maps.modify(cx, map_key, init, f),
        };
        match storage {
            Storage::Heap { maps, .. } => maps.modify(cx.hash(), cx.key(), HeapTable::new, |map| {
                map.modify(hash_key(map_key), map_key, init, f)
            }),
            Storage::Encoded(map) => or_raise(map.modify(cx.hash(), cx.key(), map_key, init, f)),
        }
    }

    /// Removes a key from the map and returns its value. Bytes: up to seven look-ups.
    pub fn remove(&mut self, cx: &impl CurrentKey<K>, map_key: &MK) -> Option<MV> {
        let storage = match &mut self.maps {
            Maps::Lasting(storage) => &mut **storage,
            Maps::Expiring(maps) => return maps.remove(cx, map_key),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                let map = maps.get_mut(cx.hash(), cx.key())?;
                let value = map.remove(hash_key(map_key), map_key);
                if map.is_empty() {
                    maps.remove(cx.hash(), cx.key());
                }
                value
            }
            Storage::Encoded(map) => or_raise(map.remove(cx.hash(), cx.key(), map_key)),
        }
    }

    /// The number of keys in the map. Bytes: one look-up.
    pub fn len(&self, cx: &impl CurrentKey<K>) -> u64 {
        let storage = match &self.maps {
            Maps::Lasting(storage) => &**storage,
            Maps::Expiring(maps) => return maps.len(cx),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                maps.get(cx.hash(), cx.key()).map_or(0, |map| map.len() as u64)
            }
            Storage::Encoded(map) => u64::from(or_raise(map.len(cx.hash(), cx.key()))),
        }
    }

    /// True if the map has no keys.
    pub fn is_empty(&self, cx: &impl CurrentKey<K>) -> bool {
        self.len(cx) == 0
    }

    /// Visits the map's entries, in no order. Bytes: two look-ups for each.
    pub fn for_each(&self, cx: &impl CurrentKey<K>, mut f: impl FnMut(&MK, &MV)) {
        let storage = match &self.maps {
            Maps::Lasting(storage) => &**storage,
            Maps::Expiring(maps) => return maps.for_each(cx, f),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                if let Some(map) = maps.get(cx.hash(), cx.key()) {
                    map.iter().for_each(|(key, value)| f(key, value));
                }
            }
            Storage::Encoded(map) => {
                or_raise(map.for_each(cx.hash(), cx.key(), |key, value| f(&key, &value)));
            }
        }
    }

    /// Removes the map's entries and hands them to `f`, in no order. Bytes: four look-ups for each.
    pub fn drain(&mut self, cx: &impl CurrentKey<K>, mut f: impl FnMut(MK, MV)) {
        let storage = match &mut self.maps {
            Maps::Lasting(storage) => &mut **storage,
            Maps::Expiring(maps) => return maps.drain(cx, f),
        };
        match storage {
            Storage::Heap { maps, .. } => {
                if let Some(mut map) = maps.remove(cx.hash(), cx.key()) {
                    map.drain().for_each(|(key, value)| f(key, value));
                }
            }
            Storage::Encoded(map) => or_raise(map.drain(cx.hash(), cx.key(), f)),
        }
    }

    /// Removes the map. Bytes: four look-ups for each entry.
    pub fn clear(&mut self, cx: &impl CurrentKey<K>) {
        let storage = match &mut self.maps {
            Maps::Lasting(storage) => &mut **storage,
            Maps::Expiring(maps) => return maps.drain(cx, |_, _| {}),
        };
        match storage {
            Storage::Heap { maps, .. } => drop(maps.remove(cx.hash(), cx.key())),
            Storage::Encoded(map) => or_raise(map.drain(cx.hash(), cx.key(), |_, _| {})),
        }
    }
}

impl<K: Key, MK: Key, MV: Data> Stored for Storage<K, MK, MV> {
    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { maps, coding } => {
                let mut out = AlignedVec::new();
                for (group, key, map) in maps.by_group(groups, coding.max_parallelism()) {
                    for (map_key, value) in map.iter() {
                        coding.encode(value, &mut out)?;
                        encoded_map::with_pair(coding, key, map_key, |key| {
                            sink(StoredEntry { namespace: PLAIN, group, key, value: &out })
                        })?;
                    }
                }
                Ok(())
            }
            Self::Encoded(map) => map.snapshot(groups, sink),
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        match self {
            Self::Heap { maps, coding } => {
                let (key, map_key): (K, MK) = encoded_map::decode_pair(coding, entry.key)?;
                let value = coding.decode(entry.value)?;
                maps.modify(hash_key(&key), &key, HeapTable::new, |map| {
                    map.insert(hash_key(&map_key), &map_key, value);
                });
                Ok(())
            }
            Self::Encoded(map) => map.restore(entry),
        }
    }
}

#[cfg(test)]
mod tests;
