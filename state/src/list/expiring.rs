//! A list for each key, with a time to live for each element.

use super::{entry_key, push_frame};
use crate::encoded::{Bytes, Coding, Sink, snapshot_expiring, update};
use crate::error::or_raise;
use crate::heap::{AgingTable, PLACES_PER_WRITE, Perishable};
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::table::PLAIN;
use crate::ttl::{EXPIRY_BYTES, Lifetime, sweep_of};
use crate::{AlignedVec, CurrentKey, Data, Key, StateError, StoredEntry, TableSpec, Ttl, Update};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use std::cell::RefCell;
use std::rc::Rc;

/// What [`super::ListState`] is over state with a time to live.
pub(super) struct ExpiringLists<K, V> {
    content: Owner<Content<K, V>>,
}

struct Content<K, V> {
    lifetime: Lifetime,
    coding: Coding,
    storage: Storage<K, V>,
}

enum Storage<K, V> {
    Heap(Rc<RefCell<AgingTable<K, Elements<V>>>>),
    /// One byte entry for each key: for each element the length of its encoded value (u32, little
    /// endian), the value, and its expiry. So what ends with the last element's expiry is also what
    /// ends with the list's. This is also the form in snapshots.
    Bytes(RefCell<Bytes>),
}

/// The elements of a list with their expiries.
struct Elements<V> {
    list: Vec<(Timestamp, V)>,
    /// The latest of them.
    latest: Timestamp,
}

impl<V> Default for Elements<V> {
    fn default() -> Self {
        Self { list: Vec::new(), latest: Timestamp::MIN }
    }
}

impl<V> Elements<V> {
    fn push(&mut self, expiry: Timestamp, value: V) {
        self.latest = self.latest.max(expiry);
        self.list.push((expiry, value));
    }

    /// Drops what has expired before the list grows beyond its memory. So the list is at most twice
    /// as long as what of it was alive at one time.
    fn make_room(&mut self, now: Timestamp) -> u64 {
        if self.list.len() < self.list.capacity() {
            return 0;
        }
        let before = self.list.len();
        self.list.retain(|(expiry, _)| *expiry > now);
        if self.list.len() > before / 2 {
            self.list.reserve(self.list.len());
        }
        (before - self.list.len()) as u64
    }
}

impl<V> Perishable for Elements<V> {
    fn expiry(&self) -> Timestamp {
        self.latest
    }

    fn count(&self) -> u64 {
        self.list.len() as u64
    }
}

impl<K: Key, V: Data> ExpiringLists<K, V> {
    pub fn open(state: &SubtaskState, spec: &TableSpec, ttl: Ttl) -> Result<Self, StateError> {
        let lifetime = state.lifetime(ttl);
        let content = state.table(spec, |bytes| {
            let storage = match bytes {
                Some(bytes) => Storage::Bytes(RefCell::new(bytes)),
                None => {
                    let table: Rc<RefCell<AgingTable<K, Elements<V>>>> = Rc::default();
                    state.on_sweep(sweep_of(&table, &lifetime));
                    Storage::Heap(table)
                }
            };
            Ok(Content { lifetime, coding: Coding::new(spec), storage })
        })?;
        Ok(Self { content })
    }

