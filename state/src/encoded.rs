//! Typed access to a table of bytes.

use crate::error::or_raise;
use crate::ttl::{Lifetime, split_expiry};
use crate::{
    ByteTable, Data, DecodeError, EncodeError, EntryKey, Found, Key, SegmentTable, StateError,
    StoredEntry, TableSpec, Update,
};
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp, hash_key};
use rkyv::util::AlignedVec;
use std::cell::RefCell;
use std::marker::PhantomData;

/// The visitor of a snapshot: an entry in the canonical form, which no backend changes.
pub(crate) type Sink<'a> = dyn FnMut(StoredEntry<'_>) -> Result<(), StateError> + 'a;

/// What encodes and decodes the entries of one table: its name for errors, the number of key
/// groups, and buffers that are used again.
pub(crate) struct Coding {
    title: String,
    max_parallelism: u16,
    /// As many as uses of [`Coding::encoded`] were ever nested.
    buffers: RefCell<Vec<AlignedVec>>,
}

impl Coding {
    pub fn new(spec: &TableSpec) -> Self {
        Self {
            title: spec.title(),
            max_parallelism: spec.max_parallelism,
            buffers: RefCell::default(),
        }
    }

    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// The key group of a key with this hash.
    #[inline]
    pub fn group(&self, hash: u64) -> KeyGroup {
        KeyGroup::of(hash, self.max_parallelism)
    }

    /// Hands `f` the encoded form of a value, in a buffer that is used again.
    pub fn encoded<T: Data, R>(
        &self,
        value: &T,
        f: impl FnOnce(&[u8]) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        let mut buffer = self.buffers.borrow_mut().pop().unwrap_or_default();
        self.encode(value, &mut buffer)?;
        let result = f(&buffer);
        self.buffers.borrow_mut().push(buffer);
        result
    }

    #[inline]
    pub fn encode<T: Data>(&self, value: &T, out: &mut AlignedVec) -> Result<(), StateError> {
        value.encode(out).map_err(|source| self.encode_error(source))
    }

    #[inline]
    pub fn decode<T: Data>(&self, bytes: &[u8]) -> Result<T, StateError> {
        T::decode(bytes).map_err(|source| self.decode_error(source))
    }

    pub fn malformed(&self, reason: &'static str) -> StateError {
        StateError::Malformed { table: self.title.clone(), reason }
    }

    #[cold]
    fn encode_error(&self, source: EncodeError) -> StateError {
        StateError::Encode { table: self.title.clone(), source }
    }

    #[cold]
    fn decode_error(&self, source: DecodeError) -> StateError {
        StateError::Decode { table: self.title.clone(), source }
    }
}

/// [`ByteTable::get`] with a result: what `read` makes of the value.
pub(crate) fn read<R>(
    table: &dyn ByteTable,
    key: EntryKey<'_>,
    read: impl FnOnce(Option<&[u8]>) -> Result<R, StateError>,
) -> Result<R, StateError> {
    let (mut read, mut result) = (Some(read), None);
    table.get(key, &mut |value| {
        result = read.take().map(|read| read(value));
    })?;
    result.expect("`ByteTable::get` calls `read`")
}

/// [`ByteTable::update`] with a result: `f` says what becomes of the entry, and returns a value.
/// The entry stays as it is if `f` fails.
pub(crate) fn update<R>(
    table: &mut dyn ByteTable,
    key: EntryKey<'_>,
    f: impl FnOnce(Option<&[u8]>, &mut AlignedVec) -> Result<(Update, R), StateError>,
) -> Result<R, StateError> {
    let (mut f, mut result) = (Some(f), None);
    table.update(key, &mut |old, new| {
        let f = f.take().expect("`ByteTable::update` calls `f` once");
        let (update, outcome) = match f(old, new) {
            Ok((update, value)) => (update, Ok(value)),
            Err(error) => (Update::Keep, Err(error)),
        };
        result = Some(outcome);
        update
    })?;
    result.expect("`ByteTable::update` calls `f`")
}

/// Where a typed table keeps its bytes: in the store of segments, which it knows, or behind a virtual
/// call.
pub(crate) enum Bytes {
    Segments(SegmentTable),
    Other(Box<dyn ByteTable>),
}

impl Bytes {
    pub fn table(&self) -> &dyn ByteTable {
        match self {
            Self::Segments(table) => table,
            Self::Other(table) => &**table,
        }
    }

    pub fn table_mut(&mut self) -> &mut dyn ByteTable {
        match self {
            Self::Segments(table) => table,
            Self::Other(table) => &mut **table,
        }
    }

    pub fn into_boxed(self) -> Box<dyn ByteTable> {
        match self {
            Self::Segments(table) => Box::new(table),
            Self::Other(table) => table,
        }
    }

    /// [`read`], without a virtual call where it can be.
    #[inline]
    pub fn read<R>(
        &self,
        key: EntryKey<'_>,
        f: impl FnOnce(Option<&[u8]>) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        match self {
            Self::Segments(table) => table.read(key, f)?,
            Self::Other(table) => read(&**table, key, f),
        }
    }

