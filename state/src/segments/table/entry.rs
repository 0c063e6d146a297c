//! Finding and changing one entry.

use super::{Found, TableCore};
use crate::segments::address::Address;
use crate::segments::index::SlotIndex;
use crate::segments::log::{Log, Pin};
use crate::segments::namespaces::Namespaces;
use crate::segments::record::{Header, Kind, Record, expiry_of, record_len};
use crate::segments::store::Shared;
use crate::{AlignedVec, EntryKey, StateError, Update};
use millstream_types::Timestamp;

/// One use of a table: while it lasts the memory stays.
pub(in crate::segments) struct Access<'a> {
    pub shared: &'a Shared,
    pub core: &'a TableCore,
    /// The epoch to write in.
    pub epoch: u32,
    pub pin: &'a Pin<'a>,
}

/// An entry, as the index knows it.
pub(super) struct Entry {
    pub slot: SlotIndex,
    pub address: Address,
    pub header: Header,
}

impl<'a> Access<'a> {
    #[inline]
    pub(super) fn find(
        &self,
        names: &Namespaces,
        key: &EntryKey<'_>,
    ) -> Result<Option<Entry>, StateError> {
        let first = names.index(key.namespace).and_then(|index| index.first(key.hash));
        let Some((slot, address)) = first else { return Ok(None) };
        match self.shared.log.borrow().record(address, self.pin, names) {
            Ok(record) if record.is_of(key) => {
                Ok(Some(Entry { slot, address, header: record.header }))
            }
            _ => self.find_behind(names, key),
        }
    }

    /// [`Self::find`], where the first record to which the index leads is not that of the key.
    #[cold]
    fn find_behind(
        &self,
        names: &Namespaces,
        key: &EntryKey<'_>,
    ) -> Result<Option<Entry>, StateError> {
        let Some(index) = names.index(key.namespace) else { return Ok(None) };
        let log = self.shared.log.borrow();
        let mut header = None;
        let found = index.find(key.hash, |address| {
            let record = match log.record(address, self.pin, names) {
                Ok(record) => record,
                Err(error) => return passed_over(&log, address, error),
            };
            let is_it = record.is_of(key);
            if is_it {
                header = Some(record.header);
            }
            Ok::<_, StateError>(is_it)
        })?;
        Ok(found.zip(header).map(|((slot, address), header)| Entry { slot, address, header }))
    }

    /// The entry of which this record is part, if it still is.
    pub(super) fn find_with(
        &self,
        names: &Namespaces,
        key: &EntryKey<'_>,
        address: Address,
        record: &Record<'_>,
    ) -> Result<Option<Entry>, StateError> {
        if self.core.has_pieces.get() {
            return self.find(names, key);
        }
        // Without a look at the newer one, which may be cold.
        let Some(index) = names.index(key.namespace) else { return Ok(None) };
        let found = index.find(key.hash, |other| Ok::<_, StateError>(other == address))?;
        let header = record.header;
        Ok(found.map(|(slot, address)| Entry { slot, address, header }))
    }