    pub fn extend(&mut self, cx: &impl CurrentKey<K>, values: impl IntoIterator<Item = V>) {
        let Content { lifetime, coding, storage } = &mut *self.content;
        let (now, expiry) = (lifetime.now(), lifetime.expiry());
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        match storage {
            Storage::Heap(table) => {
                let mut table = table.borrow_mut();
                let mut dropped = table.sweep(now, PLACES_PER_WRITE);
                table.entries_mut().modify(cx.hash(), cx.key(), Elements::default, |elements| {
                    for value in values {
                        dropped += elements.make_room(now);
                        elements.push(expiry, value);
                    }
                });
                lifetime.count_reclaimed(dropped);
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                let key = entry_key(coding, cx.hash(), key);
                let mut frames = Vec::new();
                for value in values {
                    coding.encoded(&value, |value| {
                        push_element(coding, value, expiry, &mut frames)
                    })?;
                }
                match bytes.get_mut() {
                    Bytes::Segments(table) => {
                        table.append_trimmed(key, &frames, &mut |list| trim(list, lifetime))
                    }
                    Bytes::Other(table) => update(&mut **table, key, |old, new| {
                        new.extend_from_slice(old.unwrap_or_default());
                        trim(new, lifetime);
                        new.extend_from_slice(&frames);
                        Ok((Update::Write, ()))
                    }),
                }
            })),
        }
    }

    pub fn for_each(&self, cx: &impl CurrentKey<K>, mut f: impl FnMut(&V)) {
        let Content { lifetime, storage, .. } = &*self.content;
        match storage {
            Storage::Heap(table) => {
                if lifetime.refreshed(Timestamp::MAX).is_some()
                    && let Some(elements) =
                        table.borrow_mut().entries_mut().get_mut(cx.hash(), cx.key())
                {
                    for (expiry, _) in &mut elements.list {
                        *expiry = lifetime.refreshed(*expiry).unwrap_or(*expiry);
                        elements.latest = elements.latest.max(*expiry);
                    }
                }
                let table = table.borrow();
                let elements = table.entries().get(cx.hash(), cx.key());
                let elements = elements.into_iter().flat_map(|elements| &elements.list);
                elements
                    .filter(|(expiry, _)| lifetime.is_visible(*expiry))
                    .for_each(|(_, value)| f(value));
            }
            // Decoded before the user's code runs, which may use the state again.
            Storage::Bytes(bytes) => or_raise(self.content.read(bytes, cx)).iter().for_each(f),
        }
    }

    pub fn is_empty(&self, cx: &impl CurrentKey<K>) -> bool {
        let Content { lifetime, coding, storage } = &*self.content;
        match storage {
            Storage::Heap(table) => {
                !table.borrow().entries().get(cx.hash(), cx.key()).is_some_and(|elements| {
                    elements.list.iter().any(|(e, _)| lifetime.is_visible(*e))
                })
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                bytes.borrow().read(entry_key(coding, cx.hash(), key), |list| {
                    let mut found = false;
                    each_element(coding, list.unwrap_or_default(), |_, expiry| {
                        found |= lifetime.is_visible(expiry);
                        Ok(())
                    })?;
                    Ok(!found)
                })
            })),
        }
    }

    pub fn update<R>(&mut self, cx: &impl CurrentKey<K>, f: impl FnOnce(&mut Vec<V>) -> R) -> R {
        let Content { lifetime, coding, storage } = &mut *self.content;
        let expiry = lifetime.expiry();
        match storage {
            Storage::Heap(table) => {
                let mut table = table.borrow_mut();
                lifetime.count_reclaimed(table.sweep(lifetime.now(), PLACES_PER_WRITE));
                let old = table.entries_mut().remove(cx.hash(), cx.key()).unwrap_or_default();
                let visible = old.list.into_iter().filter(|(e, _)| lifetime.is_visible(*e));
                let mut list = visible.map(|(_, value)| value).collect();
                let result = f(&mut list);
                if !list.is_empty() {
                    let list = list.into_iter().map(|value| (expiry, value)).collect();
                    let elements = Elements { list, latest: expiry };
                    table.entries_mut().insert(cx.hash(), cx.key(), elements);
                }
                result
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                let key = entry_key(coding, cx.hash(), key);
                bytes.get_mut().update_expiring(key, |found, new| {
                    let mut list = visible(coding, lifetime, found.value().unwrap_or_default())?;
                    let result = f(&mut list);
                    let mut frames = Vec::new();
                    for value in &list {
                        coding.encoded(value, |v| push_element(coding, v, expiry, &mut frames))?;
                    }
                    new.extend_from_slice(&frames);
                    let update = if new.is_empty() { Update::Remove } else { Update::Write };
                    Ok((update, result))
                })
            })),
        }
    }

    pub fn clear(&mut self, cx: &impl CurrentKey<K>) {
        let Content { coding, storage, .. } = &mut *self.content;
        match storage {
            Storage::Heap(table) => {
                table.borrow_mut().entries_mut().remove(cx.hash(), cx.key());
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                bytes.get_mut().table_mut().remove(entry_key(coding, cx.hash(), key))
            })),
        }
    }
}

