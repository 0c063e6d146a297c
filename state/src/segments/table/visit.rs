//! Visiting many entries.

use super::entry::Access;
use crate::segments::address::Address;
use crate::segments::index::Index;
use crate::segments::log::Log;
use crate::segments::namespaces::Namespaces;
use crate::segments::record::Record;
use crate::{StateError, StoredEntry};
use millstream_types::{KeyGroupRange, Timestamp};

/// How many records are asked for before they are read.
const AHEAD: usize = 16;

type Visit<'v> = dyn FnMut(StoredEntry<'_>) -> Result<(), StateError> + 'v;

impl Access<'_> {
    /// The records of an index; a value in pieces is represented by its newest.
    fn records<'n>(
        &'n self,
        names: &'n Namespaces,
        index: &'n Index,
        mut visit: impl FnMut(Address, Record<'n>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let ask = |log: &Log, address: Option<Address>| {
            if let Some(address) = address {
                log.prefetch(address);
            }
        };
        let mut ahead = index.addresses();
        {
            let log = self.shared.log.borrow();
            (0..AHEAD).for_each(|_| ask(&log, ahead.next()));
        }
        for address in index.addresses() {
            // Not borrowed while the visitor runs, which may use other tables.
            let log = self.shared.log.borrow();
            ask(&log, ahead.next());
            let record = log.record_if_there(address, self.pin, names)?;
            drop(log);
            if let Some(record) = record {
                visit(address, record)?;
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        names: &Namespaces,
        address: Address,
        record: &Record<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StateError> {
        self.with_value(names, address, &record.header, |value| {
            visit(StoredEntry {
                namespace: record.namespace(),
                group: record.header.group,
                key: record.key(),
                value,
            })
        })?
    }

    pub fn for_each(
        &self,
        names: &Namespaces,
        namespace: Timestamp,
        visit: &mut Visit<'_>,
    ) -> Result<(), StateError> {
        let Some(index) = names.index(namespace) else { return Ok(()) };
        self.records(names, index, |address, record| self.visit(names, address, &record, visit))
    }

    /// Complexity: reads every record twice, and sorts their addresses by key group.
    pub fn snapshot(
        &self,
        names: &Namespaces,
        groups: &KeyGroupRange,
        visit: &mut Visit<'_>,
    ) -> Result<(), StateError> {
        let mut found = Vec::new();
        for namespace in names.live() {
            let Some(index) = names.index(namespace) else { continue };
            self.records(names, index, |address, record| {
                if groups.contains(record.header.group) {
                    found.push((record.header.group, address));
                }
                Ok(())
            })?;
        }
        // By address within a group, which reads cold segments in order.
        found.sort_unstable();
        for (_, address) in found {
            let record = self.shared.log.borrow().record(address, self.pin, names)?;
            self.visit(names, address, &record, visit)?;
        }
        Ok(())
    }
}