    #[inline]
    pub fn read<R>(
        &self,
        names: &Namespaces,
        key: EntryKey<'_>,
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R, StateError> {
        match self.find(names, &key)? {
            None => Ok(f(None)),
            Some(entry) => {
                self.with_value(names, entry.address, &entry.header, |value| f(Some(value)))
            }
        }
    }

    /// Calls `f` with the value of an entry.
    #[inline]
    pub fn with_value<R>(
        &self,
        names: &Namespaces,
        address: Address,
        header: &Header,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, StateError> {
        if header.kind == Kind::Piece {
            let mut joined = AlignedVec::new();
            self.join(names, address, &mut joined)?;
            return Ok(f(&joined));
        }
        let record = self.shared.log.borrow().record(address, self.pin, names)?;
        Ok(f(record.value()))
    }

    /// The records that make up a value, the newest first.
    pub fn pieces(&self, names: &Namespaces, newest: Address) -> Result<Vec<Address>, StateError> {
        let log = self.shared.log.borrow();
        let mut pieces = vec![newest];
        let mut at = newest;
        loop {
            let header = log.record(at, self.pin, names)?.header;
            if header.kind != Kind::Piece {
                return Ok(pieces);
            }
            let Some(base) = base_of(&log, at, &header)? else { return Ok(pieces) };
            at = base;
            pieces.push(at);
        }
    }

    /// Appends a value that is in pieces to `out`.
    pub fn join(
        &self,
        names: &Namespaces,
        newest: Address,
        out: &mut AlignedVec,
    ) -> Result<(), StateError> {
        let pieces = self.pieces(names, newest)?;
        let log = self.shared.log.borrow();
        for piece in pieces.into_iter().rev() {
            out.extend_from_slice(log.record(piece, self.pin, names)?.value());
        }
        Ok(())
    }

    /// See [`super::SegmentTable::modify`].
    #[inline]
    pub fn modify<R>(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        new: &mut AlignedVec,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        new.clear();
        let Some(value) = self.hit(names, &key) else {
            let entry = self.find(names, &key)?;
            return self.modify_found(names, key, entry, new, f);
        };
        let (update, result) = f(Found::Mutable(value), new);
        if update != Update::Keep {
            self.apply(names, key, update, new)?;
        }
        Ok(result)
    }

    /// The value of an entry that may be changed where it lies, if its record is the first to which
    /// the index leads: nearly always, unless it has been sealed. A shorter way than
    /// [`Self::find`], which goes on where this ends.
    #[inline(always)]
    pub(super) fn hit<'n>(
        &'n self,
        names: &'n mut Namespaces,
        key: &EntryKey<'_>,
    ) -> Option<&'n mut [u8]> {
        let address = names.index(key.namespace)?.candidate(key.hash)?;
        self.shared.log.borrow().mutable_value(address, key, self.epoch, self.pin, names)
    }

    /// [`Self::modify`] of a table whose records expire.
    #[inline]
    pub fn modify_expiring<R>(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        new: &mut AlignedVec,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        let entry = self.find(names, &key)?;
        let place = entry.as_ref().map(|entry| (entry.address, entry.header));
        let mut changed = None;
        let result = self.modify_found(names, key, entry, new, |found, new| match found {
            Found::Mutable(value) => {
                let before = expiry_of(value);
                let result = f(Found::Mutable(&mut *value), new);
                changed = Some((before, expiry_of(value)));
                result
            }
            found => f(found, new),
        })?;
        if let (Some((address, header)), Some((before, after))) = (place, changed)
            && before != after
        {
            self.shared.log.borrow_mut().renew(address, &header, before, after);
            self.core.note_expiry(after);
        }
        Ok(result)
    }

    /// [`Self::modify`] with what was found.
    #[inline]
    pub(super) fn modify_found<R>(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        entry: Option<Entry>,
        new: &mut AlignedVec,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        new.clear();
        let (update, result) = match &entry {
            None => f(Found::Nothing, new),
            Some(Entry { address, header, .. }) if header.kind == Kind::Piece => {
                let mut joined = AlignedVec::new();
                self.join(names, *address, &mut joined)?;
                f(Found::Sealed(&joined), new)
            }
            Some(Entry { address, header, .. }) => {
                let log = self.shared.log.borrow();
                if log.is_mutable(*address, header, self.epoch) {
                    let value = log.value_mut(*address, header, self.pin, names)?;
                    drop(log);
                    f(Found::Mutable(value), new)
                } else {
                    let record = log.record(*address, self.pin, names)?;
                    drop(log);
                    f(Found::Sealed(record.value()), new)
                }
            }
        };
        self.apply_to(names, key, entry, update, new)?;
        Ok(result)
    }

    /// Does to an entry what its user has said.
    pub(super) fn apply(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        update: Update,
        new: &[u8],
    ) -> Result<(), StateError> {
        let entry = self.find(names, &key)?;
        self.apply_to(names, key, entry, update, new)
    }