impl<K: Key, V: Data> Content<K, V> {
    fn read(&self, bytes: &RefCell<Bytes>, cx: &impl CurrentKey<K>) -> Result<Vec<V>, StateError> {
        let Self { lifetime, coding, .. } = self;
        coding.encoded(cx.key(), |key| {
            let key = entry_key(coding, cx.hash(), key);
            let mut refreshed = None;
            let list = bytes.borrow().read(key, |list| {
                let list = list.unwrap_or_default();
                each_element(coding, list, |_, expiry| {
                    refreshed = refreshed.or(lifetime.refreshed(expiry));
                    Ok(())
                })?;
                visible(coding, lifetime, list)
            })?;
            if refreshed.is_some() {
                bytes.borrow_mut().update_expiring(key, |found, new| {
                    let mut frames = Vec::new();
                    each_element(coding, found.value().unwrap_or_default(), |value, expiry| {
                        if lifetime.is_over(expiry) {
                            return Ok(());
                        }
                        let expiry = lifetime.refreshed(expiry).unwrap_or(expiry);
                        push_element(coding, value, expiry, &mut frames)
                    })?;
                    new.extend_from_slice(&frames);
                    Ok((Update::Write, ()))
                })?;
            }
            Ok(list)
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
                let (mut encoded, mut list) = (AlignedVec::<16>::new(), Vec::new());
                for (group, key, elements) in
                    table.entries().by_group(groups, coding.max_parallelism())
                {
                    list.clear();
                    for (expiry, value) in &elements.list {
                        if !lifetime.is_over(*expiry) {
                            coding.encode(value, &mut encoded)?;
                            push_element(coding, &encoded, *expiry, &mut list)?;
                        }
                    }
                    coding.encoded(key, |key| {
                        sink(StoredEntry { namespace: PLAIN, group, key, value: &list })
                    })?;
                }
                Ok(())
            }
            Storage::Bytes(bytes) => {
                snapshot_expiring::<K>(&mut bytes.borrow_mut(), coding, lifetime, groups, sink)
            }
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let Self { lifetime, coding, storage } = self;
        let key: K = coding.decode(entry.key)?;
        let hash = hash_key(&key);
        let (mut elements, mut frames) = (Elements::default(), Vec::new());
        each_element(coding, entry.value, |bytes, expiry| {
            let value: V = coding.decode(bytes)?;
            if !lifetime.is_over(expiry) {
                elements.push(expiry, value);
                push_element(coding, bytes, expiry, &mut frames)?;
            }
            Ok(())
        })?;
        if elements.list.is_empty() {
            return Ok(());
        }
        match storage {
            Storage::Heap(table) => {
                table.borrow_mut().entries_mut().insert(hash, &key, elements);
                Ok(())
            }
            Storage::Bytes(bytes) => {
                let key = entry_key(coding, hash, entry.key);
                bytes.get_mut().table_mut().insert(key, &frames)
            }
        }
    }
}

fn push_element(
    coding: &Coding,
    value: &[u8],
    expiry: Timestamp,
    out: &mut Vec<u8>,
) -> Result<(), StateError> {
    push_frame(coding, value, out)?;
    out.extend_from_slice(&expiry.as_nanos().to_le_bytes());
    Ok(())
}

/// The encoded value and the expiry at the beginning of a list, and what follows.
fn split_element(list: &[u8]) -> Option<(&[u8], Timestamp, &[u8])> {
    let (len, rest) = list.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let (expiry, rest) = rest.split_first_chunk()?;
    Some((value, Timestamp::from_nanos(i64::from_le_bytes(*expiry)), rest))
}

/// Visits the encoded elements of a list.
fn each_element(
    coding: &Coding,
    mut list: &[u8],
    mut f: impl FnMut(&[u8], Timestamp) -> Result<(), StateError>,
) -> Result<(), StateError> {
    while !list.is_empty() {
        let (value, expiry, rest) =
            split_element(list).ok_or_else(|| coding.malformed("a list ends within an element"))?;
        f(value, expiry)?;
        list = rest;
    }
    Ok(())
}

/// The elements that can be seen.
fn visible<V: Data>(
    coding: &Coding,
    lifetime: &Lifetime,
    list: &[u8],
) -> Result<Vec<V>, StateError> {
    let mut found = Vec::new();
    each_element(coding, list, |value, expiry| {
        if lifetime.is_visible(expiry) {
            found.push(coding.decode(value)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Takes the expired elements at the beginning of a list away: the oldest stand there.
fn trim(list: &mut AlignedVec, lifetime: &Lifetime) {
    let (mut at, mut dropped) = (0, 0);
    while let Some((value, expiry, _)) = split_element(&list[at..])
        && lifetime.is_over(expiry)
    {
        at += 4 + value.len() + EXPIRY_BYTES;
        dropped += 1;
    }
    if at > 0 {
        list.copy_within(at.., 0);
        list.resize(list.len() - at, 0);
        lifetime.count_reclaimed(dropped);
    }
}
