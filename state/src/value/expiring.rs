//! One value for each key, with a time to live.

use crate::encoded::{Bytes, Coding, Sink, snapshot_expiring};
use crate::error::or_raise;
use crate::heap::{AgingTable, PLACES_PER_WRITE, Perishable};
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::table::PLAIN;
use crate::ttl::sweep_of;
use crate::ttl::{Lifetime, push_expiry, split_expiry};
use crate::{
    AlignedVec, CurrentKey, Data, EntryKey, Found, HeapTable, Key, StateError, StoredEntry,
    TableSpec, Ttl, Update,
};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What [`super::ValueState`] is over state with a time to live.
pub(super) struct ExpiringValues<K, V> {
    content: Owner<Content<K, V>>,
}

struct Content<K, V> {
    lifetime: Lifetime,
    coding: Coding,
    storage: Storage<K, V>,
}

enum Storage<K, V> {
    Heap(Rc<RefCell<AgingTable<K, Aged<V>>>>),
    /// Each value is followed by its expiry.
    Bytes(RefCell<Encoded>),
}

struct Encoded {
    bytes: Bytes,
    /// A new value, before it is known whether it fits where the old one lies.
    value: AlignedVec,
}

/// A value and when it expires.
pub(crate) struct Aged<V> {
    pub expiry: Cell<Timestamp>,
    pub value: V,
}

impl<V> Aged<V> {
    pub fn new(expiry: Timestamp, value: V) -> Self {
        Self { expiry: Cell::new(expiry), value }
    }

    /// The value as a reader sees it, which may make it live on.
    #[inline]
    pub fn seen(&self, lifetime: &Lifetime) -> Option<&V> {
        let expiry = self.expiry.get();
        if let Some(new) = lifetime.refreshed(expiry) {
            self.expiry.set(new);
        }
        lifetime.is_visible(expiry).then_some(&self.value)
    }
}

impl<V> Perishable for Aged<V> {
    fn expiry(&self) -> Timestamp {
        self.expiry.get()
    }
}

/// The value of a key that is there, or is made by `init`, is handed to `f`, and lives on.
#[inline]
pub(crate) fn modify_aged<K: Key, V, R>(
    entries: &mut HeapTable<K, Aged<V>>,
    lifetime: &Lifetime,
    (hash, key): (u64, &K),
    init: impl FnOnce() -> V,
    f: impl FnOnce(&mut V) -> R,
) -> R {
    let expiry = lifetime.expiry();
    let Some(aged) = entries.get_mut(hash, key) else {
        let mut value = init();
        let result = f(&mut value);
        entries.insert(hash, key, Aged::new(expiry, value));
        return result;
    };
    if !lifetime.is_visible(aged.expiry.get()) {
        aged.value = init();
    }
    aged.expiry.set(expiry);
    f(&mut aged.value)
}

impl<K: Key, V: Data> ExpiringValues<K, V> {
    pub fn open(state: &SubtaskState, spec: &TableSpec, ttl: Ttl) -> Result<Self, StateError> {
        let spec = &spec.of::<K, V>();
        let lifetime = state.lifetime(ttl);
        let content = state.table(spec, |bytes| {
            let storage = match bytes {
                Some(bytes) => {
                    Storage::Bytes(RefCell::new(Encoded { bytes, value: AlignedVec::new() }))
                }
                None => {
                    let table: Rc<RefCell<AgingTable<K, Aged<V>>>> = Rc::default();
                    state.on_sweep(sweep_of(&table, &lifetime));
                    Storage::Heap(table)
                }
            };
            Ok(Content { lifetime, coding: Coding::new(spec), storage })
        })?;
        Ok(Self { content })
    }

    #[inline]
    pub fn with<R>(&self, cx: &impl CurrentKey<K>, f: impl FnOnce(Option<&V>) -> R) -> R {
        let Content { lifetime, storage, .. } = &*self.content;
        match storage {
            Storage::Heap(table) => {
                let table = table.borrow();
                f(table.entries().get(cx.hash(), cx.key()).and_then(|aged| aged.seen(lifetime)))
            }
            // Decoded before the user's code runs, which may use the state again.
            Storage::Bytes(encoded) => f(or_raise(self.content.read(encoded, cx)).as_ref()),
        }
    }

    #[inline]
    pub fn set(&mut self, cx: &impl CurrentKey<K>, value: V) {
        let Content { lifetime, coding, storage } = &mut *self.content;
        match storage {
            Storage::Heap(table) => {
                let mut table = table.borrow_mut();
                let aged = Aged::new(lifetime.expiry(), value);
                table.entries_mut().insert(cx.hash(), cx.key(), aged);
                lifetime.count_reclaimed(table.sweep(lifetime.now(), PLACES_PER_WRITE));
            }
            Storage::Bytes(encoded) => {
                let Encoded { bytes, value: new } = encoded.get_mut();
                or_raise(coding.encoded(cx.key(), |key| {
                    coding.encode(&value, new)?;
                    push_expiry(new, lifetime.expiry());
                    let key = entry_key(coding, cx.hash(), key);
                    bytes.update_expiring(key, |found, out| Ok((put(found, new, out), ())))
                }));
            }
        }
    }

