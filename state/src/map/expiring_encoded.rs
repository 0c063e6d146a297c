//! Maps over a table of bytes whose entries expire.
//!
//! As in [`super::encoded_map`] a map is byte entries of three kinds, each of which ends with its
//! expiry (written here as an exclamation mark):
//!
//! | key | value | |
//! |---|---|---|
//! | `ENTRY`, key, map key | position (u32), guard (i64), map value, ! | found by key |
//! | `ORDER`, key, position | map key, ! | found by position |
//! | `COUNT`, key | n (u32), position at which to tidy up (u32), ! | |
//!
//! The backend may drop any of them by itself once it has expired. So that this leaves nothing that
//! cannot be reached, `COUNT` never expires before an `ORDER`, and that never before its `ENTRY`. The
//! *guard* of an entry is the expiry that both have at least: somewhat later than the entry's, so that
//! they are written again only once for many writes of the entry.
//!
//! Positions lie below n. At some there is no entry any more: *holes*, made by removal and expiry. To
//! add or to remove an entry is to look at two positions in turn and to fill the holes there with the last
//! entry, so there are never many more holes than entries.

use super::encoded_map::{Name, decode_pair};
use crate::encoded::{Bytes, Coding, Sink};
use crate::ttl::{Lifetime, push_expiry, split_expiry};
use crate::value::put;
use crate::{AlignedVec, Data, Key, StateError, StoredEntry, TableSpec, Update};
use millstream_types::{KeyGroupRange, Timestamp, hash_key};
use std::marker::PhantomData;

/// How many positions are looked at when an entry is added or removed.
const TIDIED_PER_CHANGE: usize = 2;

pub(super) struct ExpiringEncodedMap<K, MK, MV> {
    bytes: Bytes,
    coding: Coding,
    lifetime: Lifetime,
    types: PhantomData<(K, MK, MV)>,
}

/// What `ENTRY` says beside its value.
#[derive(Clone, Copy)]
struct Place {
    position: u32,
    guard: Timestamp,
    expiry: Timestamp,
}

/// What `COUNT` says.
#[derive(Clone, Copy, Default)]
struct Count {
    n: u32,
    cursor: u32,
    expiry: Timestamp,
}

impl<K: Key, MK: Key, MV: Data> ExpiringEncodedMap<K, MK, MV> {
    pub fn new(bytes: Bytes, spec: &TableSpec, lifetime: Lifetime) -> Self {
        Self { bytes, coding: Coding::new(spec), lifetime, types: PhantomData }
    }

    pub fn get(&mut self, hash: u64, key: &K, map_key: &MK) -> Result<Option<MV>, StateError> {
        let name = Name::entry(&self.coding, hash, key, map_key)?;
        let Some((place, value)) = self.entry(&name)? else { return Ok(None) };
        if let Some(expiry) = self.lifetime.refreshed(place.expiry) {
            self.refresh(hash, key, &name, place, expiry)?;
        }
        Ok(self.lifetime.is_visible(place.expiry).then_some(value))
    }

    /// Gives an entry the value that `make` makes of the encoded one that can be seen.
    pub fn write<R>(
        &mut self,
        hash: u64,
        key: &K,
        map_key: &MK,
        make: impl FnOnce(&Coding, Option<&[u8]>) -> Result<(MV, R), StateError>,
    ) -> Result<R, StateError> {
        let expiry = self.lifetime.expiry();
        let name = Name::entry(&self.coding, hash, key, map_key)?;
        let Self { bytes, coding, lifetime, .. } = self;
        let mut make = Some(make);
        let mut seen = None;
        let changed = bytes.update_expiring(name.key(), |found, out| {
            let Some(old) = found.value() else { return Ok((Update::Keep, None)) };
            let (place, value) = split_entry(coding, old)?;
            if lifetime.is_over(place.expiry) {
                // What belongs to it may be gone: it is added anew.
                seen = lifetime.is_visible(place.expiry).then(|| value.to_vec());
                return Ok((Update::Keep, None));
            }
            let make = make.take().expect("called once");
            let (value, result) = make(coding, Some(value))?;
            let mut new = AlignedVec::new();
            encode_entry(coding, Place { expiry, ..place }, &value, &mut new)?;
            Ok((put(found, &new, out), Some((result, place))))
        })?;
        if let Some((result, place)) = changed {
            if expiry > place.guard {
                self.extend(hash, key, &name, place.position, expiry)?;
            }
            return Ok(result);
        }
        let make = make.take().expect("not called yet");
        let (value, result) = make(&self.coding, seen.as_deref())?;
        self.add(hash, key, map_key, &value, expiry)?;
        Ok(result)
    }

