//! A list for the current key.

mod expiring;

use crate::encoded::{Coding, Sink, read, update};
use crate::error::or_raise;
use crate::shared::Owner;
use crate::subtask::{Stored, SubtaskState};
use crate::table::PLAIN;
use crate::{
    ByteTable, CurrentKey, Data, EntryKey, HeapTable, Key, StateError, StoredEntry, TableSpec,
    Update,
};
use expiring::ExpiringLists;
use millstream_types::{KeyGroupRange, hash_key};
use rkyv::util::AlignedVec;

/// A list of values for each key. To push does not rewrite what is there: amortised O(1) on
/// `heap`, one [`ByteTable::append`] elsewhere. An empty list and no list are the same.
///
/// With a time to live ([`TableSpec::with_ttl`]) each element is gone when it expires, so long after it
/// was added. [`update`](Self::update) and [`set`](Self::set) write every element anew; to read makes
/// all of them live on if the [`Ttl`](crate::Ttl) says so, for which the list is written anew.
/// Elsewhere than on `heap` a list lives at most as long as its newest element: if a program has come with
/// a shorter time to live than the one before, older elements may go together with that.
pub struct ListState<K, V> {
    lists: Lists<K, V>,
}

enum Lists<K, V> {
    Lasting(Owner<Content<K, V>>),
    Expiring(ExpiringLists<K, V>),
}

struct Content<K, V> {
    storage: Storage<K, V>,
    coding: Coding,
}

enum Storage<K, V> {
    Heap(HeapTable<K, Vec<V>>),
    /// One byte entry for each key: the encoded values, each preceded by its length (u32, little
    /// endian). This is also the form in snapshots.
    Bytes(Box<dyn ByteTable>),
}

impl<K: Key, V: Data> ListState<K, V> {
    /// Opens the state.
    ///
    /// # Errors
    /// As [`StateStore::table`](crate::StateStore::table); and if a restored checkpoint has the state
    /// with other types, or damaged.
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        let spec = &spec.of::<K, V>();
        if let Some(ttl) = spec.ttl {
            let lists = Lists::Expiring(ExpiringLists::open(state, spec, ttl)?);
            return Ok(Self { lists });
        }
        let content = state.table(spec, |bytes| {
            let storage = bytes.map_or_else(
                || Storage::Heap(HeapTable::new()),
                |b| Storage::Bytes(b.into_boxed()),
            );
            Ok(Content { storage, coding: Coding::new(spec) })
        })?;
        Ok(Self { lists: Lists::Lasting(content) })
    }

    /// Adds a value at the end.
    #[inline]
    pub fn push(&mut self, cx: &impl CurrentKey<K>, value: V) {
        if let Lists::Lasting(content) = &mut self.lists
            && let Storage::Heap(table) = &mut content.storage
        {
            table.modify(cx.hash(), cx.key(), Vec::new, |list| list.push(value));
        } else {
            self.extend(cx, [value]);
        }
    }

    /// Adds values at the end.
    pub fn extend(&mut self, cx: &impl CurrentKey<K>, values: impl IntoIterator<Item = V>) {
        let Content { storage, coding } = match &mut self.lists {
            Lists::Lasting(content) => &mut **content,
            Lists::Expiring(lists) => return lists.extend(cx, values),
        };
        match storage {
            Storage::Heap(table) => {
                let mut values = values.into_iter().peekable();
                if values.peek().is_some() {
                    table.modify(cx.hash(), cx.key(), Vec::new, |list| list.extend(values));
                }
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                let frames = frames(coding, values)?;
                if frames.is_empty() {
                    return Ok(());
                }
                bytes.append(entry_key(coding, cx.hash(), key), &frames)
            })),
        }
    }

    /// Visits the values from first to last.
    pub fn for_each(&self, cx: &impl CurrentKey<K>, mut f: impl FnMut(&V)) {
        let Content { storage, coding } = match &self.lists {
            Lists::Lasting(content) => &**content,
            Lists::Expiring(lists) => return lists.for_each(cx, f),
        };
        match storage {
            Storage::Heap(table) => {
                table.get(cx.hash(), cx.key()).into_iter().flatten().for_each(f);
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                read(&**bytes, entry_key(coding, cx.hash(), key), |frames| {
                    each_frame(coding, frames.unwrap_or_default(), |value| f(&value))
                })
            })),
        }
    }

    /// A copy of the list.
    pub fn get(&self, cx: &impl CurrentKey<K>) -> Vec<V>
    where
        V: Clone,
    {
        let mut list = Vec::new();
        self.for_each(cx, |value| list.push(value.clone()));
        list
    }

    /// True if there are no values.
    pub fn is_empty(&self, cx: &impl CurrentKey<K>) -> bool {
        let Content { storage, coding } = match &self.lists {
            Lists::Lasting(content) => &**content,
            Lists::Expiring(lists) => return lists.is_empty(cx),
        };
        match storage {
            Storage::Heap(table) => table.get(cx.hash(), cx.key()).is_none(),
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                read(&**bytes, entry_key(coding, cx.hash(), key), |list| Ok(list.is_none()))
            })),
        }
    }

    /// Hands the whole list to `f`, which may change it at will. Elsewhere than on `heap` the list
    /// is decoded and written anew.
    pub fn update<R>(&mut self, cx: &impl CurrentKey<K>, f: impl FnOnce(&mut Vec<V>) -> R) -> R {
        let Content { storage, coding } = match &mut self.lists {
            Lists::Lasting(content) => &mut **content,
            Lists::Expiring(lists) => return lists.update(cx, f),
        };
        match storage {
            Storage::Heap(table) => {
                let (result, empty) =
                    table.modify(cx.hash(), cx.key(), Vec::new, |list| (f(list), list.is_empty()));
                if empty {
                    table.remove(cx.hash(), cx.key());
                }
                result
            }
            Storage::Bytes(bytes) => or_raise(coding.encoded(cx.key(), |key| {
                update(&mut **bytes, entry_key(coding, cx.hash(), key), |old, new| {
                    let mut list = Vec::new();
                    each_frame(coding, old.unwrap_or_default(), |value| list.push(value))?;
                    let result = f(&mut list);
                    new.extend_from_slice(&frames(coding, list)?);
                    let update = if new.is_empty() { Update::Remove } else { Update::Write };
                    Ok((update, result))
                })
            })),
        }
    }

    /// Replaces the list.
    pub fn set(&mut self, cx: &impl CurrentKey<K>, values: Vec<V>) {
        self.update(cx, |list| *list = values);
    }

    /// Removes the list and returns it.
    pub fn take(&mut self, cx: &impl CurrentKey<K>) -> Vec<V> {
        if let Lists::Lasting(content) = &mut self.lists
            && let Storage::Heap(table) = &mut content.storage
        {
            table.remove(cx.hash(), cx.key()).unwrap_or_default()
        } else {
            self.update(cx, std::mem::take)
        }
    }

    /// Removes the list.
    pub fn clear(&mut self, cx: &impl CurrentKey<K>) {
        let Content { storage, coding } = match &mut self.lists {
            Lists::Lasting(content) => &mut **content,
            Lists::Expiring(lists) => return lists.clear(cx),
        };
        match storage {
            Storage::Heap(table) => drop(table.remove(cx.hash(), cx.key())),
            Storage::Bytes(bytes) => or_raise(
                coding.encoded(cx.key(), |key| bytes.remove(entry_key(coding, cx.hash(), key))),
            ),
        }
    }
}

