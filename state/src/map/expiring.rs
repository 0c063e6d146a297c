//! A map for each key, with a time to live for each entry.

use super::encoded_map::{decode_pair, with_pair};
use super::expiring_encoded::ExpiringEncodedMap;
use crate::encoded::{Coding, Sink};
use crate::error::or_raise;
use crate::heap::{AgingTable, PLACES_PER_WRITE, Perishable};
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::table::PLAIN;
use crate::ttl::{Lifetime, push_expiry, split_expiry, sweep_of};
use crate::value::{Aged, modify_aged};
use crate::{
    AlignedVec, CurrentKey, Data, HeapTable, Key, StateError, StoredEntry, TableSpec, Ttl,
};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What [`super::MapState`] is over state with a time to live.
pub(super) struct ExpiringMaps<K, MK, MV> {
    content: Owner<Content<K, MK, MV>>,
}

struct Content<K, MK, MV> {
    lifetime: Lifetime,
    storage: Storage<K, MK, MV>,
}

enum Storage<K, MK, MV> {
    Heap { maps: Rc<RefCell<AgingTable<K, Entries<MK, MV>>>>, coding: Coding },
    Encoded(RefCell<ExpiringEncodedMap<K, MK, MV>>),
}

/// The entries of one key.
struct Entries<MK, MV> {
    entries: AgingTable<MK, Aged<MV>>,
    /// Not before the latest of their expiries.
    latest: Cell<Timestamp>,
}

impl<MK, MV> Default for Entries<MK, MV> {
    fn default() -> Self {
        Self { entries: AgingTable::default(), latest: Cell::new(Timestamp::MIN) }
    }
}

impl<MK: Key, MV> Entries<MK, MV> {
    /// The value of an entry as a reader sees it, which may make it live on.
    fn seen<'a>(&self, aged: &'a Aged<MV>, lifetime: &Lifetime) -> Option<&'a MV> {
        let value = aged.seen(lifetime);
        self.latest.set(self.latest.get().max(aged.expiry.get()));
        value
    }

    /// Has `write` change one of the entries.
    fn write<R>(
        &mut self,
        lifetime: &Lifetime,
        write: impl FnOnce(&mut HeapTable<MK, Aged<MV>>) -> R,
    ) -> R {
        let result = write(self.entries.entries_mut());
        self.latest.set(self.latest.get().max(lifetime.expiry()));
        lifetime.count_reclaimed(self.entries.sweep(lifetime.now(), PLACES_PER_WRITE));
        result
    }
}

impl<MK: Key, MV> Perishable for Entries<MK, MV> {
    fn expiry(&self) -> Timestamp {
        self.latest.get()
    }

    fn tidy(&mut self, now: Timestamp) -> u64 {
        self.entries.sweep(now, PLACES_PER_WRITE)
    }

    fn count(&self) -> u64 {
        self.entries.entries().len() as u64
    }
}

impl<K: Key, MK: Key, MV: Data> ExpiringMaps<K, MK, MV> {
    pub fn open(state: &SubtaskState, spec: &TableSpec, ttl: Ttl) -> Result<Self, StateError> {
        let lifetime = state.lifetime(ttl);
        let content = state.table(spec, |bytes| {
            let storage = match bytes {
                Some(bytes) => Storage::Encoded(RefCell::new(ExpiringEncodedMap::new(
                    bytes,
                    spec,
                    lifetime.clone(),
                ))),
                None => {
                    let maps: Rc<RefCell<AgingTable<K, Entries<MK, MV>>>> = Rc::default();
                    state.on_sweep(sweep_of(&maps, &lifetime));
                    Storage::Heap { maps, coding: Coding::new(spec) }
                }
            };
            Ok(Content { lifetime, storage })
        })?;
        Ok(Self { content })
    }

