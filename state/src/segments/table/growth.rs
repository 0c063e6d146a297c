//! Room in indexes.

use super::entry::Access;
use crate::StateError;
use crate::segments::address::Address;
use crate::segments::error::SegmentError;
use crate::segments::index::Index;
use crate::segments::lines::{Line, Lines};
use crate::segments::namespaces::Namespaces;
use millstream_types::Timestamp;

impl Access<'_> {
    /// Adds to an index that has room.
    #[inline]
    pub(super) fn insert(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        hash: u64,
        address: Address,
    ) {
        let index = names.index_mut(namespace);
        index.insert(hash, address);
        if index.announces_growth() {
            self.shared.announce_index_bytes(index.announced_bytes());
        }
    }

    /// Makes room in an index for an entry.
    #[inline]
    pub(super) fn make_room_in_index(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
    ) -> Result<(), StateError> {
        if names.index_mut(namespace).is_full() {
            self.reserve(names, namespace, 1)?;
        }
        Ok(())
    }

    /// Makes room in an index for so many entries more.
    #[cold]
    pub fn reserve(
        &self,
        names: &mut Namespaces,
        namespace: Timestamp,
        more: usize,
    ) -> Result<(), StateError> {
        // Out of its place, since reading records needs all namespaces.
        let mut index = std::mem::take(names.index_mut(namespace));
        if self.core.expires.get() || self.core.latest.get() != Timestamp::MIN {
            let log = self.shared.log.borrow();
            index.forget(|address| log.is_gone(address));
        }
        let lines = index.lines_for(more);
        let result = self.resize(names, &mut index, lines, more);
        *names.index_mut(namespace) = index;
        result
    }

    /// Makes an index smaller that has far too much room.
    pub fn shrink(&self, names: &mut Namespaces, namespace: Timestamp) -> Result<(), StateError> {
        let index = names.index_mut(namespace);
        let Some(lines) = index.lines_to_shrink_to() else { return Ok(()) };
        let mut index = std::mem::take(index);
        let result = self.resize(names, &mut index, lines, 1);
        *names.index_mut(namespace) = index;
        result
    }

    fn resize(
        &self,
        names: &Namespaces,
        index: &mut Index,
        lines: usize,
        more: usize,
    ) -> Result<(), StateError> {
        let (before, after) = (index.bytes() as i64, (lines * size_of::<Line>()) as i64);
        if before == after && !index.is_full_with(more) {
            return Ok(());
        }
        // What is given up is given back while the rest moves, so that both are never there whole.
        self.shared.count_index_bytes(after - before)?;
        self.shared.recall_index_bytes(index.announced_bytes());
        let lines = Lines::zeroed(lines)
            .map_err(|e| SegmentError::io("memory", "allocate", e).during("grow an index"))?;
        let log = self.shared.log.borrow();
        index.resize(lines, |addresses, hashes| log.hashes(addresses, hashes, self.pin, names))
    }
}
