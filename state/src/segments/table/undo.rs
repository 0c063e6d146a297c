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
        if self.core.has_pieces.get() {
            return Err(Stuck::For("values in pieces"));
        }
        match header.kind {
            Kind::Whole => self.undo_written(names, namespace, address, header),
            Kind::Removed => self.undo_removed(names, namespace, address, header),
            Kind::NamespaceRemoved => {
                self.undo_namespace_removed(names, namespace, address, header)
            }
            // It replaced nothing.
            Kind::Void => Ok(()),
            Kind::Piece => Err(Stuck::For("values in pieces")),
        }
    }

    /// The version that a record has replaced, or that it says was removed.
    fn version_before(
        &self,
        names: &Namespaces,
        address: Address,
        header: &Header,
    ) -> Result<Option<(Address, Header)>, Stuck> {
        // Of what was removed long ago a bound is all that is known, and the record about that is before.
        if header.previous.is_bound() {
            return Ok(None);
        }
        let log = self.shared.log.borrow();
        let Some(previous) = log.previous_of(address, header) else { return Ok(None) };
        if log.is_retired(previous.segment()) {
            return Err(Stuck::For("a version that is not kept"));
        }
        let before = log.record(previous, self.pin, names)?.header;
        Ok(Some((previous, before)))
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
        let before = self.version_before(names, address, header)?;
        self.bury_one(names, namespace, address, header);
        match before {
            Some((previous, before)) => {
                names.index_mut(namespace).set(slot, header.hash, previous);
                self.revive(names, namespace, previous, &before);
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
        if let Some((previous, before)) = self.version_before(names, address, header)? {
            self.enter(names, namespace, header.hash, previous)?;
            self.revive(names, namespace, previous, &before);
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

    /// A record is the newest of its key again.
    fn revive(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        address: Address,
        header: &Header,
    ) {
        self.shared.log.borrow_mut().credit_record(address, header, self.core.id);
        names.credit(namespace, address, len_of(header));
    }
}
