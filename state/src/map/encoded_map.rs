//! Maps over a table of bytes that finds entries by hash and cannot scan by prefix.
//!
//! A map of n entries is 2n + 1 byte entries, told apart by the first byte of their keys:
//!
//! | key | value | |
//! |---|---|---|
//! | `ENTRY`, key, map key | position (u32), map value | found by key |
//! | `ORDER`, key, position | map key | found by position |
//! | `COUNT`, key | n (u32) | |
//!
//! The positions are 0..n without a gap: the last entry moves into the place of a removed one. So
//! everything but a visit is O(1) and nothing is ever rewritten but what changes. All entries are
//! in the key group of the key that owns the map.

use crate::encoded::{Coding, Sink, read, update};
use crate::table::PLAIN;
use crate::{ByteTable, Data, EntryKey, Key, StateError, StoredEntry, TableSpec, Update};
use millstream_types::{KeyGroup, KeyGroupRange, hash_key};
use rkyv::util::AlignedVec;
use std::marker::PhantomData;

const ENTRY: u8 = 0;
const ORDER: u8 = 1;
const COUNT: u8 = 2;

pub(super) struct EncodedMap<K, MK, MV> {
    bytes: Box<dyn ByteTable>,
    coding: Coding,
    types: PhantomData<(K, MK, MV)>,
}

impl<K: Key, MK: Key, MV: Data> EncodedMap<K, MK, MV> {
    pub fn new(bytes: Box<dyn ByteTable>, spec: &TableSpec) -> Self {
        Self { bytes, coding: Coding::new(spec), types: PhantomData }
    }

    pub fn get(&self, hash: u64, key: &K, map_key: &MK) -> Result<Option<MV>, StateError> {
        let entry = Name::entry(&self.coding, hash, key, map_key)?;
        read(&*self.bytes, entry.key(), |old| match old {
            Some(old) => Ok(Some(self.coding.decode(split_position(&self.coding, old)?.1)?)),
            None => Ok(None),
        })
    }

    pub fn put(&mut self, hash: u64, key: &K, map_key: &MK, value: &MV) -> Result<(), StateError> {
        let Self { bytes, coding, .. } = self;
        let entry = Name::entry(coding, hash, key, map_key)?;
        let replaced = update(&mut **bytes, entry.key(), |old, new| {
            let Some(old) = old else { return Ok((Update::Keep, false)) };
            let (position, _) = split_position(coding, old)?;
            with_position(coding, position, value, new)?;
            Ok((Update::Write, true))
        })?;
        if replaced { Ok(()) } else { self.add(hash, key, map_key, &entry, value) }
    }

    pub fn modify<R>(
        &mut self,
        hash: u64,
        key: &K,
        map_key: &MK,
        init: impl FnOnce() -> MV,
        f: impl FnOnce(&mut MV) -> R,
    ) -> Result<R, StateError> {
        let Self { bytes, coding, .. } = self;
        let entry = Name::entry(coding, hash, key, map_key)?;
        let mut f = Some(f);
        let found = update(&mut **bytes, entry.key(), |old, new| {
            let Some(old) = old else { return Ok((Update::Keep, None)) };
            let (position, value) = split_position(coding, old)?;
            let mut value = coding.decode(value)?;
            let result = f.take().expect("called once")(&mut value);
            with_position(coding, position, &value, new)?;
            Ok((Update::Write, Some(result)))
        })?;
        if let Some(result) = found {
            return Ok(result);
        }
        let mut value = init();
        let result = f.take().expect("not called yet")(&mut value);
        self.add(hash, key, map_key, &entry, &value)?;
        Ok(result)
    }

    /// Adds an entry that is not there.
    fn add(
        &mut self,
        hash: u64,
        key: &K,
        map_key: &MK,
        entry: &Name,
        value: &MV,
    ) -> Result<(), StateError> {
        let Self { bytes, coding, .. } = self;
        let count = Name::count(coding, hash, key)?;
        let position = update(&mut **bytes, count.key(), |old, new| {
            let n = old.map_or(Ok(0), |old| whole_position(coding, old))?;
            let more = n.checked_add(1).ok_or_else(|| coding.malformed("a map is full"))?;
            new.extend_from_slice(&more.to_le_bytes());
            Ok((Update::Write, n))
        })?;
        update(&mut **bytes, entry.key(), |_, new| {
            with_position(coding, position, value, new)?;
            Ok((Update::Write, ()))
        })?;
        let order = Name::order(coding, hash, key, position)?;
        coding.encoded(map_key, |map_key| bytes.insert(order.key(), map_key))
    }

