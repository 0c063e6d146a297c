//! A table whose entries are records of the log.

mod entry;
mod growth;
mod replay;
mod undo;
mod visit;

pub(super) use entry::{Access, len_of};
pub(super) use undo::Stuck;

use super::index::Index;
use super::log::Pin;
use super::namespaces::Namespaces;
use super::store::Shared;
use crate::{AlignedVec, ByteTable, EntryKey, StateError, StoredEntry, Update};
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// How many entries of a batch are worked on between looking ahead: so few that what is asked for
/// at once fits the processor's fill buffers.
const BLOCK: usize = 8;
/// How far ahead slots of the index are asked for, from the beginning of a block.
const SLOTS_AHEAD: usize = 48;
/// How far ahead records are asked for.
const RECORDS_AHEAD: usize = 24;

/// What the store and the table's user share.
#[derive(Debug)]
pub(super) struct TableCore {
    pub id: u16,
    pub operator: String,
    pub name: String,
    pub schema: String,
    pub groups: KeyGroupRange,
    pub names: RefCell<Namespaces>,
    /// A value was or is in pieces.
    pub has_pieces: Cell<bool>,
    /// The table was opened with a time to live.
    pub expires: Cell<bool>,
    /// The latest expiry of all records of the table.
    pub latest: Cell<Timestamp>,
}