    #[inline]
    pub fn modify<R>(
        &mut self,
        cx: &impl CurrentKey<K>,
        init: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        let Content { lifetime, coding, storage } = &mut *self.content;
        match storage {
            Storage::Heap(table) => {
                let mut table = table.borrow_mut();
                let key = (cx.hash(), cx.key());
                let result = modify_aged(table.entries_mut(), lifetime, key, init, f);
                lifetime.count_reclaimed(table.sweep(lifetime.now(), PLACES_PER_WRITE));
                result
            }
            Storage::Bytes(encoded) => {
                let Encoded { bytes, value: new } = encoded.get_mut();
                or_raise(coding.encoded(cx.key(), |key| {
                    let key = entry_key(coding, cx.hash(), key);
                    bytes.update_expiring(key, |found, out| {
                        let mut value = match visible(coding, lifetime, found.value())? {
                            Some(old) => coding.decode(old)?,
                            None => init(),
                        };
                        let result = f(&mut value);
                        coding.encode(&value, new)?;
                        push_expiry(new, lifetime.expiry());
                        Ok((put(found, new, out), result))
                    })
                }))
            }
        }
    }

    pub fn take(&mut self, cx: &impl CurrentKey<K>) -> Option<V> {
        let Content { lifetime, coding, storage } = &mut *self.content;
        match storage {
            Storage::Heap(table) => {
                let aged = table.borrow_mut().entries_mut().remove(cx.hash(), cx.key())?;
                lifetime.is_visible(aged.expiry.get()).then_some(aged.value)
            }
            Storage::Bytes(encoded) => or_raise(coding.encoded(cx.key(), |key| {
                let key = entry_key(coding, cx.hash(), key);
                encoded.get_mut().bytes.update_expiring(key, |found, _| {
                    let old = visible(coding, lifetime, found.value())?;
                    let old = old.map(|old| coding.decode(old)).transpose()?;
                    Ok((Update::Remove, old))
                })
            })),
        }
    }

    pub fn prefetch(&self, hashes: &[u64]) {
        match &self.content.storage {
            Storage::Heap(table) => table.borrow().entries().prefetch(hashes),
            Storage::Bytes(encoded) => encoded.borrow().bytes.table().prefetch(PLAIN, hashes),
        }
    }
}

impl<K: Key, V: Data> Content<K, V> {
    fn read(
        &self,
        encoded: &RefCell<Encoded>,
        cx: &impl CurrentKey<K>,
    ) -> Result<Option<V>, StateError> {
        let Self { lifetime, coding, .. } = self;
        coding.encoded(cx.key(), |key| {
            let key = entry_key(coding, cx.hash(), key);
            let mut refreshed = None;
            let value = encoded.borrow().bytes.read(key, |value| {
                let Some(value) = value else { return Ok(None) };
                let (value, expiry) = split_expiry(coding, value)?;
                refreshed = lifetime.refreshed(expiry);
                lifetime.is_visible(expiry).then(|| coding.decode(value)).transpose()
            })?;
            if let Some(expiry) = refreshed {
                let Encoded { bytes, value: new } = &mut *encoded.borrow_mut();
                bytes.update_expiring(key, |found, out| {
                    new.clear();
                    let old = found.value().unwrap_or_default();
                    new.extend_from_slice(split_expiry(coding, old)?.0);
                    push_expiry(new, expiry);
                    Ok((put(found, new, out), ()))
                })?;
            }
            Ok(value)
        })
    }
}

impl<K: Key, V: Data> Stored for Content<K, V> {
    const IS_BY_KEY: bool = true;
    const EXPIRES: bool = true;

    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        let Self { lifetime, coding, storage } = self;
        match storage {
            Storage::Heap(table) => {
                let mut table = table.borrow_mut();
                lifetime.count_reclaimed(table.sweep_all(lifetime.now()));
                let mut out = AlignedVec::new();
                for (group, key, aged) in table.entries().by_group(groups, coding.max_parallelism())
                {
                    coding.encode(&aged.value, &mut out)?;
                    push_expiry(&mut out, aged.expiry.get());
                    coding.encoded(key, |key| {
                        sink(StoredEntry { namespace: PLAIN, group, key, value: &out })
                    })?;
                }
                Ok(())
            }
            Storage::Bytes(encoded) => {
                let bytes = &mut encoded.borrow_mut().bytes;
                snapshot_expiring::<K>(bytes, coding, lifetime, groups, sink)
            }
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let Self { lifetime, coding, storage } = self;
        let key: K = coding.decode(entry.key)?;
        let (value, expiry) = split_expiry(coding, entry.value)?;
        let value: V = coding.decode(value)?;
        if lifetime.is_over(expiry) {
            return Ok(());
        }
        let hash = hash_key(&key);
        match storage {
            Storage::Heap(table) => {
                table.borrow_mut().entries_mut().insert(hash, &key, Aged::new(expiry, value));
                Ok(())
            }
            Storage::Bytes(encoded) => {
                let bytes = encoded.get_mut().bytes.table_mut();
                bytes.insert(entry_key(coding, hash, entry.key), entry.value)
            }
        }
    }
}

fn entry_key<'a>(coding: &Coding, hash: u64, bytes: &'a [u8]) -> EntryKey<'a> {
    EntryKey { namespace: PLAIN, group: coding.group(hash), hash, bytes }
}

/// A stored value without its expiry, if it can be seen.
fn visible<'a>(
    coding: &Coding,
    lifetime: &Lifetime,
    stored: Option<&'a [u8]>,
) -> Result<Option<&'a [u8]>, StateError> {
    let Some(stored) = stored else { return Ok(None) };
    let (value, expiry) = split_expiry(coding, stored)?;
    Ok(lifetime.is_visible(expiry).then_some(value))
}

/// Puts a new value where the old one lies, if it fits there, and else into `out`.
#[inline]
pub(crate) fn put(found: Found<'_>, new: &[u8], out: &mut AlignedVec) -> Update {
    match found {
        Found::Mutable(place) if place.len() == new.len() => {
            place.copy_from_slice(new);
            Update::Keep
        }
        _ => {
            out.extend_from_slice(new);
            Update::Write
        }
    }
}