    pub fn remove(&mut self, hash: u64, key: &K, map_key: &MK) -> Result<Option<MV>, StateError> {
        let Self { bytes, coding, .. } = self;
        let entry = Name::entry(coding, hash, key, map_key)?;
        let removed = update(&mut **bytes, entry.key(), |old, _| {
            let Some(old) = old else { return Ok((Update::Keep, None)) };
            let (position, value) = split_position(coding, old)?;
            Ok((Update::Remove, Some((position, coding.decode(value)?))))
        })?;
        let Some((hole, value)) = removed else { return Ok(None) };
        let count = Name::count(coding, hash, key)?;
        let last = update(&mut **bytes, count.key(), |old, new| {
            let n = old.map_or(Ok(0), |old| whole_position(coding, old))?;
            let last = n.checked_sub(1).ok_or_else(|| coding.malformed("a map has no count"))?;
            new.extend_from_slice(&last.to_le_bytes());
            Ok((if last == 0 { Update::Remove } else { Update::Write }, last))
        })?;
        if hole != last {
            let moved = self.at(hash, key, last)?;
            let Self { bytes, coding, .. } = self;
            let order = Name::order(coding, hash, key, hole)?;
            coding.encoded(&moved, |moved| bytes.insert(order.key(), moved))?;
            let entry = Name::entry(coding, hash, key, &moved)?;
            update(&mut **bytes, entry.key(), |old, new| {
                let old = old.ok_or_else(|| coding.malformed("a map lacks an entry"))?;
                new.extend_from_slice(&hole.to_le_bytes());
                new.extend_from_slice(split_position(coding, old)?.1);
                Ok((Update::Write, ()))
            })?;
        }
        self.bytes.remove(Name::order(&self.coding, hash, key, last)?.key())?;
        Ok(Some(value))
    }

    pub fn len(&self, hash: u64, key: &K) -> Result<u32, StateError> {
        read(&*self.bytes, Name::count(&self.coding, hash, key)?.key(), |n| {
            n.map_or(Ok(0), |n| whole_position(&self.coding, n))
        })
    }

    pub fn for_each(
        &self,
        hash: u64,
        key: &K,
        mut f: impl FnMut(MK, MV),
    ) -> Result<(), StateError> {
        for position in 0..self.len(hash, key)? {
            let map_key = self.at(hash, key, position)?;
            let value = self.get(hash, key, &map_key)?;
            f(map_key, value.ok_or_else(|| self.coding.malformed("a map lacks an entry"))?);
        }
        Ok(())
    }

    pub fn drain(
        &mut self,
        hash: u64,
        key: &K,
        mut f: impl FnMut(MK, MV),
    ) -> Result<(), StateError> {
        for position in 0..self.len(hash, key)? {
            let map_key = self.at(hash, key, position)?;
            let Self { bytes, coding, .. } = self;
            let entry = Name::entry(coding, hash, key, &map_key)?;
            let value = update(&mut **bytes, entry.key(), |old, _| {
                let old = old.ok_or_else(|| coding.malformed("a map lacks an entry"))?;
                Ok((Update::Remove, coding.decode(split_position(coding, old)?.1)?))
            })?;
            bytes.remove(Name::order(coding, hash, key, position)?.key())?;
            f(map_key, value);
        }
        self.bytes.remove(Name::count(&self.coding, hash, key)?.key())
    }

    #[cfg(test)]
    pub fn byte_entry_count(&self) -> u64 {
        self.bytes.len(PLAIN)
    }

    /// The map key at a position below the count.
    fn at(&self, hash: u64, key: &K, position: u32) -> Result<MK, StateError> {
        read(&*self.bytes, Name::order(&self.coding, hash, key, position)?.key(), |map_key| {
            let gap = || self.coding.malformed("a map lacks a position");
            self.coding.decode(map_key.ok_or_else(gap)?)
        })
    }

    pub fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        self.bytes.snapshot(groups, &mut |entry| {
            let Some(key) = Name::pair_of_entry(&self.coding, entry.key)? else { return Ok(()) };
            let (_, value) = split_position(&self.coding, entry.value)?;
            sink(StoredEntry { key, value, ..entry })
        })
    }

    pub fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let (key, map_key): (K, MK) = decode_pair(&self.coding, entry.key)?;
        let value = self.coding.decode(entry.value)?;
        self.put(hash_key(&key), &key, &map_key, &value)
    }
}

/// The name of a byte entry.
pub(super) struct Name {
    group: KeyGroup,
    hash: u64,
    bytes: Vec<u8>,
}

impl Name {
    pub fn entry<K: Key, MK: Key>(
        coding: &Coding,
        hash: u64,
        key: &K,
        map_key: &MK,
    ) -> Result<Self, StateError> {
        let mut bytes = vec![ENTRY];
        with_pair(coding, key, map_key, |pair| {
            bytes.extend_from_slice(pair);
            Ok(())
        })?;
        let own = hash_key(&(ENTRY, hash, hash_key(map_key)));
        Ok(Self { group: coding.group(hash), hash: own, bytes })
    }