    pub fn with<R>(
        &self,
        cx: &impl CurrentKey<K>,
        map_key: &MK,
        f: impl FnOnce(Option<&MV>) -> R,
    ) -> R {
        let Content { lifetime, storage } = &*self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let maps = maps.borrow();
                let map = maps.entries().get(cx.hash(), cx.key());
                f(map.and_then(|map| {
                    let aged = map.entries.entries().get(hash_key(map_key), map_key)?;
                    map.seen(aged, lifetime)
                }))
            }
            // Decoded before the user's code runs, which may use the state again.
            Storage::Encoded(map) => {
                let value = or_raise(map.borrow_mut().get(cx.hash(), cx.key(), map_key));
                f(value.as_ref())
            }
        }
    }

    pub fn put(&mut self, cx: &impl CurrentKey<K>, map_key: &MK, value: MV) {
        let Content { lifetime, storage } = &mut *self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let mut maps = maps.borrow_mut();
                let aged = Aged::new(lifetime.expiry(), value);
                maps.entries_mut().modify(cx.hash(), cx.key(), Entries::default, |map| {
                    map.write(lifetime, |map| map.insert(hash_key(map_key), map_key, aged));
                });
                lifetime.count_reclaimed(maps.sweep(lifetime.now(), PLACES_PER_WRITE));
            }
            // What is there is not decoded, only replaced.
            Storage::Encoded(map) => {
                or_raise(map.get_mut().write(cx.hash(), cx.key(), map_key, |_, _| Ok((value, ()))));
            }
        }
    }

    pub fn modify<R>(
        &mut self,
        cx: &impl CurrentKey<K>,
        map_key: &MK,
        init: impl FnOnce() -> MV,
        f: impl FnOnce(&mut MV) -> R,
    ) -> R {
        let Content { lifetime, storage } = &mut *self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let mut maps = maps.borrow_mut();
                let (key, map_key) = ((cx.hash(), cx.key()), (hash_key(map_key), map_key));
                let result = maps.entries_mut().modify(key.0, key.1, Entries::default, |map| {
                    map.write(lifetime, |map| modify_aged(map, lifetime, map_key, init, f))
                });
                lifetime.count_reclaimed(maps.sweep(lifetime.now(), PLACES_PER_WRITE));
                result
            }
            Storage::Encoded(map) => {
                or_raise(map.get_mut().write(cx.hash(), cx.key(), map_key, |coding, old| {
                    let mut value = match old {
                        Some(old) => coding.decode(old)?,
                        None => init(),
                    };
                    let result = f(&mut value);
                    Ok((value, result))
                }))
            }
        }
    }

    pub fn remove(&mut self, cx: &impl CurrentKey<K>, map_key: &MK) -> Option<MV> {
        let Content { lifetime, storage } = &mut *self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let mut maps = maps.borrow_mut();
                let map = maps.entries_mut().get_mut(cx.hash(), cx.key())?;
                let aged = map.entries.entries_mut().remove(hash_key(map_key), map_key);
                if map.entries.entries().is_empty() {
                    maps.entries_mut().remove(cx.hash(), cx.key());
                }
                aged.filter(|aged| lifetime.is_visible(aged.expiry.get())).map(|aged| aged.value)
            }
            Storage::Encoded(map) => or_raise(map.get_mut().remove(cx.hash(), cx.key(), map_key)),
        }
    }

    pub fn for_each(&self, cx: &impl CurrentKey<K>, mut f: impl FnMut(&MK, &MV)) {
        let Content { lifetime, storage } = &*self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let maps = maps.borrow();
                let Some(map) = maps.entries().get(cx.hash(), cx.key()) else { return };
                for (map_key, aged) in map.entries.entries().iter() {
                    if let Some(value) = map.seen(aged, lifetime) {
                        f(map_key, value);
                    }
                }
            }
            Storage::Encoded(map) => {
                let entries = or_raise(map.borrow_mut().entries(cx.hash(), cx.key()));
                entries.iter().for_each(|(map_key, value)| f(map_key, value));
            }
        }
    }

    /// The number of entries that can be seen.
    pub fn len(&self, cx: &impl CurrentKey<K>) -> u64 {
        let Content { lifetime, storage } = &*self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let maps = maps.borrow();
                let map = maps.entries().get(cx.hash(), cx.key());
                let entries = map.into_iter().flat_map(|map| map.entries.entries().iter());
                entries.filter(|(_, aged)| lifetime.is_visible(aged.expiry.get())).count() as u64
            }
            Storage::Encoded(map) => or_raise(map.borrow_mut().len(cx.hash(), cx.key())),
        }
    }

    pub fn drain(&mut self, cx: &impl CurrentKey<K>, mut f: impl FnMut(MK, MV)) {
        let Content { lifetime, storage } = &mut *self.content;
        match storage {
            Storage::Heap { maps, .. } => {
                let map = maps.borrow_mut().entries_mut().remove(cx.hash(), cx.key());
                let Some(mut map) = map else { return };
                for (map_key, aged) in map.entries.entries_mut().drain() {
                    if lifetime.is_visible(aged.expiry.get()) {
                        f(map_key, aged.value);
                    }
                }
            }
            Storage::Encoded(map) => or_raise(map.get_mut().drain(cx.hash(), cx.key(), f)),
        }
    }
}

impl<K: Key, MK: Key, MV: Data> Stored for Content<K, MK, MV> {
    const EXPIRES: bool = true;

    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        let Self { lifetime, storage } = self;
        match storage {
            Storage::Heap { maps, coding } => {
                let mut maps = maps.borrow_mut();
                lifetime.count_reclaimed(maps.sweep_all(lifetime.now()));
                let mut out = AlignedVec::new();
                for (group, key, map) in maps.entries().by_group(groups, coding.max_parallelism()) {
                    for (map_key, aged) in map.entries.entries().iter() {
                        let expiry = aged.expiry.get();
                        if lifetime.is_over(expiry) {
                            continue;
                        }
                        coding.encode(&aged.value, &mut out)?;
                        push_expiry(&mut out, expiry);
                        with_pair(coding, key, map_key, |key| {
                            sink(StoredEntry { namespace: PLAIN, group, key, value: &out })
                        })?;
                    }
                }
                Ok(())
            }
            Storage::Encoded(map) => map.borrow_mut().snapshot(groups, sink),
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let Self { lifetime, storage } = self;
        match storage {
            Storage::Heap { maps, coding } => {
                let (key, map_key): (K, MK) = decode_pair(coding, entry.key)?;
                let (value, expiry) = split_expiry(coding, entry.value)?;
                let aged = Aged::new(expiry, coding.decode(value)?);
                if !lifetime.is_over(expiry) {
                    let mut maps = maps.borrow_mut();
                    maps.entries_mut().modify(hash_key(&key), &key, Entries::default, |map| {
                        map.latest.set(map.latest.get().max(expiry));
                        map.entries.entries_mut().insert(hash_key(&map_key), &map_key, aged);
                    });
                }
                Ok(())
            }
            Storage::Encoded(map) => map.get_mut().restore(entry),
        }
    }
}