    /// [`Self::apply`] with what was found.
    #[inline]
    fn apply_to(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        entry: Option<Entry>,
        update: Update,
        new: &[u8],
    ) -> Result<(), StateError> {
        match (update, entry) {
            (Update::Keep, _) | (Update::Remove, None) => Ok(()),
            (Update::Write, Some(entry)) => self.replace(names, &key, &entry, new),
            (Update::Write, None) => self.add(names, &key, new),
            (Update::Remove, Some(entry)) => self.remove(names, &key, &entry),
        }
    }

    pub(super) fn header(
        &self,
        key: &EntryKey<'_>,
        kind: Kind,
        previous: Address,
        value: &[u8],
    ) -> Header {
        Header {
            hash: key.hash,
            previous,
            table: self.core.id,
            epoch: self.epoch,
            // Too long a key or value does not go into a record, which `append` refuses.
            key_len: u32::try_from(key.bytes.len()).unwrap_or(u32::MAX),
            value_len: u32::try_from(value.len()).unwrap_or(u32::MAX),
            group: key.group,
            kind,
            namespaced: key.namespace != Timestamp::MIN,
            // Slices are dropped as a whole, and count their live bytes themselves.
            expires: self.core.expires.get() && key.namespace == Timestamp::MIN,
        }
    }

    /// Appends a record and counts it as live.
    #[inline]
    pub(super) fn write(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        header: &Header,
        value: &[u8],
    ) -> Result<Address, StateError> {
        let address =
            self.shared.log.borrow_mut().append(header, key.namespace, key.bytes, value)?;
        names.credit(key.namespace, address, len_of(header));
        if header.expires {
            self.core.note_expiry(expiry_of(value));
        }
        Ok(address)
    }

    /// Adds an entry that is not there.
    fn add(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        value: &[u8],
    ) -> Result<(), StateError> {
        self.make_room_in_index(names, key.namespace)?;
        let header = self.header(key, Kind::Whole, Address::NONE, value);
        let address = self.write(names, key, &header, value)?;
        self.insert(names, key.namespace, key.hash, address);
        Ok(())
    }

    /// Enters a record that is in the log already.
    pub fn enter(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        hash: u64,
        address: Address,
    ) -> Result<(), StateError> {
        self.make_room_in_index(names, namespace)?;
        self.insert(names, namespace, hash, address);
        Ok(())
    }

    /// Gives an entry a new value.
    #[inline]
    fn replace(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        entry: &Entry,
        value: &[u8],
    ) -> Result<(), StateError> {
        let Entry { slot, address, header } = entry;
        if header.kind == Kind::Whole && header.value_len as usize == value.len() {
            let log = self.shared.log.borrow();
            if log.is_mutable(*address, header, self.epoch) {
                let place = log.value_mut(*address, header, self.pin, names)?;
                drop(log);
                if header.expires {
                    let (before, after) = (expiry_of(place), expiry_of(value));
                    self.shared.log.borrow_mut().renew(*address, header, before, after);
                    self.core.note_expiry(after);
                }
                place.copy_from_slice(value);
                return Ok(());
            }
        }
        let newer = self.header(key, Kind::Whole, *address, value);
        let written = self.write(names, key, &newer, value)?;
        names.index_mut(key.namespace).set(*slot, key.hash, written);
        self.bury(names, key.namespace, *address, header)
    }

    /// The records of a value are dead.
    #[inline]
    pub(super) fn bury(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) -> Result<(), StateError> {
        if header.kind != Kind::Piece {
            self.bury_one(names, namespace, address, header);
            return Ok(());
        }
        for piece in self.pieces(names, address)? {
            let header = self.shared.log.borrow().record(piece, self.pin, names)?.header;
            self.bury_one(names, namespace, piece, &header);
        }
        Ok(())
    }

    #[inline]
    pub(super) fn bury_one(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) {
        self.shared.log.borrow_mut().debit_record(address, header, self.core.id);
        names.debit(namespace, address, len_of(header));
    }

