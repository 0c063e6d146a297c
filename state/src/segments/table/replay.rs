//! What a restored log says, record by record, and what compaction moves.

use super::entry::{Access, key_of, len_of};
use crate::segments::address::Address;
use crate::segments::lengths::Lengths;
use crate::segments::namespaces::Namespaces;
use crate::segments::record::{Header, Kind, Record};
use crate::{AlignedVec, EntryKey, StateError};
use millstream_types::{KeyGroupRange, Timestamp};

impl Access<'_> {
    /// Applies the next record of a restored log. `lengths` knows those before it.
    pub fn replay(
        &self,
        names: &mut Namespaces,
        address: Address,
        record: &Record<'_>,
        lengths: &Lengths,
    ) -> Result<(), StateError> {
        let (key, header) = (key_of(record), &record.header);
        // What expires is counted by what the version before it was like.
        let ages = header.expires || self.core.latest.get() != Timestamp::MIN;
        if header.kind == Kind::Whole
            && !ages
            && !self.core.has_pieces.get()
            && self.replay_unread(names, &key, address, header, lengths)?
        {
            return Ok(());
        }
        let old = self.find(names, &key)?;
        if header.expires {
            self.note_replayed(address, record);
        }
        if header.kind == Kind::Removed {
            if let Some(old) = old {
                self.bury(names, key.namespace, old.address, &old.header)?;
                names.index_mut(key.namespace).remove(old.slot);
                self.drop_if_empty(names, key.namespace)?;
            }
            self.shared.log.borrow_mut().keep_removal(address, header, self.core.id);
            return Ok(());
        }
        if header.kind == Kind::Whole
            && old.as_ref().is_none_or(|old| old.header.kind == Kind::Whole)
        {
            match old {
                None => self.enter(names, key.namespace, key.hash, address)?,
                Some(old) => {
                    self.bury_one(names, key.namespace, old.address, &old.header);
                    names.index_mut(key.namespace).set(old.slot, key.hash, address);
                }
            }
            self.shared.log.borrow_mut().credit_record(address, header, self.core.id);
            names.credit(key.namespace, address, len_of(header));
            return Ok(());
        }
        let mut alive = vec![address];
        if header.kind == Kind::Piece {
            self.core.has_pieces.set(true);
            match self.pieces(names, address) {
                Ok(pieces) => alive = pieces,
                // Part of the value is in a segment that is needed no more, so all of it follows.
                Err(_) => return Ok(()),
            }
        }
        match old {
            None => self.enter(names, key.namespace, key.hash, address)?,
            Some(old) => {
                if header.kind == Kind::Piece || old.header.kind == Kind::Piece {
                    let before = self.pieces(names, old.address)?;
                    for piece in before.iter().filter(|piece| !alive.contains(piece)) {
                        let header =
                            self.shared.log.borrow().record(*piece, self.pin, names)?.header;
                        self.bury_one(names, key.namespace, *piece, &header);
                    }
                    alive.retain(|piece| !before.contains(piece));
                } else {
                    self.bury_one(names, key.namespace, old.address, &old.header);
                }
                names.index_mut(key.namespace).set(old.slot, key.hash, address);
            }
        }
        for piece in alive {
            let header = self.shared.log.borrow().record(piece, self.pin, names)?.header;
            self.shared.log.borrow_mut().credit_record(piece, &header, self.core.id);
            names.credit(key.namespace, piece, len_of(&header));
        }
        Ok(())
    }

    /// Applies the next records of a restored log, all of this table and of one segment.
    pub fn replay_block(
        &self,
        names: &mut Namespaces,
        block: &[(Address, Record<'_>)],
        lengths: &Lengths,
    ) -> Result<(), StateError> {
        let is_plain =
            |header: &Header| header.kind == Kind::Whole && !header.expires && !header.namespaced;
        let ages = self.core.latest.get() != Timestamp::MIN;
        if ages
            || self.core.has_pieces.get()
            || !block.iter().all(|(_, record)| is_plain(&record.header))
        {
            return block
                .iter()
                .try_for_each(|(address, record)| self.replay(names, *address, record, lengths));
        }
        if names.index_mut(Timestamp::MIN).is_full_with(block.len()) {
            self.reserve(names, Timestamp::MIN, block.len())?;
        }
        let bytes = block.iter().map(|(_, record)| len_of(&record.header)).sum();
        if let Some((address, _)) = block.first() {
            self.shared.log.borrow_mut().credit(address.segment(), bytes);
        }
        for (address, record) in block {
            let index = names.index_mut(Timestamp::MIN);
            let header = &record.header;
            if index.first(header.hash).is_none() {
                index.insert(header.hash, *address);
            } else if !self.replace_unread(names, &key_of(record), *address, header, lengths)? {
                self.shared.log.borrow_mut().debit(address.segment(), len_of(header));
                self.replay(names, *address, record, lengths)?;
            }
        }
        let index = names.index_mut(Timestamp::MIN);
        if index.announces_growth() {
            self.shared.announce_index_bytes(index.announced_bytes());
        }
        Ok(())
    }

    /// Applies a record without a look at the version before it, which may be cold, if it is known
    /// to be the one that the record replaced, or that there is none. False if it is not.
    #[inline]
    fn replay_unread(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        address: Address,
        header: &Header,
        lengths: &Lengths,
    ) -> Result<bool, StateError> {
        let candidate = names.index(key.namespace).and_then(|index| index.candidate(key.hash));
        if candidate.is_none() {
            self.enter(names, key.namespace, key.hash, address)?;
        } else if !self.replace_unread(names, key, address, header, lengths)? {
            return Ok(false);
        }
        self.shared.log.borrow_mut().credit(address.segment(), len_of(header));
        names.credit(key.namespace, address, len_of(header));
        Ok(true)
    }

    /// Replaces the version that a record says it has replaced. False if that is not the key's.
    fn replace_unread(
        &self,
        names: &mut Namespaces,
        key: &EntryKey<'_>,
        address: Address,
        header: &Header,
        lengths: &Lengths,
    ) -> Result<bool, StateError> {
        let previous = self.shared.log.borrow().previous_of(address, header);
        let Some(previous) = previous else { return Ok(false) };
        let index = names.index_mut(key.namespace);
        let found = index.find(key.hash, |other| Ok::<_, StateError>(other == previous))?;
        let Some((slot, _)) = found else { return Ok(false) };
        index.set(slot, key.hash, address);
        let len = lengths.of(previous);
        self.shared.log.borrow_mut().debit(previous.segment(), len);
        names.debit(key.namespace, previous, len);
        Ok(true)
    }

    /// Counts when a record of a restored log expires, whether it is live or not: a later restore may
    /// find it again.
    #[cold]
    fn note_replayed(&self, address: Address, record: &Record<'_>) {
        let (expiry, len) = (record.expiry(), len_of(&record.header));
        self.shared.log.borrow_mut().note_expiry(address, self.core.id, expiry, len);
        self.core.note_expiry(expiry);
    }

    /// A restored log says that a namespace has gone from some key groups.
    pub fn replay_removed(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        groups: &KeyGroupRange,
    ) -> Result<(), StateError> {
        let Some(index) = names.index(namespace) else { return Ok(()) };
        let addresses: Vec<_> = index.addresses().collect();
        for address in addresses {
            let record = self.shared.log.borrow().record(address, self.pin, names)?;
            if groups.contains(record.header.group)
                && let Some(entry) = self.find(names, &key_of(&record))?
            {
                self.bury(names, namespace, entry.address, &entry.header)?;
                names.index_mut(namespace).remove(entry.slot);
            }
        }
        self.drop_if_empty(names, namespace)
    }

    /// The entries of some key groups: namespace, hash, address.
    pub fn entries_of(
        &self,
        names: &Namespaces,
        groups: &KeyGroupRange,
    ) -> Result<Vec<(Timestamp, u64, Address)>, StateError> {
        let mut found = Vec::new();
        for namespace in names.live() {
            for address in names.index(namespace).into_iter().flat_map(|index| index.addresses()) {
                let record = self.shared.log.borrow().record_if_there(address, self.pin, names)?;
                if let Some(header) = record.map(|record| record.header)
                    && groups.contains(header.group)
                {
                    found.push((namespace, header.hash, address));
                }
            }
        }
        Ok(found)
    }

    /// Takes an entry out of the index, and returns its records and their lengths: they stay live.
    pub fn leave(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        hash: u64,
        address: Address,
    ) -> Result<Vec<(Address, u64)>, StateError> {
        let mut pieces = Vec::new();
        for piece in self.pieces(names, address)? {
            let header = self.shared.log.borrow().record(piece, self.pin, names)?.header;
            pieces.push((piece, len_of(&header)));
        }
        for (piece, len) in &pieces {
            names.debit(namespace, *piece, *len);
        }
        let index = names.index_mut(namespace);
        if let Ok::<_, StateError>(Some((slot, _))) = index.find(hash, |other| Ok(other == address))
        {
            index.remove(slot);
        }
        self.drop_if_empty(names, namespace)?;
        Ok(pieces)
    }

    /// If the record is part of a value, appends that again. True if it was. What has expired is
    /// forgotten instead, if that is allowed.
    pub fn move_value(
        &self,
        names: &mut Namespaces,
        address: Address,
        record: &Record<'_>,
        may_forget: bool,
    ) -> Result<bool, StateError> {
        let key = key_of(record);
        let found = self.find_with(names, &key, address, record)?;
        let Some(entry) = found else { return Ok(false) };
        let mut pieces = vec![entry.address];
        let mut joined = AlignedVec::new();
        if entry.header.kind == Kind::Piece {
            pieces = self.pieces(names, entry.address)?;
        }
        if !pieces.contains(&address) {
            return Ok(false);
        }
        if may_forget && entry.address == address && self.is_over(record) {
            self.bury(names, key.namespace, address, &entry.header)?;
            names.index_mut(key.namespace).remove(entry.slot);
            self.shared.log.borrow_mut().count_expired(len_of(&entry.header));
            self.drop_if_empty(names, key.namespace)?;
            return Ok(true);
        }
        let value = if entry.header.kind == Kind::Piece {
            self.join(names, entry.address, &mut joined)?;
            &joined
        } else {
            record.value()
        };
        // Never without a previous version: files may hold that.
        let header = Header {
            epoch: entry.header.epoch,
            expires: entry.header.expires,
            ..self.header(&key, Kind::Whole, entry.address, value)
        };
        let written = self.write(names, &key, &header, value)?;
        names.index_mut(key.namespace).set(entry.slot, key.hash, written);
        for piece in pieces {
            let header = self.shared.log.borrow().record(piece, self.pin, names)?.header;
            self.bury_one(names, key.namespace, piece, &header);
        }
        Ok(true)
    }

    /// True if the key of a record that says that it is removed is there again. Files may hold
    /// versions older than that record, and the newer one has to know.
    pub fn note_older(
        &self,
        names: &mut Namespaces,
        removed: &Record<'_>,
        bound: Address,
    ) -> Result<bool, StateError> {
        let Some(entry) = self.find(names, &key_of(removed))? else { return Ok(false) };
        if !entry.header.previous.is_some() && self.shared.log.borrow().is_open(entry.address) {
            let header = Header { previous: bound, ..entry.header };
            self.shared.log.borrow().set_header(entry.address, &header, names);
        }
        Ok(true)
    }

    /// True if the record says nothing any more.
    pub fn is_over(&self, record: &Record<'_>) -> bool {
        record.header.expires && record.expiry() <= self.shared.log.borrow().now()
    }

    /// Says once more that something is removed.
    pub fn repeat(
        &self,
        removed: &Record<'_>,
        bound: Address,
        value: &[u8],
    ) -> Result<(), StateError> {
        let key = key_of(removed);
        let Header { kind, expires, .. } = removed.header;
        let header = Header { expires, ..self.header(&key, kind, bound, value) };
        let mut log = self.shared.log.borrow_mut();
        let address = log.append(&header, key.namespace, key.bytes, value)?;
        log.count_removal(address, &header, self.core.id);
        Ok(())
    }
}