    pub fn order<K: Key>(
        coding: &Coding,
        hash: u64,
        key: &K,
        position: u32,
    ) -> Result<Self, StateError> {
        let mut name = Self::count(coding, hash, key)?;
        name.bytes[0] = ORDER;
        name.bytes.extend_from_slice(&position.to_le_bytes());
        name.hash = hash_key(&(ORDER, hash, position));
        Ok(name)
    }

    pub fn count<K: Key>(coding: &Coding, hash: u64, key: &K) -> Result<Self, StateError> {
        let mut bytes = vec![COUNT];
        coding.encoded(key, |key| {
            bytes.extend_from_slice(key);
            Ok(())
        })?;
        Ok(Self { group: coding.group(hash), hash: hash_key(&(COUNT, hash)), bytes })
    }

    /// The name that has these bytes.
    pub fn of<K: Key, MK: Key>(coding: &Coding, bytes: &[u8]) -> Result<Self, StateError> {
        let unknown = || coding.malformed("an entry of a map is of no known kind");
        if let Some(pair) = Self::pair_of_entry(coding, bytes)? {
            let (key, map_key): (K, MK) = decode_pair(coding, pair)?;
            return Self::entry(coding, hash_key(&key), &key, &map_key);
        }
        let (kind, rest) = bytes.split_first().ok_or_else(unknown)?;
        if *kind == COUNT {
            let key: K = coding.decode(rest)?;
            return Self::count(coding, hash_key(&key), &key);
        }
        let (key, position) = rest.split_last_chunk().ok_or_else(unknown)?;
        let key: K = coding.decode(key)?;
        Self::order(coding, hash_key(&key), &key, u32::from_le_bytes(*position))
    }

    /// The key and map key in the name of an entry; `None` in that of another kind.
    pub fn pair_of_entry<'a>(
        coding: &Coding,
        bytes: &'a [u8],
    ) -> Result<Option<&'a [u8]>, StateError> {
        match bytes.split_first() {
            Some((&ENTRY, pair)) => Ok(Some(pair)),
            Some((&(ORDER | COUNT), _)) => Ok(None),
            _ => Err(coding.malformed("an entry of a map is of no known kind")),
        }
    }

    pub fn key(&self) -> EntryKey<'_> {
        EntryKey { namespace: PLAIN, group: self.group, hash: self.hash, bytes: &self.bytes }
    }
}

/// A key and a map key as bytes: the length of the first (u32, little endian), the first, the
/// second. The form in snapshots.
pub(super) fn with_pair<K: Key, MK: Key, R>(
    coding: &Coding,
    key: &K,
    map_key: &MK,
    f: impl FnOnce(&[u8]) -> Result<R, StateError>,
) -> Result<R, StateError> {
    coding.encoded(key, |key| {
        coding.encoded(map_key, |map_key| {
            let len = u32::try_from(key.len())
                .map_err(|_| coding.malformed("a key is 4 GiB or longer"))?;
            let mut pair = Vec::with_capacity(4 + key.len() + map_key.len());
            pair.extend_from_slice(&len.to_le_bytes());
            pair.extend_from_slice(key);
            pair.extend_from_slice(map_key);
            f(&pair)
        })
    })
}

/// The inverse of [`with_pair`].
pub(super) fn decode_pair<K: Key, MK: Key>(
    coding: &Coding,
    pair: &[u8],
) -> Result<(K, MK), StateError> {
    let cut = || coding.malformed("an entry of a map ends within its key");
    let (len, rest) = pair.split_first_chunk::<4>().ok_or_else(cut)?;
    let (key, map_key) =
        rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
    Ok((coding.decode(key)?, coding.decode(map_key)?))
}

fn with_position<MV: Data>(
    coding: &Coding,
    position: u32,
    value: &MV,
    out: &mut AlignedVec,
) -> Result<(), StateError> {
    out.extend_from_slice(&position.to_le_bytes());
    coding.encoded(value, |value| {
        out.extend_from_slice(value);
        Ok(())
    })
}

fn split_position<'a>(coding: &Coding, value: &'a [u8]) -> Result<(u32, &'a [u8]), StateError> {
    let (position, rest) = value
        .split_first_chunk()
        .ok_or_else(|| coding.malformed("an entry of a map ends within its position"))?;
    Ok((u32::from_le_bytes(*position), rest))
}

fn whole_position(coding: &Coding, value: &[u8]) -> Result<u32, StateError> {
    match split_position(coding, value)? {
        (position, []) => Ok(position),
        _ => Err(coding.malformed("the count of a map is too long")),
    }
}