impl TableCore {
    /// A record of the table expires then.
    #[inline]
    pub fn note_expiry(&self, expiry: Timestamp) {
        self.latest.set(self.latest.get().max(expiry));
    }

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
/// Complexity: an access costs two cache misses, one for the index and one for the record, whatever
/// the size of the table; batches overlap them.
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
    /// [`Update::Write`] the buffer holds the new value. Returns what `f` returned. Not for tables with a
    /// time to live: see [`Self::modify_expiring`].
    ///
    /// # Errors
    /// If the record cannot be read, the budget of memory is used up, or, unless the value is changed
    /// where it lies, an earlier write has failed.
    #[inline]
    pub fn modify<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        debug_assert!(!self.core.expires.get(), "its expiry would go unnoticed");
        let Self { shared, core, epoch, new } = self;
        let epoch = epoch.get();
        let pin = Pin::new(&shared.pins);
        let mut names = core.names.borrow_mut();
        // What is changed where it lies takes no memory, so that nothing is due before.
        if let Some(value) = (Access { shared, core, epoch, pin: &pin }).hit(&mut names, &key) {
            new.clear();
            let (update, result) = f(Found::Mutable(value), new);
            drop((names, pin));
            if update != Update::Keep {
                self.write_found(key, update)?;
            } else {
                shared.after_use()?;
            }
            return Ok(result);
        }
        drop((names, pin));
        self.modify_sealed(key, f)
    }

    /// [`Self::modify`] of an entry that cannot be changed where it lies, or is not there. Out of line,
    /// so that `f` is part of the loop over a batch where that is short.
    #[inline(never)]
    fn modify_sealed<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        let Self { shared, core, epoch, new } = self;
        shared.before_write()?;
        let pin = Pin::new(&shared.pins);
        let access = Access { shared, core, epoch: epoch.get(), pin: &pin };
        let mut names = core.names.borrow_mut();
        let entry = access.find(&names, &key)?;
        access.modify_found(&mut names, key, entry, new, f)
    }

    /// Does to an entry that could have been changed where it lies what its user has said instead.
    #[cold]
    fn write_found(&mut self, key: EntryKey<'_>, update: Update) -> Result<(), StateError> {
        let Self { shared, core, epoch, new } = self;
        shared.before_write()?;
        let pin = Pin::new(&shared.pins);
        let access = Access { shared, core, epoch: epoch.get(), pin: &pin };
        access.apply(&mut core.names.borrow_mut(), key, update, new)
    }

    /// [`Self::modify`] of a table with a time to live: values end with their expiry.
    ///
    /// # Errors
    /// As [`Self::modify`].
    #[inline]
    pub fn modify_expiring<R>(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> (Update, R),
    ) -> Result<R, StateError> {
        self.shared.before_write()?;
        let mut new = std::mem::take(&mut self.new);
        let pin = Pin::new(&self.shared.pins);
        let mut names = self.core.names.borrow_mut();
        let result = self.access(&pin).modify_expiring(&mut names, key, &mut new, f);
        drop((names, pin));
        self.new = new;
        result
    }

    /// [`Self::modify`] of a table with or without a time to live.
    #[inline]
    fn change(
        &mut self,
        key: EntryKey<'_>,
        f: impl FnOnce(Found<'_>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        let f = |found: Found<'_>, new: &mut AlignedVec| (f(found, new), ());
        if self.core.expires.get() { self.modify_expiring(key, f) } else { self.modify(key, f) }
    }

    /// [`ByteTable::append`] with a look at what the bytes are appended to, when that is written
    /// anew anyway: `trim` may take bytes from its front.
    ///
    /// # Errors
    /// As [`Self::modify`].
    pub fn append_trimmed(
        &mut self,
        key: EntryKey<'_>,
        bytes: &[u8],
        trim: &mut dyn FnMut(&mut AlignedVec),
    ) -> Result<(), StateError> {
        self.shared.before_write()?;
        let mut new = std::mem::take(&mut self.new);
        let pin = Pin::new(&self.shared.pins);
        let mut names = self.core.names.borrow_mut();
        let result = self.access(&pin).append(&mut names, key, bytes, &mut new, trim);
        drop((names, pin));
        self.new = new;
        result
    }

    /// [`Self::modify`] for many entries of a namespace, in order: slots of the index are asked for
    /// long before they are looked at, and records before they are touched. `key` gives the group
    /// and the bytes of the key whose hash is at a position, `f` is also given the position.
    ///
    /// # Errors
    /// As [`Self::modify`]; the entries before the failing one are changed.
    #[inline]
    pub fn modify_batch<'k>(
        &mut self,
        namespace: Timestamp,
        hashes: &[u64],
        mut key: impl FnMut(usize) -> (KeyGroup, &'k [u8]),
        mut f: impl FnMut(usize, Found<'_>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError> {
        let mut new = std::mem::take(&mut self.new);
        let mut ahead = Ahead::default();
        for (block, start) in hashes.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            // Between blocks memory may be given back.
            self.shared.before_write()?;
            let pin = Pin::new(&self.shared.pins);
            let mut names = self.core.names.borrow_mut();
            let access = self.access(&pin);
            ahead.ask(&self.shared, names.index(namespace), hashes, start);
            for (i, hash) in (start..).zip(block) {
                let (group, bytes) = key(i);
                let key = EntryKey { namespace, group, hash: *hash, bytes };
                access.modify(&mut names, key, &mut new, |found, new| (f(i, found, new), ()))?;
            }
        }
        self.new = new;
        Ok(())
    }

    /// [`Self::read`] for many entries of a namespace, in order, with the look-ahead of
    /// [`Self::modify_batch`].
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_batch<'k>(
        &self,
        namespace: Timestamp,
        hashes: &[u64],
        mut key: impl FnMut(usize) -> (KeyGroup, &'k [u8]),
        mut f: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StateError> {
        let pin = Pin::new(&self.shared.pins);
        let names = self.core.names.borrow();
        let access = self.access(&pin);
        let mut ahead = Ahead::default();
        for (block, start) in hashes.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            ahead.ask(&self.shared, names.index(namespace), hashes, start);
            for (i, hash) in (start..).zip(block) {
                let (group, bytes) = key(i);
                let key = EntryKey { namespace, group, hash: *hash, bytes };
                access.read(&names, key, |value| f(i, value))?;
            }
        }
        Ok(())
    }

    /// Asks for the records of entries whose slots of the index [`ByteTable::prefetch`] asked for a
    /// while ago.
    #[inline]
    pub fn prefetch_records(&self, namespace: Timestamp, hashes: &[u64]) {
        prefetch_records(&self.shared, &self.core, namespace, hashes);
    }

    /// True if to read an entry may mean to wait for a disk.
    pub fn is_partly_cold(&self) -> bool {
        self.shared.log.borrow().is_partly_cold()
    }

    /// What asks for entries while somebody else has the table.
    pub(crate) fn ahead(&self) -> TableAhead {
        TableAhead { shared: Rc::clone(&self.shared), core: Rc::clone(&self.core) }
    }
}