impl<K: Key, V: Data> Stored for Content<K, V> {
    const IS_BY_KEY: bool = true;
    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        let coding = &self.coding;
        match &self.storage {
            Storage::Heap(table) => {
                let (mut value, mut list) = (AlignedVec::new(), Vec::new());
                for (group, key, values) in table.by_group(groups, coding.max_parallelism()) {
                    list.clear();
                    for v in values {
                        coding.encode(v, &mut value)?;
                        push_frame(coding, &value, &mut list)?;
                    }
                    coding.encoded(key, |key| {
                        sink(StoredEntry { namespace: PLAIN, group, key, value: &list })
                    })?;
                }
                Ok(())
            }
            Storage::Bytes(bytes) => bytes.snapshot(groups, sink),
        }
    }

    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let Self { storage, coding } = self;
        let key: K = coding.decode(entry.key)?;
        let hash = hash_key(&key);
        let mut list = Vec::new();
        each_frame(coding, entry.value, |value: V| list.push(value))?;
        match storage {
            Storage::Heap(table) => drop(table.insert(hash, &key, list)),
            Storage::Bytes(bytes) => {
                bytes.insert(entry_key(coding, hash, entry.key), entry.value)?;
            }
        }
        Ok(())
    }
}

fn entry_key<'a>(coding: &Coding, hash: u64, bytes: &'a [u8]) -> EntryKey<'a> {
    EntryKey { namespace: PLAIN, group: coding.group(hash), hash, bytes }
}

/// The encoded values, each preceded by its length.
fn frames<V: Data>(
    coding: &Coding,
    values: impl IntoIterator<Item = V>,
) -> Result<Vec<u8>, StateError> {
    let mut out = Vec::new();
    for value in values {
        coding.encoded(&value, |value| push_frame(coding, value, &mut out))?;
    }
    Ok(out)
}

fn push_frame(coding: &Coding, value: &[u8], out: &mut Vec<u8>) -> Result<(), StateError> {
    let len = u32::try_from(value.len())
        .map_err(|_| coding.malformed("a value of a list is 4 GiB or longer"))?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// Decodes the values of a list.
fn each_frame<V: Data>(
    coding: &Coding,
    mut frames: &[u8],
    mut f: impl FnMut(V),
) -> Result<(), StateError> {
    let cut = || coding.malformed("a list ends within a value");
    while !frames.is_empty() {
        let (len, rest) = frames.split_first_chunk::<4>().ok_or_else(cut)?;
        let (value, rest) =
            rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
        f(coding.decode(value)?);
        frames = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