    /// [`Self::update`] that raises what it fails with, as `f` does, and so hands no result from frame
    /// to frame.
    #[inline]
    fn modify_or_raise(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> Update,
    ) {
        or_raise(match self {
            Self::Segments(table) => table.modify(key, |found, new| (f(found, new), ())),
            Self::Other(table) => update(&mut **table, key, |old, new| {
                Ok((f(old.map_or(Found::Nothing, Found::Sealed), new), ()))
            }),
        });
    }

    /// [`update`], without a virtual call where it can be, and with a value that may be changed where
    /// it lies.
    #[inline]
    fn update<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> Result<(Update, R), StateError>,
    ) -> Result<R, StateError> {
        match self {
            Self::Segments(table) => table.modify(key, |found, new| match f(found, new) {
                Ok((update, value)) => (update, Ok(value)),
                Err(error) => (Update::Keep, Err(error)),
            })?,
            Self::Other(table) => update(&mut **table, key, |old, new| {
                f(old.map_or(Found::Nothing, Found::Sealed), new)
            }),
        }
    }
}

impl Bytes {
    /// [`Self::update`] of a table whose values end with their expiry.
    #[inline]
    pub fn update_expiring<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> Result<(Update, R), StateError>,
    ) -> Result<R, StateError> {
        match self {
            Self::Segments(table) => {
                table.modify_expiring(key, |found, new| match f(found, new) {
                    Ok((update, value)) => (update, Ok(value)),
                    Err(error) => (Update::Keep, Err(error)),
                })?
            }
            Self::Other(_) => self.update(key, f),
        }
    }
}

/// Visits the entries of a table whose values end with their expiry, and removes those that have
/// expired: nobody else would.
pub(crate) fn snapshot_expiring<K: Key>(
    bytes: &mut Bytes,
    coding: &Coding,
    lifetime: &Lifetime,
    groups: &KeyGroupRange,
    sink: &mut Sink<'_>,
) -> Result<(), StateError> {
    let mut expired = Vec::new();
    bytes.table().snapshot(groups, &mut |entry| {
        if !lifetime.is_over(split_expiry(coding, entry.value)?.1) {
            return sink(entry);
        }
        expired.push((entry.group, entry.key.to_vec()));
        Ok(())
    })?;
    lifetime.count_reclaimed(expired.len() as u64);
    for (group, key) in expired {
        let hash = hash_key(&coding.decode::<K>(&key)?);
        let key = EntryKey { namespace: Timestamp::MIN, group, hash, bytes: &key };
        bytes.table_mut().remove(key)?;
    }
    Ok(())
}

/// What becomes of an encoded value, and what its user says about that.
#[inline(always)]
fn changed<V: Data, C, R>(
    coding: &Coding,
    old: &[u8],
    with: C,
    next: impl FnOnce(C, &mut V) -> R,
) -> (V, R) {
    let mut value = or_raise(coding.decode(old));
    let result = next(with, &mut value);
    (value, result)
}

/// Puts a value where the old one lies if it fits, else into `new`.
#[inline(never)]
fn put<V: Data>(
    coding: &Coding,
    value: &V,
    encoded: &mut AlignedVec,
    place: &mut [u8],
    new: &mut AlignedVec,
) -> Update {
    or_raise(coding.encode(value, encoded));
    if place.len() == encoded.len() {
        place.copy_from_slice(encoded);
        return Update::Keep;
    }
    new.extend_from_slice(encoded);
    Update::Write
}

/// A table of typed entries over bytes: one byte entry for each key, in a namespace.
///
/// Complexity: every access encodes the key and decodes and encodes the value.
pub(crate) struct EncodedTable<K, V> {
    bytes: Bytes,
    coding: Coding,
    /// The key that is being used.
    key: AlignedVec,
    /// Its new value, before it is known whether that fits where the old one lies.
    value: AlignedVec,
    types: PhantomData<(K, V)>,
}

impl<K: Key, V: Data> EncodedTable<K, V> {
    pub fn new(bytes: Bytes, spec: &TableSpec) -> Self {
        let (key, value) = (AlignedVec::new(), AlignedVec::new());
        Self { bytes, coding: Coding::new(spec), key, value, types: PhantomData }
    }

    pub fn bytes(&self) -> &dyn ByteTable {
        self.bytes.table()
    }

    /// Says that the entries with these hashes are about to be used, and that
    /// [`ByteTable::prefetch`] said so a while ago: their places are known by now.
    #[inline]
    pub fn prefetch_entries(&self, namespace: Timestamp, hashes: &[u64]) {
        if let Bytes::Segments(table) = &self.bytes {
            table.prefetch_records(namespace, hashes);
        }
    }

    /// As [`crate::Table::is_partly_cold`].
    pub fn is_partly_cold(&self) -> bool {
        matches!(&self.bytes, Bytes::Segments(table) if table.is_partly_cold())
    }