    fn remove(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        entry: &Entry,
    ) -> Result<(), StateError> {
        let Entry { slot, address, header } = entry;
        let mutable = self.shared.log.borrow().is_mutable(*address, header, self.epoch);
        self.bury(names, key.namespace, *address, header)?;
        names.index_mut(key.namespace).remove(*slot);
        let log = &mut *self.shared.log.borrow_mut();
        // By then all older versions have expired, too.
        let until = self.core.latest.get().as_nanos().to_le_bytes();
        if !log.is_durable() {
        } else if mutable && !header.previous.is_some() {
            // No file has an older version that could come back.
            log.set_header(*address, &Header { kind: Kind::Void, ..*header }, names);
        } else if mutable {
            if header.expires {
                let value = log.value_mut(*address, header, self.pin, names)?;
                let before = expiry_of(value);
                if let Some(place) = value.last_chunk_mut() {
                    *place = until;
                }
                log.renew(*address, header, before, self.core.latest.get());
            }
            log.set_header(*address, &Header { kind: Kind::Removed, ..*header }, names);
            log.credit_record(*address, header, self.core.id);
            log.count_removal(*address, header, self.core.id);
        } else {
            let value = if header.expires { &until[..] } else { &[] };
            let header = Header {
                expires: header.expires,
                ..self.header(key, Kind::Removed, *address, value)
            };
            let removal = log.append(&header, key.namespace, key.bytes, value)?;
            log.count_removal(removal, &header, self.core.id);
        }
        self.drop_if_empty(names, key.namespace)
    }

    /// Gives back the index of a namespace that holds nothing.
    pub(super) fn drop_if_empty(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
    ) -> Result<(), StateError> {
        if namespace == Timestamp::MIN || names.is_live(namespace) {
            return Ok(());
        }
        let before = names.bytes();
        if let Some(slice) = names.remove(namespace) {
            self.shared.recall_index_bytes(slice.index.announced_bytes());
            names.recycle(slice.index);
        }
        self.shared.count_index_bytes(names.bytes() as i64 - before as i64)
    }

    /// See [`crate::ByteTable::append`].
    ///
    /// Pieces that are not longer than what comes behind them are merged with it, so that of n
    /// appended pieces of a length there are never more than log2(n), and each byte is copied as
    /// often at most (Bentley and Saxe's logarithmic method).
    ///
    /// Merged pieces are shown to `trim`, which may take from their front what is not needed any more,
    /// if they are all that the value begins with.
    pub fn append(
        &self,
        names: &mut Namespaces,
        key: EntryKey<'_>,
        bytes: &[u8],
        new: &mut AlignedVec,
        trim: &mut dyn FnMut(&mut AlignedVec),
    ) -> Result<(), StateError> {
        new.clear();
        let Some(entry) = self.find(names, &key)? else {
            return self.add(names, &key, bytes);
        };
        // The records that the new one takes in, the newest first.
        let mut merged = Vec::new();
        let mut base = Some((entry.address, entry.header));
        let mut len = bytes.len();
        while let Some((address, header)) = base {
            let log = self.shared.log.borrow();
            // Pieces refer to records of their own run only.
            if header.value_len as usize > len && log.is_own(entry.address) {
                break;
            }
            len += header.value_len as usize;
            merged.push((address, header));
            base = match header.kind {
                Kind::Piece => base_of(&log, address, &header)?,
                _ => None,
            }
            .map(|address| Ok((address, log.record(address, self.pin, names)?.header)))
            .transpose()?;
        }
        for (address, _) in merged.iter().rev() {
            let log = self.shared.log.borrow();
            new.extend_from_slice(log.record(*address, self.pin, names)?.value());
        }
        if base.is_none() {
            trim(new);
        }
        new.extend_from_slice(bytes);
        let header = match base {
            Some((address, _)) => {
                self.core.has_pieces.set(true);
                self.header(&key, Kind::Piece, address, new)
            }
            None => self.header(&key, Kind::Whole, entry.address, new),
        };
        let written = self.write(names, &key, &header, new)?;
        if header.kind == Kind::Piece && !merged.is_empty() {
            self.shared.log.borrow_mut().note_merge(written, entry.address);
        }
        names.index_mut(key.namespace).set(entry.slot, key.hash, written);
        for (address, header) in merged {
            self.bury_one(names, key.namespace, address, &header);
        }
        Ok(())
    }