/// Asks for entries of a table without namespaces.
pub(crate) struct TableAhead {
    shared: Rc<Shared>,
    core: Rc<TableCore>,
}

impl TableAhead {
    /// As [`ByteTable::prefetch`].
    #[inline]
    pub fn places(&self, hashes: &[u64]) {
        prefetch_slots(&self.core, Timestamp::MIN, hashes);
    }

    /// As [`SegmentTable::is_partly_cold`].
    pub fn is_partly_cold(&self) -> bool {
        self.shared.log.borrow().is_partly_cold()
    }

    /// As [`SegmentTable::prefetch_records`].
    #[inline]
    pub fn entries(&self, hashes: &[u64]) {
        prefetch_records(&self.shared, &self.core, Timestamp::MIN, hashes);
    }
}

#[inline]
fn prefetch_slots(core: &TableCore, namespace: Timestamp, hashes: &[u64]) {
    if let Some(index) = core.names.borrow().index(namespace) {
        hashes.iter().for_each(|hash| index.prefetch(*hash));
    }
}

#[inline]
fn prefetch_records(shared: &Shared, core: &TableCore, namespace: Timestamp, hashes: &[u64]) {
    let names = core.names.borrow();
    let Some(index) = names.index(namespace) else { return };
    let log = shared.log.borrow();
    for address in hashes.iter().filter_map(|hash| index.candidate(*hash)) {
        log.ask(address);
    }
}

/// What has been asked for of a batch: all before these positions.
#[derive(Default)]
struct Ahead {
    slots: usize,
    records: usize,
}

impl Ahead {
    /// Asks for what is needed ahead of a block.
    #[inline]
    fn ask(&mut self, shared: &Shared, index: Option<&Index>, hashes: &[u64], block: usize) {
        let Some(index) = index else { return };
        let slots = hashes.len().min(block + SLOTS_AHEAD);
        hashes[self.slots.min(slots)..slots].iter().for_each(|hash| index.prefetch(*hash));
        let records = hashes.len().min(block + RECORDS_AHEAD);
        let log = shared.log.borrow();
        for hash in &hashes[self.records.min(records)..records] {
            if let Some(address) = index.candidate(*hash) {
                log.ask(address);
            }
        }
        (self.slots, self.records) = (slots, records);
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
        self.change(key, |found, new| f(found.value(), new))
    }

    #[inline]
    fn insert(&mut self, key: EntryKey<'_>, value: &[u8]) -> Result<(), StateError> {
        self.change(key, |found, new| match found {
            Found::Mutable(old) if old.len() == value.len() => {
                old.copy_from_slice(value);
                Update::Keep
            }
            _ => {
                new.extend_from_slice(value);
                Update::Write
            }
        })
    }

    #[inline]
    fn remove(&mut self, key: EntryKey<'_>) -> Result<(), StateError> {
        self.change(key, |_, _| Update::Remove)
    }

    fn append(&mut self, key: EntryKey<'_>, bytes: &[u8]) -> Result<(), StateError> {
        self.append_trimmed(key, bytes, &mut |_| {})
    }

    #[inline]
    fn prefetch(&self, namespace: Timestamp, hashes: &[u64]) {
        prefetch_slots(&self.core, namespace, hashes);
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