    /// Adds an entry that is not there, or has expired.
    fn add(
        &mut self,
        hash: u64,
        key: &K,
        map_key: &MK,
        value: &MV,
        expiry: Timestamp,
    ) -> Result<(), StateError> {
        let mut count = self.count(hash, key)?;
        for _ in 0..TIDIED_PER_CHANGE {
            self.tidy(hash, key, &mut count)?;
        }
        let (position, guard) = (count.n, self.lifetime.beyond(expiry));
        count.n = position.checked_add(1).ok_or_else(|| self.coding.malformed("a map is full"))?;
        count.expiry = count.expiry.max(guard);
        self.set_count(hash, key, count)?;
        self.set_order(hash, key, position, map_key, guard)?;
        let name = Name::entry(&self.coding, hash, key, map_key)?;
        self.set_entry(&name, Place { position, guard, expiry }, value)
    }

    /// Looks at one position. If there is no entry, the last one takes it.
    fn tidy(&mut self, hash: u64, key: &K, count: &mut Count) -> Result<(), StateError> {
        if count.n == 0 {
            return Ok(());
        }
        if count.cursor >= count.n {
            count.cursor = 0;
        }
        let at = count.cursor;
        if self.at(hash, key, at)?.is_some() {
            count.cursor += 1;
            return Ok(());
        }
        let last = count.n - 1;
        count.n = last;
        if at != last
            && let Some((map_key, place, value)) = self.at(hash, key, last)?
        {
            self.set_order(hash, key, at, &map_key, place.guard)?;
            let name = Name::entry(&self.coding, hash, key, &map_key)?;
            self.set_entry(&name, Place { position: at, ..place }, &value)?;
        }
        self.drop_order(hash, key, last)
    }

    pub fn remove(&mut self, hash: u64, key: &K, map_key: &MK) -> Result<Option<MV>, StateError> {
        let name = Name::entry(&self.coding, hash, key, map_key)?;
        let Some((place, value)) = self.entry(&name)? else { return Ok(None) };
        self.bytes.table_mut().remove(name.key())?;
        if !self.lifetime.is_over(place.expiry) {
            self.drop_order(hash, key, place.position)?;
            let mut count = self.count(hash, key)?;
            for _ in 0..TIDIED_PER_CHANGE {
                self.tidy(hash, key, &mut count)?;
            }
            self.set_count(hash, key, count)?;
        }
        Ok(self.lifetime.is_visible(place.expiry).then_some(value))
    }

    /// The entries that can be seen; they live on if reading makes them.
    pub fn entries(&mut self, hash: u64, key: &K) -> Result<Vec<(MK, MV)>, StateError> {
        let mut entries = Vec::new();
        for position in 0..self.count(hash, key)?.n {
            if let Some((map_key, place, value)) = self.at(hash, key, position)? {
                if let Some(expiry) = self.lifetime.refreshed(place.expiry) {
                    let name = Name::entry(&self.coding, hash, key, &map_key)?;
                    self.refresh(hash, key, &name, place, expiry)?;
                }
                entries.push((map_key, value));
            }
        }
        Ok(entries)
    }

    pub fn len(&mut self, hash: u64, key: &K) -> Result<u64, StateError> {
        let mut len = 0;
        for position in 0..self.count(hash, key)?.n {
            len += u64::from(self.at(hash, key, position)?.is_some());
        }
        Ok(len)
    }

    pub fn drain(
        &mut self,
        hash: u64,
        key: &K,
        mut f: impl FnMut(MK, MV),
    ) -> Result<(), StateError> {
        for position in 0..self.count(hash, key)?.n {
            if let Some((map_key, _, value)) = self.at(hash, key, position)? {
                let name = Name::entry(&self.coding, hash, key, &map_key)?;
                self.bytes.table_mut().remove(name.key())?;
                f(map_key, value);
            }
            self.drop_order(hash, key, position)?;
        }
        let count = Name::count(&self.coding, hash, key)?;
        self.bytes.table_mut().remove(count.key())
    }