    /// Removes all entries of a namespace.
    pub fn remove_namespace(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
    ) -> Result<(), StateError> {
        if !names.is_live(namespace) {
            return Ok(());
        }
        let before = names.bytes();
        if namespace == Timestamp::MIN {
            let addresses: Vec<_> =
                names.index(namespace).into_iter().flat_map(|index| index.addresses()).collect();
            for address in addresses {
                let record = self.shared.log.borrow().record_if_there(address, self.pin, names)?;
                if let Some(header) = record.map(|record| record.header) {
                    self.bury(names, namespace, address, &header)?;
                }
            }
            self.shared.recall_index_bytes(names.remove_plain().announced_bytes());
            self.note_removed(&mut self.shared.log.borrow_mut(), namespace)?;
        } else if let Some(slice) = names.remove(namespace) {
            let mut log = self.shared.log.borrow_mut();
            self.shared.recall_index_bytes(slice.index.announced_bytes());
            slice.live.iter().for_each(|(segment, bytes)| log.debit(*segment, *bytes));
            let is_needed = slice.first.is_some_and(|first| self.shared.keeps(&mut log, first));
            match self.note_removed(&mut log, namespace)? {
                Some(removal) if is_needed => names.bury(removal, namespace, slice),
                _ => names.recycle(slice.index),
            }
        }
        self.shared.count_index_bytes(names.bytes() as i64 - before as i64)
    }

    /// Writes that a namespace is removed, and returns where.
    fn note_removed(
        &self,
        log: &mut Log,
        namespace: Timestamp,
    ) -> Result<Option<Address>, StateError> {
        if !log.is_durable() {
            return Ok(None);
        }
        let groups = &self.core.groups.0;
        let mut value = [0; 4];
        value[..2].copy_from_slice(&groups.start.to_le_bytes());
        value[2..].copy_from_slice(&groups.end.to_le_bytes());
        let key = EntryKey {
            namespace,
            group: millstream_types::KeyGroup(groups.start),
            hash: 0,
            bytes: &[],
        };
        // Whatever was in the namespace lies no later than the tail.
        let bound = Address::up_to(log.tail());
        let header =
            Header { expires: false, ..self.header(&key, Kind::NamespaceRemoved, bound, &value) };
        let removal = log.append(&header, namespace, &[], &value)?;
        log.count_removal(removal, &header, self.core.id);
        Ok(Some(removal))
    }
}

/// False if there is no record at an address since it had expired and is gone.
#[cold]
fn passed_over(log: &Log, address: Address, error: StateError) -> Result<bool, StateError> {
    if log.is_gone(address) { Ok(false) } else { Err(error) }
}

/// The record to which a piece is appended; `None` if that had expired and is gone.
fn base_of(log: &Log, piece: Address, header: &Header) -> Result<Option<Address>, StateError> {
    match log.base_of(piece, header) {
        Ok(base) if log.is_gone(base) => Ok(None),
        Ok(base) => Ok(Some(base)),
        // Its segment is in no file of the checkpoint that was restored.
        Err(_) if header.expires && !log.is_own(piece) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of a record's entry.
pub(in crate::segments) fn key_of<'a>(record: &Record<'a>) -> EntryKey<'a> {
    EntryKey {
        namespace: record.namespace(),
        group: record.header.group,
        hash: record.header.hash,
        bytes: record.key(),
    }
}

/// The length of a record that has been read or written, so that its lengths are possible.
#[inline]
pub(in crate::segments) fn len_of(header: &Header) -> u64 {
    record_len(header.key_len as usize, header.value_len as usize, header.namespaced)
        .map_or(0, |len| len as u64)
}
