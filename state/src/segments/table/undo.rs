//! Taking back what was done to a table: what [`rollback`](crate::segments::rollback) does, record by
//! record, the newest first.

use super::entry::{Access, len_of};
use crate::StateError;
use crate::segments::address::Address;
use crate::segments::namespaces::Namespaces;
use crate::segments::record::{Header, Kind};
use millstream_types::Timestamp;
use std::fmt;

/// Why a store does not get back to a checkpoint in place.
#[derive(Debug)]
pub(in crate::segments) enum Stuck {
    /// What would be needed for it is not kept.
    For(&'static str),
    Failed(StateError),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(reason) => f.write_str(reason),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl From<StateError> for Stuck {
    fn from(error: StateError) -> Self {
        Self::Failed(error)
    }
}

impl Access<'_> {
    /// Takes back what a record says, of those in the table the newest that has not been taken back.
    pub fn undo(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) -> Result<(), Stuck> {
        match header.kind {
            Kind::Whole | Kind::Piece => self.undo_written(names, namespace, address, header),
            Kind::Removed => self.undo_removed(names, namespace, address, header),
            Kind::NamespaceRemoved => {
                self.undo_namespace_removed(names, namespace, address, header)
            }
            // It replaced nothing.
            Kind::Void => Ok(()),
        }
    }

    /// The version that a record has replaced, or that it says was removed: the newest record of its value.
    fn version_before(&self, address: Address, header: &Header) -> Result<Option<Address>, Stuck> {
        // Of what was removed long ago a bound is all that is known, and the record about that is before.
        if header.previous.is_bound() {
            return Ok(None);
        }
        let log = self.shared.log.borrow();
        let merged = log.merges.newest_of(address).ok_or(Stuck::For("a merge that is not kept"))?;
        Ok(merged.or_else(|| log.previous_of(address, header)))
    }

    fn undo_written(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) -> Result<(), Stuck> {
        let Some(index) = names.index(namespace) else { return Ok(()) };
        let found = index.find(header.hash, |other| Ok::<_, StateError>(other == address))?;
        // It went with its slice, of which the checkpoint has nothing.
        let Some((slot, _)) = found else { return Ok(()) };
        let before = self.version_before(address, header)?;
        self.bury_one(names, namespace, address, header);
        match before {
            Some(previous) => {
                names.index_mut(namespace).set(slot, header.hash, previous);
                // What a piece is appended to has stayed alive.
                let base = match header.kind {
                    Kind::Piece => self.shared.log.borrow().previous_of(address, header),
                    _ => None,
                };
                self.revive(names, namespace, previous, base)?;
            }
            None => {
                names.index_mut(namespace).remove(slot);
                self.drop_if_empty(names, namespace)?;
            }
        }
        Ok(())
    }

    fn undo_removed(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) -> Result<(), Stuck> {
        self.shared.log.borrow_mut().drop_removal(address, header, self.core.id);
        if let Some(previous) = self.version_before(address, header)? {
            self.enter(names, namespace, header.hash, previous)?;
            self.revive(names, namespace, previous, None)?;
        }
        Ok(())
    }

    fn undo_namespace_removed(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) -> Result<(), Stuck> {
        if namespace == Timestamp::MIN {
            return Err(Stuck::For("a whole table was emptied"));
        }
        let mut log = self.shared.log.borrow_mut();
        log.drop_removal(address, header, self.core.id);
        if let Some(slice) = names.unbury(address) {
            slice.live.iter().for_each(|(segment, bytes)| log.credit(*segment, *bytes));
            self.shared.announce_index_bytes(slice.index.announced_bytes());
        }
        Ok(())
    }

    /// The records of a value count again, from the newest down to one that has not ceased to, if there is one.
    fn revive(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        newest: Address,
        alive: Option<Address>,
    ) -> Result<(), Stuck> {
        let mut next = Some(newest);
        while let Some(address) = next.filter(|address| Some(*address) != alive) {
            let log = self.shared.log.borrow();
            if log.is_retired(address.segment()) {
                return Err(Stuck::For("a version that is not kept"));
            }
            let header = log.record(address, self.pin, names)?.header;
            next = match header.kind {
                Kind::Piece => Some(log.base_of(address, &header)?),
                _ => None,
            };
            drop(log);
            self.shared.log.borrow_mut().credit_record(address, &header, self.core.id);
            names.credit(namespace, address, len_of(&header));
        }
        Ok(())
    }
}
