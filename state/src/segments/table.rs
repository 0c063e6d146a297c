//! A table whose entries are records of the log.

mod entry;
mod replay;
mod visit;

pub(super) use entry::{Access, key_of, len_of};

use super::log::Pin;
use super::namespaces::Namespaces;
use super::store::Shared;
use crate::{AlignedVec, ByteTable, EntryKey, StateError, StoredEntry, Update};
use millstream_types::{KeyGroupRange, Timestamp};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How many entries of a batch are looked for at a time: enough for the misses to overlap, few enough not
/// to evict each other from the L1 cache.
const BLOCK: usize = 32;

/// What the store and the table's user share.
#[derive(Debug)]
pub(super) struct TableCore {
    pub id: u16,
    pub operator: String,
    pub name: String,
    pub schema: String,
    pub groups: KeyGroupRange,
    pub names: RefCell<Namespaces>,
}

impl TableCore {
    /// How errors call the table.
    pub fn title(&self) -> String {
        format!("{}/{}", self.operator, self.name)
    }
}

/// What [`SegmentTable::modify`] finds.
#[derive(Debug)]
pub enum Found<'a> {
    /// No entry.
    Nothing,
    /// A value that may be part of a checkpoint: to change it, write a new one.
    Sealed(&'a [u8]),
    /// A value that may be changed where it lies. If it is, say [`Update::Keep`].
    Mutable(&'a mut [u8]),
}

impl Found<'_> {
    /// The value, if there is one.
    #[inline]
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::Sealed(value) => Some(value),
            Self::Mutable(value) => Some(value),
        }
    }
}

/// A table of the backend `segments`: what [`ByteTable`] says, and the same without a virtual call.
///
/// Complexity: an access costs two cache misses, one for the index and one for the record, whatever the
/// size of the table; batches overlap them.
pub struct SegmentTable {
    shared: Rc<Shared>,
    core: Rc<TableCore>,
    /// The epoch that the table's member writes in.
    epoch: Rc<Cell<u32>>,
    /// New values, before they are appended.
    new: AlignedVec,
}

impl SegmentTable {
    pub(super) fn new(shared: Rc<Shared>, core: Rc<TableCore>, epoch: Rc<Cell<u32>>) -> Self {
        Self { shared, core, epoch, new: AlignedVec::new() }
    }