    /// Says that the entries with these hashes are about to be used.
    #[inline]
    pub fn prefetch(&self, namespace: Timestamp, hashes: &[u64]) {
        match &self.bytes {
            Bytes::Segments(table) => table.prefetch(namespace, hashes),
            Bytes::Other(table) => table.prefetch(namespace, hashes),
        }
    }

    /// As [`crate::Table::modify`]. Raises what the store or the coding fails with.
    #[inline]
    pub fn modify<F: FnOnce(&mut V) -> R, R>(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        init: impl FnOnce() -> V,
        f: F,
    ) -> R {
        let first = |f: F| {
            let mut value = init();
            let result = f(&mut value);
            (value, result)
        };
        self.upsert(namespace, hash, key, f, first, |f, value| f(value))
    }

    /// As [`crate::Table::upsert`]. Raises what the store or the coding fails with: a result that is
    /// handed from frame to frame would cost a tenth of a count's rate.
    #[inline]
    pub fn upsert<C, R>(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        with: C,
        first: impl FnOnce(C) -> (V, R),
        next: impl FnOnce(C, &mut V) -> R,
    ) -> R {
        let Self { bytes, coding, key: key_bytes, value: encoded, .. } = self;
        let key = match key.plain_bytes() {
            Some(bytes) => bytes,
            None => {
                or_raise(coding.encode(key, key_bytes));
                key_bytes
            }
        };
        let key = EntryKey { namespace, group: coding.group(hash), hash, bytes: key };
        let mut out = None;
        bytes.modify_or_raise(key, |found, new| {
            let Found::Mutable(place) = found else {
                let (value, result) = match found.value() {
                    Some(old) => changed(coding, old, with, next),
                    None => first(with),
                };
                out = Some(result);
                or_raise(coding.encode(&value, new));
                return Update::Write;
            };
            let (value, result) = changed(coding, place, with, next);
            out = Some(result);
            match value.plain_bytes() {
                Some(plain) if plain.len() == place.len() => {
                    place.copy_from_slice(plain);
                    Update::Keep
                }
                _ => put(coding, &value, encoded, place, new),
            }
        });
        out.expect("`Bytes::modify_or_raise` calls what it is given")
    }

    pub fn get(&self, namespace: Timestamp, hash: u64, key: &K) -> Result<Option<V>, StateError> {
        let (coding, group) = (&self.coding, self.coding.group(hash));
        coding.encoded(key, |key| {
            let key = EntryKey { namespace, group, hash, bytes: key };
            self.bytes.read(key, |value| value.map(|value| coding.decode(value)).transpose())
        })
    }

    pub fn insert(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
        value: &V,
    ) -> Result<(), StateError> {
        let Self { bytes, coding, .. } = self;
        let group = coding.group(hash);
        coding.encoded(key, |key| {
            coding.encoded(value, |value| {
                let key = EntryKey { namespace, group, hash, bytes: key };
                bytes.table_mut().insert(key, value)
            })
        })
    }

    pub fn remove(
        &mut self,
        namespace: Timestamp,
        hash: u64,
        key: &K,
    ) -> Result<Option<V>, StateError> {
        let Self { bytes, coding, .. } = self;
        let group = coding.group(hash);
        coding.encoded(key, |key| {
            bytes.update(EntryKey { namespace, group, hash, bytes: key }, |found, _| {
                let old = found.value().map(|old| coding.decode(old)).transpose()?;
                Ok((Update::Remove, old))
            })
        })
    }

    pub fn for_each(
        &self,
        namespace: Timestamp,
        mut f: impl FnMut(K, V),
    ) -> Result<(), StateError> {
        self.bytes.table().for_each(namespace, &mut |entry| {
            f(self.coding.decode(entry.key)?, self.coding.decode(entry.value)?);
            Ok(())
        })
    }

    pub fn drain(&mut self, namespace: Timestamp, f: impl FnMut(K, V)) -> Result<(), StateError> {
        self.for_each(namespace, f)?;
        self.bytes.table_mut().remove_namespace(namespace)
    }

    /// Removes the entries for which `keep` is false.
    pub fn retain(
        &mut self,
        namespace: Timestamp,
        mut keep: impl FnMut(&K, &V) -> bool,
    ) -> Result<(), StateError> {
        let mut dead = Vec::new();
        self.for_each(namespace, |key, value| {
            if !keep(&key, &value) {
                dead.push(key);
            }
        })?;
        for key in dead {
            self.remove(namespace, hash_key(&key), &key)?;
        }
        Ok(())
    }

    pub fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError> {
        self.bytes.table_mut().remove_namespace(namespace)
    }

    pub fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError> {
        self.bytes.table().snapshot(groups, sink)
    }

    pub fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError> {
        // Decoded so that an entry of other types is refused now, and not when its key comes by.
        let (key, _): (K, V) = (self.coding.decode(entry.key)?, self.coding.decode(entry.value)?);
        let hash = hash_key(&key);
        let key = EntryKey {
            namespace: entry.namespace,
            group: self.coding.group(hash),
            hash,
            bytes: entry.key,
        };
        self.bytes.table_mut().insert(key, entry.value)
    }
}