    pub fn snapshot(
        &mut self,
        groups: &KeyGroupRange,
        sink: &mut Sink<'_>,
    ) -> Result<(), StateError> {
        let Self { bytes, coding, lifetime, .. } = self;
        let mut expired = Vec::new();
        let mut out = AlignedVec::<16>::new();
        bytes.table().snapshot(groups, &mut |entry| {
            if lifetime.is_over(split_expiry(coding, entry.value)?.1) {
                expired.push(entry.key.to_vec());
                return Ok(());
            }
            let Some(pair) = Name::pair_of_entry(coding, entry.key)? else { return Ok(()) };
            let (place, value) = split_entry(coding, entry.value)?;
            out.clear();
            out.extend_from_slice(value);
            push_expiry(&mut out, place.expiry);
            sink(StoredEntry { key: pair, value: &out, ..entry })
        })?;
        for bytes in expired {
            let is_entry = Name::pair_of_entry(coding, &bytes)?.is_some();
            lifetime.count_reclaimed(u64::from(is_entry));
            let name = Name::of::<K, MK>(coding, &bytes)?;
            self.bytes.table_mut().remove(name.key())?;
        }
        Ok(())
    }

    pub fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        let (key, map_key): (K, MK) = decode_pair(&self.coding, entry.key)?;
        let (value, expiry) = split_expiry(&self.coding, entry.value)?;
        let value: MV = self.coding.decode(value)?;
        if self.lifetime.is_over(expiry) {
            return Ok(());
        }
        self.add(hash_key(&key), &key, &map_key, &value, expiry)
    }

    fn entry(&self, name: &Name) -> Result<Option<(Place, MV)>, StateError> {
        self.bytes.read(name.key(), |old| {
            let Some(old) = old else { return Ok(None) };
            let (place, value) = split_entry(&self.coding, old)?;
            Ok(Some((place, self.coding.decode(value)?)))
        })
    }

    fn set_entry(&mut self, name: &Name, place: Place, value: &MV) -> Result<(), StateError> {
        let mut new = AlignedVec::new();
        encode_entry(&self.coding, place, value, &mut new)?;
        self.set(name, &new)
    }

    fn set(&mut self, name: &Name, new: &[u8]) -> Result<(), StateError> {
        self.bytes.update_expiring(name.key(), |found, out| Ok((put(found, new, out), ())))
    }

    /// Gives an entry another expiry.
    fn refresh(
        &mut self,
        hash: u64,
        key: &K,
        name: &Name,
        place: Place,
        expiry: Timestamp,
    ) -> Result<(), StateError> {
        let coding = &self.coding;
        self.bytes.update_expiring(name.key(), |found, out| {
            let mut new = AlignedVec::<16>::new();
            let old = found.value().unwrap_or_default();
            new.extend_from_slice(split_expiry(coding, old)?.0);
            push_expiry(&mut new, expiry);
            Ok((put(found, &new, out), ()))
        })?;
        if expiry > place.guard {
            self.extend(hash, key, name, place.position, expiry)?;
        }
        Ok(())
    }

    /// Gives what belongs to an entry with this new expiry a later one.
    fn extend(
        &mut self,
        hash: u64,
        key: &K,
        name: &Name,
        position: u32,
        expiry: Timestamp,
    ) -> Result<(), StateError> {
        let guard = self.lifetime.beyond(expiry);
        let mut count = self.count(hash, key)?;
        count.expiry = count.expiry.max(guard);
        self.set_count(hash, key, count)?;
        let coding = &self.coding;
        let order = Name::order(coding, hash, key, position)?;
        let mut new = AlignedVec::<16>::new();
        self.bytes.read(order.key(), |order| {
            let order = order.ok_or_else(|| coding.malformed("a map lacks a position"))?;
            new.extend_from_slice(split_expiry(coding, order)?.0);
            Ok(())
        })?;
        push_expiry(&mut new, guard);
        self.set(&order, &new)?;
        self.bytes.update_expiring(name.key(), |found, out| {
            let mut new = AlignedVec::<16>::new();
            new.extend_from_slice(found.value().unwrap_or_default());
            if let Some(place) = new.get_mut(4..12) {
                place.copy_from_slice(&guard.as_nanos().to_le_bytes());
            }
            Ok((put(found, &new, out), ()))
        })
    }

    /// The entry at a position, if one can be seen there.
    fn at(&self, hash: u64, key: &K, position: u32) -> Result<Option<(MK, Place, MV)>, StateError> {
        let coding = &self.coding;
        let order = Name::order(coding, hash, key, position)?;
        let map_key = self.bytes.read(order.key(), |order| {
            let Some(order) = order else { return Ok(None) };
            let (map_key, expiry) = split_expiry(coding, order)?;
            self.lifetime.is_visible(expiry).then(|| coding.decode::<MK>(map_key)).transpose()
        })?;
        let Some(map_key) = map_key else { return Ok(None) };
        let entry = self.entry(&Name::entry(coding, hash, key, &map_key)?)?;
        // Since it was removed, or expired, it may have come back at another position.
        Ok(entry
            .filter(|(place, _)| place.position == position)
            .filter(|(place, _)| self.lifetime.is_visible(place.expiry))
            .map(|(place, value)| (map_key, place, value)))
    }

    fn set_order(
        &mut self,
        hash: u64,
        key: &K,
        position: u32,
        map_key: &MK,
        expiry: Timestamp,
    ) -> Result<(), StateError> {
        let order = Name::order(&self.coding, hash, key, position)?;
        let mut new = AlignedVec::new();
        self.coding.encode(map_key, &mut new)?;
        push_expiry(&mut new, expiry);
        self.set(&order, &new)
    }

    fn drop_order(&mut self, hash: u64, key: &K, position: u32) -> Result<(), StateError> {
        let order = Name::order(&self.coding, hash, key, position)?;
        self.bytes.table_mut().remove(order.key())
    }

    fn count(&self, hash: u64, key: &K) -> Result<Count, StateError> {
        let coding = &self.coding;
        let count = self.bytes.read(Name::count(coding, hash, key)?.key(), |count| {
            let Some(count) = count else { return Ok(Count::default()) };
            let (value, expiry) = split_expiry(coding, count)?;
            let [n, cursor] = [value.get(..4), value.get(4..8)].map(|part| {
                let part = part.and_then(|part| part.first_chunk());
                part.map(|part| u32::from_le_bytes(*part))
            });
            let (n, cursor) =
                n.zip(cursor).ok_or_else(|| coding.malformed("the count of a map is cut off"))?;
            Ok(Count { n, cursor, expiry })
        })?;
        Ok(count)
    }

    fn set_count(&mut self, hash: u64, key: &K, count: Count) -> Result<(), StateError> {
        let name = Name::count(&self.coding, hash, key)?;
        if count.n == 0 {
            return self.bytes.table_mut().remove(name.key());
        }
        let mut new = AlignedVec::new();
        new.extend_from_slice(&count.n.to_le_bytes());
        new.extend_from_slice(&count.cursor.to_le_bytes());
        push_expiry(&mut new, count.expiry);
        self.set(&name, &new)
    }
}

fn encode_entry<MV: Data>(
    coding: &Coding,
    place: Place,
    value: &MV,
    out: &mut AlignedVec,
) -> Result<(), StateError> {
    out.clear();
    out.extend_from_slice(&place.position.to_le_bytes());
    out.extend_from_slice(&place.guard.as_nanos().to_le_bytes());
    coding.encoded(value, |value| {
        out.extend_from_slice(value);
        Ok(())
    })?;
    push_expiry(out, place.expiry);
    Ok(())
}

fn split_entry<'a>(coding: &Coding, entry: &'a [u8]) -> Result<(Place, &'a [u8]), StateError> {
    let cut = || coding.malformed("an entry of a map is cut off");
    let (rest, expiry) = split_expiry(coding, entry)?;
    let (position, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (guard, value) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let guard = Timestamp::from_nanos(i64::from_le_bytes(*guard));
    Ok((Place { position: u32::from_le_bytes(*position), guard, expiry }, value))
}