    fn access<'a>(&'a self, pin: &'a Pin<'a>) -> Access<'a> {
        Access { shared: &self.shared, core: &self.core, epoch: self.epoch.get(), pin }
    }

    /// Calls `f` with the value of an entry, which is aligned to 16 bytes, or `None`.
    ///
    /// # Errors
    /// If the record cannot be read.
    #[inline]
    pub fn read<R>(
        &self,
        key: EntryKey<'_>,
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R, StateError> {
        let pin = Pin::new(&self.shared.pins);
        let names = self.core.names.borrow();
        self.access(&pin).read(&names, key, f)
    }

    /// Calls `f` with what there is and an empty buffer, and then does what it says; for
    /// [`Update::Write`] the buffer holds the new value. Returns what `f` returned.
    ///
    /// # Errors
    /// If the record cannot be read, the budget of memory is used up, or an earlier write has failed.
    #[inline]
    pub fn modify<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        self.shared.before_write()?;
        let mut new = std::mem::take(&mut self.new);
        let pin = Pin::new(&self.shared.pins);
        let mut names = self.core.names.borrow_mut();
        let result = self.access(&pin).modify(&mut names, key, &mut new, f);
        drop((names, pin));
        self.new = new;
        result
    }

    /// [`Self::modify`] for many entries, in order: slots of the index are asked for two blocks ahead,
    /// records one block ahead. `f` is also given the position of the key.
    ///
    /// # Errors
    /// As [`Self::modify`]; the entries before the failing one are changed.
    #[inline]
    pub fn modify_batch(
        &mut self,
        keys: &[EntryKey<'_>],
        mut f: impl FnMut(usize, Found<'_>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        let mut new = std::mem::take(&mut self.new);
        self.ask_for_slots(keys.iter().take(2 * BLOCK));
        self.ask_for_records(keys.iter().take(BLOCK));
        for start in (0..keys.len()).step_by(BLOCK) {
            self.ask_for_slots(keys.iter().skip(start + 2 * BLOCK).take(BLOCK));
            self.ask_for_records(keys.iter().skip(start + BLOCK).take(BLOCK));
            // Between blocks memory may be given back.
            self.shared.before_write()?;
            let pin = Pin::new(&self.shared.pins);
            let mut names = self.core.names.borrow_mut();
            let access = self.access(&pin);
            for (i, key) in keys.iter().enumerate().skip(start).take(BLOCK) {
                access.modify(&mut names, *key, &mut new, |found, new| (f(i, found, new), ()))?;
            }
        }
        self.new = new;
        Ok(())
    }

    /// [`Self::read`] for many entries, in order, with the same look-ahead as [`Self::modify_batch`].
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_batch(
        &self,
        keys: &[EntryKey<'_>],
        mut f: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StateError> {
        let pin = Pin::new(&self.shared.pins);
        let names = self.core.names.borrow();
        let access = self.access(&pin);
        self.ask_for_slots(keys.iter().take(2 * BLOCK));
        self.ask_for_records(keys.iter().take(BLOCK));
        for start in (0..keys.len()).step_by(BLOCK) {
            self.ask_for_slots(keys.iter().skip(start + 2 * BLOCK).take(BLOCK));
            self.ask_for_records(keys.iter().skip(start + BLOCK).take(BLOCK));
            for (i, key) in keys.iter().enumerate().skip(start).take(BLOCK) {
                access.read(&names, *key, |value| f(i, value))?;
            }
        }
        Ok(())
    }

    /// Asks for the records of entries whose slots of the index [`ByteTable::prefetch`] asked for a
    /// while ago.
    #[inline]
    pub fn prefetch_records(&self, namespace: Timestamp, hashes: &[u64]) {
        let names = self.core.names.borrow();
        let Some(index) = names.index(namespace) else { return };
        let log = self.shared.log.borrow();
        for address in hashes.iter().filter_map(|hash| index.candidate(*hash)) {
            log.prefetch(address);
        }
    }

    #[inline]
    fn ask_for_slots<'a>(&self, keys: impl Iterator<Item = &'a EntryKey<'a>>) {
        let names = self.core.names.borrow();
        for key in keys {
            if let Some(index) = names.index(key.namespace) {
                index.prefetch(key.hash);
            }
        }
    }

    #[inline]
    fn ask_for_records<'a>(&self, keys: impl Iterator<Item = &'a EntryKey<'a>>) {
        let names = self.core.names.borrow();
        let log = self.shared.log.borrow();
        for key in keys {
            if let Some(address) = names.index(key.namespace).and_then(|i| i.candidate(key.hash)) {
                log.prefetch(address);
            }
        }
    }
}

impl ByteTable for SegmentTable {
    #[inline]
    fn get(
        &self,
        key: EntryKey<'_>,
        read: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<(), StateError> {
        self.read(key, read)
    }

    #[inline]
    fn update(
        &mut self,
        key: EntryKey<'_>,
        f: &mut dyn FnMut(Option<&[u8]>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        self.modify(key, |found, new| (f(found.value(), new), ()))
    }

    #[inline]
    fn insert(&mut self, key: EntryKey<'_>, value: &[u8]) -> Result<(), StateError> {
        self.modify(key, |found, new| match found {
            Found::Mutable(old) if old.len() == value.len() => {
                old.copy_from_slice(value);
                (Update::Keep, ())
            }
            _ => {
                new.extend_from_slice(value);
                (Update::Write, ())
            }
        })
    }

    #[inline]
    fn remove(&mut self, key: EntryKey<'_>) -> Result<(), StateError> {
        self.modify(key, |_, _| (Update::Remove, ()))
    }

    fn append(&mut self, key: EntryKey<'_>, bytes: &[u8]) -> Result<(), StateError> {
        self.shared.before_write()?;
        let mut new = std::mem::take(&mut self.new);
        let pin = Pin::new(&self.shared.pins);
        let mut names = self.core.names.borrow_mut();
        let result = self.access(&pin).append(&mut names, key, bytes, &mut new);
        drop((names, pin));
        self.new = new;
        result
    }

    #[inline]
    fn prefetch(&self, namespace: Timestamp, hashes: &[u64]) {
        let names = self.core.names.borrow();
        if let Some(index) = names.index(namespace) {
            hashes.iter().for_each(|hash| index.prefetch(*hash));
        }
    }

    fn len(&self, namespace: Timestamp) -> u64 {
        self.core.names.borrow().index(namespace).map_or(0, |index| index.len() as u64)
    }

    fn namespaces(&self) -> Vec<Timestamp> {
        self.core.names.borrow().live().collect()
    }

    fn for_each(
        &self,
        namespace: Timestamp,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let pin = Pin::new(&self.shared.pins);
        let names = self.core.names.borrow();
        self.access(&pin).for_each(&names, namespace, visit)
    }

    fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError> {
        self.shared.before_write()?;
        let pin = Pin::new(&self.shared.pins);
        let mut names = self.core.names.borrow_mut();
        self.access(&pin).remove_namespace(&mut names, namespace)
    }

    fn snapshot(
        &self,
        groups: &KeyGroupRange,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let pin = Pin::new(&self.shared.pins);
        let names = self.core.names.borrow();
        self.access(&pin).snapshot(&names, groups, visit)
    }
}
